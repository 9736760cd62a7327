"""Name downloaded data by its URI in errors and reports, not by its temporary folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from job.core.errors import DataError

# A downloaded object is below the folder of its role and that of its version.
LEVELS = 3


def write_origin(folder: Path, uri: str) -> None:
    """Write the URI that a folder, or the file in it, is a copy of, next to the folder."""
    _note(folder).write_text(uri, "utf-8")


def origin_of(path: Path) -> str | None:
    """Return the URI that a file or folder is a copy of; None if it was not downloaded."""
    above = [path, *path.parents][:LEVELS]
    note = next((_note(p) for p in above if p.name and _note(p).is_file()), None)
    return note.read_text("utf-8") if note else None


def _note(path: Path) -> Path:
    return path.parent / f".{path.name}.origin"


@contextmanager
def named_by_origin(path: Path, uri: str) -> Iterator[None]:
    """Replace the path in errors by the URI."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace(str(path), uri)) from None
