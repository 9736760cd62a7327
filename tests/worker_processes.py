"""Runs of several processes and hosts, all of them on this machine; a host is a tree of processes.

Beside whole runs: some processes that meet for one piece of work, forked from one that has imported
everything.
"""

import importlib.util
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import psutil

# Only to fail: a machine may be busy.
PATIENCE_SECONDS = 240
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["job.pipeline", "datasets", "bm25s", "matplotlib.figure"])


def together(processes, work, *arguments, hosts=1):
    """Have processes meet and do a piece of work; returns what each returns, in order of ranks.

    The work is a function of a test's module that takes its rank first; it is found by its name.
    """
    port, members = free_port(), []
    for rank in range(processes):
        ours, theirs = context.Pipe(duplex=False)
        place = (rank, processes, processes // hosts, port)
        name = (work.__code__.co_filename, work.__name__)
        member = context.Process(target=_member, args=(theirs, place, name, arguments))
        member.start()
        theirs.close()
        members.append((member, ours))
    try:
        found = [_heard(ours) for _, ours in members]
    finally:
        for member, _ in members:
            member.kill()
            member.join()
    # Where one fails, the others lose its connection.
    errors = [error for _, error in found if error]
    errors.sort(key=lambda error: (error == "it died", "closed by peer" in error))
    assert not errors, errors[0]
    return [value for value, _ in found]


def _heard(pipe):
    if not pipe.poll(PATIENCE_SECONDS):
        return None, "it has not ended"
    try:
        return pipe.recv()
    except EOFError:
        return None, "it died"


def _member(pipe, place, name, arguments):
    rank, size, per_host, port = place
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank % per_host),
        "LOCAL_WORLD_SIZE": str(per_host),
        "GROUP_RANK": str(rank // per_host),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    from torch import distributed

    from job.distributed import process_group

    try:
        if size > 1:
            store = distributed.TCPStore("127.0.0.1", port, size, is_master=rank == 0)
            process_group.init_with(store, rank, size)
        pipe.send((_find(*name)(rank, *arguments), None))
        if size > 1:
            # Who leaves first would take the others' answers along.
            distributed.barrier()
    except BaseException:  # noqa: BLE001  whatever it is, the test shows it
        pipe.send((None, traceback.format_exc()))


def _find(file, function):
    """Load a test's module under a name by which its functions can be sent to others."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)


def free_port():
    """Find a port that is free with the one after it, and that no connection is given by chance."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000, 2)
        with suppress(OSError), socket.socket() as one, socket.socket() as next_one:
            one.bind(("127.0.0.1", port))
            next_one.bind(("127.0.0.1", port + 1))
            return port


def hold_a_store(port, pipe):
    """Be a first host of which there is nothing but the store, until it is killed."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    pipe.send(store.port)
    time.sleep(PATIENCE_SECONDS)


class Host:
    """What runs on a host: the command, which supervises the processes that it starts."""

    def __init__(self, workspace, log, *, silence=None, environment=None, folder=None):
        """Start it; a `silence` shorter than usual is one that takes less patience to test."""
        self.workspace, self.log = workspace, log
        log.write_text("", "utf-8")
        arguments = ["train", "--workspace", str(workspace), "--device", "cpu"]
        given = (arguments, str(log), environment or {}, silence, folder)
        self._process = context.Process(target=_supervise, args=given)
        self._process.start()

    @property
    def output(self):
        return self.log.read_text("utf-8")

    def wait(self):
        """Wait for its end; returns the exit code."""
        self._process.join(PATIENCE_SECONDS)
        assert self._process.exitcode is not None, self.output
        return self._process.exitcode

    def says(self, text):
        """Wait for a log line; returns whether it came before the end."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while text not in self.output and self._process.is_alive():
            assert time.monotonic() < ends, self.output
            time.sleep(0.002)
        return text in self.output

    def wait_for(self, text):
        assert self.says(text), self.output

    def send(self, number):
        """Send a signal to what was started first, as an engine does."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def kill(self):
        """Kill all of it at once, as where the machine is gone; returns whether it still ran."""
        if self._process.is_alive():
            with suppress(psutil.NoSuchProcess):
                supervisor = psutil.Process(self._process.pid)
                # First the one that would tell others of its children's end.
                supervisor.suspend()
                for process in [*supervisor.children(recursive=True), supervisor]:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
        self._process.join()
        return self._process.exitcode == -signal.SIGKILL


def _supervise(arguments, log, environment, silence, folder):
    from job.__main__ import main
    from job.distributed import heartbeat

    if silence:
        heartbeat.SILENCE_SECONDS = silence
    if folder:
        os.chdir(folder)
    os.environ |= environment
    for name in [name for name, value in environment.items() if not value]:
        del os.environ[name]
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["job", *arguments]
    main()


def start_hosts(workspaces, **options):
    """Start a host for each workspace, of one process each; they share the first's checkpoints."""
    names = [f"algo-{number}" for number in range(1, len(workspaces) + 1)]
    meeting = {"EMBEDTUNE_PROCESSES": "1", "EMBEDTUNE_RENDEZVOUS": f"127.0.0.1:{free_port()}"}
    hosts = []
    for name, workspace in zip(names, workspaces, strict=True):
        config = workspace / "input" / "config"
        config.mkdir(parents=True, exist_ok=True)
        told = {"current_host": name, "hosts": names, "network_interface_name": "eth0"}
        (config / "resourceconfig.json").write_text(json.dumps(told), "utf-8")
        (workspaces[0] / "checkpoints").mkdir(exist_ok=True)
        if workspace != workspaces[0] and not (workspace / "checkpoints").exists():
            (workspace / "checkpoints").symlink_to(workspaces[0] / "checkpoints")
        log = workspace.with_suffix(".log")
        hosts.append(Host(workspace, log, environment=meeting, **options))
    return hosts
