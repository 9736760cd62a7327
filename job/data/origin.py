"""What fetched data is called: by its URI, as the folder that it was fetched to means nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from job.core.errors import DataError

# A fetched object lies below the folder of its role and that of its version.
LEVELS = 3


def write_origin(folder: Path, uri: str) -> None:
    """Note beside a folder what it is a copy of, or the one file in it."""
    _note(folder).write_text(uri, "utf-8")


def origin_of(path: Path) -> str | None:
    """Return the URI that a file or folder is a copy of; None if it was not fetched."""
    above = [path, *path.parents][:LEVELS]
    note = next((_note(p) for p in above if p.name and _note(p).is_file()), None)
    return note.read_text("utf-8") if note else None


def _note(path: Path) -> Path:
    return path.parent / f".{path.name}.origin"


@contextmanager
def named_by_origin(path: Path, uri: str) -> Iterator[None]:
    """Put the URI into errors that name the path."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace(str(path), uri)) from None
