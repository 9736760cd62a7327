"""Containers that are removed at the end of their test, and /opt/ml folders with any owner."""

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

# The smallest real job: 400 rows, cut to 32 tokens.
TINY_JOB = {
    "data.source": "builtin:aws-docs",
    "data.limit": "400",
    "model.base": "builtin:minilm",
    "model.max_length": "32",
    "preset": "quick",
    "evaluation.permutations": "1000",
}
# On a busy machine several threads are many times slower than one.
ONE_THREAD = ("--env", "OMP_NUM_THREADS=1")


def docker(*arguments):
    """Run a `docker` command to its end; stdout includes stderr."""
    return subprocess.run(
        ["docker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


@dataclass(frozen=True)
class Container:
    """A container, with exit code and output of `docker run`."""

    name: str
    code: int
    output: str


@dataclass(frozen=True)
class Containers:
    """Starts containers of an image, without a network."""

    image: str
    mark: str = field(default_factory=lambda: f"embedtune.test={uuid4().hex}")

    def run(self, *options, command=()):
        """Start a container and wait for its end, unless it is detached."""
        name = f"embedtune-test-{uuid4().hex[:8]}"
        ours = ("--name", name, "--label", self.mark, "--network", "none", *ONE_THREAD)
        done = docker("run", *ours, *options, self.image, *command)
        return Container(name, done.returncode, done.stdout)

    def shell(self, script, *options):
        """Run a shell script in the image as root; return its output."""
        options = ("--user", "0", "--entrypoint", "sh", *options)
        done = self.run(*options, command=("-euc", script))
        assert done.code == 0, done.output
        return done.output

    def remove(self):
        ids = docker("ps", "--all", "--quiet", "--filter", f"label={self.mark}").stdout.split()
        if ids:
            docker("rm", "--force", *ids)


@contextmanager
def containers_of(image):
    """Yield a starter of containers; remove its containers afterwards."""
    containers = Containers(image)
    try:
        yield containers
    finally:
        containers.remove()


@dataclass(frozen=True)
class Mount:
    """A folder to mount as /opt/ml, whose only input is hyperparameters.json."""

    folder: Path
    containers: Containers

    @property
    def options(self):
        return ("--volume", f"{self.folder}:/opt/ml")

    def fill(self, fields):
        config = self.folder / "input" / "config"
        config.mkdir(parents=True)
        (config / "hyperparameters.json").write_text(json.dumps(TINY_JOB | fields), "utf-8")

    def give(self, owner):
        """Change the owner of all files, as root in a container."""
        self.containers.shell(f"chown -R {owner} /opt/ml", *self.options)

    def owners(self):
        stats = [path.stat() for path in [self.folder, *self.folder.rglob("*")]]
        return {f"{stat.st_uid}:{stat.st_gid}" for stat in stats}

    def report(self):
        return json.loads((self.folder / "output/data/report/report.json").read_text("utf-8"))
