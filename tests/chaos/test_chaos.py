"""Runs are killed at random moments of every stage and taken up again: none ends otherwise.

`CHAOS_RUNS=60 pytest -m exhaustive tests/chaos` (`make chaos`) cuts that many; by default there are
a few.
"""

import hashlib
import json
import os
import random
import signal
import time

import pytest
from worker_processes import Host

RUNS = int(os.environ.get("CHAOS_RUNS", "9"))
# Where a run may be cut: the stages that it logs, and what comes after them.
AFTER = "publish"
PLACES = ("fetch", "data", "model", "score base", "train", "score tuned", "compare", "store", AFTER)
# What a report tells of a run's own times and name.
VOLATILE = {"job_name", "finished", "seconds", "cost", "usage", "repeat", "training"}


def outcome(folder):
    """Read a result; each file must be what the manifest says."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for name, entry in manifest.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"], name
    report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    same = {key: value for key, value in report.items() if key not in VOLATILE}
    digests = [manifest[n]["sha256"] for n in ("model/model.safetensors", "per_query.parquet")]
    return same, digests


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
        return Host(workspace, root / f"{name}.log", environment={"EMBEDTUNE_RUN": name})

    def result(name):
        """What a run has left, or nothing where it has no manifest."""
        folder = root / "runs" / name
        return outcome(folder) if (folder / "manifest.json").exists() else None

    begin.root, begin.result, begin.cuts = root, result, []
    return begin


@pytest.fixture(scope="module")
def whole(start):
    """The run that nobody cuts: its outcome, and how long each of its places took."""
    run, seconds = start("whole"), {}
    for place in PLACES:
        assert run.logs(_first_line(place)), run.output
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
        if run.logs(_first_line(place)):
            time.sleep(draw.random() * took[place])
        if number >= RUNS:
            run.send(signal.SIGTERM)
            code = run.wait()
            assert code in (0, 10), run.output
            assert code == 10 or start.result(name)
        elif run.kill():
            start.cuts.append(place)
        assert start.result(name) in (None, expected)
        assert "Traceback" not in run.output

    run = start(name)

    assert run.wait() == 0, run.output
    assert "Traceback" not in run.output
    assert start.result(name) == expected
    assert not (start.root / "work" / name / "checkpoints").exists()


def test_the_runs_were_really_cut(start, whole, capsys):
    """A killer that always comes too late would prove nothing."""
    counts = {place: start.cuts.count(place) for place in PLACES}
    with capsys.disabled():
        print(f"\nchaos: {RUNS} runs, {len(start.cuts)} cuts: {counts}")
    assert len(start.cuts) >= RUNS / 2
