"""Any spec gives a job or a one-line error that names the field: no traceback."""

import json

import pytest
import yaml
from click.testing import CliRunner
from fuzz import ruler
from fuzz.budget import cases
from fuzz.spec_fields import FIELDS, ODD_VALUES, bounds, members, sections
from hypothesis import given
from hypothesis import strategies as st

from job.core.errors import SpecError
from job.core.formatting import escape_to_one_line
from job.outcome import exit_code
from job.spec.parse import build_spec, parse_document
from job.storage.workspace import Workspace
from launcher.cli import main

NAMES = [field.name for field in FIELDS]
# One field of each type.
KINDS = list({repr(field.kinds_alone()): field for field in FIELDS}.values())
every_field = pytest.mark.parametrize("field", FIELDS, ids=NAMES)


def refusal(document, assignments=None):
    """Build an invalid spec; return the line of the error."""
    with pytest.raises(SpecError) as caught:
        build_spec(document, assignments)
    line = str(caught.value)
    assert not ruler.CONTROL.search(line)
    assert "\n" not in line
    return line


def built(name, *given):
    """Build a spec; return None if it is refused with a line that names the field."""
    try:
        spec = build_spec(*given)
    except SpecError as error:
        line = str(error)
        assert f"`{name}" in line, line
        assert not ruler.CONTROL.search(line)
        return None
    assert build_spec(json.loads(spec.to_json().encode())) == spec
    return spec


def value_of(spec, name):
    value = spec.model_dump(mode="json")
    for part in name.split("."):
        value = value[part]
    return value


def is_faithful(given, taken):
    """Return whether the accepted value means the same as the given one."""
    if isinstance(given, list) and isinstance(taken, list) and len(given) == len(taken):
        return all(map(is_faithful, given, taken))
    if isinstance(taken, list) and not isinstance(given, list):
        # One name, or one label, needs no brackets.
        return len(taken) == 1 and is_faithful(given, taken[0])
    if isinstance(taken, bool):
        return str(given).lower() in (
            ("true", "yes", "1", "1.0") if taken else ("false", "no", "0", "0.0", "-0.0")
        )
    if isinstance(given, bool):
        # YAML reads `on` and `off` as booleans.
        return taken == ("on" if given else "off")
    if isinstance(given, str) and isinstance(taken, int | float):
        return float(given.replace("_", "")) == taken
    return given == taken or str(given) == taken


@every_field
def test_exactly_what_the_schema_allows_is_accepted(field):
    """The value at each bound is accepted; the next value is an error that names the field."""
    for kind in field.kinds:
        for value in members(kind):
            assert value_of(build_spec(field.document(value)), field.name) == value
        for good, bad in bounds(kind):
            if good is not None:
                assert value_of(build_spec(field.document(good)), field.name) == good
            assert f"`{field.name}`: " in refusal(field.document(bad))
            assert f"`{field.name}`: " in refusal({}, {field.name: json.dumps(bad)})


@every_field
def test_an_odd_value_is_accepted_unchanged_or_refused_by_name(field):
    """An accepted value is not altered, and survives writing and reading the spec."""
    for value in ODD_VALUES:
        spec = built(field.name, field.document(value))
        if spec and value not in (None, {}):
            assert is_faithful(value, value_of(spec, field.name)), value


TEXTS = [
    *("", "~", "no", "on", "0o17", "017", "0x_", "0b1", "1e3", ".nan", "-.inf", "12:30:45"),
    *("2024-01-01", "2024-13-45", "2024-01-01T00:00:00Z", "!!bool x", "!!int ''", "!!set {a}"),
    *("!!python/name:os.system", "!!binary x", "!!binary aGk=", "&a x", "*a", "&a [*a]", "<<: 3"),
    *("[" * 3000, "{a: " * 3000, "1" * 5000, "0x" + "f" * 5000, ":".join(["59"] * 400) + ".5"),
    *("'", '"', "\t", "\0", "\ud800", '"\\ud800"', '"\\0"', "%", "@", "- a", "? a", "{a: 1, a: 2}"),
    *("a: b: c", "{[a]: b}", "[a", "|", ">", "---", "...", "--- a\n--- b", "#", "=", "\x1b[31m"),
]


@pytest.mark.parametrize("field", KINDS, ids=[field.name for field in KINDS])
def test_an_odd_text_is_read_or_refused_by_name(field):
    """`--set` and SageMaker's hyperparameters give values as strings."""
    for text in TEXTS:
        built(field.name, {}, {field.name: text})


