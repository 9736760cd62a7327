"""However a run's processes end, the command says why: one code, one line, one file.

The processes are real and started by torchrun; what they run is a tiny command in our job's place.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
from worker_processes import Host

# Each process does what the argument of its number says.
STAND_IN = """
import os, signal, sys, time
from pathlib import Path

rank = int(os.environ["LOCAL_RANK"])
failure = Path(sys.argv[sys.argv.index("--workspace") + 1]) / "output" / "failure"
doing = os.environ["DOING"].split(",")[rank].split()

def note(line):
    if not failure.is_file():
        failure.parent.mkdir(parents=True, exist_ok=True)
        failure.write_text(line + "\\n")

def told(*_):
    note("The run was interrupted; nothing of it is lost that was written.")
    sys.exit(10)

if doing[0] == "tells":
    size, threads = os.environ["WORLD_SIZE"], os.environ["OMP_NUM_THREADS"]
    print(f"rank {rank} of {size}:", *sys.argv[1:], threads)
if doing[0] == "lost":
    # It waits for the cause to be known, as a worker does.
    while not failure.is_file():
        time.sleep(0.01)
    sys.exit(120)
if doing[0] == "exits":
    sys.exit(int(doing[1]))
if doing[0] == "fails":
    note("It is broken.")
    print("Error: It is broken.", file=sys.stderr)
    sys.exit(int(doing[1]))
if doing[0] == "dies":
    os.kill(os.getpid(), int(doing[1]))
if doing[0] == "works":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
if doing[0] in ("works", "waits"):
    print("at work", flush=True)
    time.sleep(300)
"""


@dataclass(frozen=True)
class Ended:
    code: int
    output: str
    failure: str | None


@pytest.fixture
def start(tmp_path):
    """Start two processes that do these things."""
    folder = tmp_path / "command" / "job"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text(STAND_IN, "utf-8")
    workspace = tmp_path / "ml"
    (workspace / "output").mkdir(parents=True)
    (workspace / "output" / "failure").write_text("Of an earlier start.\n", "utf-8")
    hosts = []

    def begin(*doing, **variables):
        environment = {"EMBEDTUNE_PROCESSES": str(len(doing)), "DOING": ",".join(doing)}
        host = Host(
            workspace,
            tmp_path / "log",
            environment=environment | {"PYTHONPATH": str(folder.parent)} | variables,
            folder=folder.parent,
        )
        hosts.append(host)
        return host

    begin.folder = folder.parent
    yield begin
    for host in hosts:
        host.kill()


def end(host):
    code = host.wait()
    failure = host.workspace / "output" / "failure"
    line = failure.read_text("utf-8") if failure.is_file() else None
    return Ended(code, host.output, line)


def test_processes_run_the_same_command_with_a_share_of_the_cores(start, tmp_path):
    """All of them done is the run done; an earlier start's failure is none of this one."""
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    host = start("tells", "tells", OMP_NUM_THREADS="")

    found = end(host)

    command = f"train --workspace {tmp_path / 'ml'} --device cpu"
    assert sorted(found.output.splitlines()) == [
        f"rank {rank} of 2: {command} {cores}" for rank in (0, 1)
    ]
    assert (found.code, found.failure) == (0, None)


LEFT_ALONE = """
import os, sys
from job.__main__ import main
from torch.distributed import DistNetworkError
from torch.distributed.elastic.utils import store

def barrier(**_):
    raise DistNetworkError("Failed to recv, got 0 bytes.")

store.barrier = barrier
os.chdir(os.environ["FOLDER"])
main()
"""


def test_a_host_that_leaves_the_last_barrier_first_is_no_failure(start, tmp_path):
    """Of two hosts that are done, the one with the store may be gone before the other looks."""
    folder = start.folder
    variables = {"EMBEDTUNE_PROCESSES": "2", "DOING": "exits 0,exits 0", "FOLDER": str(folder)}
    arguments = ["train", "--workspace", str(tmp_path / "ml"), "--device", "cpu"]

    done = subprocess.run(
        [sys.executable, "-c", LEFT_ALONE, *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


LOST = "Another process of the run has gone"
ENDS = [
    # A worker that fails says so itself, and torchrun ends the other one.
    ("fails 4", "waits", 4, "It is broken."),
    # A worker that lost the other one is no cause.
    ("lost", "fails 4", 4, "It is broken."),
    # Nor is one that torchrun asks to end, which says that it was interrupted.
    ("works", "fails 6", 6, "It is broken."),
    ("works", "dies 9", 14, "A process of the run was killed (signal 9)"),
    ("waits", "dies 9", 14, "A process of the run was killed (signal 9)"),
    ("waits", "dies 11", 6, "A process of the run ended by signal 11 (SIGSEGV)"),
    ("exits 1", "waits", 1, "The run was interrupted, or ended without a reason."),
    ("exits 120", "exits 120", 6, LOST),
    ("exits 120", "dies 15", 6, LOST),
]


@pytest.mark.parametrize(("one", "other", "code", "line"), ENDS)
def test_the_end_of_a_run_is_that_of_the_worker_which_was_its_cause(start, one, other, code, line):
    """One code and one line, which is said once, however the workers end."""
    found = end(start(one, other))

    assert found.code == code
    assert found.failure.startswith(line)
    assert found.output.replace("at work\n", "") == f"Error: {found.failure}"


@pytest.mark.parametrize(
    ("doing", "number", "line"),
    [
        ("works", signal.SIGTERM, "The run was interrupted; nothing of it is lost"),
        ("waits", signal.SIGINT, "The run was interrupted, or ended without a reason."),
    ],
)
def test_a_signal_to_end_reaches_every_worker(start, doing, number, line):
    """Those that listen say what they lose; those that do not listen yet lose nothing."""
    host = start(doing, doing)
    host.wait_for("at work\nat work\n")

    host.send(number)

    found = end(host)
    assert found.code == 10
    assert found.failure.startswith(line)
