"""Runs on disk: listing, lookup and state."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from job.core.errors import StorageError
from job.storage.stores import FolderStore
from launcher.runs.run import Run, fetch_results, find_run, list_runs


@pytest.fixture
def make_run(tmp_path):
    """Create a run's folder as a launch leaves it; `age` is in hours before noon."""

    def make(name, *, finished=False, exit_code=None, age=0):
        folder = tmp_path / "runs" / name
        (folder / ".work").mkdir(parents=True)
        if exit_code is not None:
            receipt = {"backend": "process", "exit_code": exit_code, "seconds": 1.0, "usd": None}
            (folder / "receipt.json").write_text(json.dumps(receipt), "utf-8")
        if finished:
            (folder / "manifest.json").write_text("{}", "utf-8")
        for path in (folder, *folder.glob("manifest.json")):
            os.utime(path, (noon(age).timestamp(),) * 2)
        return Run(folder)

    return make


def noon(hours_before):
    return datetime(2026, 11, 23, 12 - hours_before, tzinfo=UTC)


@pytest.mark.parametrize(
    ("finished", "exit_code", "state"),
    [
        (True, None, "finished"),
        (True, 13, "finished"),
        (False, None, "unfinished"),
        (False, 10, "unfinished"),
        (False, 14, "failed"),
    ],
)
def test_the_state_follows_from_manifest_and_receipt(make_run, finished, exit_code, state):
    """A run with a manifest is finished, whatever its receipt; an interruption is not a failure."""
    assert make_run("name", finished=finished, exit_code=exit_code).state == state


def test_a_run_is_running_while_its_process_lives(make_run):
    """This is read from the lock: after the process is killed, the run is not running."""
    run = make_run("name", exit_code=10)
    code = (
        "import sys, time; from pathlib import Path; from job.storage.workspace import Workspace\n"
        "with Workspace(Path(sys.argv[1])).locked(): print('locked', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-P", "-c", code, str(run.workspace.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "locked\n"
            assert run.state == "running"
        finally:
            holder.send_signal(signal.SIGKILL)
    assert run.state == "unfinished"


def test_runs_are_listed_with_the_latest_first(make_run, tmp_path):
    """By the time of the last change; other folders and files are not runs."""
    make_run("b", finished=True, age=2)
    make_run("c", exit_code=4, age=3)
    # A resumed run: its spec is older than its last change.
    resumed = make_run("a", exit_code=10)
    (resumed.folder / "spec.json").write_text("{}", "utf-8")
    os.utime(resumed.folder / "spec.json", (noon(5).timestamp(),) * 2)
    os.utime(resumed.folder, (noon(1).timestamp(),) * 2)
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("", "utf-8")
    # A fetched run: results without a workspace.
    fetched = make_run("fetched", finished=True)
    fetched.workspace.root.rmdir()

    runs = list_runs(str(tmp_path / "runs"))
    assert [(run.name, run.changed) for run in runs] == [
        ("fetched", noon(0)),
        ("a", noon(1)),
        ("b", noon(2)),
        ("c", noon(3)),
    ]


def test_a_missing_output_folder_has_no_runs(tmp_path):
    """Neither has a file."""
    (tmp_path / "file").write_text("", "utf-8")
    assert list_runs(str(tmp_path / "runs")) == list_runs(str(tmp_path / "file")) == []


def test_the_run_without_a_name_is_the_latest_finished_one(make_run, tmp_path):
    """Unfinished and failed runs are skipped, unless they are named."""
    make_run("unfinished", age=1)
    make_run("failed", exit_code=4)
    with pytest.raises(StorageError, match=r"no finished run in .* `embedtune launch`"):
        find_run(str(tmp_path / "runs"), None)
    make_run("older", finished=True, age=3)
    expected = make_run("newer", finished=True, age=2)
    assert find_run(str(tmp_path / "runs"), None) == expected
    assert find_run(str(tmp_path / "runs"), "failed").name == "failed"


@pytest.mark.parametrize(("exit_code", "state"), [(4, "failed"), (10, "unfinished")])
def test_the_error_for_a_missing_report_has_the_runs_state(make_run, exit_code, state):
    """The state says whether to resume the run or to fix its job."""
    run = make_run("name", exit_code=exit_code)
    with pytest.raises(StorageError, match=f"`name` is {state} and has no report"):
        run.report()


def test_exports_are_fetched_with_the_model_only(tmp_path):
    """They are as large, and the report says what was measured."""
    stored, names = (
        tmp_path / "stored",
        ["exports/onnx-int8/onnx/model.onnx", "model/a", "model_proven/a", "spec.json"],
    )
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    for name in names:
        (stored / name).parent.mkdir(parents=True, exist_ok=True)
        (stored / name).write_bytes(b"x")
    (stored / "manifest.json").write_text(json.dumps(dict.fromkeys(names, entry)), "utf-8")
    run = Run(tmp_path / "run", FolderStore(stored))
    assert fetch_results(run, tmp_path / "light", with_model=False) == ["spec.json"]
    assert fetch_results(run, tmp_path / "whole", with_model=True) == names
    assert (tmp_path / "whole" / names[0]).read_bytes() == b"x"
