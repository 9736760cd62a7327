"""A fake AWS account on loopback whose SageMaker runs jobs, and commands to launch them."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from moto.backends import get_backend
from moto_stacks import patched_stacks
from remote import wait_until
from sagemaker_server import ACCOUNT, REGION, SageMaker
from sagemaker_transfer import LOG_GROUP

from job.storage.aws_session import KEYS

COMMAND = [sys.executable, "-P", "-m", "launcher.cli"]
# The image's entrypoint: runs the job, or the program in `--env PROGRAM=…` instead.
ENTRYPOINT = (
    "import os, runpy; program = os.environ.get('PROGRAM'); "
    "exec(program) if program else runpy.run_module('job', run_name='__main__', alter_sys=True)"
)


@dataclass
class Done:
    """Output and exit code of a command."""

    code: int
    out: str
    err: str

    @property
    def last_line(self):
        return self.err.splitlines()[-1]


@dataclass
class Account:
    """A bucket `box`, a role and an image, without a stack; tests may add resources."""

    server: SageMaker
    environment: dict[str, str]
    # Options of a launch: the AWS resources, and those of the tiny job.
    places: tuple[str, ...]
    tiny: tuple[str, ...]
    started: list[subprocess.Popen] = field(default_factory=list)

    def start(self, folder: Path, *arguments, **environment) -> subprocess.Popen:
        """Start a command in a folder; a variable with value None is removed."""
        given = self.environment | environment
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=folder,
            env={name: value for name, value in given.items() if value is not None},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, folder: Path, *arguments, **environment) -> Done:
        return self.finish(self.start(folder, *arguments, **environment))

    def start_launch(self, folder: Path, name: str, *arguments, **environment) -> subprocess.Popen:
        """Launch the tiny job, or a program instead with `--env PROGRAM=…`."""
        given = ("--backend", "sagemaker", "--name", name, *self.tiny, *self.places)
        return self.start(folder, "launch", *given, *arguments, **environment)

    def launch(self, folder: Path, name: str, *arguments, **environment) -> Done:
        return self.finish(self.start_launch(folder, name, *arguments, **environment))

    def lines(self, name: str) -> list[str]:
        """Return a job's log lines from CloudWatch."""
        groups = get_backend("logs")[ACCOUNT][REGION].groups
        streams = dict(groups[LOG_GROUP].streams) if LOG_GROUP in groups else {}
        own = [streams[stream] for stream in sorted(streams) if stream.startswith(f"{name}/")]
        return [event.message for stream in own for event in stream.events]

    def wait_for(self, name: str, text: str) -> None:
        """Wait until a job has logged a text."""
        wait_until(lambda: any(text in line for line in self.lines(name)))

    @staticmethod
    def finish(process: subprocess.Popen, seconds: float = 300) -> Done:
        out, err = process.communicate(timeout=seconds)
        return Done(process.returncode, out, err)


@pytest.fixture(autouse=True)
def account_of_this_test():
    """Undo the profile and region that a command of this process has set for its clients."""
    before = dict(os.environ)
    yield
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", *KEYS):
        if name in before:
            os.environ[name] = before[name]
        else:
            os.environ.pop(name, None)


@pytest.fixture(scope="module")
def account(tmp_path_factory, tiny_encoder, pairs_file, tiny_settings):
    """An account for the tests of one file, isolated from the developer's own settings."""
    home = tmp_path_factory.mktemp("home")
    entrypoint = [sys.executable, "-P", "-c", ENTRYPOINT]
    with patched_stacks(), SageMaker(entrypoint, log_delay_seconds=2.5) as server:
        server.s3.bucket("box")
        role, image = server.add_role("standing"), server.add_image("standing", "1")
        # Long enough to be interrupted in the middle.
        fields = tiny_settings | {"training.epochs": "8"}
        settings = [part for field in fields.items() for part in ("--set", "=".join(field))]
        account = Account(
            server,
            server.environment(home, COLUMNS="200"),
            ("--role", role, "--image", image, "--output", "s3://box/runs"),
            ("--data", pairs_file, "--model", tiny_encoder, "--device", "cpu", *settings),
        )
        account.environment.pop("XDG_CONFIG_HOME", None)
        yield account
        for process in account.started:
            process.kill()
            process.communicate()
