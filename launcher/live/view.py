"""Show a job while it runs: as one view on a terminal, as plain log lines, or not at all."""

import os
import threading
from collections import deque
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Literal, Protocol, Self, TextIO

import click

from job.core.formatting import escape_to_one_line
from job.core.log_lines import parse_line
from launcher.live.drawing import LOG_LINES, Job, Picture, Status, draw
from launcher.live.progress import Progress, is_warning, now
from launcher.live.terminal import is_in_background, typing_hidden

Style = Literal["auto", "plain", "quiet", "verbose"]
# Between two drawings, of which each takes 1.4 ms of processor time.
PAUSE_SECONDS = 1.0
STOPPING = "Stopping: the job ends its step and writes a checkpoint. Ctrl-C again kills it."


class View(Protocol):
    """Shows what a job does until the `with` block ends; any thread may call its methods."""

    def print_line(self, line: str) -> None:
        """Show a line of the job's output."""

    def show_status(self, status: Status) -> None:
        """Show a state that the backend reports."""

    def show_stopping(self) -> None:
        """Say that the job was asked to stop."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None: ...


def open_view(to: TextIO, job: Job, style: Style) -> View:
    """Choose how to show a job: `auto` draws on a terminal, unless it asks for plain text."""
    if style == "quiet":
        return QuietView(to)
    return LiveView(to, job, verbose=style == "verbose") if can_draw(to, style) else PlainView(to)


def can_draw(to: TextIO, style: Style) -> bool:
    return (
        style != "plain"
        and to.isatty()
        and not is_in_background(to)
        and (to.encoding or "").lower().replace("-", "") == "utf8"
        and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
        and not any(os.environ.get(name) for name in ("NO_COLOR", "CI"))
    )


class PlainView:
    """Prints each line as it is."""

    def __init__(self, to: TextIO) -> None:
        self._to = to

    def print_line(self, line: str) -> None:
        click.echo(escape_to_one_line(line) if self._to.isatty() else line, file=self._to)

    def show_status(self, status: Status) -> None:
        self.print_line(f"-- {status.text}")
        if status.advice:
            self.print_line(f"-- {status.advice}")

    def show_stopping(self) -> None:
        """Print nothing: the job logs it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to print."""


class QuietView(PlainView):
    """Prints only what is no log line: errors and tracebacks."""

    def print_line(self, line: str) -> None:
        if parse_line(line) is None:
            super().print_line(line)

    def show_status(self, status: Status) -> None:
        """Print nothing."""


class LiveView:
    """Draws the run at the bottom of a terminal; warnings and other output stay above it."""

    def __init__(self, to: TextIO, job: Job, *, verbose: bool = False) -> None:
        from rich.console import Console
        from rich.live import Live

        self._terminal = to
        self._console = Console(file=to, highlight=False, force_terminal=True)
        self._picture = Picture(job, Progress())
        self._log: deque[str] | None = deque(maxlen=LOG_LINES) if verbose else None
        # Errors belong below the view.
        self._errors: list[str] = []
        # What the end of the view undoes.
        self._stack = ExitStack()
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        # The width and the lengths of lines of the last drawing.
        self._columns, self._lengths = self._console.width, [0]
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    def print_line(self, line: str) -> None:
        line = escape_to_one_line(line)
        parsed = parse_line(line)
        with self._lock:
            if self._log is not None:
                self._log.append(line)
            if parsed is None:
                is_error = line.startswith("Error: ")
                self._errors.append(line) if is_error else self._print_above(line)
                return
            self._picture.progress.update(parsed)
            if is_warning(parsed):
                self._print_above(f"{parsed.what}: {parsed.event}", "yellow")

    def show_status(self, status: Status) -> None:
        with self._lock:
            self._picture = replace(self._picture, status=status)

    def show_stopping(self) -> None:
        with self._lock:
            self._picture = replace(self._picture, note=STOPPING)
            self._draw()

    def __enter__(self) -> Self:
        self._stack.enter_context(typing_hidden(self._terminal))
        self._stack.enter_context(self._live)
        self._draw()
        self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        # The terminal is restored even if Ctrl-C is pressed once more now.
        with self._stack:
            self._over.set()
            self._ticker.join()
            with self._lock:
                failed = bool(self._errors or self._picture.note)
                self._log = None
                self._picture = replace(
                    self._picture, note="", log=(), has_ended=True, has_failed=failed
                )
                self._draw()
        for line in self._errors:
            click.echo(line, file=self._terminal)

    def _tick(self) -> None:
        while not self._over.wait(PAUSE_SECONDS):
            with self._lock:
                self._draw()

    def _print_above(self, line: str, style: str = "") -> None:
        from rich.text import Text

        self._erase_wrapped_rows()
        self._console.print(Text(line, style), soft_wrap=True)

    def _draw(self) -> None:
        from rich.console import Group

        self._erase_wrapped_rows()
        picture = replace(self._picture, log=tuple(self._log or ()))
        lines = draw(picture, now(), self._columns, self._console.height)
        self._lengths = [line.cell_len for line in lines]
        self._live.update(Group(*lines), refresh=True)

    def _erase_wrapped_rows(self) -> None:
        """Erase the rows by which lines have wrapped since the terminal became narrower.

        rich erases as many rows as it has drawn.
        """
        from rich.control import Control
        from rich.segment import ControlType

        columns = self._console.width
        if columns < self._columns:
            rows = sum(max(0, -(-length // columns) - 1) for length in self._lengths)
            up = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * rows
            self._console.control(Control(*up))
        self._columns = columns
