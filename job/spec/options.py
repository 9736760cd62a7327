"""Options that a command of the launcher shares with the one of the job that it starts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

Command = Callable[..., Any]
Option = Callable[[Command], Command]

DEVICE = click.Choice(["auto", "cuda", "mps", "cpu"])


def with_options(options: Sequence[Option]) -> Option:
    """Return a decorator that adds options to a command, in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def as_arguments(given: Mapping[str, Any]) -> list[str]:
    """Return the options as the arguments of a command line."""
    arguments = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif value not in (None, False):
            values = value if isinstance(value, tuple) else (value,)
            # One argument: a value may start with a dash.
            arguments += [f"{flag}={each}" for each in values]
    return arguments
