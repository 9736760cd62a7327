"""The workspace: where the spec comes from, who may work in it, and what is never half-written."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from job.errors import EmbedtuneError, MachineError, SpecError, StorageError
from job.spec import JobSpec
from job.spec_document import build_spec
from job.workspace import DEFAULT_ROOT, Workspace, check_same_spec, write_atomically

HOLD_THE_LOCK = """
import sys, time
from pathlib import Path
from job.workspace import Workspace
with Workspace(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "ml")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def give_hyperparameters(workspace, content):
    return write(workspace.root / "input" / "config" / "hyperparameters.json", content)


@contextmanager
def other_process_holding(workspace):
    """Start a process that holds the workspace's lock; it dies by SIGKILL at the latest."""
    command = [sys.executable, "-P", "-c", HOLD_THE_LOCK, str(workspace.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "locked\n"
            yield holder
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()


@pytest.fixture
def tiny_disk(tmp_path):
    """Mount a memory disk with the given options, or remount it, where that is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(folder)],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    while os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


# Where things lie.


def test_the_tree_is_the_one_that_sagemaker_mounts():
    """Every path is where SageMaker, the launcher and the container's documentation say."""
    workspace = Workspace(DEFAULT_ROOT)
    found = {
        name: getattr(workspace, name)
        for name, value in vars(Workspace).items()
        if isinstance(value, property)
    }
    paths = {name: str(value) for name, value in found.items() if isinstance(value, Path)}
    assert found.keys() - paths.keys() == {"is_complete"}
    assert paths == {
        "model": "/opt/ml/model",
        "checkpoints": "/opt/ml/checkpoints",
        "recipe": "/opt/ml/checkpoints/recipe.json",
        "pins": "/opt/ml/checkpoints/inputs.json",
        "origin": "/opt/ml/checkpoints/origin.json",
        "baseline": "/opt/ml/checkpoints/baseline.parquet",
        "lookalikes": "/opt/ml/checkpoints/lookalikes.parquet",
        "seconds": "/opt/ml/checkpoints/seconds.json",
        "fetched": "/opt/ml/input/fetched",
        "results": "/opt/ml/output/data",
        "report": "/opt/ml/output/data/report",
        "splits": "/opt/ml/output/data/data",
        "logs": "/opt/ml/output/data/logs",
        "spec": "/opt/ml/output/data/spec.json",
        "per_query": "/opt/ml/output/data/per_query.parquet",
        "failure": "/opt/ml/output/failure",
        "job_spec": "/opt/ml/input/data/spec/job.json",
        "resource_config": "/opt/ml/input/config/resourceconfig.json",
        "input_config": "/opt/ml/input/config/inputdataconfig.json",
    }
    assert str(workspace.channel_folder("data")) == "/opt/ml/input/data/data"


def test_only_channels_with_data_in_them_count(workspace):
    """An absent channel, an empty folder and a file of that name are none; `spec` is no data."""
    data = write(workspace.channel_folder("data") / "pairs.jsonl", "{}\n")
    corpus = write(workspace.channel_folder("corpus") / "deep" / "corpus.jsonl", "{}\n")
    probe = write(workspace.channel_folder("probe") / "probe.csv", "question,context\n")
    workspace.channel_folder("validation").mkdir()
    write(workspace.channel_folder("test"), "not a folder\n")
    write(workspace.job_spec, {})

    assert workspace.channels() == {
        "data": data.parent,
        "corpus": corpus.parents[1],
        "probe": probe.parent,
    }
    assert [workspace.channel(name) for name in ("validation", "test", "nothing")] == [None] * 3
    assert workspace.channel("spec") == workspace.job_spec.parent


def test_a_workspace_that_is_not_there_has_no_channels(workspace):
    """Asking makes no folders."""
    assert workspace.channels() == {}
    assert not workspace.is_locked()
    assert not workspace.root.exists()


def test_what_the_job_fetched_is_no_channel(workspace):
    """It lies beside the channels: what a user gave is never mixed with what was brought."""
    write(workspace.fetched / "data" / "pairs.jsonl", "{}\n")

    assert workspace.channels() == {}


def test_results_are_complete_once_there_is_a_manifest(workspace):
    """The manifest is written last, so before it everything else counts for nothing."""
    write(workspace.per_query, "")
    assert not workspace.is_complete

    write(workspace.results / "manifest.json", {})
    assert workspace.is_complete


# The spec.


def test_the_spec_is_merged_from_defaults_then_job_json_then_hyperparameters(workspace):
    """Each later place wins, field by field; what none names keeps its default."""
    assert workspace.read_spec() == JobSpec()

    write(workspace.job_spec, {"training": {"epochs": 2, "batch_size": 16}, "data": {"seed": 1}})
    expected = {"training.epochs": "2", "training.batch_size": "16", "data.seed": "1"}
    assert workspace.read_spec() == build_spec({}, expected)

    give_hyperparameters(workspace, {"training.epochs": "3", "model.name": "seven"})
    expected |= {"training.epochs": "3", "model.name": "seven"}
    assert workspace.read_spec() == build_spec({}, expected)


def test_hyperparameters_alone_are_a_job(workspace):
    """Who uses SageMaker's own SDK needs no channel `spec`; strings and numbers say the same."""
    strings = {
        "data.source": "owner/data",
        "training.epochs": "3",
        "training.learning_rate": "1e-4",
        "evaluation.dimensions": "[64, 32]",
        "model.trust_remote_code": "false",
    }
    numbers = strings | {
        "training.epochs": 3,
        "training.learning_rate": 1e-4,
        "evaluation.dimensions": [64, 32],
        "model.trust_remote_code": False,
    }
    expected = build_spec(
        {
            "data": {"source": "owner/data"},
            "training": {"epochs": 3, "learning_rate": 1e-4},
            "evaluation": {"dimensions": [64, 32]},
        }
    )
    for hyperparameters in (strings, numbers):
        give_hyperparameters(workspace, hyperparameters)
        assert workspace.read_spec() == expected


def test_hyperparameters_may_hold_any_letter(workspace):
    """Letters that JSON writes as escapes arrive as themselves."""
    give_hyperparameters(workspace, '{"model.name": "Gr\\u00f6\\u00dfe \\ud83d\\ude00"}')
    assert workspace.read_spec() == build_spec({"model": {"name": "Größe 😀"}})


def test_what_sagemakers_tuner_adds_to_the_hyperparameters_is_no_field(workspace):
    """A tuning job's containers find `_tuning_objective_metric` among them; it is not for us."""
    give_hyperparameters(
        workspace,
        {"training.epochs": '"3"', "_tuning_objective_metric": "tuned dim_128_cosine_ndcg@10"},
    )
    assert workspace.read_spec() == build_spec({"training": {"epochs": 3}})


def test_empty_files_are_no_spec(workspace):
    """SageMaker writes `{}` where there are no hyperparameters; an empty job.json says nothing."""
    give_hyperparameters(workspace, "{}")
    write(workspace.job_spec, "")
    assert workspace.read_spec() == JobSpec()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"training.epoch": "3"}', "Did you mean `training.epochs`?"),
        ('{"training.epochs": ', "hyperparameters.json"),
        ('["training.epochs"]', "hyperparameters.json"),
    ],
)
def test_wrong_hyperparameters_are_the_users_error(workspace, content, message):
    """An unknown field, broken JSON and a list are named in a sentence."""
    give_hyperparameters(workspace, content)
    with pytest.raises(SpecError) as caught:
        workspace.read_spec()
    assert message in str(caught.value)


