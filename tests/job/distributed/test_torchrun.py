"""However the workers of a run end, the command reports one exit code, one line and one file.

torchrun starts real processes, which run a tiny command instead of the job.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
from worker_processes import Host

# Each process does what its entry of DOING says.
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

def interrupted(*_):
    note("The run was interrupted.")
    sys.exit(10)

if doing[0] == "prints":
    size, threads = os.environ["WORLD_SIZE"], os.environ["OMP_NUM_THREADS"]
    print(f"rank {rank} of {size}:", *sys.argv[1:], threads)
if doing[0] == "lost":
    # Like a worker, it waits until the cause is reported.
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
        signal.signal(number, interrupted)
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
    """Start a process for each entry of `doing`."""
    folder = tmp_path / "command" / "job"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text(STAND_IN, "utf-8")
    workspace = tmp_path / "ml"
    (workspace / "output").mkdir(parents=True)
    (workspace / "output" / "failure").write_text("From an earlier start.\n", "utf-8")
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
    """The run succeeds if all do; the failure file of an earlier start is deleted."""
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    host = start("prints", "prints", OMP_NUM_THREADS="")

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


def test_a_host_that_leaves_the_last_barrier_first_is_not_a_failure(start, tmp_path):
    """Of two finished hosts, the one with the store may exit before the other notices."""
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


LOST = "Another process of the run stopped responding"
ENDS = [
    # A failing worker reports its failure, and torchrun stops the other.
    ("fails 4", "waits", 4, "It is broken."),
    # A worker that lost its peer is not the cause.
    ("lost", "fails 4", 4, "It is broken."),
    # Nor is one that torchrun stops, which reports an interruption.
    ("works", "fails 6", 6, "It is broken."),
    ("works", "dies 9", 14, "A process of the run was killed (signal 9)"),
    ("waits", "dies 9", 14, "A process of the run was killed (signal 9)"),
    ("waits", "dies 11", 6, "Signal 11 (SIGSEGV) ended a process of the run."),
    ("exits 1", "waits", 1, "The run was interrupted or ended without a reason."),
    ("exits 120", "exits 120", 6, LOST),
    ("exits 120", "dies 15", 6, LOST),
]


@pytest.mark.parametrize(("one", "other", "code", "line"), ENDS)
def test_a_run_ends_with_the_code_and_line_of_the_worker_that_failed_first(
    start, one, other, code, line
):
    """The line is printed once."""
    found = end(start(one, other))

    assert found.code == code
    assert found.failure.startswith(line)
    assert found.output.replace("at work\n", "") == f"Error: {found.failure}"


@pytest.mark.parametrize(
    ("doing", "number", "line"),
    [
        ("works", signal.SIGTERM, "The run was interrupted."),
        ("waits", signal.SIGINT, "The run was interrupted or ended without a reason."),
    ],
)
def test_a_stop_signal_reaches_every_worker(start, doing, number, line):
    """Workers with a handler report it; the signal kills workers without one."""
    host = start(doing, doing)
    host.wait_for("at work\nat work\n")

    host.send(number)

    found = end(host)
    assert found.code == 10
    assert found.failure.startswith(line)
