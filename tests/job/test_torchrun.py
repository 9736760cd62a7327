"""However a run's processes end, the command says why: one code, one line, one file.

The processes are real and started by torchrun; what they run is a tiny command in our job's place.
"""

import os
import signal
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
INTERRUPTED = "The run was interrupted; nothing of it is lost that was written."
WITHOUT_REASON = "The run was interrupted, or ended without a reason. Launch it again to go on."
KILLED = (
    "A process of the run was killed (signal 9), as a system does whose memory has run out. Set "
    "`training.mini_batch_size`, for instance to 16, and launch the run again."
)


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


@pytest.mark.parametrize("doing", [("fails 4", "waits"), ("exits 120", "fails 4")])
def test_a_process_that_fails_ends_the_run_with_its_code_and_line(start, doing):
    """Said once, by itself; one that it has left says nothing."""
    found = end(start(*doing))

    assert found == Ended(4, found.output, "It is broken.\n")
    assert found.output.replace("at work\n", "") == "Error: It is broken.\n"


def test_who_is_asked_to_end_because_another_failed_is_not_the_cause(start):
    """Torchrun ends it as the machine would: its code and line are not the run's."""
    host = start("works", "fails 6")

    found = end(host)

    assert (found.code, found.failure) == (6, "It is broken.\n")


@pytest.mark.parametrize("doing", [("dies 9", "waits"), ("waits", "dies 9"), ("works", "dies 9")])
def test_a_process_that_the_system_kills_has_run_out_of_memory(start, doing):
    """No process can say that of itself."""
    found = end(start(*doing))

    assert (found.code, found.failure) == (14, KILLED + "\n")
    assert found.output.replace("at work\n", "") == f"Error: {KILLED}\n"


def test_a_process_that_crashes_is_said_to_have_crashed(start):
    """By the signal's number and name."""
    found = end(start("waits", f"dies {int(signal.SIGSEGV)}"))

    line = (
        "A process of the run ended by signal 11 (SIGSEGV). Launch the run again to go on from its "
        "last checkpoint."
    )
    assert (found.code, found.failure) == (6, line + "\n")


def test_an_end_without_a_reason_is_called_one(start):
    """The code is still the process's own."""
    found = end(start("exits 1", "waits"))

    assert (found.code, found.failure) == (1, WITHOUT_REASON + "\n")


@pytest.mark.parametrize("doing", [("exits 120", "exits 120"), ("exits 120", "dies 15")])
def test_processes_that_all_gave_way_have_not_done_the_run(start, doing):
    """Whoever was the cause: nothing is finished, so the code is not 0."""
    found = end(start(*doing))

    line = "Another process of the run has gone without a word; its log may say why."
    assert (found.code, found.failure) == (6, line + "\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("doing", ["works", "waits"])
def test_a_signal_to_end_reaches_every_process(start, doing, number):
    """Those that listen say what they lose; those that do not listen yet lose nothing."""
    host = start(doing, doing)
    host.wait_for("at work\nat work\n")

    host.send(number)

    found = end(host)
    assert found.code == 10
    assert found.failure == (INTERRUPTED if doing == "works" else WITHOUT_REASON) + "\n"
