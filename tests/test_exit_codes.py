"""Every row of README's table of exit codes, caused as a user could cause it."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_job import JOB

from job.core.errors import EXIT_CODES, EmbedtuneError
from job.storage.workspace import Workspace

pytestmark = pytest.mark.slow

LAUNCHER = [sys.executable, "-P", "-m", "launcher.cli"]
JOBS = [sys.executable, "-P", "-m", "job"]
CLASSES = {error.exit_code: error for error in EmbedtuneError.__subclasses__()}
# Failures that a user cannot cause at will: a bug, and memory that runs out.
SABOTAGE = """
import job.__main__ as entry

def broken(*_, **__):
    {0}

entry._train = broken
entry.main()
"""
# Only SageMaker stops a job for its user or a time limit, and only CodeBuild builds an image: their
# tests cover these codes.
ELSEWHERE = {11, 12, 16}


def call(command, folder, *arguments, **environment):
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"EMBEDTUNE_DEVICE": "cpu"} | environment,
        check=False,
        capture_output=True,
        text=True,
    )


def train(folder, job, command=JOBS, **environment):
    """Run a job like a container, with a spec in its workspace."""
    workspace = Workspace(folder / "ml")
    workspace.job_spec.parent.mkdir(parents=True, exist_ok=True)
    workspace.job_spec.write_text(job, "utf-8")
    return call(command, folder, "train", "--workspace", workspace.root, **environment)


@pytest.fixture(scope="module")
def job(tiny_encoder, pairs_file):
    return JOB.format(pairs=pairs_file, encoder=tiny_encoder, epochs=1)


# One way to cause each code, in a new folder, with the tiny job's file.


def success(folder, job):
    return call(LAUNCHER, folder, "check", re.search(r"source: (.*)", job)[1])


def bug(folder, job):
    return train(folder, job, [sys.executable, "-P", "-c", SABOTAGE.format("1 / 0")])


def usage(folder, job):
    return call(LAUNCHER, folder, "launch", "--no-such-option")


def wrong_spec(folder, job):
    return train(folder, job.replace("epochs:", "epoch:"))


def no_data(folder, job):
    return call(LAUNCHER, folder, "check", "nowhere.jsonl")


def no_model(folder, job):
    return train(folder, re.sub(r"base: .*", "base: ./nowhere", job))


def busy_machine(folder, job):
    with Workspace(folder / "ml").locked():
        return train(folder, job)


def no_storage(folder, job):
    return call(LAUNCHER, folder, "report", "nobody")


def damaged_checkpoints(folder, job):
    workspace = Workspace(folder / "ml")
    (workspace.checkpoints / "checkpoint-1").mkdir(parents=True)
    workspace.revisions.write_text("{half", "utf-8")
    return train(folder, job)


def missed_gate(folder, job):
    (folder / "job.yaml").write_text(job, "utf-8")
    return call(LAUNCHER, folder, "launch", "job.yaml", "--require", "lift>1")


def interrupted(folder, job):
    (folder / "job.yaml").write_text(job.replace("epochs: 1", "epochs: 8"), "utf-8")
    log = folder / "runs/run/.work/output/data/logs/job.log"
    command = [*LAUNCHER, "launch", "job.yaml", "--name", "run", "--device", "cpu"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as launcher:
        while not (log.is_file() and "train: step=" in log.read_text("utf-8")):
            assert launcher.poll() is None, launcher.communicate()
            time.sleep(0.01)
        launcher.send_signal(signal.SIGTERM)
        _, output = launcher.communicate(timeout=300)
    return subprocess.CompletedProcess(command, launcher.returncode, "", output)


def refused_by_backend(folder, job):
    return call(LAUNCHER, folder, "launch", "--data", "builtin:aws-docs", "--detach")


def no_memory(folder, job):
    return train(folder, job, [sys.executable, "-P", "-c", SABOTAGE.format("bytearray(1 << 62)")])


def stalled(folder, job):
    # No run makes progress every few milliseconds.
    return train(folder, job, EMBEDTUNE_STALL_MINUTES="0.0001")


CASES = {
    0: success,
    1: bug,
    2: usage,
    3: wrong_spec,
    4: no_data,
    5: no_model,
    6: busy_machine,
    7: no_storage,
    8: damaged_checkpoints,
    9: missed_gate,
    10: interrupted,
    13: refused_by_backend,
    14: no_memory,
    15: stalled,
}


@pytest.fixture(scope="module")
def endings(tmp_path_factory, job):
    """Cause all failures, two at a time: most of the time is loading torch."""
    with ThreadPoolExecutor(2) as pool:
        running = {
            code: pool.submit(cause, tmp_path_factory.mktemp(cause.__name__), job)
            for code, cause in CASES.items()
        }
    return {code: future.result() for code, future in running.items()}


@pytest.mark.parametrize("code", CASES)
def test_each_failure_ends_with_its_code(code, endings):
    """An expected failure is one line; only a bug has a traceback."""
    ended = endings[code]
    assert ended.returncode == code, ended.stderr
    assert ("Traceback" in ended.stderr) == (code == 1)
    errors = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == (code not in (0, 1))


def test_every_code_has_a_case():
    """A new error class needs a case here."""
    assert CASES.keys() | ELSEWHERE == EXIT_CODES.keys()
    assert {0, 1, 2} | CLASSES.keys() == EXIT_CODES.keys()
