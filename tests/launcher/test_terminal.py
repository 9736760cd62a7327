"""A whole run in a terminal: what is on the screen while it runs, is stopped, and at its end."""

import json
import os
import re
import shlex
import signal
import sys
from types import SimpleNamespace

import pytest
from screens import Screen
from tiny_job import JOB

from launcher.runs.run import Run

COMMAND = [sys.executable, "-P", "-m", "launcher.cli"]
STAGES = [
    "fetch",
    "data",
    "model",
    "proof",
    "score base",
    "train",
    "score tuned",
    "compare",
    "store",
]
# All that may be on the screen while a job runs, line by line.
VIEW = [
    r"Run halted; results will be in runs/halted",
    r"halted · process · [\d:.]+( s)?",
    rf"  · ({'|'.join(STAGES)})",
    rf"  [✓●✗·] ({'|'.join([*STAGES, 'start', 'publish'])}) +[\d:.]+( s)?(   \S.*)?",
    r"      ━+ train \d+/\d+ steps(  [\d.]+(/s| s each)  [\d:.]+( s)? left)?",
    r"      loss \d+\.\d{3} [▁▂▃▄▅▆▇█]*(   learning rate \d\.\de-\d\d)?",
    r"      validation nDCG@10 at 32: \d\.\d{3} \(base \d\.\d{3}, [+-]\d\.\d{3}\)( [▁▂▃▄▅▆▇█]*)?",
    r"      (━+ )?(encode|search|rescore|bm25|read|hash texts|near duplicates) \d.*",
    r"  (memory [\d.]+ GB · )?(ends about \d\d:\d\d · )?\$[\d.]+ so far at \$3\.6/h",
    r"  memory [\d.]+ GB",
    r"Stopping: the job ends its step and writes a checkpoint\. Ctrl-C again kills it\.",
    r"",
]
# Libraries may warn, above the view.
LIBRARY = r"\[transformers\] .*|erical ordering"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    unset = ("NO_COLOR", "CI", "COLUMNS", "LINES", "TTY_COMPATIBLE", "FORCE_COLOR")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in unset and not name.startswith("EMBEDTUNE_")
    }
    home = str(tmp_path_factory.mktemp("home"))
    return kept | {"TERM": "xterm-256color", "HOME": home, "PYTHONUTF8": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_encoder, pairs_file):
    folder = tmp_path_factory.mktemp("terminal")
    job = JOB.format(pairs=pairs_file, encoder=tiny_encoder, epochs=20)
    (folder / "job.yaml").write_text(job, "utf-8")
    return folder


@pytest.fixture(scope="module")
def halted(folder, environment):
    """Launch a run, make the terminal wider, follow it in another one, and press Ctrl-C in both."""
    launch = ("launch", "job.yaml", "--name", "halted", "--device", "cpu")
    screen = Screen([*COMMAND, *launch, "--price-per-hour", "3.6"], folder, environment)
    follower = None
    try:
        screen.wait_for("· process ·")
        screen.type("typed, and not shown\n")
        screen.resize(120)
        screen.wait_for("━ train")
        # The job waits for the other terminal, however fast it is.
        pid = json.loads((folder / "runs/halted/.work/launch.json").read_text("utf-8"))["pid"]
        os.kill(pid, signal.SIGSTOP)
        follower = Screen([*COMMAND, "logs", "halted", "--follow"], folder, environment)
        follower.wait_for("━ train")
        follower.type("\x03")
        left = follower.finish()
        os.kill(pid, signal.SIGCONT)
        screen.type("\x03")
        return SimpleNamespace(screen=screen, code=screen.finish(), follower=follower, left=left)
    finally:
        for each in filter(None, (screen, follower)):
            each.kill()


@pytest.fixture(scope="module")
def resumed(folder, environment, halted):
    """Run the command that the interrupted launch has printed."""
    line = next(line for line in halted.screen.lines if line.startswith("To resume: embedtune "))
    arguments = shlex.split(line.removeprefix("To resume: embedtune "))
    screen = Screen([*COMMAND, *arguments], folder, environment)
    try:
        return SimpleNamespace(screen=screen, code=screen.finish())
    finally:
        screen.kill()


