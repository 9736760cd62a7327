"""Hostile input: models, data and specs of strangers run no code and cannot escape their folders.

container/SECURITY.md lists each threat with its guard and its test: here, or in the tests of the
module that has the guard.
"""

import ast
import gzip
import io
import json
import pickle
import re
import shutil
import struct
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import reports
from click.testing import CliRunner

from job.__main__ import exit_code
from job.core.errors import DataError, ModelError, SpecError, StorageError
from job.data.readers import read_records
from job.data.sources import open_documents, open_source
from job.model.device import Machine
from job.model.encoder import load_model
from job.report.templating import code
from job.runtime.logs import log, log_to_stderr, tell
from job.spec.parse import build_spec, parse_document
from job.spec.schema import DataSpec, ModelSpec
from job.storage.workspace import Workspace
from launcher.cli import main
from launcher.live.drawing import Job
from launcher.live.view import LiveView, PlainView

ROOT = Path(__file__).parents[1]
CPU = Machine("cpu", "float32", "")


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture
def ran(tmp_path):
    """Return the path of a file that exists only if a stranger's code has run."""
    return tmp_path / "ran"


@pytest.fixture
def model(tmp_path, tiny_encoder):
    """Return a copy of a model's folder, to be changed by tests."""
    return Path(shutil.copytree(tiny_encoder, tmp_path / "model"))


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields), "utf-8")


def refusal(folder):
    """Load a model as a job does, expect an error and return its line."""
    with pytest.raises(ModelError) as caught:
        load_model(ModelSpec(base=str(folder)), CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Pickles.


def test_reading_the_pickle_runs_its_code(ran):
    """The payload works; otherwise the tests below would prove nothing."""
    pickle.loads(pickle.dumps(Payload(ran)))
    assert ran.exists()


@pytest.mark.parametrize("module", [".", "2_Dense"])
def test_no_pickle_of_a_model_is_read(model, ran, module):
    """This holds for the transformer's weights and for those of a layer on top of it."""
    (model / module).mkdir(exist_ok=True)
    (model / "model.safetensors").unlink()
    weights = model / module / "pytorch_model.bin"
    weights.write_bytes(pickle.dumps(Payload(ran)))
    assert f"`{weights}` is a pickle" in refusal(model)
    assert not ran.exists()


# Code in a model's repository, paths outside it, and sizes that are only declared.


def change_module(model, **fields):
    modules = json.loads((model / "modules.json").read_text("utf-8"))
    modules[1] |= fields
    (model / "modules.json").write_text(json.dumps(modules), "utf-8")


def name_code_in_the_configuration(model):
    """`auto_map` names classes in files of the repository."""
    parts = {"AutoConfig": "intruder.Part", "AutoModel": "intruder.Part"}
    change(model / "config.json", auto_map=parts, model_type="intruder")


def name_code_in_the_list_of_modules(model):
    """Earlier versions of the library trusted such code in local folders."""
    change_module(model, type="intruder.Part")


def name_code_in_the_tokenizer(model):
    classes = {"AutoTokenizer": ["intruder.Part", "intruder.Part"]}
    change(model / "tokenizer_config.json", auto_map=classes, tokenizer_class="Part")


@pytest.mark.parametrize(
    ("name_code", "message"),
    [
        (name_code_in_the_configuration, "needs Python code of its repository"),
        (name_code_in_the_list_of_modules, "`intruder.Part`"),
        # The library uses a known tokenizer instead, or none.
        (name_code_in_the_tokenizer, None),
    ],
)
def test_code_that_a_model_names_is_not_run(model, ran, name_code, message):
    text = f"from pathlib import Path\nPath({str(ran)!r}).touch()\nclass Part: pass\n"
    (model / "intruder.py").write_text(text, "utf-8")
    name_code(model)
    if message:
        assert message in refusal(model)
    else:
        with suppress(ModelError):
            load_model(ModelSpec(base=str(model)), CPU)
    assert not ran.exists()


def name_a_module_outside(model):
    """`modules.json` may only name paths inside the model's folder."""
    shutil.copytree(model / "1_Pooling", model.parent / "elsewhere")
    change_module(model, path="../elsewhere")


def declare_a_huge_header(declared, model):
    """The first eight bytes are the header's length; the library must not allocate it."""
    weights = model / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", declared) + weights.read_bytes()[8:])


def declare_a_vocabulary_of_a_billion_words(model):
    """Such an embedding needs 256 GB if it is allocated before the weights are read."""
    change(model / "config.json", vocab_size=1_000_000_000)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (name_a_module_outside, "'../elsewhere'"),
        *(
            (partial(declare_a_huge_header, size), "Error while deserializing header")
            for size in (1 << 62, (1 << 64) - 1, 200_000_000)
        ),
        (declare_a_vocabulary_of_a_billion_words, "cannot be loaded"),
    ],
)
def test_false_declarations_of_a_model_are_refused(model, harm, message):
    harm(model)
    assert message in refusal(model)


# YAML.


