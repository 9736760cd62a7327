"""A run without progress ends itself with its exit code; any progress prevents that."""

import os
import subprocess
import sys
import time

import pytest

from job.core.errors import Stalled
from job.runtime.watchdog import moved_bytes
from job.storage.workspace import Workspace

# A run with a stall limit of 0.6 seconds.
SCRIPT = """
import sys, time
from pathlib import Path
from job.runtime import watchdog
from job.runtime.logs import log_to_stderr, log_to_folder, tell
from job.runtime.watchdog import watched
from job.storage.workspace import Workspace

watchdog.CHECK_SECONDS = watchdog.REPORT_SECONDS = 1.0
workspace = Workspace(Path(sys.argv[1]))
log_to_stderr()
log = workspace.logs / "job.log"
with watched({minutes}, workspace.write_failure, log), log_to_folder(workspace.logs):
    tell("train", "start")
    {work}
print("finished")
"""
REASON = (
    "The run made no progress for 0.6 seconds and ended itself; its log has the stack traces. "
    "Relaunch the run to resume from its last checkpoint, or raise `EMBEDTUNE_STALL_MINUTES`."
)


def run(folder, work, minutes=0.01, **options):
    script = SCRIPT.format(work=work, minutes=minutes)
    return subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        check=False,
        **{"capture_output": True, "text": True, "timeout": 30} | options,
    )


@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(600)",
        # C code that releases the GIL, as torch does.
        "import ctypes; ctypes.CDLL(None).sleep(600)",
        "while True: pass",
    ],
)
def test_a_stalled_run_ends_itself(tmp_path, work):
    """With its exit code, its reason in one line, and every thread's stack in its log."""
    ended = run(tmp_path, work)

    assert ended.returncode == Stalled.exit_code, ended.stderr
    assert ended.stdout == ""
    assert f"Error: {REASON}\n" in ended.stderr
    assert Workspace(tmp_path).failure.read_text("utf-8") == f"{REASON}\n"
    logged = (Workspace(tmp_path).logs / "job.log").read_text("utf-8")
    assert logged.endswith(f"{REASON}\n")
    for text in (ended.stderr, logged):
        assert 'Thread MainThread:\n  File "<string>", line 15, in <module>\n' in text


def test_a_run_that_blocks_the_watchdog_ends_too(tmp_path):
    """C code that holds the GIL: no Python code runs, so the exit code is 1, as for a bug."""
    started = time.monotonic()

    ended = run(tmp_path, "import ctypes; ctypes.PyDLL(None).sleep(600)")

    assert ended.returncode == 1
    assert '  File "<string>", line 15 in <module>' in ended.stderr
    assert time.monotonic() - started < 20


def test_a_full_pipe_does_not_prevent_the_end_of_a_run(tmp_path):
    """The main thread blocks in a log line, and so would printing the reason."""
    read, write = os.pipe()
    try:
        ended = run(
            tmp_path,
            "tell('train', 'x' * 10_000_000)",
            capture_output=False,
            stderr=write,
            stdout=write,
        )
    finally:
        os.close(read)
        os.close(write)

    assert ended.returncode == Stalled.exit_code
    assert Workspace(tmp_path).failure.read_text("utf-8") == f"{REASON}\n"


@pytest.mark.parametrize(
    "sign",
    [
        "tell('train', 'one more step')",
        "watchdog.record_activity()",
        # Like a download, but slower than a mebibyte per check.
        "Path(sys.argv[1], 'file').write_bytes(bytes(600_000))",
    ],
)
def test_any_progress_keeps_a_run_alive(tmp_path, sign):
    """It runs for three times the limit, with progress all the time."""
    ended = run(tmp_path, f"[({sign}, time.sleep(0.05)) for _ in range(40)]")

    assert (ended.returncode, ended.stdout) == (0, "finished\n"), ended.stderr


def test_zero_minutes_are_no_limit(tmp_path):
    """And a finished run leaves no timer that could end the code after it."""
    assert run(tmp_path, "time.sleep(1.5)", minutes=0).stdout == "finished\n"
    assert run(tmp_path, "pass\ntime.sleep(1.5)").stdout == "finished\n"


def test_a_forward_pass_counts_as_progress(tiny_spec, monkeypatch):
    """Encoding a large corpus takes long and logs nothing meanwhile."""
    import pyarrow as pa

    from job.evaluation.evaluate import encode
    from job.model.device import Machine
    from job.model.encoder import load_model
    from job.runtime import watchdog

    model = load_model(tiny_spec().model, Machine("cpu", "float32", ""))
    monkeypatch.setattr(watchdog._LastProgress, "at", 0.0)

    encode(model, pa.array(["ask1"]), "query", 8)

    assert watchdog._LastProgress.at == pytest.approx(time.monotonic(), abs=5)


def test_moved_bytes_counts_reads_and_writes(tmp_path):
    before = moved_bytes()
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    (tmp_path / "file").read_bytes()

    assert before > 0
    assert 2_000_000 <= moved_bytes() - before < 3_000_000


def test_moved_bytes_is_zero_if_the_system_does_not_count(monkeypatch, tmp_path):
    monkeypatch.setattr("job.runtime.watchdog.IO", tmp_path / "missing")

    assert moved_bytes() == 0
