"""The state of the terminal that a view is drawn on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


def is_in_background(terminal: TextIO) -> bool:
    """Return whether a shell runs us in the background (`&`), while it uses the terminal itself."""
    try:
        return os.tcgetpgrp(terminal.fileno()) != os.getpgrp()
    except OSError:
        # It is no terminal, or not the one that controls us.
        return False


@contextmanager
def typing_hidden(terminal: TextIO) -> Iterator[None]:
    """Do not show what is typed within this block, such as `^C`: it would tear the drawing."""
    import termios

    try:
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, termios.error):
        yield
        return
    hidden = [*before]
    hidden[3] = before[3] & ~termios.ECHO
    _set(terminal, hidden)
    try:
        yield
    finally:
        _set(terminal, before)


def _set(terminal: TextIO, attributes: list[Any]) -> None:
    import termios

    # In the background, this would stop us.
    if not is_in_background(terminal):
        termios.tcsetattr(terminal, termios.TCSADRAIN, attributes)
