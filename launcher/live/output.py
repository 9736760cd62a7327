"""Read the output of a program while it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import IO

# A program may leave children behind that keep its pipe open.
LAST_LINES_SECONDS = 5.0


@contextmanager
def lines_copied(pipe: IO[bytes], print_line: Callable[[str], None]) -> Iterator[None]:
    """Pass each line of a pipe to `print_line` while the `with` block runs, and then the rest."""
    reader = Thread(target=_copy, args=(pipe, print_line), daemon=True)
    reader.start()
    try:
        yield
    finally:
        reader.join(LAST_LINES_SECONDS)


def _copy(pipe: IO[bytes], print_line: Callable[[str], None]) -> None:
    with pipe:
        for line in pipe:
            print_line(line.decode("utf-8", "replace").rstrip("\r\n"))
