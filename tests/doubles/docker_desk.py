"""Run our commands in a folder, as a user would, and inspect the containers they start."""

import json
import os
import subprocess
import sys

import pytest
from containers import docker
from tiny_job import JOB

from launcher.backends.docker.hosts import container_name

COMMAND = [sys.executable, "-P", "-m", "launcher.cli"]
# Enough epochs that a test can act during training.
LONG = 60


class Desk:
    """A user's working folder: runs our commands there."""

    def __init__(self, folder, image, **job):
        self.folder = folder
        self.image = image
        self.environment = os.environ | {"HOME": str(folder)}
        self.environment.pop("OMP_NUM_THREADS", None)
        folder.mkdir()
        (folder / "job.yaml").write_text(JOB.format(**job), "utf-8")

    def launch(self, *options):
        here = ("--backend", "docker", "--image", self.image, "--network", "none")
        return [*COMMAND, "launch", "job.yaml", *here, "--name", "r", *options]

    def run(self, *command, **fields):
        """Run a command to its end; `launch()` returns the full command of a launch."""
        if command[0] not in (sys.executable, "sh"):
            command = [*COMMAND, *command]
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
            cwd=fields.pop("cwd", self.folder),
            env=self.environment | fields,
        )

    def start(self, *options):
        return subprocess.Popen(
            self.launch(*options),
            text=True,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A separate process group, which gets Ctrl-C as in a terminal.
            start_new_session=True,
        )

    @property
    def results(self):
        return self.folder / "runs" / "r"

    def report(self):
        return json.loads((self.results / "report" / "report.json").read_text("utf-8"))

    def receipt(self):
        return json.loads((self.results / "receipt.json").read_text("utf-8"))

    def containers(self):
        """List the containers launched from this folder."""
        template = '{{.Names}} {{.Label "embedtune.folder"}}'
        lines = docker("ps", "--all", "--format", template).stdout.splitlines()
        pairs = (line.partition(" ") for line in lines)
        return [name for name, _, folder in pairs if folder.startswith(str(self.folder))]

    def networks(self):
        """List the networks of the run `r` launched from this folder."""
        names = docker("network", "ls", "--format", "{{.Name}}").stdout.splitlines()
        return [name for name in names if name == container_name(self.results)]


def until(process, text):
    """Read a process's stderr until a line contains `text`; return the lines so far."""
    output = ""
    for line in process.stderr:
        output += line
        if text in line:
            return output
    pytest.fail(f"It ended without printing {text!r}:\n{output}")