def test_every_line_of_every_picture_is_whole(halted, resumed):
    """No line is torn or left over, also after the terminal was resized."""
    pictures = halted.screen.pictures
    assert len(pictures) > 5
    for picture in pictures[:-1]:
        lines = [line for line in picture if not re.fullmatch(LIBRARY, line)]
        assert [line for line in lines if not any(re.fullmatch(p, line) for p in VIEW)] == []
        assert sum(" · process · " in line for line in lines) <= 1
        assert sum("●" in line for line in lines) <= 1


def test_the_view_shows_how_far_the_training_is(halted):
    """Its bar, loss, validation against the base model, memory, estimated end and money."""
    seen = "\n".join(line for picture in halted.screen.pictures for line in picture)
    for part in (
        r"━ train \d+/200 steps",
        r"loss \d",
        r"at 32: \d\.\d{3} \(base",
        r"\$\d\.\d{3} so",
    ):
        assert re.search(part, seen), part


def test_a_resumed_training_continues_at_its_step(folder, halted, resumed):
    reason = next(line for line in halted.screen.lines if line.startswith("Error: "))
    stopped = int(re.search(r"after step (\d+)", reason)[1])
    seen = "\n".join(line for picture in resumed.screen.pictures for line in picture)
    assert all(int(step) > stopped for step in re.findall(r" train (\d+)/200 steps", seen))
    report = Run(folder / "runs" / "halted").report()
    assert report.training.resumed_from_step == stopped > 0


def test_ctrl_c_leaves_a_clean_screen_and_the_command_to_resume(halted):
    """No `^C` and no bar; the cursor is visible; the stage that was stopped has a cross."""
    lines = halted.screen.lines
    assert halted.code == 10
    assert not any("^C" in line or "━" in line or "Stopping" in line for line in lines)
    assert halted.screen.is_cursor_visible
    assert [line.split()[1] for line in lines if "✗" in line] == ["train"]
    assert lines[-2].startswith("Error: The run was interrupted after step ")
    assert lines[-1].startswith("To resume: embedtune launch --name halted --device cpu")


def test_following_and_leaving_does_not_stop_the_job(halted):
    """The second terminal shows the same stages, and how to follow again."""
    lines = halted.follower.lines
    assert halted.left == 0
    done = [line.split()[1] for line in lines if "✓" in line]
    assert done == ["fetch", "data", "model", "proof", "score"]
    assert not any("^C" in line for line in lines)
    assert halted.follower.is_cursor_visible
    text = " ".join(lines)
    assert "The job continues. To follow it: embedtune logs halted --follow" in text


def test_the_last_screen_has_the_stages_the_decision_and_the_table(folder, resumed):
    """The decision in three lines, before the table; all within 80 columns."""
    assert resumed.code == 0
    lines = resumed.screen.lines
    assert max(map(len, lines)) <= 80
    ticks = [re.match(r"  ✓ ([a-z ]+?)  ", line) for line in lines]
    assert [found[1] for found in ticks if found] == [*STAGES, "publish"]
    report = Run(folder / "runs" / "halted").report()
    start = lines.index("", lines.index(next(line for line in lines if "✓ publish" in line)))
    improved, deploy, took, blank, title = lines[start + 1 : start + 6]
    base, tuned = report.swap.base, report.swap.tuned
    assert improved.startswith(f"Improved: nDCG@10 {base:.3f} → {tuned:.3f}, +")
    assert re.fullmatch(r"Deploy \d+ dimensions as [\w, ]+, \d+ bytes instead of 256", deploy)
    assert re.fullmatch(r"Took \d+ s on cpu, \$\d\.\d{4}", took)
    assert (blank, title) == ("", "halted: nDCG@10 on 40 test queries")
    assert lines[start + 6].startswith("┏━━━━━┳")
    assert lines[-1] == "Report: runs/halted/report/report.html"
    receipt = json.loads((folder / "runs" / "halted" / "receipt.json").read_text("utf-8"))
    assert receipt["exit_code"] == 0
