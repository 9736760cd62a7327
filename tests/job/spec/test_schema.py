"""The spec: what it accepts, what it refuses, and that an error says what to type instead.

`fuzz/test_bad_specs.py` tests each field's bounds and choices; `test_docs.py` compares the defaults
with the README's table.
"""

import json
import re
from importlib import resources
from typing import get_args

import pytest
from fuzz import spec_fields

from job.core.errors import SpecError
from job.spec.parse import (
    build_spec,
    differing_fields,
    field_rows,
    parse_assignments,
    parse_document,
    read_document,
)
from job.spec.schema import PRESETS, JobSpec


def flat(document, prefix=""):
    """Flatten sections to dotted fields."""
    fields = {}
    for key, value in document.items():
        nested = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        fields |= {f"{prefix}{key}": value} if nested is None else nested
    return fields


def values(spec):
    return flat(spec.model_dump(mode="json"))


DEFAULTS = values(JobSpec())


def candidates(kind):
    """List valid values, taken from the JSON Schema."""
    if kind.get("type") == "array":
        return [[value] for value in candidates(spec_fields.resolved(kind["items"]))]
    stated = spec_fields.members(kind) + [good for good, _ in spec_fields.bounds(kind)]
    others = {"string": ["their/own"], "boolean": [False, True], "number": [0.5]}
    return stated or others.get(kind["type"], [])


# A non-default value for each field except `version`, which has only one, and `preset` (below).
OTHERS = {
    field.name: next(
        value for kind in field.kinds for value in candidates(kind) if value != DEFAULTS[field.name]
    )
    for field in spec_fields.FIELDS
    if field.name not in ("version", "preset")
}
# All of them at once, except `min_ndcg`, which excludes `retention`, `rotate`, which excludes
# `keep_index`, and `folds`.
EXCLUDING = ("evaluation.min_ndcg", "training.rotate", "evaluation.folds")
TOGETHER = {field: json.dumps(value) for field, value in OTHERS.items() if field not in EXCLUDING}
JOB_YAML = resources.files("launcher").joinpath("job.yaml").read_text("utf-8")


def document_of(name, value):
    return spec_fields.Field(name, ()).document(value)