@pytest.mark.parametrize("tag", ["apply:os.mkdir", "new:pathlib.Path"])
@pytest.mark.parametrize(
    "read",
    [
        lambda text: parse_document(f"data: {text}", "job.yaml"),
        lambda text: build_spec({}, {"training.epochs": text}),
    ],
    ids=["job file", "hyperparameter"],
)
def test_no_yaml_tag_creates_an_object(tmp_path, monkeypatch, tag, read):
    """The tag gives an error of one line, and its function is not called."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="not valid YAML") as caught:
        read(f"!!python/object/{tag} [ran]")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_yaml_aliases_cannot_expand_to_a_huge_document():
    """Aliases are refused: with ten aliases per level, each level is ten times larger."""
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(SpecError) as caught:
        parse_document("\n".join(["a0: &a0 [x]", *levels]), "job.yaml")
    assert "`job.yaml` is not valid YAML in line 2: aliases" in str(caught.value)


# Files that unpack to more than the memory.


def test_an_endless_line_is_not_read_into_memory(tmp_path, monkeypatch):
    """A few kilobytes of gzip may contain one line of many gigabytes."""
    monkeypatch.setattr("job.data.text_files.MAX_LINE_BYTES", 1000)
    file = tmp_path / "pairs.jsonl.gz"
    with gzip.open(file, "wb") as handle:
        handle.write(b'{"question": "a", "context": "b"}\n' + b"a" * 5_000_000)
    rows = read_records(file)
    assert next(rows).fields == {"question": "a", "context": "b"}
    with pytest.raises(DataError) as caught:
        next(rows)
    assert f"`{file}` line 2 is longer than 1,000 bytes" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "start", "line"),
    [
        ("a.jsonl.gz", b"", b'{"question": "a", "context": "b"}\n'),
        ("a.csv.gz", b"question,context\n", b"a,b\n"),
        ("a.json.gz", b"[", b'{"question": "a", "context": "b"},\n'),
    ],
)
def test_a_bomb_of_many_short_lines_is_not_unpacked(tmp_path, monkeypatch, name, start, line):
    """Each line is short, but no real texts are compressed to a thousandth of their size."""
    monkeypatch.setattr("job.data.text_files.MAX_UNPACKED_BYTES", 1_000_000)
    file = tmp_path / name
    with gzip.open(file, "wb") as handle:
        handle.write(start + line * (10_000_000 // len(line)))
    most = max(1_000_000, 200 * file.stat().st_size)
    assert most < 10_000_000
    rows = []
    with pytest.raises(DataError) as caught:
        rows.extend(read_records(file))
    assert len(rows) * len(line) <= most
    message = f"`{file}` unpacks to more than 1,000,000 bytes and 200 times its size"
    assert message in str(caught.value)


def test_a_file_above_only_one_of_the_two_limits_is_read(tmp_path, monkeypatch):
    """Small files may have a high ratio, and large files a normal one."""
    line = b'{"question": "a", "context": "b"}\n'
    file = tmp_path / "pairs.jsonl.gz"
    file.write_bytes(gzip.compress(line * 10_000))
    assert sum(1 for _ in read_records(file)) == 10_000
    monkeypatch.setattr("job.data.text_files.MAX_UNPACKED_BYTES", 1_000)
    file.write_bytes(gzip.compress(line * 100))
    assert sum(1 for _ in read_records(file)) == 100
    file.with_suffix("").write_bytes(line * 10_000)
    file.unlink()
    assert sum(1 for _ in read_records(tmp_path)) == 10_000


# Commands to a terminal, and Markdown.

RED, UPWARDS, TURNED = "\x1b[31m", "\x9b1A", "\u202e"
HARMFUL = f"{RED}{UPWARDS}{TURNED}\x07"
HARMLESS = r"\x1b[31m\x9b1A\u202e\x07"


def test_a_file_name_cannot_control_the_terminal(tmp_path, capfd):
    """In the line of an error, control characters are escaped."""
    folder = tmp_path / HARMFUL
    folder.mkdir()
    assert exit_code(lambda: open_source(str(folder), DataSpec()), None) == DataError.exit_code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"Error: The folder `{tmp_path}/{HARMLESS}` contains no data file")


def test_a_stranger_cannot_forge_a_line_of_the_log(capsys, monkeypatch):
    """A name with a line break and a terminal command becomes one line of plain text."""
    monkeypatch.setattr(log, "handlers", [])
    log_to_stderr()
    tell("fetch", f"a\n2026 verdict: Improved{HARMFUL}")
    assert capsys.readouterr().err.endswith(f" fetch: a\\x0a2026 verdict: Improved{HARMLESS}\n")


def test_the_log_of_a_job_cannot_control_the_terminal_that_shows_it(tmp_path, monkeypatch):
    """It may come from CloudWatch or a shared bucket; only line breaks and tabs are kept."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "theirs"
    (run / "logs").mkdir(parents=True)
    (run / "manifest.json").write_text("{}", "utf-8")
    (run / "logs" / "job.log").write_text(f"one{HARMFUL}\n\ttwo\n", "utf-8")
    shown = CliRunner().invoke(main, ["logs", "theirs"])
    assert shown.output == f"one{HARMLESS}\n\ttwo\n"
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    PlainView(terminal).print_line(f"one{HARMFUL}")
    assert terminal.getvalue() == f"one{HARMLESS}\n"
    drawn = io.StringIO()
    with LiveView(drawn, Job("theirs", "process", datetime.now(UTC)), verbose=True) as view:
        for line in (
            "one{}",
            "2026-11-28T10:00:00Z data: one{}",
            "2026-11-28T10:00:00Z data: warning: one{}",
            "Error: one{}",
        ):
            view.print_line(line.format(HARMFUL))
    assert drawn.getvalue().count(f"one{HARMLESS}") >= 3
    # Colors are ours.
    assert not {*HARMFUL} - {*RED, *UPWARDS[1:]} & {*drawn.getvalue()}


