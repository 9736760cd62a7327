"""How a training host runs the job's container: as a subprocess, or by Docker."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Protocol

# What a subprocess needs of this process's environment; it gets nothing else of it.
KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
NO_SERVER = "http://127.0.0.1:9"
TO_US = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}


class Executor(Protocol):
    def start(
        self, root: Path, environment: dict[str, str], *, isolated: bool
    ) -> subprocess.Popen[bytes]:
        """Run `train` on the /opt/ml at `root`; its lines come out of `stdout`."""

    def send(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """SIGTERM reaches the container's first process alone, SIGKILL all of them."""


class Process:
    """Runs a job as a subprocess; `command` stands for the image's entrypoint."""

    def __init__(self, command: list[str] | None = None):
        self.command = command or [sys.executable, "-P", "-m", "job"]

    def start(
        self, root: Path, environment: dict[str, str], *, isolated: bool
    ) -> subprocess.Popen[bytes]:
        # Its own home: nobody's credentials, logins and caches.
        home = root.with_name(f"{root.name}-home")
        home.mkdir()
        basics = {name: os.environ[name] for name in KEPT if name in os.environ}
        alone = {"HOME": str(home), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        if isolated:
            # A subprocess keeps its network, so what honours proxies is sent to nobody's port.
            proxies = ("http_proxy", "https_proxy", "all_proxy")
            alone |= {n: NO_SERVER for name in proxies for n in (name, name.upper())}
        return subprocess.Popen(
            [*self.command, "train", "--workspace", str(root)],
            cwd=root,
            env=basics | alone | environment,
            start_new_session=True,
            **TO_US,
        )

    def send(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """SIGTERM reaches the first process alone, SIGKILL all of them, as in a container."""
        if number != signal.SIGKILL:
            process.send_signal(number)
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


class Docker:
    """Runs a job as a container of one image, whatever its request calls it; needs an engine."""

    def __init__(self, image: str):
        self.image = image

    def start(
        self, root: Path, environment: dict[str, str], *, isolated: bool
    ) -> subprocess.Popen[bytes]:
        name = f"embedtune-sagemaker-{root.parent.name}-{root.name}"
        command = ["docker", "run", "--rm", "--name", name, "--volume", f"{root}:/opt/ml"]
        command += ["--network", "none" if isolated else "host"]
        for variable in ({"OMP_NUM_THREADS": "1"} | environment).items():
            command += ["--env", "=".join(variable)]
        return subprocess.Popen([*command, self.image, "train"], **TO_US)

    def send(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        command = process.args
        name = command[command.index("--name") + 1]
        # One that has ended is no longer there.
        kill = ["docker", "kill", "--signal", number.name, name]
        subprocess.run(kill, capture_output=True, check=False)


def ended_within(seconds: float, process: subprocess.Popen[bytes]) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return True
    return False
