"""Print the section of a release in CHANGELOG.md: `python .ci/release_notes.py v1.2.3`.

Exits with 1 and one line if the tag differs from the code's version or has no section.
"""

import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    version = runpy.run_path(str(ROOT / "job" / "__init__.py"))["__version__"]
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    try:
        notes = release_notes(sys.argv[1], version, changelog)
    except ValueError as error:
        sys.exit(f"release: {error}")
    print(notes)


def release_notes(tag: str, version: str, changelog: str) -> str:
    """Return a version's section without its heading; raises `ValueError` if it is missing."""
    if tag != f"v{version}":
        msg = f"the tag is `{tag}`, but `job.__version__` is {version}; expected `v{version}`."
        raise ValueError(msg)
    heading = rf"## \[?{re.escape(version)}\]?(?: [^\n]*)?\n"
    found = re.search(rf"(?ms)^{heading}(.*?)(?=^## |\Z)", changelog)
    if found is None or not found[1].strip():
        msg = f"`CHANGELOG.md` has no text under `## {version}`; rename `## Unreleased` to it."
        raise ValueError(msg)
    return found[1].strip()


if __name__ == "__main__":
    main()
