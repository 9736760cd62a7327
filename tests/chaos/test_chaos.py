"""Runs are killed at random moments of every stage and taken up again: none ends otherwise.

`CHAOS_RUNS=60 pytest -m exhaustive tests/chaos` (`make chaos`) cuts that many; by default there are
a few.
"""

import json
import os
import random
import time

import pytest
from chaos_job import AFTER, STAGES, Start
from held_job import outcome

RUNS = int(os.environ.get("CHAOS_RUNS", "9"))
PLACES = (*STAGES, AFTER)


@pytest.fixture(scope="module")
def start(tmp_path_factory, tiny_encoder, pairs_file, tiny_settings):
    """Start the run of a name, or take it up."""
    root = tmp_path_factory.mktemp("chaos")

    def begin(name):
        workspace = root / "work" / name
        settings = tiny_settings | {
            "data.source": str(pairs_file),
            "model.base": str(tiny_encoder),
            "output.uri": str(root / "runs"),
            "training.epochs": "2",
            "training.checkpoint_steps": "3",
            "evaluation.permutations": "100",
        }
        config = workspace / "input" / "config"
        config.mkdir(parents=True, exist_ok=True)
        (config / "hyperparameters.json").write_text(json.dumps(settings), "utf-8")
        return Start(workspace, name, root / f"{name}.log")

    def result(name):
        """What a run has left, or nothing where it has no manifest."""
        folder = root / "runs" / name
        if not (folder / "manifest.json").exists():
            return None
        return outcome(lambda file: (folder / file).read_bytes())

    begin.root, begin.result, begin.cuts = root, result, []
    return begin


@pytest.fixture(scope="module")
def whole(start):
    """The run that nobody cuts: its outcome, and how long each of its places took."""
    run, seconds = start("whole"), {}
    for place in PLACES:
        assert run.wait_for(_first_line(place)), run.log.read_text("utf-8")
        seconds[place] = time.monotonic()
    assert run.wait() == 0
    ends = [*list(seconds.values())[1:], time.monotonic()]
    took = {place: end - begun for (place, begun), end in zip(seconds.items(), ends, strict=True)}
    return start.result("whole"), took


def _first_line(place):
    return "verdict: " if place == AFTER else f"{place}: start"


@pytest.mark.parametrize("number", range(RUNS + max(3, RUNS // 3)))
def test_a_run_that_is_cut_ends_as_if_it_had_not_been(start, whole, number):
    """Killed or asked to stop, once or twice, each time in another place: the same result.

    Who is asked to stop ends with code 10, but for a run that was over: after its last write there
    is nothing left to interrupt but the clearing up.
    """
    expected, took = whole
    draw, name = random.Random(number), f"cut-{number}"
    # Every place is drawn equally often, in whatever order.
    for place in [PLACES[number % len(PLACES)], *draw.sample(PLACES, draw.randint(0, 1))]:
        run = start(name)
        # A place that an earlier start has put behind itself is not seen again.
        if run.wait_for(_first_line(place)):
            time.sleep(draw.random() * took[place])
        if number >= RUNS:
            code = run.stop()
            assert code in (0, 10), run.log.read_text("utf-8")
            assert code == 10 or start.result(name)
        elif run.kill():
            start.cuts.append(place)
        assert start.result(name) in (None, expected)
        assert "Traceback" not in run.log.read_text("utf-8")

    run = start(name)

    assert run.wait() == 0, run.log.read_text("utf-8")
    assert "Traceback" not in run.log.read_text("utf-8")
    assert start.result(name) == expected
    assert not (start.root / "work" / name / "checkpoints").exists()


def test_the_runs_were_really_cut(start, whole, capsys):
    """A killer that always comes too late would prove nothing."""
    counts = {place: start.cuts.count(place) for place in PLACES}
    with capsys.disabled():
        print(f"\nchaos: {RUNS} runs, {len(start.cuts)} cuts: {counts}")
    assert len(start.cuts) >= RUNS / 2