def test_a_broken_job_json_is_named_with_its_line(workspace):
    """The message says which of the places is wrong."""
    write(workspace.job_spec, '{"training": {\n"epochs" 3}}')
    with pytest.raises(SpecError) as caught:
        workspace.read_spec()
    assert str(caught.value) == (
        "`job.json` is not valid YAML in line 2: expected ',' or '}', but got '<scalar>'."
    )


def test_a_job_json_in_another_encoding_is_the_users_error(workspace):
    """Latin-1 is refused in a sentence that names the file."""
    write(workspace.job_spec, "").write_bytes("model: {name: Größe}".encode("latin-1"))
    with pytest.raises(SpecError) as caught:
        workspace.read_spec()
    assert "job.json" in str(caught.value)


def test_the_written_spec_is_a_job_json_for_another_run(workspace, tmp_path):
    """The resolved spec of a run, put into another workspace's channel, is the same job."""
    spec = build_spec({}, {"data.source": "pairs.jsonl", "model.name": "Größe 😀"})
    workspace.write_spec(spec)

    other = Workspace(tmp_path / "other")
    write(other.job_spec, workspace.spec.read_text("utf-8"))
    assert other.read_spec() == spec


def test_another_spec_is_refused_with_the_fields_that_differ(workspace):
    """A workspace belongs to one job: the same spec may be written again, another may not."""
    spec = build_spec({}, {"training.epochs": "2"})
    workspace.write_spec(spec)
    workspace.write_spec(spec)

    other = build_spec({}, {"training.epochs": "3", "data.seed": "1"})
    with pytest.raises(SpecError) as caught:
        workspace.write_spec(other)
    assert str(caught.value) == (
        f"`{workspace.results}` belongs to a run with another spec; these differ: `data.seed`, "
        "`training.epochs`. Use another `--name`, or the same values."
    )
    assert workspace.spec.read_text("utf-8") == spec.to_json()


