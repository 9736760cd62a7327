"""How a job is shown: drawn on a terminal, as plain lines elsewhere, or only its errors."""

import io
import os
from dataclasses import replace
from datetime import UTC, datetime

import pyte
import pytest

from launcher.live import view as module
from launcher.live.drawing import Job, Status
from launcher.live.view import LiveView, PlainView, QuietView, open_view

JOB = Job("demo", "process", datetime.now(UTC))
AT = "2026-11-28T10:00:00Z"
STATUS = Status("Starting", "Preparing the instances", datetime.now(UTC))


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("NO_COLOR", "CI", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")


@pytest.mark.parametrize(
    ("to", "style", "variables", "kind"),
    [
        (Terminal(), "auto", {}, LiveView),
        (Terminal(), "verbose", {}, LiveView),
        (Terminal(), "plain", {}, PlainView),
        (Terminal(), "quiet", {}, QuietView),
        (Terminal(), "auto", {"NO_COLOR": "1"}, PlainView),
        (Terminal(), "verbose", {"CI": "true"}, PlainView),
        (Terminal(), "auto", {"TERM": "dumb"}, PlainView),
        # An empty variable counts as unset (no-color.org).
        (Terminal(), "auto", {"NO_COLOR": ""}, LiveView),
        (io.StringIO(), "auto", {}, PlainView),
        # Colors may be forced into a pipe; a drawing may not.
        (io.StringIO(), "verbose", {"FORCE_COLOR": "1"}, PlainView),
        (io.StringIO(), "quiet", {}, QuietView),
    ],
)
def test_a_view_is_drawn_on_terminals_only(monkeypatch, to, style, variables, kind):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert type(open_view(to, JOB, style)) is kind


def test_a_terminal_without_unicode_gets_plain_lines():
    terminal = Terminal()
    terminal.encoding = "ascii"
    assert type(open_view(terminal, JOB, "auto")) is PlainView


def test_a_pipe_gets_every_line_unchanged():
    """No wrapping, no markup; a library's colors are removed."""
    lines = [f"{AT} data: start", "[red]no markup[/red] :smile:", "tab\there", "x" * 300, ""]
    to = io.StringIO()
    with PlainView(to) as view:
        view.show_status(replace(STATUS, advice="Try another machine"))
        for line in (*lines, "\x1b[31mcolor\x1b[0m"):
            view.print_line(line)
    assert to.getvalue().split("\n")[:-1] == [
        *("-- Starting: Preparing the instances", "-- Try another machine"),
        *lines,
        "color",
    ]


def test_a_line_is_flushed_to_the_pipe_at_once():
    """A reader does not wait for a full buffer."""
    out, into = os.pipe()
    with os.fdopen(into, "w") as to, PlainView(to) as view:
        view.print_line("first")
        assert os.read(out, 100) == b"first\n"
    os.close(out)


def test_quiet_shows_only_what_is_no_log_line():
    """A traceback or an error is needed to understand a failure."""
    to = io.StringIO()
    with QuietView(to) as view:
        view.show_status(STATUS)
        view.show_stopping()
        for line in (f"{AT} data: start", f"{AT} data: warning: few rows", "Error: no data"):
            view.print_line(line)
    assert to.getvalue() == "Error: no data\n"


def shown(terminal, columns=80):
    """Return the lines on the screen of a terminal that got this output."""
    screen = pyte.Screen(columns, 24)
    screen.set_mode(pyte.modes.LNM)
    pyte.Stream(screen).feed(terminal.getvalue())
    return "\n".join(line.rstrip() for line in screen.display).rstrip().split("\n")


def test_warnings_stay_above_the_view_and_errors_come_below():
    """Each once; other log lines are only drawn."""
    terminal = Terminal()
    with LiveView(terminal, JOB) as view:
        for line in (
            f"{AT} data: start",
            f"{AT} data: warning: 3 rows have no answer",
            "a library's line [red]without markup[/red]",
            f"{AT} data: done seconds=4.0 format=rows train=320 test=40 corpus=400",
            "Error: it broke",
        ):
            view.print_line(line)
    lines = shown(terminal)
    assert lines[:2] == [
        "data: warning: 3 rows have no answer",
        "a library's line [red]without markup[/red]",
    ]
    assert lines[2].startswith("demo · process · ")
    assert lines[3:] == [
        "  ✓ data             4 s   320 train, 40 test, corpus 400",
        "",
        "Error: it broke",
    ]


def test_verbose_shows_the_last_lines_below_the_view_while_it_runs():
    terminal = Terminal()
    with LiveView(terminal, JOB, verbose=True) as view:
        for number in range(20):
            view.print_line(f"{AT} data: line {number}")
        view._draw()
        lines = shown(terminal)
        assert lines[-8:] == [f"{AT} data: line {number}" for number in range(12, 20)]
    assert not any("line 19" in line for line in shown(terminal))


def test_rows_that_wrapped_in_a_narrower_terminal_are_erased(monkeypatch):
    """The terminal has wrapped the last drawing, so it takes more rows than were drawn."""
    terminal = Terminal()
    monkeypatch.setattr(module, "PAUSE_SECONDS", 1e6)
    with LiveView(terminal, JOB) as view:
        view.print_line(f"{AT} score base: start")
        view.print_line(f"{AT} encode: texts done=64 total=300 per_second=32 memory_gb=1.4")
        view._draw()
        wrapped = sum(length > 40 for length in view._lengths)
        before = terminal.tell()
        view._console.width = 40
        view._draw()
        drawn = len(view._lengths)
        written = terminal.getvalue()[before:]
        assert wrapped > 0
        assert written.count("\x1b[1A") == wrapped + drawn - 1
        # The next drawing replaces exactly the last one.
        before = terminal.tell()
        view._draw()
        assert terminal.getvalue()[before:].count("\x1b[1A") == drawn - 1
    assert max(map(len, shown(terminal, 40))) <= 40
