"""Fetching data and models from S3 and the Hub: versions, limits and errors."""

import gzip
import io
import json
import re
import socket
import tarfile
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub
from remote import emptied, files_of, in_client, served_s3

from job.core.errors import DataError, ModelError, StorageError, TrainingError
from job.data.sources import open_source
from job.inputs import (
    Inputs,
    fetch_data,
    fetch_inputs,
    fetch_language_model,
    fetch_model,
    hub_reference,
    read_resolved_revisions,
)
from job.spec.parse import build_spec
from job.storage.hub import Reference
from job.storage.workspace import Workspace

TOKEN = "hf_PlantedRight"
WRONG = "hf_PlantedWrong"
ROWS = [{"question": f"What is {i}?", "context": f"It is {i}."} for i in range(3)]


@pytest.fixture(scope="module")
def server():
    with served_s3(AWS_MAX_ATTEMPTS="1") as server:
        yield server


@pytest.fixture
def s3(server):
    """An S3 endpoint with an empty bucket; the client does not retry."""
    with emptied(server):
        yield server


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "work")


@pytest.fixture
def put(s3):
    """Put files into the bucket below a prefix."""

    def work(prefix, files):
        for name, data in files.items():
            s3.put("box", f"{prefix}/{name}", data)

    return work


def make_spec(source="builtin:aws-docs", base="builtin:minilm", **fields):
    given = {"data.source": source, "model.base": base}
    return build_spec({}, given | {key.replace("__", "."): v for key, v in fields.items()})


def fetch_source(workspace, uri, **fields):
    return fetch_data(make_spec(uri, **fields), workspace, {})["data"]


def fetch_base(workspace, uri, **fields):
    return fetch_model(make_spec(base=uri, **fields).model, workspace, {})


def questions(path):
    return [row.anchor for row in open_source(str(path), make_spec().data).rows]


def downloads(s3):
    """Return the objects that were read, at least in part."""
    return sorted({r.path for r in s3.requests if r.method == "GET" and r.path.count("/") > 1})


def mark_trained(workspace):
    (workspace.checkpoints / "checkpoint-1").mkdir(parents=True)


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


FILES = {
    "pairs.jsonl.gz": gzip.compress(jsonl(ROWS)),
    "pairs.csv": b"question,context\nWhat?,It.\n",
    "deep/er/pairs.parquet": parquet(ROWS),
}


# Data in S3.


@pytest.mark.parametrize("name", FILES)
def test_a_single_object_can_be_data(s3, put, workspace, name):
    """It keeps its name, as the suffix is its format; other objects are not read."""
    put("data", FILES | {"other.jsonl": b"{}"})
    uri = f"s3://box/data/{name}"
    found = fetch_source(workspace, uri)
    assert questions(found.path)
    assert downloads(s3) == [f"/box/data/{name}"]
    version, size = found.path.parent.name, len(FILES[name])
    facts = {"uri": uri, "version": version, "file": found.path.name, "files": 1, "bytes": size}
    assert found.facts == facts


@pytest.mark.parametrize("uri", ["s3://box/data", "s3://box/data/"])
def test_a_prefix_can_be_data(s3, put, workspace, uri):
    """All files with a supported suffix are fetched, at any depth; other files are not."""
    put("data", FILES | {"README.md": b"", "_SUCCESS": b"", "qrels/test.tsv": b""})
    found = fetch_source(workspace, uri)
    assert set(files_of(found.path)) == set(FILES) | {"qrels/test.tsv"}
    assert len(downloads(s3)) == len(FILES) + 1
    assert (found.facts["file"], found.facts["files"]) == (None, len(FILES) + 1)


def test_every_role_is_fetched_into_a_separate_folder(put, workspace):
    """Validation, test, corpus and out-of-domain data may be in S3, too."""
    roles = ("data", "validation", "test", "corpus", "out_of_domain")
    for role in roles:
        put(role, {"x.jsonl": jsonl([{"question": role, "context": role}])})
    uris = {f"data__{role}": f"s3://box/{role}/x.jsonl" for role in roles[1:4]}
    uris["evaluation__out_of_domain"] = "s3://box/out_of_domain/x.jsonl"
    found = fetch_data(make_spec("s3://box/data/x.jsonl", **uris), workspace, {})
    assert {role: questions(copy.path) for role, copy in found.items()} == {r: [r] for r in roles}


