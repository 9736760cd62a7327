"""The workspace: where the spec comes from, who may work in it, and what is never half-written."""

import json
from pathlib import Path

import pytest

from job.core.errors import MachineError, SpecError, StorageError
from job.spec.parse import build_spec
from job.spec.schema import JobSpec
from job.storage.workspace import (
    DEFAULT_ROOT,
    Workspace,
    check_same_spec,
    explained,
    write_atomically,
)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "ml")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def give_hyperparameters(workspace, content):
    return write(workspace.root / "input" / "config" / "hyperparameters.json", content)


# Where things lie.


def test_the_tree_is_the_one_that_sagemaker_mounts():
    """Where SageMaker, the launcher and the container's documentation say."""
    place = Workspace(DEFAULT_ROOT)
    told = {
        "model": place.model,
        "checkpoints": place.checkpoints,
        "output/data": place.results,
        "output/data/report": place.report,
        "output/data/data": place.splits,
        "output/data/logs": place.logs,
        "output/data/spec.json": place.spec,
        "output/data/per_query.parquet": place.per_query,
        "output/failure": place.failure,
        "input/data/spec/job.json": place.job_spec,
        "input/config/resourceconfig.json": place.resource_config,
        "input/config/inputdataconfig.json": place.input_config,
        "input/data/data": place.channel_folder("data"),
    }
    assert {f"/opt/ml/{name}": str(path) for name, path in told.items()} == {
        str(path): str(path) for path in told.values()
    }
    # A resumed run finds what it needs beside its checkpoints, which are all that survives.
    kept = (
        place.hyperparameters,
        place.provenance,
        place.revisions,
        place.baseline,
        place.nearest_neighbors,
        place.seconds,
    )
    assert {path.parent for path in kept} == {place.checkpoints}


def test_only_channels_with_data_in_them_count(workspace):
    """An absent channel, an empty folder and a file of that name are none; `spec` is no data.

    What the job fetched is none either: what a user gave is never mixed with what was brought.
    """
    assert workspace.channels() == {}
    assert not workspace.is_locked()
    assert not workspace.root.exists()
    data = write(workspace.channel_folder("data") / "pairs.jsonl", "{}\n")
    corpus = write(workspace.channel_folder("corpus") / "deep" / "corpus.jsonl", "{}\n")
    workspace.channel_folder("validation").mkdir()
    write(workspace.channel_folder("test"), "not a folder\n")
    write(workspace.fetched / "out_of_domain" / "pairs.jsonl", "{}\n")
    write(workspace.job_spec, {})

    assert workspace.channels() == {"data": data.parent, "corpus": corpus.parents[1]}
    assert [workspace.channel(name) for name in ("validation", "test", "nothing")] == [None] * 3
    assert workspace.channel("spec") == workspace.job_spec.parent


def test_results_are_complete_once_there_is_a_manifest(workspace):
    """The manifest is written last, so before it everything else counts for nothing."""
    write(workspace.per_query, "")
    assert not workspace.is_complete
    write(workspace.results / "manifest.json", {})
    assert workspace.is_complete


# The spec.


def test_the_spec_is_merged_from_defaults_then_job_json_then_hyperparameters(workspace):
    """Each later place wins, field by field; empty files say nothing."""
    give_hyperparameters(workspace, "{}")
    write(workspace.job_spec, "")
    assert workspace.read_spec() == JobSpec()

    write(workspace.job_spec, {"training": {"epochs": 2, "batch_size": 16}, "data": {"seed": 1}})
    expected = {"training.epochs": "2", "training.batch_size": "16", "data.seed": "1"}
    assert workspace.read_spec() == build_spec({}, expected)

    give_hyperparameters(workspace, {"training.epochs": "3", "model.name": "seven"})
    expected |= {"training.epochs": "3", "model.name": "seven"}
    assert workspace.read_spec() == build_spec({}, expected)


