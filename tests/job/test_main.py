"""`python -m job`: every failure becomes an exit code, one line and a failure file."""

import errno
import json
import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

import job.__main__ as entry
from job.__main__ import exit_code
from job.core.errors import EmbedtuneError
from job.spec.schema import JobSpec
from job.storage.workspace import Workspace

OURS = [pytest.param(e("What is wrong."), e.exit_code, "What is wrong.", id=e.__name__)
        for e in EmbedtuneError.__subclasses__()]  # fmt: skip
MINI_BATCH = "Set a smaller `training.mini_batch_size`, such as 16."
DISK_FULL = "The disk is full. Free some space and start the same command again."
MEMORY = f"Memory ran out ({{}}). {MINI_BATCH}"
INTERRUPTED = "Interrupted; files already written are kept. Start the same command again to go on."
MISSING = "The package `bm25s` is missing: `pip install 'embedtune[train]'`."
# Exceptions of Python, the system and libraries: exit code and line for each.
THEIRS = [
    (KeyboardInterrupt(), 10, INTERRUPTED),
    (MemoryError(), 14, MEMORY.format("MemoryError")),
    (
        MemoryError("Unable to allocate 74.5 GiB\nand more"),
        14,
        MEMORY.format("Unable to allocate 74.5 GiB"),
    ),
    (OSError(errno.ENOSPC, "No space left on device"), 6, DISK_FULL),
    (OSError(errno.EDQUOT, "Quota exceeded"), 6, DISK_FULL),
    (ModuleNotFoundError("No module named 'bm25s'", name="bm25s"), 6, MISSING),
]


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "ml")


@pytest.fixture
def memory_disk(tmp_path):
    """A disk of 1 MiB; skips the test if mounting is not permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fail_with(error):
    def work():
        raise error

    return work


def give_spec(workspace, spec):
    workspace.job_spec.parent.mkdir(parents=True)
    workspace.job_spec.write_text(spec.to_json(), "utf-8")


def train(workspace):
    """Run the real job like a container."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "job", "train", "--workspace", str(workspace.root)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"EMBEDTUNE_DEVICE": "cpu"},
    )


@pytest.mark.parametrize(("error", "code", "line"), OURS + THEIRS)
def test_an_expected_failure_becomes_its_code_and_one_line(error, code, line, workspace, capsys):
    """The line goes to stderr after `Error: `, and to the failure file."""
    assert exit_code(fail_with(error), workspace) == code
    assert capsys.readouterr() == ("", f"Error: {line}\n")
    assert workspace.failure.read_text("utf-8") == f"{line}\n"


def test_an_unexpected_exception_is_a_bug_with_a_traceback(workspace, capsys):
    """Exit code 1, and a failure file with the name of the exception."""
    assert exit_code(fail_with(ZeroDivisionError("division by zero")), workspace) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Traceback (most recent call last):\n")
    assert "in work\n" in printed.err
    assert printed.err.endswith("ZeroDivisionError: division by zero\n")
    assert workspace.failure.read_text("utf-8") == "ZeroDivisionError: division by zero\n"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        ModuleNotFoundError("No module named 'job.x'", name="job.x"),
    ],
    ids=["disk", "package"],
)
def test_an_error_that_only_resembles_an_expected_one_is_a_bug(error, workspace, capsys):
    """A failing disk is not a full one; a missing module of the job is not a missing package."""
    assert exit_code(fail_with(error), workspace) == 1
    assert "Traceback" in capsys.readouterr().err


def test_success_is_exit_code_0_without_output(workspace, capsys):
    """Nothing is printed or written."""
    assert exit_code(lambda: None, workspace) == 0
    assert capsys.readouterr() == ("", "")
    assert not workspace.root.exists()