def test_the_spec_of_another_version_is_refused_in_a_sentence():
    """A run of a version with other fields cannot be taken up; the message says why."""
    earlier = json.dumps({"training": {"accumulation": 16}})
    with pytest.raises(SpecError) as caught:
        check_same_spec(earlier, "s3://bucket/runs/one", JobSpec())
    message = str(caught.value)
    path = "s3://bucket/runs/one/spec.json"
    assert message.startswith(f"`{path}` is not the spec of this version (`training.accumulation`")
    assert message.endswith("Use another `--name`.")


def test_half_a_spec_is_refused_in_a_sentence():
    """Whatever lies under that name, the message says where and what is wrong with it."""
    with pytest.raises(SpecError) as caught:
        check_same_spec('{"training": ', "runs/one", JobSpec())
    message = str(caught.value)
    assert message.startswith(
        "`runs/one/spec.json` is not the spec of this version (`runs/one/spec.json` is not valid"
    )
    assert message.endswith("Use another `--name`.")


# The lock.


def test_a_second_process_is_kept_off(workspace):
    """While another process works on the run, ours is refused with what to do."""
    with other_process_holding(workspace):
        assert workspace.is_locked()
        with pytest.raises(MachineError) as caught, workspace.locked():
            pytest.fail("two processes worked on one run")
    assert str(caught.value) == (
        f"Another process is working on `{workspace.root}`; wait for it or stop it."
    )


def test_the_lock_ends_with_a_process_that_is_killed(workspace):
    """SIGKILL leaves no lock behind: the run can be taken up at once."""
    with other_process_holding(workspace) as holder:
        holder.send_signal(signal.SIGKILL)
        assert holder.wait() == -signal.SIGKILL
        assert not workspace.is_locked()
        with workspace.locked():
            assert workspace.is_locked()
    assert not workspace.is_locked()


def test_asking_whether_a_run_is_locked_does_not_lock_it(workspace):
    """`embedtune ls` is free to look at any time."""
    with workspace.locked():
        pass
    assert not workspace.is_locked()
    with workspace.locked():
        assert workspace.is_locked()