@pytest.mark.parametrize("section", list(sections()))
@pytest.mark.parametrize("name", ["bogus", "", "no", "0", "data", "epoch", "\x1b[31m", "a b"])
def test_a_bogus_field_is_named_at_every_level(section, name):
    """An unknown field in any section is an error that names it."""
    key = section + name
    document = {name: 1}
    for part in reversed(section.split(".")[:-1]):
        document = {part: document}
    if key != "data":
        shown = escape_to_one_line(f"`{key or 'the spec'}`")
        assert f"{shown} is not a field of the spec" in refusal(document)


def ugly_documents():
    """Return invalid job files, and what each error must name."""
    return {
        "data: {source: a}\ndata: {limit: 3}": "`data`",
        "data: {source: a, source: b}": "`source`",
        "no: 3": "`false`",
        "2024-01-01: 3": "`2024-01-01`",
        ".nan: 3": "`NaN`",
        "training: {epochs: no}": "`training.epochs`",
        "training: {seed: 0777777777777777}": "`training.seed`",
        "training: {seed: 2024-01-01}": "`training.seed`",
        "data: {source: !!binary x}": "line 1",
        "data: &a {source: x}\nmodel: *a": "line 2",
        "data:\n\tsource: x": "line 2",
        "data: [x]": "`data`",
        "- data": "`job.yaml`",
        "? [a]\n: b": "line 1",
        "a: " + "[" * 5000: "`job.yaml`",
        "a: " + "1" * 5000: "line 1",
        'data: {source: "\\ud800"}': "`data.source`",
        'data: {source: ""}': "`data.source`",
        "\0": "`job.yaml`",
        "%YAML 9.9\n---\na: 1": "`job.yaml`",
        "evaluation: {dimensions: [64, 64]}": "`evaluation.dimensions`",
        "evaluation: {min_ndcg: 0.5, retention: 0.9}": "`evaluation.min_ndcg`",
        "output: {hub: nowhere}": "`output.hub`",
        "version: 2": "`version`",
        "preset: fast": "`preset`",
    }


@pytest.mark.parametrize(
    ("text", "named"), list(ugly_documents().items()), ids=lambda t: ascii(t)[:40]
)
def test_an_ugly_job_file_is_refused_by_launcher_and_job(
    text, named, tmp_path, monkeypatch, capsys
):
    """The launcher refuses it before it sends anything, and a job refuses it in its workspace."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(text, "utf-8")
    data = [] if "source" in text else ["--data", "x.jsonl"]
    done = CliRunner().invoke(main, ["launch", "job.yaml", *data, "--dry-run"])
    workspace = Workspace(tmp_path / "ml")
    workspace.job_spec.parent.mkdir(parents=True)
    workspace.job_spec.write_text(text, "utf-8")
    code = exit_code(workspace.read_spec, workspace)
    error_of_job = capsys.readouterr().err
    assert (done.exit_code, code) == (SpecError.exit_code, SpecError.exit_code)
    for error in (done.stderr, error_of_job.replace("job.json", "job.yaml")):
        assert named in error
        assert error.startswith("Error: ")
        assert error.count("\n") == 1
        assert not ruler.CONTROL.search(error)


keys = st.sampled_from([*{part for name in NAMES for part in name.split(".")}, "x", ""]) | st.text(
    max_size=5
)
leaves = st.one_of(
    st.sampled_from([value for value in ODD_VALUES if not isinstance(value, dict)]),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
)
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@cases(in_ci=150)
@given(st.dictionaries(keys, documents, max_size=4))
def test_any_document_is_a_spec_or_one_line(document):
    """Documents have valid and invalid names, with any value anywhere."""
    try:
        spec = build_spec(document)
    except SpecError:
        assert refusal(document)
        return
    assert build_spec(json.loads(spec.to_json().encode())) == spec


@cases(in_ci=150)
@given(
    st.one_of(st.text(max_size=60), documents.map(lambda d: yaml.safe_dump(d, allow_unicode=True)))
)
def test_any_text_is_a_document_or_one_line(text):
    """The text is that of a job file."""
    try:
        document = parse_document(text, "job.yaml")
    except SpecError as error:
        document = {}
        line = str(error)
    else:
        line = ""
    assert isinstance(document, dict)
    assert not ruler.CONTROL.search(line)


@cases(in_ci=100)
@given(st.sampled_from(NAMES), st.one_of(st.text(max_size=20), st.sampled_from(TEXTS)))
def test_any_setting_is_a_spec_or_one_line(name, text):
    """The text is a value of `--set`."""
    built(name, {}, {name: text})
