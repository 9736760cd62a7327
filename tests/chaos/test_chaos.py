"""Runs are killed at random moments of every stage and taken up again: none ends otherwise.

`CHAOS_RUNS=60 pytest tests/chaos` (`make chaos`) cuts that many; by default there are a few.
"""

import hashlib
import json
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from chaos_job import AFTER, STAGES, Start

RUNS = int(os.environ.get("CHAOS_RUNS", "9"))
PLACES = (*STAGES, AFTER)
# What a report tells of a run's own times and name.
VOLATILE = {"job_name", "finished", "seconds", "cost", "usage", "repeat", "training"}


@dataclass(frozen=True)
class Outcome:
    """What a finished run must have in common with one that was never cut."""

    report: dict
    weights: str
    queries: str


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

    begin.root, begin.cuts = root, []
    return begin


def outcome(folder: Path) -> Outcome:
    """Read a result, each file of which must be what the manifest says."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for name, entry in manifest.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"], name
    report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    return Outcome(
        {key: value for key, value in report.items() if key not in VOLATILE},
        manifest["model/model.safetensors"]["sha256"],
        manifest["per_query.parquet"]["sha256"],
    )


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
    return outcome(start.root / "runs" / "whole"), took


def _first_line(place):
    return "verdict: " if place == AFTER else f"{place}: start"


@pytest.mark.parametrize("number", range(RUNS))
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(start, whole, number):
    """Once or twice, each time in another place: the same weights, scores and words."""
    expected, took = whole
    draw, name = random.Random(number), f"cut-{number}"
    result = start.root / "runs" / name
    # Every place is drawn equally often, in whatever order.
    places = [PLACES[number % len(PLACES)], *draw.sample(PLACES, draw.randint(0, 1))]
    for place in places:
        run = start(name)
        # A place that an earlier start has put behind itself is not seen again.
        if run.wait_for(_first_line(place)):
            time.sleep(draw.random() * took[place])
        if run.kill():
            start.cuts.append(place)
            assert not (result / "manifest.json").exists() or outcome(result) == expected

    run = start(name)

    assert run.wait() == 0, run.log.read_text("utf-8")
    assert "Traceback" not in run.log.read_text("utf-8")
    assert outcome(result) == expected
    assert not (start.root / "work" / name / "checkpoints").exists()


@pytest.mark.parametrize("number", range(max(3, RUNS // 3)))
def test_a_run_that_is_asked_to_stop_ends_as_if_it_had_not_been(start, whole, number):
    """Exit code 10 wherever it was, but for a run that was over; then it is taken up."""
    expected, took = whole
    draw, name = random.Random(1000 + number), f"stopped-{number}"
    result = start.root / "runs" / name
    place = draw.choice(PLACES)
    run = start(name)
    if run.wait_for(_first_line(place)):
        time.sleep(draw.random() * took[place])

    code = run.stop()

    log = run.log.read_text("utf-8")
    assert code in (0, 10), log
    # After its last write there is nothing left to interrupt but the clearing up.
    if (result / "manifest.json").exists():
        assert outcome(result) == expected
    else:
        assert code == 10
    assert "Traceback" not in log
    again = start(name)
    assert again.wait() == 0, again.log.read_text("utf-8")
    assert outcome(result) == expected


def test_the_runs_were_really_cut(start, whole, capsys):
    """A killer that always comes too late would prove nothing."""
    counts = {place: start.cuts.count(place) for place in PLACES}
    with capsys.disabled():
        print(f"\nchaos: {RUNS} runs, {len(start.cuts)} cuts: {counts}")
    assert len(start.cuts) >= RUNS / 2