def refusal(document, assignments=None):
    with pytest.raises(SpecError) as caught:
        build_spec(document, assignments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_field_is_listed_with_its_default_and_a_description():
    """`field_rows` has each leaf once, in the spec's order, and no field lacks a description."""
    rows = field_rows()
    assert [(name, json.loads(default)) for name, default, _ in rows] == [*DEFAULTS.items()]
    assert all(description.endswith((".", ").")) for *_, description in rows)


def test_the_schema_describes_every_field_and_allows_no_other():
    """An editor that reads the JSON Schema shows the descriptions and marks unknown fields."""
    schema = JobSpec.model_json_schema()
    described = {description for *_, description in field_rows()}
    for section in (schema, *schema["$defs"].values()):
        assert section["additionalProperties"] is False
        for about in section["properties"].values():
            assert "$ref" in about or about["description"] in described


def test_a_spec_cannot_be_changed():
    """Stages share one spec, so none may modify it."""
    with pytest.raises(ValueError, match="frozen"):
        JobSpec().training.epochs = 1
    with pytest.raises(ValueError, match="frozen"):
        JobSpec().training = None


# Valid specs.


@pytest.mark.parametrize("field", OTHERS)
def test_an_assignment_sets_its_field_and_no_other(field):
    """It wins over the document, keeps the other fields, and `differing_fields` names only it."""
    text, value = json.dumps(OTHERS[field]), OTHERS[field]
    changed = build_spec({}, {field: text})
    assert values(changed) == DEFAULTS | {field: value}
    assert differing_fields(JobSpec(), changed) == differing_fields(changed, JobSpec()) == [field]
    document = build_spec({}, {"training.seed": "7", "data.seed": "8"}).model_dump(mode="json")
    expected = DEFAULTS | {"training.seed": 7, "data.seed": 8, field: value}
    assert values(build_spec(document, {field: text})) == expected


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        # YAML's numbers, lists and quotes.
        ("data.limit", "1_000", 1000),
        ("data.test_fraction", ".5", 0.5),
        ("model.max_download_gb", "1e3", 1000.0),
        ("data.columns.negatives", "[neg_1, 'neg 2']", ["neg_1", "neg 2"]),
        ("training.report_to", "[]", []),
        ("model.name", '"BGE: base"', "BGE: base"),
        ("model.query_prompt", "'query: '", "query: "),
        ("model.document_prompt", '""', ""),
        ("model.trust_remote_code", "True", True),
        # SageMaker sends strings; its SDK and its tuner send JSON-quoted strings too.
        ("training.epochs", '"3"', 3),
        ("training.epochs", "3.0", 3),
        ("training.epochs", "0.5", 0.5),
        ("training.learning_rate", '"2e-5"', 2e-5),
        ("training.learning_rate", "1e-05", 1e-5),
        ("training.learning_rate", '"auto"', "auto"),
        ("training.mini_batch_size", "null", None),
        ("training.dropout", '"0.1"', 0.1),
        ("training.evaluate_every", '"10"', 10),
        ("evaluation.dimensions", '["64", "32"]', [64, 32]),
        ("evaluation.protocol", '"article"', "article"),
        ("model.trust_remote_code", '"false"', False),
        # `no` is Norwegian, a commit is not an octal number; a prompt keeps its colon and space.
        ("model.language", "no", "no"),
        ("model.revision", "0123", "0123"),
        ("model.revision", "12:30", "12:30"),
        ("model.query_prompt", "Represent this: ", "Represent this: "),
        ("data.source", "2024-01-01", "2024-01-01"),
        ("data.source", "data: 😀.jsonl", "data: 😀.jsonl"),
        # Shells complete folders with a slash; both spellings must find the same run.
        ("output.uri", "runs/", "runs"),
        ("output.uri", "s3://bucket/runs//", "s3://bucket/runs"),
        ("output.uri", "/", "/"),
        ("output.uri", "s3://", "s3://"),
    ],
)
def test_an_assigned_text_is_parsed_by_the_type_of_its_field(field, text, value):
    assert values(build_spec({}, {field: text}))[field] == value


@pytest.mark.parametrize("field", ["data.source", "model.name", "data.near_duplicate_threshold"])
@pytest.mark.parametrize("text", ["null", "~", ""])
def test_null_clears_a_field(field, text):
    """An optional field becomes None, even if the document sets it."""
    document = document_of(field, OTHERS[field])
    assert values(build_spec(document, {field: text}))[field] is None


def test_an_assignment_does_not_change_the_document_it_is_merged_with():
    """The caller can reuse the document."""
    document = {"training": {"epochs": 2}}
    build_spec(document, {"training.epochs": "3", "data.seed": "1"})
    assert document == {"training": {"epochs": 2}}


def test_set_options_are_split_at_their_first_equals_sign():
    """A value may contain `=`, the last of two assignments wins, and a missing `=` is an error."""
    texts = ["data.source=a=b.jsonl", "model.name=", "training.epochs=1", "training.epochs=2"]
    expected = {"data.source": "a=b.jsonl", "model.name": "", "training.epochs": "2"}
    assert parse_assignments(texts) == expected
    with pytest.raises(SpecError, match=r"`--set training.epochs` has no `=`"):
        parse_assignments(["training.epochs"])


# Errors.


@pytest.mark.parametrize("field", DEFAULTS)
def test_an_error_names_a_misspelt_field_and_the_right_one(field):
    """A typo in any section is an error, never ignored, and the message suggests the right name."""
    wrong = field + field[-1]
    for message in (refusal(document_of(wrong, None)), refusal({}, {wrong: "null"})):
        assert f"`{wrong}`" in message
        assert f"`{field}`" in message


