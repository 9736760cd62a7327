"""Walk a folder as every reader and stager of inputs does, so that all see the same files."""

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, also behind links to folders; raise `OSError` if one fails.

    A link that leads nowhere is yielded, too: it is for the reader to name.
    """

    def refuse(error: OSError) -> None:
        # `os.walk` would skip the folder, and its files would be missing without a message.
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not is_loop(Path(parent, name))]
        yield from (Path(parent, name) for name in names)


def is_loop(path: Path) -> bool:
    """Tell whether a path is a link to a folder that contains it."""
    if not path.is_symlink():
        return False
    return path.resolve() in {parent.resolve() for parent in path.absolute().parents}
