"""Prints what pyproject.toml requires for some extras, without the project itself.

`python requirements.py pyproject.toml train,demo`: the image installs this in a layer of its own,
which a change of our code leaves alone.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: list[str]) -> Iterator[str]:
    yield from project["dependencies"]
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            ours = re.fullmatch(rf"{project['name']}\[(.+)\]", line)
            yield from requirements(project, ours[1].split(",")) if ours else [line]


if __name__ == "__main__":
    project = tomllib.loads(Path(sys.argv[1]).read_text("utf-8"))["project"]
    print("\n".join(dict.fromkeys(requirements(project, sys.argv[2].split(",")))))
