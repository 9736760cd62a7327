"""A folder to launch containers from, as a user would, and what there is to see of them."""

import json
import os
import subprocess
import sys

import pytest
from containers import docker
from tiny_job import JOB

from launcher.backends.docker.hosts import container_name

COMMAND = [sys.executable, "-P", "-m", "launcher.cli"]
# So many epochs that a test can act in mid-training.
LONG = 60


class Desk:
    """A folder to launch from, as a user would."""

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
        """Run a command of ours to its end; `launch` is written out by `launch()`."""
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
            # As a terminal's: its own group, to which Ctrl-C goes.
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
        """Name the containers that were launched from here."""
        shown = '{{.Names}} {{.Label "embedtune.folder"}}'
        lines = docker("ps", "--all", "--format", shown).stdout.splitlines()
        pairs = (line.partition(" ") for line in lines)
        return [name for name, _, folder in pairs if folder.startswith(str(self.folder))]

    def networks(self):
        """Name the networks of runs called `r` that were launched from here."""
        names = docker("network", "ls", "--format", "{{.Name}}").stdout.splitlines()
        return [name for name in names if name == container_name(self.results)]


def until(process, text):
    """Wait until a process says something; returns what it said before."""
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    pytest.fail(f"It ended without saying {text!r}:\n{said}")