def test_a_channel_wins_over_s3(s3, workspace):
    """A channel's files are used even if the spec names an S3 URI."""
    channel = workspace.channel_folder("data")
    channel.mkdir(parents=True)
    (channel / "x.jsonl").write_bytes(jsonl(ROWS))
    inputs = fetch_inputs(make_spec("s3://box/none"), workspace)
    assert inputs.channels == {"data": channel}
    assert s3.requests == []


def test_local_inputs_are_not_fetched(s3, workspace, tiny_encoder, pairs_file):
    """Paths are used directly; the facts still name the model."""
    inputs = fetch_inputs(make_spec(str(pairs_file), str(tiny_encoder)), workspace)
    facts = {"model": {"uri": str(tiny_encoder)}}
    assert inputs == Inputs({}, tiny_encoder, facts)
    assert s3.requests == []


@pytest.mark.parametrize("uri", ["s3://box/none", "s3://box/none.jsonl", "s3://box"])
def test_a_prefix_without_data_is_a_data_error(s3, workspace, uri):
    """A bucket that does not exist is a storage error."""
    s3.put("box", "nonesuch/README.md", b"")
    with pytest.raises(DataError, match=f"`{uri}`"):
        fetch_source(workspace, uri)
    with pytest.raises(StorageError, match="NoSuchBucket"):
        fetch_source(workspace, uri.replace("box", "nobox"))


@pytest.mark.parametrize(
    ("fetch", "field", "error"),
    [
        (lambda w, **limit: fetch_source(w, "s3://box/x", **limit), "data", DataError),
        (lambda w, **limit: fetch_base(w, "s3://box/x", **limit), "model", ModelError),
    ],
)
def test_inputs_above_the_limit_are_not_downloaded(s3, put, workspace, fetch, field, error):
    """The total size of the wanted objects counts; none of them is requested."""
    put("x", {"a.jsonl": b"x" * 600, "b.jsonl": b"x" * 600})
    limit = f"{field}__max_download_gb"
    with pytest.raises(error, match=rf"`s3://box/x` .* `{field}\.max_download_gb` allows 1e-06"):
        fetch(workspace, **{limit: "0.000001"})
    assert downloads(s3) == []
    fetch(workspace, **{limit: "0.0000012"})


def test_an_interrupted_fetch_is_resumed(s3, put, workspace):
    """Only missing files are fetched; a truncated file counts as missing."""
    put("data", FILES)
    s3.truncate("pairs.parquet", at=3, times=1000)
    with pytest.raises(StorageError):
        fetch_source(workspace, "s3://box/data")
    arrived = {path.name for path in workspace.fetched.rglob("*.*") if path.is_file()}
    assert "pairs.parquet" not in arrived
    s3._faults.clear()
    s3.requests.clear()
    found = fetch_source(workspace, "s3://box/data")
    names = {name.rpartition("/")[2] for name in FILES}
    assert {path.rpartition("/")[2] for path in downloads(s3)} == names - arrived
    assert files_of(found.path) == FILES
    s3.requests.clear()
    assert fetch_source(workspace, "s3://box/data") == found
    assert downloads(s3) == []


def test_a_new_version_replaces_the_old_one(put, workspace):
    """A file with the same name and size but other content is fetched; the old one is deleted."""
    put("data", {"a.jsonl": b'{"n": 1}', "b.jsonl": b'{"n": 1}'})
    old = fetch_source(workspace, "s3://box/data")
    put("data", {"a.jsonl": b'{"n": 2}'})
    new = fetch_source(workspace, "s3://box/data")
    assert old.facts["version"] != new.facts["version"]
    assert files_of(workspace.fetched / "data") == {
        f"{new.facts['version']}/a.jsonl": b'{"n": 2}',
        f"{new.facts['version']}/b.jsonl": b'{"n": 1}',
    }


# Resumed runs.


@pytest.mark.parametrize("uri", ["s3://box/data/x.jsonl", "s3://box/data"])
def test_a_resumed_run_uses_its_first_copy(s3, put, workspace, uri):
    """Changes in S3 do not matter while the copy exists.

    On another machine, which has the checkpoints but no copy, the same version is fetched again.
    """
    put("data", {"x.jsonl": b"old"})
    first = fetch_inputs(make_spec(uri), workspace)
    mark_trained(workspace)
    forget_copies(workspace)
    assert fetch_inputs(make_spec(uri), workspace) == first
    put("data", {"x.jsonl": b"new"})
    s3.requests.clear()
    assert fetch_inputs(make_spec(uri), workspace) == first
    assert list(files_of(workspace.fetched / "data").values()) == [b"old"]
    assert s3.requests == []


