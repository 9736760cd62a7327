"""Run the job's containers on training hosts: as subprocesses, or with Docker."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

# The only variables that a subprocess gets from this process's environment.
PASSED_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR",
                    # For the record of AWS calls.
                    "PYTHONPATH", "RECORDED_AWS_CALLS", "PYTEST_CURRENT_TEST")  # fmt: skip
NO_SERVER = "http://127.0.0.1:9"
PIPES = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}

# An executor connects the hosts of a job (`network`), runs `train` on an /opt/ml (`start`; its
# `stdout` has the log lines) and passes on signals (`send`).


@dataclass
class Network:
    """How the hosts of a job reach each other; `options` are the executor's options by host."""

    is_isolated: bool
    environment: dict[str, str] = field(default_factory=dict)
    options: dict[str, list[str]] = field(default_factory=dict)
    interface: str = "eth0"


class Process:
    """Runs a job as a subprocess; `command` replaces the image's entrypoint."""

    def __init__(self, command: list[str] | None = None):
        self.command = command or [sys.executable, "-P", "-m", "job"]

    @contextmanager
    def network(self, name: str, hosts: list[str], *, isolated: bool) -> Iterator[Network]:
        """Subprocesses have no host names, so they get a rendezvous address."""
        del name
        rendezvous = {"EMBEDTUNE_RENDEZVOUS": f"127.0.0.1:{free_port()}"}
        yield Network(isolated, rendezvous if len(hosts) > 1 else {})

    def start(
        self, root: Path, host: str, environment: dict[str, str], network: Network
    ) -> subprocess.Popen[bytes]:
        del host
        # A separate home, without credentials, logins and caches.
        home = root.with_name(f"{root.name}-home")
        home.mkdir()
        basics = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
        alone = {"HOME": str(home), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        if network.is_isolated:
            # A subprocess keeps its network, so point proxies to a closed port.
            proxies = ("http_proxy", "https_proxy", "all_proxy")
            alone |= {n: NO_SERVER for name in proxies for n in (name, name.upper())}
        return subprocess.Popen(
            [*self.command, "train", "--workspace", str(root)],
            cwd=root,
            env=basics | alone | environment,
            start_new_session=True,
            **PIPES,
        )

    def send(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """SIGTERM goes to the first process only, SIGKILL to all of them, as in a container."""
        if number != signal.SIGKILL:
            process.send_signal(number)
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


class Docker:
    """Runs a job as a container of one image, regardless of the request; needs an engine."""

    def __init__(self, image: str):
        self.image = image

    @contextmanager
    def network(self, name: str, hosts: list[str], *, isolated: bool) -> Iterator[Network]:
        """Isolated hosts get an internal network; others use this machine's, as the server does."""
        if len(hosts) == 1:
            options = {hosts[0]: ["--network", "none" if isolated else "host"]}
            yield Network(isolated, options=options)
        elif isolated:
            name = f"embedtune-sagemaker-{name}"
            names = {h: ["--hostname", h, "--network-alias", h] for h in hosts}
            client = ["docker", "network"]
            quiet = subprocess.DEVNULL
            subprocess.run([*client, "create", "--internal", name], check=True, stdout=quiet)
            try:
                options = {host: ["--network", name, *names[host]] for host in hosts}
                yield Network(isolated, options=options)
            finally:
                subprocess.run([*client, "rm", name], check=True, stdout=quiet)
        else:
            known = [part for host in hosts for part in ("--add-host", f"{host}:127.0.0.1")]
            options = {host: ["--network", "host", *known] for host in hosts}
            yield Network(isolated, options=options, interface="lo")

    def start(
        self, root: Path, host: str, environment: dict[str, str], network: Network
    ) -> subprocess.Popen[bytes]:
        name = f"embedtune-sagemaker-{root.parent.name}-{root.name}"
        command = ["docker", "run", "--rm", "--name", name, "--volume", f"{root}:/opt/ml"]
        command += network.options[host]
        for variable in ({"OMP_NUM_THREADS": "1"} | environment).items():
            command += ["--env", "=".join(variable)]
        return subprocess.Popen([*command, self.image, "train"], **PIPES)

    def send(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        command = process.args
        name = command[command.index("--name") + 1]
        # A container that has ended no longer exists.
        kill = ["docker", "kill", "--signal", number.name, name]
        subprocess.run(kill, capture_output=True, check=False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def ended_within(seconds: float, process: subprocess.Popen[bytes]) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return True
    return False


Executor = Process | Docker
