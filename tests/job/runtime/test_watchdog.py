"""A run in which nothing moves ends itself with its code; one that moves in any way does not."""

import os
import subprocess
import sys
import time

import pytest

from job.core.errors import Stalled
from job.runtime.watchdog import moved_bytes
from job.storage.workspace import Workspace

# A run that may stand still for six tenths of a second.
SCRIPT = """
import sys, time
from pathlib import Path
from job.runtime import watchdog
from job.runtime.logs import log_to_stderr, log_to_folder, tell
from job.runtime.watchdog import watched
from job.storage.workspace import Workspace

watchdog.LOOK_SECONDS = watchdog.LAST_WORDS_SECONDS = 1.0
place = Workspace(Path(sys.argv[1]))
log_to_stderr()
with watched({minutes}, place.write_failure, place.logs / "job.log"), log_to_folder(place.logs):
    tell("train", "start")
    {work}
print("came to its end")
"""
SAYS = (
    "Nothing has moved for 0.6 seconds, so the run ended itself; where it stood is in its log. "
    "Launch it again to go on from its last checkpoint, or allow it more in "
    "`EMBEDTUNE_STALL_MINUTES`."
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
        # C code that lets go of Python's lock, as torch's does.
        "import ctypes; ctypes.CDLL(None).sleep(600)",
        "while True: pass",
    ],
)
def test_a_run_that_stands_still_ends_itself(tmp_path, work):
    """Its code, its reason in one line, and in its log where every thread stood."""
    ended = run(tmp_path, work)

    assert ended.returncode == Stalled.exit_code, ended.stderr
    assert ended.stdout == ""
    assert f"Error: {SAYS}\n" in ended.stderr
    assert Workspace(tmp_path).failure.read_text("utf-8") == f"{SAYS}\n"
    logged = (Workspace(tmp_path).logs / "job.log").read_text("utf-8")
    assert logged.endswith(f"{SAYS}\n")
    for text in (ended.stderr, logged):
        assert 'Thread MainThread:\n  File "<string>", line 14, in <module>\n' in text


def test_a_run_that_does_not_even_let_the_watchdog_look_ends_too(tmp_path):
    """C code that keeps Python's lock: nothing of ours runs, so the code is that of a bug."""
    started = time.monotonic()

    ended = run(tmp_path, "import ctypes; ctypes.PyDLL(None).sleep(600)")

    assert ended.returncode == 1
    assert '  File "<string>", line 14 in <module>' in ended.stderr
    assert time.monotonic() - started < 20


def test_a_log_that_nobody_takes_away_does_not_keep_a_run(tmp_path):
    """The main thread hangs in its own log line, which would hold the last words up as well."""
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
    assert Workspace(tmp_path).failure.read_text("utf-8") == f"{SAYS}\n"


@pytest.mark.parametrize(
    "sign",
    [
        "tell('train', 'one more step')",
        "watchdog.alive()",
        # As a download does; slower than a mebibyte in one look.
        "Path(sys.argv[1], 'file').write_bytes(bytes(600_000))",
    ],
)
def test_whatever_moves_keeps_a_run_alive(tmp_path, sign):
    """Three times its limit pass, and never without a sign."""
    ended = run(tmp_path, f"[({sign}, time.sleep(0.05)) for _ in range(40)]")

    assert (ended.returncode, ended.stdout) == (0, "came to its end\n"), ended.stderr


def test_zero_minutes_are_no_limit(tmp_path):
    """And a run that came to its end has nothing left behind that could end what follows."""
    assert run(tmp_path, "time.sleep(1.5)", minutes=0).stdout == "came to its end\n"
    assert run(tmp_path, "pass\ntime.sleep(1.5)").stdout == "came to its end\n"


def test_a_pass_of_a_model_is_a_sign_of_life(tiny_spec, monkeypatch):
    """Encoding a large corpus takes long, and says nothing meanwhile."""
    import pyarrow as pa

    from job.evaluation.evaluate import encode
    from job.model.device import Machine
    from job.model.encoder import load_model
    from job.runtime import watchdog

    model = load_model(tiny_spec().model, Machine("cpu", "float32", ""))
    monkeypatch.setattr(watchdog._Pulse, "at", 0.0)

    encode(model, pa.array(["ask1"]), "", 8)

    assert watchdog._Pulse.at == pytest.approx(time.monotonic(), abs=5)


def test_bytes_that_were_moved_are_counted(tmp_path):
    before = moved_bytes()
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    (tmp_path / "file").read_bytes()

    assert before > 0
    assert 2_000_000 <= moved_bytes() - before < 3_000_000


def test_a_system_that_counts_no_bytes_has_the_other_signs(monkeypatch, tmp_path):
    monkeypatch.setattr("job.runtime.watchdog.IO", tmp_path / "missing")

    assert moved_bytes() == 0
