"""A release's notes are its section of the changelog; a tag that fits nothing makes no release."""

import re
import runpy
from pathlib import Path

import pytest

from job import __version__

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / ".ci" / "release_notes.py"))
release_notes = SCRIPT["release_notes"]
CHANGELOG = """\
# Changelog

## Unreleased

- Not out yet.

## [1.10.0] - 2026-11-28

### Added

- A tenth thing.

## 1.1.0

- An old thing.

## 1.0.0

"""


@pytest.mark.parametrize(
    ("version", "notes"),
    [("1.10.0", "### Added\n\n- A tenth thing."), ("1.1.0", "- An old thing.")],
)
def test_the_notes_are_the_versions_section(version, notes):
    assert release_notes(f"v{version}", version, CHANGELOG) == notes


@pytest.mark.parametrize(
    ("tag", "version", "named"),
    [
        ("v1.1.0", "1.10.0", "v1.10.0"),
        ("1.1.0", "1.1.0", "v1.1.0"),
        ("v1.0.0", "1.0.0", "## 1.0.0"),
        ("v1.1", "1.1", "## 1.1"),
    ],
    ids=["another version", "no v", "a section without text", "no section"],
)
def test_a_tag_that_fits_nothing_is_refused(tag, version, named):
    with pytest.raises(ValueError, match=re.escape(f"`{named}`")):
        release_notes(tag, version, CHANGELOG)


def test_this_changelog_can_be_released():
    """Once `Unreleased` has the version's name, as the refusal says, the notes are there."""
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    with pytest.raises(ValueError, match=re.escape(f"## {__version__}")):
        release_notes(f"v{__version__}", __version__, changelog)
    named = changelog.replace("## Unreleased", f"## {__version__} - 2026-12-01")
    assert release_notes(f"v{__version__}", __version__, named).startswith("### Added")
