"""Start runs of several processes and hosts on this machine; a host is a tree of processes.

`together` runs one function on several ranks, forked from a process that has imported everything.
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

# Time limit before a test fails; long, as a machine may be busy.
PATIENCE_SECONDS = 240
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["job.pipeline", "datasets", "bm25s", "matplotlib.figure"])


def together(processes, work, *arguments, hosts=1):
    """Run `work(rank, *arguments)` on several ranks; return the results in rank order.

    `work` is a top-level function of a test module: each rank imports it by name.
    """
    port, running = free_port(), []
    for rank in range(processes):
        ours, theirs = context.Pipe(duplex=False)
        place = (rank, processes, processes // hosts, port)
        name = (work.__code__.co_filename, work.__name__)
        process = context.Process(target=_run_rank, args=(theirs, place, name, arguments))
        process.start()
        theirs.close()
        running.append((process, ours))
    try:
        found = [_receive(process, ours) for process, ours in running]
    finally:
        for process, _ in running:
            process.kill()
            process.join()
    # If one fails, the others lose the connection: report the cause first.
    errors = [error for _, error in found if error]
    errors.sort(key=lambda error: (error.startswith("it died"), "closed by peer" in error))
    assert not errors, errors[0]
    return [value for value, _ in found]


def _receive(process, pipe):
    if not pipe.poll(PATIENCE_SECONDS):
        return None, "it has not ended"
    try:
        return pipe.recv()
    except EOFError:
        process.join()
        return None, f"it died with code {process.exitcode}"


def _run_rank(pipe, place, name, arguments):
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
            # A rank that leaves early would break the others' connections.
            distributed.barrier()
    except BaseException:  # noqa: BLE001  the test shows any error
        pipe.send((None, traceback.format_exc()))


def _find(file, function):
    """Load a test module under its own name, so that its objects can be pickled."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)


def free_port():
    """Return a free port whose next one is free too, outside the range of outgoing connections."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000, 2)
        with suppress(OSError), socket.socket() as one, socket.socket() as next_one:
            one.bind(("127.0.0.1", port))
            next_one.bind(("127.0.0.1", port + 1))
            return port


def hold_a_store(port, pipe):
    """Act as a first host that only has the store, until killed."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    pipe.send(store.port)
    time.sleep(PATIENCE_SECONDS)


class Host:
    """A simulated host: the job command and the processes it starts."""

    def __init__(self, workspace, log, *, lost_after=None, environment=None, folder=None):
        """Start the command; `lost_after` shortens the time after which a silent host is lost."""
        self.workspace, self.log = workspace, log
        log.write_text("", "utf-8")
        arguments = ["train", "--workspace", str(workspace), "--device", "cpu"]
        given = (arguments, str(log), environment or {}, lost_after, folder)
        self._process = context.Process(target=_supervise, args=given)
        self._process.start()

    @property
    def output(self):
        return self.log.read_text("utf-8")

    def wait(self):
        """Wait for its end; return the exit code."""
        self._process.join(PATIENCE_SECONDS)
        assert self._process.exitcode is not None, self.output
        return self._process.exitcode

    def logs(self, text):
        """Wait for a text in the log; return whether it came before the host ended."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while text not in self.output and self._process.is_alive():
            assert time.monotonic() < ends, self.output
            time.sleep(0.002)
        return text in self.output

    def wait_for(self, text):
        assert self.logs(text), self.output

    def send(self, number):
        """Send a signal to the first process, as a container engine does."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def kill(self):
        """Kill all processes at once, like a machine that is lost; return whether it still ran."""
        if self._process.is_alive():
            with suppress(psutil.NoSuchProcess):
                supervisor = psutil.Process(self._process.pid)
                # First suspend the parent, which would report the end of its children.
                supervisor.suspend()
                for process in [*supervisor.children(recursive=True), supervisor]:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
        self._process.join()
        return self._process.exitcode == -signal.SIGKILL


def _supervise(arguments, log, environment, lost_after, folder):
    from job.__main__ import main
    from job.distributed import heartbeat

    if lost_after:
        heartbeat.LOST_AFTER_SECONDS = lost_after
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
    """Start a host of one process for each workspace; they share the first one's checkpoints."""
    names = [f"algo-{number}" for number in range(1, len(workspaces) + 1)]
    rendezvous = {"EMBEDTUNE_PROCESSES": "1", "EMBEDTUNE_RENDEZVOUS": f"127.0.0.1:{free_port()}"}
    hosts = []
    for name, workspace in zip(names, workspaces, strict=True):
        config = workspace / "input" / "config"
        config.mkdir(parents=True, exist_ok=True)
        resources = {"current_host": name, "hosts": names, "network_interface_name": "eth0"}
        (config / "resourceconfig.json").write_text(json.dumps(resources), "utf-8")
        (workspaces[0] / "checkpoints").mkdir(exist_ok=True)
        if workspace != workspaces[0] and not (workspace / "checkpoints").exists():
            (workspace / "checkpoints").symlink_to(workspaces[0] / "checkpoints")
        log = workspace.with_suffix(".log")
        hosts.append(Host(workspace, log, environment=rendezvous, **options))
    return hosts