def test_hyperparameters_alone_are_a_job(workspace):
    """Who uses SageMaker's own SDK needs no channel `spec`; strings and numbers say the same.

    What its tuner and its framework estimators add is no field, and letters that JSON writes as
    escapes are themselves.
    """
    values = {"training.epochs": 3, "evaluation.dimensions": [64, 32], "model.name": "Größe 😀"}
    strings = {key: v if isinstance(v, str) else json.dumps(v) for key, v in values.items()}
    added = {"_tuning_objective_metric": "tuned ndcg@10", "sagemaker_program": "train.py"}
    for given in (values, strings | added):
        give_hyperparameters(workspace, given)
        assert workspace.read_spec() == build_spec({}, strings)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("hyperparameters.json", b'{"training.epoch": "3"}', "`training.epochs`"),
        ("hyperparameters.json", b'{"training.epochs": ', "`hyperparameters.json`"),
        ("hyperparameters.json", b'["training.epochs"]', "`hyperparameters.json`"),
        ("job.json", b'{"training": {\n"epochs" 3}}', "`job.json` .* line 2"),
        ("job.json", "model: {name: Größe}".encode("latin-1"), "`job.json`"),
    ],
)
def test_a_wrong_file_is_the_users_error(workspace, file, content, told):
    """An unknown field, broken JSON, a list and another encoding are named in a sentence."""
    path = workspace.job_spec if file == "job.json" else give_hyperparameters(workspace, {})
    write(path, "").write_bytes(content)
    with pytest.raises(SpecError, match=told):
        workspace.read_spec()


def test_a_workspace_belongs_to_one_spec(workspace, tmp_path):
    """The same may be written again, another is refused with the fields that differ.

    What is written is a job.json for another run.
    """
    spec = build_spec({}, {"training.epochs": "2", "model.name": "Größe 😀"})
    workspace.write_spec(spec)
    workspace.write_spec(spec)

    other = build_spec({}, {"training.epochs": "3", "data.seed": "1", "model.name": "Größe 😀"})
    told = rf"`{workspace.results}` .*: `data\.seed`, `training\.epochs`\. Use another `--name`"
    with pytest.raises(SpecError, match=told):
        workspace.write_spec(other)
    assert workspace.spec.read_text("utf-8") == spec.to_json()
    another = Workspace(tmp_path / "other")
    write(another.job_spec, workspace.spec.read_text("utf-8"))
    assert another.read_spec() == spec


@pytest.mark.parametrize(
    ("earlier", "told"),
    [('{"training": {"accumulation": 16}}', "`training.accumulation`"), ('{"training": ', "valid")],
)
def test_a_spec_of_another_version_or_half_of_one_is_refused(earlier, told):
    """The message says where it lies and what is wrong with it."""
    with pytest.raises(SpecError, match=rf"`s3://b/one/spec\.json` .*{told}.*`--name`"):
        check_same_spec(earlier, "s3://b/one", JobSpec())


# The lock.


def test_a_second_process_is_kept_off(workspace):
    """While another one works on the run; asking makes no lock, and the work's end leaves none."""
    with workspace.locked():
        assert workspace.is_locked()
        for enter in (workspace.locked().__enter__, workspace.require_unlocked):
            with pytest.raises(MachineError, match=str(workspace.root)):
                enter()
    workspace.require_unlocked()
    assert not workspace.is_locked()


def test_a_workspace_that_cannot_be_made_is_the_machines_fault(tmp_path):
    """A file where the workspace should be is told in a sentence."""
    write(tmp_path / "ml", "a file")
    with (
        pytest.raises(MachineError, match=rf"`{tmp_path / 'ml'}` .* `--workspace`"),
        Workspace(tmp_path / "ml").locked(),
    ):
        pytest.fail("a file passed for a workspace")


# Failures and writes.


@pytest.mark.parametrize("length", [10, 1024, 1025])
def test_the_failure_file_is_one_line_as_long_as_sagemaker_shows(workspace, length):
    """At most 1,024 characters, of whatever width, and a line end."""
    workspace.write_failure("ß" * length)
    assert workspace.failure.read_text("utf-8") == "ß" * min(length, 1024) + "\n"
    workspace.write_failure("first\nsecond\n")
    assert workspace.failure.read_text("utf-8") == "first second\n"


def test_a_file_is_replaced_as_a_whole(tmp_path):
    """Who has opened the old one reads it to its end; nothing lies beside the new one."""
    path = write(tmp_path / "report.md", "old")
    with path.open(encoding="utf-8") as reader:
        write_atomically(path, "Größe 😀\n")
        assert reader.read() == "old"
    assert path.read_text("utf-8") == "Größe 😀\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing/x", "No such file"), ("file/x", "Not a directory"), ("folder", "Is a directory")],
)
def test_nothing_is_written_where_something_is_in_the_way(tmp_path, name, reason):
    """The message names the file and the reason; what is there stays as it is."""
    write(tmp_path / "file", "a file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=f"`{tmp_path / name}` cannot be written: {reason}"):
        write_atomically(tmp_path / name, "text")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_full_disk_is_the_machines_fault():
    """Another folder would not help; the file is named."""
    told = "`/dev/full` cannot be written: No space"
    with pytest.raises(MachineError, match=told), explained(Path("/dev/full")):
        Path("/dev/full").write_text("text", "utf-8")