@pytest.mark.parametrize(
    ("document", "wrong", "nearest"),
    [
        ({"epochs": 3}, "epochs", "training.epochs"),
        ({"data": {"epochs": 3}}, "data.epochs", "training.epochs"),
        ({"zzz": 3}, "zzz", "embedtune schema"),
        ({"trainings": {"epochs": 3}}, "trainings", "training"),
        ({"modle": {"base": "x"}}, "modle", "model"),
        ({"data": {"column": {"anchor": "x"}}}, "data.column", "data.columns"),
    ],
)
def test_an_error_names_the_right_place_of_a_misplaced_field_or_section(document, wrong, nearest):
    """The leaf name finds its section; without a near match, the error names `embedtune schema`."""
    message = refusal(document)
    assert message.startswith(f"`{wrong}` is not a field")
    assert f"`{nearest}`" in message


TWICE, PATH, TEXT = "lists a value twice", "at most 4095 bytes", "not valid UTF-8"
BOOLEAN = "found true or false"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("training.epochs", "three", "'three'"),
        ("training.batch_size", 3.5, "3.5"),
        ("training.epochs", None, "None"),
        ("training.scale", float("nan"), "nan"),
        ("data.max_download_gb", float("inf"), "inf"),
        ("data.columns.negatives", 7, "7"),
        ("output.exports", "onnx-int8", "a list, in brackets: `[…]`"),
        ("data.split", None, "None"),
        ("output.uri", "", "''"),
        ("output.hub_private", None, "None"),
        ("model.attention", "other", "'auto', 'sdpa' or 'eager'"),
        # Its package would flatten the texts, and training needs them padded.
        ("model.attention", "flash_attention_2", "`sdpa` has fused attention"),
        ("training.epochs", "other", "'auto'"),
        # A comparison needs a dimension, and a duplicate would count twice.
        ("evaluation.dimensions", [], "[]"),
        ("evaluation.dimensions", [64, 32, 64], TWICE),
        ("evaluation.precisions", ["int8", "int8"], TWICE),
        # Python converts YAML's `no` to 0 and `yes` to 1, which nobody means.
        ("training.epochs", False, BOOLEAN),
        ("data.limit", True, BOOLEAN),
        ("data.source", True, BOOLEAN),
        ("version", True, BOOLEAN),
        # Checked before hours of training.
        *(("output.hub", name, repr(name)) for name in ("search", "a/search/v2", "our team/x")),
        *(("output.hub", name, "`owner/name`") for name in ("/search", "our/", "s3://b/r", "../x")),
        # Checked before any access; an empty path is not the current folder.
        ("data.test", "", "is empty"),
        ("model.base", "", "is empty"),
        *(("data.source", text, TEXT) for text in ("a\0b", "gr\udcf6\udcdfe")),
        *(("evaluation.out_of_domain", text, PATH) for text in ("x" * 256, "x/" * 2100, "ä" * 128)),
    ],
)
def test_an_error_names_the_field_and_the_value_found(field, value, expected):
    message = refusal(document_of(field, value))
    assert message.startswith(f"`{field}`: ")
    assert expected in message
    assert "(found " in message


def test_min_ndcg_excludes_an_explicit_retention():
    """They are two rules for one choice; the default retention does not count."""
    message = refusal({"evaluation": {"min_ndcg": 0.8, "retention": 0.9}})
    assert message.startswith("`evaluation.min_ndcg`: ")
    assert "`evaluation.retention` (0.9)" in message


def test_the_first_three_of_many_errors_are_named_on_one_line():
    """`output/failure` holds one line of limited length."""
    wrong = {"training": {"warmup_ratio": -1, "weight_decay": 2, "scale": 0, "seed": -1}}
    named = re.findall(r"`([\w.]+)`: [^;]* \(found (\S+)\)", refusal(wrong))
    assert named == [
        ("training.warmup_ratio", "-1"), ("training.weight_decay", "2"), ("training.scale", "0"),
    ]  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("value", [3, "three", [3]])