@pytest.mark.parametrize("role", ["data", "model"])
def test_a_resumed_run_without_a_copy_refuses_a_changed_input(put, workspace, role):
    """A run must not mix two versions; the exit code shows which input changed."""
    put(role, {"x.json": b"old"})
    uris = {"data": "builtin:aws-docs", "model": "builtin:minilm"} | {role: f"s3://box/{role}"}
    spec = make_spec(uris["data"], uris["model"])
    fetch_inputs(spec, workspace)
    mark_trained(workspace)
    forget_copies(workspace)
    put(role, {"x.json": b"new"})
    error = ModelError if role == "model" else DataError
    with pytest.raises(error, match=rf"`s3://box/{role}` has changed"):
        fetch_inputs(spec, workspace)


def test_a_run_without_a_checkpoint_uses_the_new_version(put, workspace):
    """Nothing was trained on the old version."""
    put("data", {"x.jsonl": b"old"})
    fetch_inputs(make_spec("s3://box/data"), workspace)
    put("data", {"x.jsonl": b"new"})
    inputs = fetch_inputs(make_spec("s3://box/data"), workspace)
    assert files_of(inputs.channels["data"]) == {"x.jsonl": b"new"}
    assert read_resolved_revisions(workspace) == {}
    mark_trained(workspace)
    assert read_resolved_revisions(workspace) == inputs.facts
    workspace.revisions.write_text("{")
    with pytest.raises(TrainingError, match=r"`.*inputs\.json` is damaged"):
        read_resolved_revisions(workspace)


def forget_copies(workspace):
    workspace.fetched.rename(workspace.root / "elsewhere")


# Models in S3.


def pack(members):
    """Make a `.tar.gz` of `TarInfo`s, or names, and their bytes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


OTHERS = {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"onnx", "a/rng.pt": b"pickle"}


def test_a_model_folder_is_fetched_without_its_pickles(s3, put, workspace, tiny_encoder):
    """Other weight formats are not fetched; `only` restricts the files, as `check` needs it."""
    files = files_of(tiny_encoder)
    put("m", files | OTHERS)
    spec = make_spec(base="s3://box/m/").model
    found = fetch_model(spec, workspace, {}, only="*.json")
    assert "tokenizer.json" in files_of(found.path)
    assert [path for path in downloads(s3) if not path.endswith(".json")] == []
    found = fetch_model(spec, workspace, {})
    assert files_of(found.path) == files
    assert found.facts["files"] == len(files)
    assert [path for path in downloads(s3) if path.endswith((".bin", ".onnx", ".pt"))] == []


@pytest.mark.parametrize(
    ("name", "folder"), [("model.tar.gz", ""), ("job/model.tgz", "./"), ("model.tgz", "my model/")]
)
def test_an_archive_of_a_model_is_unpacked(put, workspace, tiny_encoder, name, folder):
    """SageMaker writes such archives; the model may be in a folder inside."""
    files = files_of(tiny_encoder)
    members = [(f"{folder}{n}", data) for n, data in (files | OTHERS).items()]
    put("m", {name: pack(members)})
    assert files_of(fetch_base(workspace, f"s3://box/m/{name}").path) == files


@pytest.mark.parametrize("packed", [False, True], ids=["files", "archive"])
def test_the_channel_model_wins_over_the_specs_base(s3, workspace, tiny_encoder, packed):
    """The channel has the model's files, or one archive of them; S3 is not accessed."""
    files = files_of(tiny_encoder)
    channel = workspace.channel_folder("model")
    given = {"model.tar.gz": pack(files.items())} if packed else files
    for name, data in given.items():
        path = channel / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    found = fetch_base(workspace, "s3://box/elsewhere")
    assert files_of(found.path) == files
    assert found.facts == {"uri": "s3://box/elsewhere"}
    assert s3.requests == []


LINK = (special("a", tarfile.SYMTYPE, "../.."), b"")
HOSTILE = {
    "up": [("../evil", b"evil")],
    "down and up": [("a/../../../evil", b"evil")],
    "link out": [LINK],
    "below a link": [LINK, ("a/evil", b"evil")],
    "absolute link": [(special("a", tarfile.SYMTYPE, "/etc"), b"")],
    "hard link out": [(special("a", tarfile.LNKTYPE, "../../secret"), b"")],
    "device": [(special("a", tarfile.CHRTYPE), b"")],
    "pipe": [(special("a", tarfile.FIFOTYPE), b"")],
}


