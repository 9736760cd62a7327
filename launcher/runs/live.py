"""A job's lines as they come: on a terminal with a bar for its steps, in a pipe alone."""

from typing import Self, TextIO

import click

from job.core.formatting import escape_to_one_line
from job.core.log_lines import parse_line


class Live:
    def __init__(self, to: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        self._to = to
        self._console = console = Console(file=to, highlight=False)
        columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        is_hidden = not console.is_terminal
        self._bar = Progress(
            "training", *columns, console=console, transient=True, disable=is_hidden
        )
        self._task = self._bar.add_task("training", total=None, visible=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line; one that tells a step moves the bar."""
        if not self._console.is_terminal:
            click.echo(line, file=self._to)
            return
        self._console.print(escape_to_one_line(line), markup=False, emoji=False, soft_wrap=True)
        found = parse_line(line)
        if found and found.what == "train" and {"step", "steps"} <= found.facts.keys():
            done, total = float(found.facts["step"]), float(found.facts["steps"])
            self._bar.update(self._task, completed=done, total=total, visible=done < total)