def test_an_error_names_a_section_that_is_not_a_mapping(value, preset):
    """From a document or an assignment, and with every preset."""
    document = {"preset": preset, "training": value}
    assert refusal(document).startswith("`training`: ")
    assert "`training`" in refusal(document, {"training.epochs": "3"})
    assert "`training`" in refusal({"preset": preset}, {"training": json.dumps(value)})


def test_an_error_names_the_field_of_a_value_that_json_lacks():
    """An unquoted date, in a document and in an assignment."""
    document = parse_document("data: {columns: {negatives: [2024-01-01]}}", "job.yaml")
    assert refusal(document).startswith("`data.columns.negatives` is not ")
    given = {"data.columns.negatives": "[2024-01-01]"}
    assert refusal({}, given).startswith("`data.columns.negatives` is not ")


# Presets.

# (preset, field, value), with values as in JSON.
PRESET_FIELDS = [
    (preset, field, value)
    for preset, sections in json.loads(json.dumps(PRESETS)).items()
    for field, value in flat(sections).items()
]


def test_each_preset_has_its_values():
    """The spec accepts exactly the presets of the table; all but the default change something."""
    assert get_args(JobSpec.model_fields["preset"].annotation) == tuple(PRESETS)
    assert {name for name, *_ in PRESET_FIELDS} == {*PRESETS} - {"balanced"}
    assert all(DEFAULTS[field] != value for _, field, value in PRESET_FIELDS)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_its_fields_and_no_other(preset):
    """In a document or an assignment; all other fields keep their defaults."""
    expected = DEFAULTS | {"preset": preset}
    expected |= {field: value for name, field, value in PRESET_FIELDS if name == preset}

    assert values(JobSpec(preset=preset)) == expected
    assert values(build_spec({"preset": preset})) == expected
    assert values(build_spec({"preset": "balanced"}, {"preset": json.dumps(preset)})) == expected
    # A section with all its lines commented out counts as absent.
    text = f"preset: {preset}\ntraining:\n  # epochs: 3\nevaluation:\n"
    assert values(build_spec(parse_document(text, "job.yaml"))) == expected
    # Setting another field of a section keeps the preset's values in it.
    given = {"training.seed": 7, "evaluation.retention": 0.9}
    document = {"preset": preset, "training": {"seed": 7}, "evaluation": {"retention": 0.9}}
    assert values(build_spec(document)) == expected | given


@pytest.mark.parametrize(("preset", "field", "value"), PRESET_FIELDS)
def test_a_given_value_wins_over_the_presets(preset, field, value):
    """In a document and in an assignment; an explicit default wins too."""
    section, name = field.split(".")
    for given in (OTHERS[field], DEFAULTS[field]):
        expected = values(JobSpec(preset=preset)) | {field: given}
        assert values(build_spec({"preset": preset, section: {name: given}})) == expected
        assert values(build_spec({"preset": preset}, {field: json.dumps(given)})) == expected
        assert values(build_spec({section: {name: given}}, {"preset": preset})) == expected


# Documents.


def test_a_document_is_yaml_or_json(tmp_path):
    """Both give the same spec; comments and an empty file are valid."""
    text = "# a job\ntraining:\n  epochs: 3  # few\n  learning_rate: 1e-4\n"
    as_json = '{"training": {"epochs": 3, "learning_rate": 1e-4}}'
    (tmp_path / "job.yaml").write_text(text, "utf-8")
    assert read_document(tmp_path / "job.yaml") == parse_document(text, "a")
    assert build_spec(parse_document(text, "a")) == build_spec(parse_document(as_json, "b"))
    assert parse_document("", "empty") == parse_document("# nothing\n", "comment") == {}