@pytest.mark.parametrize("member", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_archive_is_refused(put, workspace, tmp_path, member):
    """The error is one line, and no file is written but the archive itself."""
    put("m", {"model.tar.gz": pack([("config.json", b"{}"), *member])})
    with pytest.raises(ModelError, match=r"^The archive `model\.tar\.gz` [^\n]*$"):
        fetch_base(workspace, "s3://box/m/model.tar.gz")
    assert [path.rpartition("/")[2] for path in files_of(tmp_path)] == ["model.tar.gz"]


DAMAGES = {
    "cut off": lambda data: data[: len(data) // 2],
    "overwritten": lambda data: data[:2000] + bytes(2000) + data[4000:],
    "no tar in it": lambda _: gzip.compress(b"no archive" * 100),
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_refused(put, workspace, tiny_encoder, damage):
    """The error is one line, and no unpacked files remain."""
    put("m", {"model.tar.gz": DAMAGES[damage](pack(files_of(tiny_encoder).items()))})
    with pytest.raises(ModelError, match=r"^The archive `model\.tar\.gz` [^\n]*$"):
        fetch_base(workspace, "s3://box/m/model.tar.gz")
    assert [path.rpartition("/")[2] for path in files_of(workspace.fetched)] == ["model.tar.gz"]


def test_an_archive_that_is_too_large_when_unpacked_is_refused(put, workspace):
    """The unpacked size is checked before unpacking."""
    put("m", {"model.tar.gz": pack([("model.safetensors", bytes(1_000_000))])})
    with pytest.raises(ModelError, match=r"`model\.max_download_gb` allows 0\.0005"):
        fetch_base(workspace, "s3://box/m/model.tar.gz", model__max_download_gb="0.0005")
    assert [path.rpartition("/")[2] for path in files_of(workspace.fetched)] == ["model.tar.gz"]


@pytest.mark.parametrize(
    ("uri", "named"), [("s3://box/none", "s3://box/none"), ("s3://box/m/model.zip", "model.zip")]
)
def test_a_prefix_without_a_model_is_a_model_error(put, workspace, uri, named):
    """So is an object that is not a model."""
    put("m", {"model.zip": b"zip"})
    with pytest.raises(ModelError, match=f"`{named}`"):
        fetch_base(workspace, uri)


def test_check_reads_data_and_tokenizer_from_s3(s3, put, tiny_encoder, pairs_file):
    """It does not download the weights."""
    from job.check import check_data

    put("data", {"pairs.jsonl": pairs_file.read_bytes()})
    put("m", files_of(tiny_encoder))
    lines = []
    check_data(make_spec("s3://box/data", "s3://box/m"), lines.append, count_tokens=True)
    assert lines[0] == "Source     s3://box/data: 400 rows, 400 usable"
    assert lines[-2].startswith("Truncation 0.0% of questions")
    assert lines[-1] == "Ready to train."
    assert [path for path in downloads(s3) if path.endswith(".safetensors")] == []


# Data and models on the Hub.


def test_hub_data_sets_and_paths_are_distinguished(tmp_path, monkeypatch):
    """A misspelled path is not searched for on the Hub, where it could be a stranger's data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "pairs").mkdir(parents=True)
    references = {
        "me/pairs.v2": ("me/pairs.v2", None, None),
        "me/pairs@v1": ("me/pairs", "v1", None),
        "me/pairs:test": ("me/pairs", None, "test"),
        "hf://datasets/me/pairs@refs/pr/1:a+b": ("me/pairs", "refs/pr/1", "a+b"),
        "hf://datasets/me/pairs.jsonl": ("me/pairs.jsonl", None, None),
    }
    assert {uri: hub_reference(uri) for uri in references} == {
        uri: Reference(*parts) for uri, parts in references.items()
    }
    paths = ("data/pairs.csv.gz", "pairs", "./me/pairs", "/me/pairs", "a/b/c", "here/pairs")
    invalid = ("me/", "me/x@", "me/x:", "s3://b/x", "me/x y", "builtin:aws-docs")
    assert [hub_reference(uri) for uri in (*paths, *invalid)] == [None] * 12


CARD = b"""\
---
configs:
- config_name: easy
  default: true
  data_files:
  - {split: train, path: easy/train.jsonl}
  - {split: validation, path: easy/dev.jsonl}
  - {split: test, path: easy/test.jsonl}
- config_name: hard
  data_files: hard/*.jsonl
---
"""
ODD = "data [1] ü%20.jsonl"
DATA_SETS = {
    "me/pairs": {
        "README.md": CARD,
        "easy/train.jsonl": jsonl([{"question": "New?"}]),
        "easy/dev.jsonl": jsonl([{"question": "Chosen?"}]),
        "easy/test.jsonl": jsonl([{"question": "Tested?"}]),
        "hard/a.jsonl": jsonl([{"question": "Hard?"}]),
    },
    "me/gz": {"train.jsonl.gz": gzip.compress(jsonl([{"question": "Packed?"}]))},
    "me/parquet": {"data/train-00000-of-00001.parquet": parquet([{"question": "Columns?"}])},
    "me/odd": {ODD: jsonl([{"question": "Odd?"}])},
    "me/empty": {"README.md": b"# Nothing\n"},
    "me/script": {"script.py": b"raise SystemExit('executed')\n"},
    "me/text": {"train.txt": b"What is it?\n"},
    "me/evil": {"../../../../../../evil.jsonl": b"{}"},
}
CODE = {"modeling.py": b"raise SystemExit('executed')\n"}


def fetch_cases(root, cases):
    """Fetch each case's data or model into a separate workspace; return files or errors."""
    import os
    import time
    from pathlib import Path

    from job.core.errors import EmbedtuneError
    from job.inputs import fetch_inputs
    from job.spec.parse import build_spec
    from job.storage.workspace import Workspace

    def read(path):
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        return {
            str(file.relative_to(path)): file.read_bytes().decode("latin-1")
            for file in files
            if file.is_file()
        }

    def outcome(name, given):
        os.environ["HF_TOKEN"] = given.pop("token", "hf_PlantedRight")
        local = {"data.source": "builtin:aws-docs", "model.base": "builtin:minilm"}
        started = time.monotonic()
        try:
            inputs = fetch_inputs(build_spec({}, local | given), Workspace(Path(root, name)))
        except EmbedtuneError as error:
            seconds = time.monotonic() - started
            return {"code": error.exit_code, "line": str(error), "seconds": seconds}
        return {
            "data": {role: read(path) for role, path in inputs.channels.items()},
            "model": read(inputs.model) if "model.base" in given else None,
            "facts": inputs.facts,
        }

    return {name: outcome(name, dict(given)) for name, given in cases.items()}


@pytest.fixture(scope="module")
def hub(tiny_encoder):
    """A Hub with data sets and models; the first version of `me/pairs` is tagged `old`."""
    with Hub(token=TOKEN) as hub:
        old = DATA_SETS["me/pairs"] | {"easy/train.jsonl": jsonl([{"question": "Old?"}])}
        first = hub.add("dataset", "me/pairs", old)
        hub.repos["dataset", "me/pairs"].tags["old"] = first
        for name, files in DATA_SETS.items():
            hub.add("dataset", name, files)
        hub.add("dataset", "me/private", DATA_SETS["me/gz"], private=True)
        model = files_of(tiny_encoder)
        first = hub.add("model", "me/tiny", model | {"old": b""})
        hub.repos["model", "me/tiny"].tags["old"] = first
        hub.add("model", "me/tiny", model | OTHERS | CODE)
        hub.add("model", "me/pickled", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
        hub.add("model", "me/private", model, private=True)
        yield hub


CASES = {
    "plain": {"data.source": "me/pairs"},
    "address": {"data.source": "hf://datasets/me/pairs@old:test+train"},
    "revision": {"data.source": "me/pairs", "data.revision": "old"},
    "subset": {"data.source": "me/pairs", "data.subset": "hard"},
    "joined": {"data.source": "me/pairs", "data.split": "test+train"},
    "roles": {"data.test": "me/pairs", "data.validation": "me/pairs", "data.corpus": "me/gz"},
    "out_of_domain": {
        "data.source": "me/pairs",
        "data.subset": "hard",
        "data.revision": "old",
        "evaluation.out_of_domain": "me/pairs:test",
    },
    "parquet": {"data.source": "me/parquet"},
    "odd": {"data.source": "me/odd"},
    "private": {"data.source": "me/private"},
    "model": {"model.base": "me/tiny"},
    "model revision": {"model.base": "me/tiny", "model.revision": "old"},
    "private model": {"model.base": "me/private"},
}
# Field, name, other settings; exit code and parts of the message.
REFUSED = [
    ("data.source", "me/unknown", {}, 4, "HF_TOKEN"),
    ("data.source", "me/private", {"token": ""}, 4, "HF_TOKEN"),
    ("data.source", "me/pairs", {"token": WRONG}, 7, "HTTP 401", "HF_TOKEN"),
    ("data.source", "me/pairs@gone", {}, 4, "me/pairs` has no such revision"),
    ("data.source", "me/pairs:dev", {}, 4, "`dev`", "`train`, `validation`, `test`"),
    ("data.source", "me/pairs", {"data.subset": "medium"}, 4, "medium", "easy"),
    ("data.source", "me/text", {}, 4, "`train.txt`"),
    ("data.source", "me/pairs", {"data.max_download_gb": "1e-8"}, 4, "`data.max_download_gb`"),
    ("data.source", "me/empty", {}, 4),
    ("data.source", "me/script", {}, 4, "script.py"),
    ("data.source", "me/evil", {}, 7),
    ("model.base", "me/unknown", {}, 5, "HF_TOKEN"),
    ("model.base", "me/private", {"token": ""}, 5, "HF_TOKEN"),
    ("model.base", "me/tiny", {"token": WRONG}, 7, "HTTP 401", "HF_TOKEN"),
    ("model.base", "me/tiny", {"model.revision": "gone"}, 5, "revision"),
    ("model.base", "me/pickled", {}, 5, "safetensors"),
    ("model.base", "me/--no--", {}, 5, "owner/name"),
    ("model.base", "me/private", {"model.max_download_gb": "1e-8"}, 5, "`model.max_download_gb`"),
]


@pytest.fixture(scope="module")
def fetched(hub, tmp_path_factory):
    """Return the outcome of each case; one process runs them all."""
    home = tmp_path_factory.mktemp("hub")
    environment = hub.environment(home / "cache", HF_TOKEN=TOKEN)
    refused = {str(n): {case[0]: case[1], **case[2]} for n, case in enumerate(REFUSED)}
    found = in_client(environment, fetch_cases, str(home / "work"), CASES | refused)
    assert list(home.rglob("evil.jsonl")) == []
    return found


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("plain", {"data": ["New?"]}),
        ("address", {"data": ["Tested?", "Old?"]}),
        ("revision", {"data": ["Old?"]}),
        ("subset", {"data": ["Hard?"]}),
        ("joined", {"data": ["Tested?", "New?"]}),
        ("roles", {"validation": ["Chosen?"], "test": ["Tested?"]}),
        # `data.subset` and `data.revision` do not apply to out-of-domain data.
        ("out_of_domain", {"data": ["Hard?"], "out_of_domain": ["Tested?"]}),
        ("odd", {"data": ["Odd?"]}),
    ],
)
def test_the_requested_part_of_a_hub_data_set_is_fetched(fetched, case, expected):
    """Revision, subset and split are respected; roles default to the split of their name."""
    found = {
        role: sorted(json.loads(text)["question"] for text in files.values())
        for role, files in fetched[case]["data"].items()
        if role != "corpus"
    }
    assert found == {role: sorted(questions) for role, questions in expected.items()}


@pytest.mark.parametrize(
    ("case", "repository", "role"),
    [("roles", "me/gz", "corpus"), ("parquet", "me/parquet", "data"), ("private", "me/gz", "data")],
)
def test_hub_files_are_copied_unchanged(fetched, case, repository, role):
    """This holds for compressed, Parquet and private files; names are kept."""
    expected = {name: data.decode("latin-1") for name, data in DATA_SETS[repository].items()}
    assert fetched[case]["data"][role] == expected


def test_the_facts_name_the_commit(fetched, hub):
    """Branches and tags may move, but a commit does not."""
    repo = hub.repos["dataset", "me/pairs"]
    facts = {"uri": "me/pairs", "subset": None, "split": "train"}
    assert fetched["plain"]["facts"]["data"] == facts | {"commit": repo.branches["main"]}
    assert fetched["revision"]["facts"]["data"] == facts | {"commit": repo.tags["old"]}
    address = facts | {"commit": repo.tags["old"], "split": "test+train"}
    assert fetched["address"]["facts"]["data"] == address
    models = hub.repos["model", "me/tiny"]
    assert [fetched[case]["facts"]["model"] for case in ("model", "model revision")] == [
        {"uri": "me/tiny", "commit": models.branches["main"]},
        {"uri": "me/tiny", "commit": models.tags["old"]},
    ]


def test_pickles_and_code_of_a_hub_model_are_not_fetched(fetched, hub, tiny_encoder):
    """They are not even requested."""
    files = {name: data.decode("latin-1") for name, data in files_of(tiny_encoder).items()}
    assert fetched["model"]["model"] == files
    assert fetched["model revision"]["model"] == files | {"old": ""}
    assert fetched["private model"]["model"] == files
    asked = {path.rpartition("/")[2] for _, path in hub.requests if "/resolve/" in path}
    assert "model.safetensors" in asked
    assert not asked & {"pytorch_model.bin", "model.onnx", "rng.pt", "modeling.py"}


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_hub_errors_are_one_line_with_the_exit_code_of_the_input(fetched, number):
    """The message contains no token, and the job does not retry for long."""
    found, (_, name, _, code, *words) = fetched[str(number)], REFUSED[number]
    assert found["code"] == code
    named = re.split("[@:]", name)[0]
    assert [word for word in (named, *words) if word not in found["line"]] == []
    assert "\n" not in found["line"]
    assert "Planted" not in found["line"]
    assert found["seconds"] < 10


def test_trusted_code_is_fetched_and_too_large_inputs_are_not(hub, tmp_path):
    """With `trust_remote_code`, Python files are fetched, but still no pickles."""
    hub.requests.clear()
    cases = {case[0]: {case[0]: case[1], **case[2]} for case in REFUSED if "1e-8" in str(case[2])}
    environment = hub.environment(tmp_path / "cache")
    found = in_client(environment, fetch_cases, str(tmp_path), cases)
    assert [case["code"] for case in found.values()] == [4, 5]
    got = [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]
    assert [path for path in got if not path.endswith("README.md")] == []
    case = {"model.base": "me/tiny", "model.trust_remote_code": "true"}
    found = in_client(environment, fetch_cases, str(tmp_path), {"trusted": case})
    names = found["trusted"]["model"]
    assert "modeling.py" in names
    assert "pytorch_model.bin" not in names


def test_a_resumed_run_keeps_its_commits(hub, tmp_path):
    """When a branch moves, a run with a checkpoint keeps the old commit; others use the new one."""
    model = {"config.json": b"{}", "model.safetensors": b"1"}
    first = hub.add("dataset", "me/moving", {"train.jsonl": b'{"n": 1}'})
    first_model = hub.add("model", "me/moving", model)
    case = {"data.source": "me/moving", "model.base": "me/moving"}
    environment = hub.environment(tmp_path / "cache")

    def fetch(*names):
        return in_client(environment, fetch_cases, str(tmp_path), dict.fromkeys(names, case))

    before = fetch("resumed", "fresh")["resumed"]
    mark_trained(Workspace(tmp_path / "resumed"))
    second = hub.add("dataset", "me/moving", {"train.jsonl": b'{"n": 2}'})
    second_model = hub.add("model", "me/moving", model | {"model.safetensors": b"2"})
    found = fetch("resumed", "fresh")
    assert found["resumed"] == before
    commits = {
        name: [found[name]["facts"][role]["commit"] for role in ("data", "model")] for name in found
    }
    assert commits == {"resumed": [first, first_model], "fresh": [second, second_model]}
    assert found["fresh"]["data"] == {"data": {"train.jsonl": '{"n": 2}'}}
    assert found["fresh"]["model"]["model.safetensors"] == "2"


def fetch_llms(root, names, version):
    """Fetch local language models one after another; return what was fetched, or the error."""
    import os
    from pathlib import Path

    from job.core.errors import EmbedtuneError
    from job.inputs import fetch_language_model
    from job.spec.parse import build_spec
    from job.storage.workspace import Workspace

    os.environ.pop("HF_TOKEN", None)

    def fetch(name):
        spec = build_spec({}, {"generation.llm": f"local:{name}"})
        try:
            found = fetch_language_model("llm", version, spec, Workspace(Path(root)))
        except EmbedtuneError as error:
            return {"code": error.exit_code, "line": str(error)}
        files = {path.name: path.read_bytes().decode("latin-1") for path in found.folder.iterdir()}
        return {"facts": found.facts, "base": found.spec.base, "files": files}

    return {name: fetch(name) for name in names}


def test_a_local_language_model_is_fetched_like_the_base_model(hub, tmp_path):
    """At its revision, or at the commit that an interrupted start had."""
    model = {"config.json": b"{}", "model.safetensors": b"1"}
    first = hub.add("model", "me/llm", model | {"model.bin": b"pickle"})
    hub.repos["model", "me/llm"].tags["v1"] = first
    second = hub.add("model", "me/llm", model | {"model.safetensors": b"2"})
    environment = hub.environment(tmp_path / "cache")
    names = ("me/llm", "me/llm@v1", "me/private", "me/pickled", "me/llm@gone")
    found = in_client(environment, fetch_llms, str(tmp_path), names, {})
    assert [found[name]["code"] for name in names[2:]] == [5, 5, 5]
    assert "HF_TOKEN" in found["me/private"]["line"]
    assert "safetensors" in found["me/pickled"]["line"]
    facts = {"uri": "me/llm"}
    assert found["me/llm"]["facts"] == facts | {"commit": second}
    assert found["me/llm"]["files"]["model.safetensors"] == "2"
    old = {"config.json": "{}", "model.safetensors": "1"}
    assert found["me/llm@v1"] == {
        "facts": facts | {"commit": first},
        "base": "me/llm",
        "files": old,
    }
    pinned = in_client(
        environment, fetch_llms, str(tmp_path), ["me/llm"], facts | {"commit": first}
    )
    assert pinned["me/llm"]["files"] == old


def test_the_channel_of_a_local_language_model_wins(workspace, tmp_path):
    spec = make_spec(generation__llm="local:me/gone", generation__judge=f"local:{tmp_path}")
    channel = workspace.channel_folder("llm")
    channel.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (channel / name).write_bytes(b"{}")
    found = fetch_language_model("llm", {}, spec, workspace)
    assert (found.folder, found.facts) == (channel, {"uri": "me/gone"})
    assert fetch_language_model("judge", {}, spec, workspace).folder == tmp_path


def test_an_unreachable_or_failing_hub_is_a_storage_error_at_once(hub, tmp_path):
    """The job does not wait half a minute for a closed port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    away = Hub.environment(SimpleNamespace(endpoint=f"http://127.0.0.1:{port}"), tmp_path / "cache")
    hub.add("dataset", "me/down", DATA_SETS["me/gz"])
    hub.fail_next(500, times=1000, match="me/down")
    cases = {"me/pairs": CASES["plain"], "me/tiny": CASES["model"]}
    found = in_client(away, fetch_cases, str(tmp_path / "1"), cases)
    cases = {"me/down": {"data.source": "me/down"}}
    found |= in_client(hub.environment(tmp_path / "own"), fetch_cases, str(tmp_path / "2"), cases)
    for name, case in found.items():
        assert case["code"] == 7
        assert ("HTTP 500" if name == "me/down" else f"http://127.0.0.1:{port} ") in case["line"]
        assert f"`{name}`: " in case["line"]
        assert case["seconds"] < 15


@pytest.mark.parametrize("offline", ["0", pytest.param("1", marks=pytest.mark.exhaustive)])
def test_a_cache_saves_the_download(hub, tmp_path, offline):
    """The job reads a shared cache without writing to it, and works offline with its own cache.

    If the shared cache has only a part of a model, the job downloads it into its own cache.
    """
    shared, cases = tmp_path / "shared", {"model": CASES["model"]}
    first = in_client(hub.environment(shared), fetch_cases, str(tmp_path / "1"), cases)
    before = {path: path.lstat().st_mtime_ns for path in (shared / "hub").rglob("*")}
    hub.requests.clear()
    variables = {"EMBEDTUNE_HUB_CACHE": str(shared / "hub"), "HF_HUB_OFFLINE": offline}
    reading = hub.environment(tmp_path / "own", **variables)
    assert in_client(reading, fetch_cases, str(tmp_path / "2"), cases) == first
    assert {path: path.lstat().st_mtime_ns for path in (shared / "hub").rglob("*")} == before
    assert [path for method, path in hub.requests if method == "GET" and "/resolve/" in path] == []
    assert not list((tmp_path / "own").rglob("*.safetensors"))
    if offline == "1":
        cases["missing"] = {"data.source": "me/gz"}
        own = hub.environment(shared, HF_HUB_OFFLINE=offline)
        again = in_client(own, fetch_cases, str(tmp_path / "3"), cases)
        missing = again.pop("missing")
        assert again == first
        assert missing["code"] == 4
        assert "`me/gz` is not in the Hub's cache" in missing["line"]
        assert hub.requests == []
    else:
        (weights,) = (shared / "hub").rglob("snapshots/*/*.safetensors")
        weights.unlink()
        assert in_client(reading, fetch_cases, str(tmp_path / "3"), cases) == first
        assert not weights.exists()
