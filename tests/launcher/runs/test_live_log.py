"""A pipe gets only the log lines; a terminal also shows a progress bar."""

import io
import os

import pytest

from launcher.runs.live_log import Live

LINES = [
    "2026-11-23T16:23:56Z data: start",
    "[red]no markup[/red] :smile: `code` {x}",
    "tab\there, carriage\rreturn",
    "x" * 300,
    "2026-11-23T16:23:56Z train: step=2/30 loss=10.6448 learning_rate=1.00e-03",
    "2026-11-23T16:23:57Z train: step=30/30 loss=0.0479 learning_rate=1.01e-05",
    "",
]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A fake terminal, independent of the one that runs the tests."""
    for name in ("TERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def test_a_pipe_gets_every_line_unchanged():
    """No bar, no wrapping, no markup; only colors are removed."""
    to = io.StringIO()
    with Live(to) as live:
        for line in (*LINES, "\x1b[31mcolor\x1b[0m"):
            live.print_line(line)
    assert to.getvalue().split("\n")[:-1] == [*LINES, "color"]


def test_a_line_is_flushed_to_the_pipe_at_once():
    """A reader does not wait for a full buffer."""
    out, into = os.pipe()
    with os.fdopen(into, "w") as to, Live(to) as live:
        live.print_line("first")
        assert os.read(out, 100) == b"first\n"
    os.close(out)


def test_training_steps_update_a_bar_and_lines_are_not_markup(terminal):
    """The bar appears with the first step and disappears with the last."""
    with Live(terminal) as live:
        live.print_line(LINES[0])
        live._bar.refresh()
        assert "training" not in terminal.getvalue()
        live.print_line(LINES[4])
        live._bar.refresh()
        assert "2/30" in terminal.getvalue().rpartition("training")[2]
        for line in LINES:
            live.print_line(line)
        assert [task.visible for task in live._bar.tasks] == [False]
    # A long line is not wrapped by us, so that it can be copied as one line.
    for line in (LINES[0], "[red]no markup[/red] :smile: `code` {x}", "x" * 300, LINES[4]):
        assert line in terminal.getvalue()
