"""The benchmark of models of all pairs: what it measures, keeps and prints."""

import all_pairs
import numpy as np
import pytest
from all_pairs import BASE, OTHERS, SINGLE, Outcome, Task, kept, report_on

LEARNS = (
    *("training.epochs=3", "training.batch_size=16", "training.learning_rate=3e-3"),
    *("evaluation.permutations=100", "model.precision=float32"),
)


def outcome(**reported):
    of_model = {BASE: [0.5, 0.5, 0.4, 0.6], all_pairs.REFIT: [0.9, 0.8, 0.9, 1.0]}
    scores = {name: {64: of_model.get(name, [0.8] * 4)} for name in (SINGLE, "tested", *OTHERS)}
    return Outcome(["a", "b", "c", "d"], [0, 0, 1, 2], scores, reported, {"seed 0": 60.0}, [])


def test_every_model_is_scored_outside(tiny_encoder, pairs_file, tmp_path, monkeypatch):
    """No run sees the outside rows; without a gain on its small test, one trains on all pairs."""
    monkeypatch.setattr(all_pairs, "FOLDS", 3)
    monkeypatch.setattr(all_pairs, "TRAININGS", 2)
    task = Task(1, str(pairs_file), str(tiny_encoder), 160, 40, list(LEARNS), "cpu")

    found = all_pairs.measure(task, tmp_path)

    own = (tmp_path / "own.jsonl").read_text("utf-8").splitlines()
    assert len(own) + len(found.queries) == 200
    assert {len(scores[64]) for scores in found.scores.values()} == {len(found.queries)}
    seeds = [found.scores[f"seed {number}"][64] for number in range(2)]
    assert found.scores[SINGLE][64] == pytest.approx(np.mean(seeds, axis=0))
    means = [np.mean(found.scores[name][64]) for name in (*OTHERS, SINGLE)]
    assert means[0] < min(means[1:])
    assert len(set(means)) > 3
    assert all(low <= lift <= high for lift, low, high in found.reported.values())


def test_a_finished_seed_is_measured_once_and_an_interrupted_one_continued(tmp_path, monkeypatch):
    tasks, seen = [Task(seed, "data", "model", 9, 9, [], "cpu") for seed in (1, 2)], []

    def measure(task, folder):
        seen.append((task.seed, [path.name for path in folder.iterdir()]))
        (folder / "run").touch()
        if seen == [(1, [])]:
            raise KeyboardInterrupt
        return outcome()

    monkeypatch.setattr(all_pairs, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        kept(tasks[0], tmp_path)
    found = [kept(task, tmp_path) for task in (*tasks, tasks[0])]

    assert seen == [(1, []), (1, ["run"]), (2, [])]
    assert found == [outcome()] * 3
    assert all(path.suffix == ".json" for path in tmp_path.iterdir())


def test_a_reported_interval_is_compared_with_the_outside_lift(capsys):
    reported = {"one split": (0.3, 0.2, 0.4), "5 folds": (0.5, 0.45, 0.55)}

    report_on([outcome(**reported)] * 2)

    printed = capsys.readouterr().out
    assert "| refit | 0.900 |" in printed
    assert "| refit − single training | +0.100 [" in printed
    assert "| 2, one split | +0.300 [+0.200, +0.400] | 0.200 | +0.300 [" in printed
    assert [line[-5:] for line in printed.splitlines() if line[:3] in ("| 1", "| 2")] == [
        "yes |",
        " no |",
        "yes |",
        " no |",
    ]