def test_a_workspace_that_cannot_be_made_is_the_machines_fault(tmp_path):
    """A file where the workspace should be is told in a sentence."""
    write(tmp_path / "ml", "a file")
    with pytest.raises(MachineError) as caught, Workspace(tmp_path / "ml").locked():
        pytest.fail("a file passed for a workspace")
    assert str(caught.value) == (
        f"The workspace `{tmp_path / 'ml'}` cannot be written: File exists. Give the job a folder "
        "that it may write, with `--workspace` or as the volume `/opt/ml`."
    )


# Failures and writes.


@pytest.mark.parametrize("length", [10, 1023, 1024, 1025, 5000])
def test_the_failure_file_is_as_long_as_sagemaker_shows(workspace, length):
    """At most 1,024 characters, of whatever width, and a line end."""
    workspace.write_failure("ß" * length)
    assert workspace.failure.read_text("utf-8") == "ß" * min(length, 1024) + "\n"


def test_a_failure_is_one_line(workspace):
    """A message of several lines would be cut to its first by those who show one."""
    workspace.write_failure("first\nsecond\n")
    assert len(workspace.failure.read_text("utf-8").splitlines()) == 1


def test_a_file_is_replaced_as_a_whole(tmp_path):
    """The new text is there, the old one gone, and nothing lies beside it."""
    path = write(tmp_path / "report.md", "old " * 1000)
    write_atomically(path, "Größe 😀\n")
    assert path.read_text("utf-8") == "Größe 😀\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_the_old_file_keeps_it_whole(tmp_path):
    """Who has opened a file reads to its end, whatever is written meanwhile."""
    path = write(tmp_path / "report.json", "old")
    with path.open(encoding="utf-8") as reader:
        write_atomically(path, "new")
        assert reader.read() == "old"


def test_nothing_is_written_where_the_folder_is_missing(tmp_path):
    """The folder is not made on the way, and the message names the file and the reason."""
    path = tmp_path / "missing" / "report.json"
    with pytest.raises(StorageError) as caught:
        write_atomically(path, "text")
    assert str(caught.value) == f"`{path}` cannot be written: No such file or directory."
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_where_a_file_stands_for_the_folder(tmp_path):
    """The file that is in the way stays as it is."""
    blocking = write(tmp_path / "report", "a file")
    path = blocking / "report.json"
    with pytest.raises(StorageError) as caught:
        write_atomically(path, "text")
    assert str(caught.value) == f"`{path}` cannot be written: Not a directory."
    assert blocking.read_text("utf-8") == "a file"


def test_nothing_is_written_over_a_folder(tmp_path):
    """A folder of the file's name stays, and nothing lies beside it."""
    path = tmp_path / "report.json"
    path.mkdir()
    with pytest.raises(StorageError) as caught:
        write_atomically(path, "text")
    assert str(caught.value) == f"`{path}` cannot be written: Is a directory."
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_written_to_a_read_only_disk(tmp_path, tiny_disk):
    """The old file stays; the message names the file and the reason."""
    folder = tiny_disk("size=64k")
    path = write(folder / "report.json", "old")
    tiny_disk("remount,ro")
    with pytest.raises(StorageError) as caught:
        write_atomically(path, "new")
    assert str(caught.value) == f"`{path}` cannot be written: Read-only file system."
    assert {p.name: p.read_text("utf-8") for p in folder.iterdir()} == {"report.json": "old"}


def test_a_full_disk_keeps_the_old_file_and_is_the_machines_fault(tiny_disk):
    """Half a file never takes the place of a whole one; no space left is exit code 6."""
    folder = tiny_disk("size=64k")
    path = write(folder / "report.json", "old")
    with pytest.raises(EmbedtuneError) as caught:
        write_atomically(path, "new" * 100_000)
    assert {p.name: p.read_text("utf-8") for p in folder.iterdir()} == {"report.json": "old"}
    assert re.search("full|No space", str(caught.value))
    assert caught.value.exit_code == MachineError.exit_code
