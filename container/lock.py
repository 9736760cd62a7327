"""Write locks/: the packages that the image installs, with the hashes of their files.

Run it (`make lock`) after each change of pyproject.toml or constraints.txt. locks/torch-cpu.txt is
maintained by hand, because some networks cannot reach the index of the CPU builds.
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
# torch and the packages that only its CUDA build needs.
GPU = re.compile(r"torch|triton|(nvidia|cuda)-.*")
HEADER = "# By container/lock.py, from pyproject.toml and constraints.txt.\n"
# The Python version and the oldest platform of the wheels: those of the Dockerfile's base image.
TARGET = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    build = resolve(project["build-system"]["requires"])
    train = resolve(requirements(project["project"], ["train", "exports"]))
    both = resolve(requirements(project["project"], ["train", "exports", "demo"]))
    gpu = {name for name in train if GPU.fullmatch(name)}
    write("build", build)
    write("torch", {name: train[name] for name in gpu})
    write("train", {name: train[name] for name in train.keys() - gpu})
    write("demo", {name: both[name] for name in both.keys() - train.keys()})


def requirements(project: dict[str, Any], extras: list[str]) -> Iterator[str]:
    """Yield the project's requirements with some extras, including extras that they refer to."""
    yield from project["dependencies"]
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            ours = re.fullmatch(rf"{project['name']}\[(.+)\]", line)
            yield from requirements(project, ours[1].split(",")) if ours else [line]


def resolve(required: Iterator[str] | list[str]) -> dict[str, str]:
    """Resolve requirements with uv; return each package's pin and hashes by name."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", *TARGET]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url"]
    command += ["--constraint", str(ROOT / "constraints.txt"), "-"]
    done = subprocess.run(  # noqa: S603  uv, with our own files
        command, input="\n".join(required), stdout=subprocess.PIPE, text=True, check=True
    )
    pins = re.findall(r"(?m)^\S.*(?:\n .*)*", done.stdout)
    return {pin.partition("==")[0]: pin for pin in pins}


def write(name: str, pins: dict[str, str]) -> None:
    lines = [pins[package] + "\n" for package in sorted(pins)]
    (LOCKS / f"{name}.txt").write_text(HEADER + "".join(lines), "utf-8")


if __name__ == "__main__":
    main()