def test_an_error_names_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "job.yaml").write_bytes(b"model: {name: B\xfccher}")
    with pytest.raises(SpecError, match=r"job\.yaml` is not UTF-8: byte 0xfc"):
        read_document(tmp_path / "job.yaml")
    with pytest.raises(SpecError, match="`theirs` cannot be read: No such file"):
        read_document(tmp_path / "none.yaml", "theirs")


def test_an_assignment_sets_a_field_of_an_empty_section():
    document = parse_document("training:\n  # epochs: 3\ndata:\n  seed: 1\n", "job.yaml")
    expected = DEFAULTS | {"data.seed": 1, "training.batch_size": 8}
    assert values(build_spec(document, {"training.batch_size": "8"})) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training:\n  epochs: 3\n bad\n", "in line 3"),
        ("training:\n\tepochs: 3\n", "in line 2"),
        ('{"training": {"epochs": 3}', "in line 1"),
        ("training: \x00", "special characters are not allowed"),
        ("data: &data\n  columns: *data\n", "aliases (`*name`) are not supported"),
        ("training: {epochs: 1}\ndata: {}\ntraining: {}\n", "in line 3: the key `training`"),
        ("- training\n", "contains a list"),
        ("pairs.jsonl\n", "contains a str"),
        ("false\n", "contains a bool"),
    ],
)
def test_an_error_names_the_file_and_line_of_a_broken_document(text, expected):
    """One line says which file, which line and what is wrong."""
    with pytest.raises(SpecError, match=r"`job\.yaml`") as caught:
        parse_document(text, "job.yaml")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_init_file_is_the_articles_job():
    """`embedtune init` writes a valid spec with the article's data, model, dimensions and card."""
    assert values(build_spec(parse_document(JOB_YAML, "job.yaml"))) == DEFAULTS | {
        "data.source": "philschmid/finanical-rag-embedding-dataset",
        "data.columns.anchor": "question",
        "data.columns.positive": "context",
        "model.base": "BAAI/bge-base-en-v1.5",
        "model.name": "BGE base Financial Matryoshka",
        "model.language": "en",
        "model.license": "apache-2.0",
        "training.epochs": 4,
        "training.batch_size": 128,
        "evaluation.dimensions": [768, 512, 256, 128, 64],
        "evaluation.main_dimension": 128,
    }


def test_the_fields_that_the_init_file_comments_out_are_valid():
    """Each works after its `#` is removed."""
    live, fields = re.subn(r"(?m)^  # (\w+: \S+)$", r"  \1", JOB_YAML)
    live, lines = re.subn(r"(?m)^# (output:|  \w+: \S+)$", r"\1", live)
    found, written = (values(build_spec(parse_document(t, "job.yaml"))) for t in (live, JOB_YAML))
    changed = ["data.limit", "training.learning_rate", "output.uri", "output.hub"]
    assert [field for field in DEFAULTS if found[field] != written[field]] == changed
    assert fields + lines == len([*changed, "output:"])


# Two specs.


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "given", [{}, TOGETHER | {"evaluation.folds": "0"}, {"training.learning_rate": "1e-05"}]
)
def test_a_spec_survives_writing_and_reading(preset, given):
    """A run's spec.json contains every value, so later changes of presets do not affect it."""
    spec = build_spec({"preset": preset}, given)

    document = parse_document(spec.to_json(), "spec.json")

    assert list(flat(document)) == list(DEFAULTS)
    assert build_spec(document) == spec
    assert build_spec(document).to_json() == spec.to_json()


def test_equal_specs_have_no_differing_fields():
    """The notation of a value makes no difference."""
    document = {"training": {"scale": 20}, "data": {"min_characters": 3.0}}
    written = build_spec(document, {"data.seed": '"42"', "output.uri": "runs/"})
    assert differing_fields(written, JobSpec()) == []
