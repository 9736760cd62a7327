"""Runs that are killed at random moments of any stage and resumed give the same result.

`CHAOS_RUNS=60 pytest -m exhaustive tests/chaos` (`make chaos`) sets the number of killed runs.
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
# The stages in which a run is stopped, as logged, and the time after them.
AFTER = "publish"
STAGES = (
    "fetch",
    "data",
    "model",
    "proof",
    "score base",
    "train",
    "score tuned",
    "compare",
    "store",
    AFTER,
)
# Sections of a report that depend on the run's name and its times.
VOLATILE = {"job_name", "finished", "seconds", "cost", "usage", "repeat", "training"}


def read_results(folder):
    """Read the results of a run; all files must match the manifest's digests."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for name, entry in manifest.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"], name
    report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    stable = {key: value for key, value in report.items() if key not in VOLATILE}
    digests = [manifest[n]["sha256"] for n in ("model/model.safetensors", "per_query.parquet")]
    return stable, digests


@pytest.fixture(scope="module")
def start(tmp_path_factory, tiny_encoder, pairs_file, tiny_settings):
    """Start or resume the run of a name."""
    root = tmp_path_factory.mktemp("chaos")

    def launch(name):
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
        """Return the results of a run, or None if it has no manifest."""
        folder = root / "runs" / name
        return read_results(folder) if (folder / "manifest.json").exists() else None

    launch.root, launch.result, launch.kills = root, result, []
    return launch


@pytest.fixture(scope="module")
def whole(start):
    """Run without interruption; return the results and the duration of each stage."""
    run, started = start("whole"), {}
    for stage in STAGES:
        assert run.logs(_first_line(stage)), run.output
        started[stage] = time.monotonic()
    assert run.wait() == 0
    ends = [*list(started.values())[1:], time.monotonic()]
    seconds = {
        stage: end - begin for (stage, begin), end in zip(started.items(), ends, strict=True)
    }
    return start.result("whole"), seconds


def _first_line(stage):
    return "verdict: " if stage == AFTER else f"{stage}: start"


@pytest.mark.parametrize("number", range(RUNS + max(3, RUNS // 3)))
def test_an_interrupted_run_gives_the_same_result(start, whole, number):
    """It is killed or receives SIGTERM once or twice, in different stages.

    After SIGTERM it exits with code 10, or with 0 if the results were already complete.
    """
    expected, seconds = whole
    draw, name = random.Random(number), f"interrupted-{number}"
    # The first stage is drawn equally often; a second one is random.
    for stage in [STAGES[number % len(STAGES)], *draw.sample(STAGES, draw.randint(0, 1))]:
        run = start(name)
        # A resumed run does not log a stage that an earlier start completed.
        if run.logs(_first_line(stage)):
            time.sleep(draw.random() * seconds[stage])
        if number >= RUNS:
            run.send(signal.SIGTERM)
            code = run.wait()
            assert code in (0, 10), run.output
            assert code == 10 or start.result(name)
        elif run.kill():
            start.kills.append(stage)
        assert start.result(name) in (None, expected)
        assert "Traceback" not in run.output

    run = start(name)

    assert run.wait() == 0, run.output
    assert "Traceback" not in run.output
    assert start.result(name) == expected
    assert not (start.root / "work" / name / "checkpoints").exists()


def test_most_runs_were_killed_before_they_ended(start, whole, capsys):
    """Otherwise the test above would prove nothing."""
    counts = {stage: start.kills.count(stage) for stage in STAGES}
    with capsys.disabled():
        print(f"\nchaos: {RUNS} runs, {len(start.kills)} kills: {counts}")
    assert len(start.kills) >= RUNS / 2