def test_a_report_cannot_control_the_terminal_that_shows_it(tmp_path, monkeypatch):
    """A stranger may have written it: neither terminal commands nor rich's markup are obeyed."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "theirs"
    (run / "report").mkdir(parents=True)
    (run / "manifest.json").write_text("{}", "utf-8")
    report = reports.improved()
    report["job_name"] = f"run{HARMFUL}"
    report["verdict"]["sentence"] = f"[blink]Improved{HARMFUL}"
    report["cost"]["basis"] = HARMFUL
    (run / "report" / "report.json").write_text(json.dumps(report), "utf-8")
    output = CliRunner(env={"COLUMNS": "200"}).invoke(main, ["report", "theirs"]).output
    assert output.count(HARMLESS) == 3
    assert "[blink]Improved" in output
    assert not {*HARMFUL} - {*"[31m1A"} & {*output}


def test_a_prompt_cannot_break_out_of_its_code_span_in_the_card():
    """A base model's prompts are in the card, which is pushed to the Hub."""
    assert code(f"`<script>\n# A heading{RED}") == r"`'<script>\x0a# A heading\x1b[31m`"


# Ids in tables that users may open in a spreadsheet.


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("d1", "d1"),
        (7, "7"),
        ("=HYPERLINK(1)", "_=HYPERLINK(1)"),
        ("+1", "_+1"),
        ("-1", "_-1"),
        ("@SUM(A1)", "_@SUM(A1)"),
        ("\t=1", "_=1"),
        ("a\tb\nc", "a_b_c"),
    ],
)
def test_no_id_is_a_formula_or_a_second_row(tmp_path, given, written):
    """`qrels.tsv` contains ids from the data, and users may open it in a spreadsheet."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": given, "text": "a text"}) + "\n", "utf-8")
    assert [document.id for document in open_documents(str(corpus))] == [written]


# Links.


def test_a_link_out_of_a_channel_is_refused(tmp_path):
    """Otherwise an error could quote a line of a secret file such as `/proc/self/environ`."""
    workspace = Workspace(tmp_path / "ml")
    channel = workspace.channel_folder("data")
    (channel / "more").mkdir(parents=True)
    link = channel / "more" / "pairs.jsonl"
    link.symlink_to("/proc/self/environ")
    with pytest.raises(StorageError) as caught:
        workspace.channels()
    assert f"`{link}` is a link that leads out of its channel" in str(caught.value)


def test_a_link_within_a_channel_is_followed(tmp_path):
    workspace = Workspace(tmp_path / "ml")
    channel = workspace.channel_folder("data")
    channel.mkdir(parents=True)
    (channel / "a.jsonl").write_text("{}", "utf-8")
    (channel / "b.jsonl").symlink_to("a.jsonl")
    assert workspace.channels() == {"data": channel}


# Our code.


def test_our_code_reads_no_pickle():
    """It imports no module for pickles, and `torch.load` reads only plain tensors."""
    for path in [*(ROOT / "job").rglob("*.py"), *(ROOT / "launcher").rglob("*.py")]:
        tree = ast.parse(path.read_text("utf-8"))
        modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        modules |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not modules & {"pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}, path
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) == "torch.load":
                safe = {k.arg: ast.unparse(k.value) for k in call.keywords}
                assert safe.get("weights_only") == "True", f"{path}:{call.lineno}"


# The threat model.


def test_the_guards_that_the_threat_model_names_exist():
    """Each name in backticks next to a file occurs in that file, and the listed tests exist."""
    text = (ROOT / "container" / "SECURITY.md").read_text("utf-8")
    named = re.findall(r"`(\w+)` in `([\w/]+\.py)`|`([\w/]+\.py)` `(\w+)`", text)
    pairs = [(name or late, path or early) for name, path, early, late in named]
    assert len(pairs) > 6
    assert [(n, p) for n, p in pairs if n not in (ROOT / p).read_text("utf-8")] == []
    files = re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert len(files) > 15
    assert [path for path in files if not (ROOT / path).is_file()] == []
