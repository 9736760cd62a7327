"""The workspace: its paths, its spec, its lock, and atomic writes."""

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


# Paths.


def test_the_tree_is_the_one_that_sagemaker_mounts():
    """The launcher and the container's documentation use the same paths."""
    run_workspace = Workspace(DEFAULT_ROOT)
    paths = {
        "model": run_workspace.model,
        "checkpoints": run_workspace.checkpoints,
        "output/data": run_workspace.results,
        "output/data/report": run_workspace.report,
        "output/data/data": run_workspace.splits,
        "output/data/logs": run_workspace.logs,
        "output/data/spec.json": run_workspace.spec,
        "output/data/per_query.parquet": run_workspace.per_query,
        "output/failure": run_workspace.failure,
        "input/data/spec/job.json": run_workspace.job_spec,
        "input/config/resourceconfig.json": run_workspace.resource_config,
        "input/config/inputdataconfig.json": run_workspace.input_config,
        "input/data/data": run_workspace.channel_folder("data"),
    }
    assert {f"/opt/ml/{name}": str(path) for name, path in paths.items()} == {
        str(path): str(path) for path in paths.values()
    }
    # Only the checkpoints folder survives, so a resumed run finds everything there.
    saved = (
        run_workspace.hyperparameters,
        run_workspace.provenance,
        run_workspace.revisions,
        run_workspace.baseline,
        run_workspace.nearest_neighbors,
        run_workspace.seconds,
    )
    assert {path.parent for path in saved} == {run_workspace.checkpoints}


def test_only_channels_with_data_count(workspace):
    """Not a missing channel, an empty folder, a file of that name or the channel `spec`.

    Nor inputs that the job downloaded.
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
    """The manifest is written last; without it, results are incomplete."""
    write(workspace.per_query, "")
    assert not workspace.is_complete
    write(workspace.results / "manifest.json", {})
    assert workspace.is_complete


# The spec.


def test_the_spec_is_merged_from_defaults_then_job_json_then_hyperparameters(workspace):
    """Later sources win, field by field; empty files change nothing."""
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
    """Users of SageMaker's SDK need no channel `spec`; strings and numbers are equivalent.

    Parameters of its tuner and its framework estimators are ignored; JSON's escapes are decoded.
    """
    values = {"training.epochs": 3, "evaluation.dimensions": [64, 32], "model.name": "Größe 😀"}
    strings = {key: v if isinstance(v, str) else json.dumps(v) for key, v in values.items()}
    added = {"_tuning_objective_metric": "tuned ndcg@10", "sagemaker_program": "train.py"}
    for given in (values, strings | added):
        give_hyperparameters(workspace, given)
        assert workspace.read_spec() == build_spec({}, strings)


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("hyperparameters.json", b'{"training.epoch": "3"}', "`training.epochs`"),
        ("hyperparameters.json", b'{"training.epochs": ', "`hyperparameters.json`"),
        ("hyperparameters.json", b'["training.epochs"]', "`hyperparameters.json`"),
        ("job.json", b'{"training": {\n"epochs" 3}}', "`job.json` .* line 2"),
        ("job.json", "model: {name: Größe}".encode("latin-1"), "`job.json`"),
    ],
)
def test_an_invalid_file_is_a_spec_error(workspace, file, content, expected):
    """An unknown field, broken JSON, a list or another encoding; the message says which."""
    path = workspace.job_spec if file == "job.json" else give_hyperparameters(workspace, {})
    write(path, "").write_bytes(content)
    with pytest.raises(SpecError, match=expected):
        workspace.read_spec()


def test_a_workspace_belongs_to_one_spec(workspace, tmp_path):
    """Writing the same spec again succeeds; another one is refused with the fields that differ.

    The written file is a valid job.json for another run.
    """
    spec = build_spec({}, {"training.epochs": "2", "model.name": "Größe 😀"})
    workspace.write_spec(spec)
    workspace.write_spec(spec)

    other = build_spec({}, {"training.epochs": "3", "data.seed": "1", "model.name": "Größe 😀"})
    expected = rf"`{workspace.results}` .*: `data\.seed`, `training\.epochs`\. Use another `--name`"
    with pytest.raises(SpecError, match=expected):
        workspace.write_spec(other)
    assert workspace.spec.read_text("utf-8") == spec.to_json()
    another = Workspace(tmp_path / "other")
    write(another.job_spec, workspace.spec.read_text("utf-8"))
    assert another.read_spec() == spec


@pytest.mark.parametrize(
    ("earlier", "expected"),
    [('{"training": {"accumulation": 16}}', "`training.accumulation`"), ('{"training": ', "valid")],
)
def test_an_unreadable_earlier_spec_is_refused(earlier, expected):
    """From another version or incomplete; the message has its path and the reason."""
    with pytest.raises(SpecError, match=rf"`s3://b/one/spec\.json` .*{expected}.*`--name`"):
        check_same_spec(earlier, "s3://b/one", JobSpec())


# The lock.


def test_the_lock_keeps_a_second_process_off(workspace):
    """Checking does not lock, and the end of the work releases the lock."""
    with workspace.locked():
        assert workspace.is_locked()
        for enter in (workspace.locked().__enter__, workspace.require_unlocked):
            with pytest.raises(MachineError, match=str(workspace.root)):
                enter()
    workspace.require_unlocked()
    assert not workspace.is_locked()


def test_a_workspace_that_cannot_be_created_is_a_machine_error(tmp_path):
    """For example, if a file is in the way."""
    write(tmp_path / "ml", "a file")
    with (
        pytest.raises(MachineError, match=rf"`{tmp_path / 'ml'}` .* `--workspace`"),
        Workspace(tmp_path / "ml").locked(),
    ):
        pytest.fail("a file passed for a workspace")


# Failures and writes.


@pytest.mark.parametrize("length", [10, 890, 1500])
def test_the_failure_file_is_one_line_that_sagemaker_shows_with_the_exit_code(workspace, length):
    """At most 890 characters (not bytes) and a line end."""
    workspace.write_failure("ß" * length)
    assert workspace.failure.read_text("utf-8") == "ß" * min(length, 890) + "\n"
    workspace.write_failure("first\nsecond\n")
    assert workspace.failure.read_text("utf-8") == "first second\n"


def test_a_file_is_replaced_atomically(tmp_path):
    """A reader of the old file reads it to its end; no temporary file is left."""
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
def test_a_failed_write_changes_nothing(tmp_path, name, reason):
    """The message has the path and the reason."""
    write(tmp_path / "file", "a file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=f"`{tmp_path / name}` cannot be written: {reason}"):
        write_atomically(tmp_path / name, "text")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_full_disk_is_a_machine_error():
    """The message has the path."""
    expected = "`/dev/full` cannot be written: No space"
    with pytest.raises(MachineError, match=expected), explained(Path("/dev/full")):
        Path("/dev/full").write_text("text", "utf-8")
