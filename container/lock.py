"""Writes locks/: what the image installs, with the hashes of the files that may be installed.

Run it (`make lock`) after each change of pyproject.toml or constraints.txt. locks/torch-cpu.txt is
kept by hand: the index of those builds is not everybody's to reach.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCKS = Path(__file__).resolve().parent / "locks"
# torch and what only its build for CUDA brings: a build for CPUs does without the latter.
GPU = re.compile(r"torch|triton|(nvidia|cuda)-.*")
HEADER = "# By container/lock.py, from pyproject.toml and constraints.txt.\n"
# The Python and the oldest system that the wheels must fit: the Dockerfile's base.
TARGET = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    build = compiled(project["build-system"]["requires"])
    train = compiled(requirements(project["project"], ["train"]))
    both = compiled(requirements(project["project"], ["train", "demo"]))
    gpu = {name for name in train if GPU.fullmatch(name)}
    write("build", build)
    write("torch", {name: train[name] for name in gpu})
    write("train", {name: train[name] for name in train.keys() - gpu})
    write("demo", {name: both[name] for name in both.keys() - train.keys()})


def requirements(project: dict[str, Any], extras: list[str]) -> Iterator[str]:
    """Yield what the project requires for some extras, those of its own extras included."""
    yield from project["dependencies"]
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            ours = re.fullmatch(rf"{project['name']}\[(.+)\]", line)
            yield from requirements(project, ours[1].split(",")) if ours else [line]


def compiled(wanted: Iterator[str] | list[str]) -> dict[str, str]:
    """Let uv resolve requirements; returns the pin of each package with its hashes, by name."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", *TARGET]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url"]
    command += ["--constraint", str(ROOT / "constraints.txt"), "-"]
    done = subprocess.run(  # noqa: S603  uv, with our own files
        command, input="\n".join(wanted), stdout=subprocess.PIPE, text=True, check=True
    )
    revisions = re.findall(r"(?m)^\S.*(?:\n .*)*", done.stdout)
    return {pin.partition("==")[0]: pin for pin in revisions}


def write(name: str, revisions: dict[str, str]) -> None:
    lines = [revisions[package] + "\n" for package in sorted(revisions)]
    (LOCKS / f"{name}.txt").write_text(HEADER + "".join(lines), "utf-8")


if __name__ == "__main__":
    main()