def test_a_workspace_that_cannot_be_written_does_not_hide_the_failure(tmp_path, capsys):
    """The line still goes to stderr, with the same exit code."""
    (tmp_path / "ml").write_text("a file", "utf-8")
    error = EmbedtuneError.__subclasses__()[0]("What is wrong.")
    assert exit_code(fail_with(error), Workspace(tmp_path / "ml")) == error.exit_code
    assert capsys.readouterr().err == "Error: What is wrong.\n"


@pytest.mark.parametrize(
    ("used_bytes", "line"),
    [
        # The results would not fit: an error before training.
        (0, r"Error: The run needs about 0\.07\d+ GB of disk space, but only 0\.0009\d+ GB are "),
        # Not even the data's splits fit.
        pytest.param(1_000_000, re.escape(f"Error: {DISK_FULL}"), marks=pytest.mark.exhaustive),
    ],
)
def test_a_full_disk_is_a_machine_error_and_leaves_no_result(
    memory_disk, tiny_spec, used_bytes, line
):
    """Exit code 6, wherever the space runs out, and no manifest."""
    workspace = Workspace(memory_disk / "ml")
    give_spec(workspace, tiny_spec())
    (memory_disk / "other").write_bytes(bytes(used_bytes))
    done = train(workspace)

    assert re.match(line, done.stderr.splitlines()[-1])
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    assert not list(memory_disk.parent.rglob("manifest.json"))


# The container's commands other than `train`.


def run_job(*arguments):
    return subprocess.run(
        [sys.executable, "-P", "-m", "job", *arguments], check=False, capture_output=True, text=True
    )


def test_help_explains_the_mount_and_its_contents():
    shown = run_job("--help").stdout
    assert (
        'docker run --gpus all --shm-size 1g --volume "$PWD/work":/opt/ml embedtune train' in shown
    )
    # Click does not rewrap these lines.
    assert "\n    input/data/spec/job.json " in shown
    assert "\n    checkpoints/ " in shown


def test_schema_is_that_of_the_spec():
    assert json.loads(run_job("schema").stdout) == JobSpec.model_json_schema()


def test_report_prints_the_finished_runs_report(workspace):
    """As Markdown; a workspace without a report is an error."""
    command = ("report", "--workspace", str(workspace.root))
    missing = run_job(*command)
    reason = "no run has finished in this workspace."
    line = f"Error: There is no report in `{workspace.report}`: {reason}\n"
    assert (missing.returncode, missing.stderr) == (7, line)
    workspace.report.mkdir(parents=True)
    (workspace.report / "report.md").write_text("# It helped\n", "utf-8")
    assert run_job(*command).stdout.rstrip() == "# It helped"


@pytest.mark.parametrize(
    ("variables", "error", "waits"),
    [
        ({"EMBEDTUNE_SPOT": "1"}, KeyboardInterrupt(), True),
        ({"EMBEDTUNE_SPOT": "1"}, MemoryError(), False),
        ({}, KeyboardInterrupt(), False),
    ],
)
def test_only_an_interrupted_spot_job_waits_for_the_kill(
    tmp_path, monkeypatch, variables, error, waits
):
    """Then it exits with the code of an interruption, as without spot."""
    waited = []
    monkeypatch.setattr(entry, "_train", lambda *_: fail_with(error)())
    monkeypatch.setattr("job.runtime.signals.wait_for_kill", lambda: waited.append(True))
    monkeypatch.setattr("job.runtime.signals.StopSignal.install", lambda _: None)
    command = ["train", "--workspace", str(tmp_path), "--device", "cpu"]
    done = CliRunner().invoke(entry.main, command, env=variables)
    assert done.exit_code == (10 if isinstance(error, KeyboardInterrupt) else 14)
    assert bool(waited) == waits


def test_a_long_failure_keeps_its_exit_code_on_sagemaker(workspace):
    """Its reason has 1,024 characters, SageMaker's own words included."""
    assert exit_code(fail_with(OURS[0].values[0].__class__("x" * 1500)), workspace) == 3
    line = workspace.failure.read_text("utf-8").strip()
    assert len(f"AlgorithmError: {line}, exit code: 3") < 1024
