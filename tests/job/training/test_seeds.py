"""Several trainings share the base scores; the stored model is the best on validation."""

import json

import numpy as np
import pytest
import torch
from tiny_training import tiny_training

from job.core.errors import Interrupted
from job.evaluation.evaluate import score
from job.evaluation.metrics import METRIC
from job.pipeline import RunContext, run
from job.runtime.signals import StopSignal
from job.storage.workspace import Workspace
from job.training import seeds
from job.training.seeds import train_seeds
from job.training.train import TrainingContext


@pytest.fixture(scope="module")
def tiny(tiny_encoder, pairs_file, tiny_settings, tmp_path_factory):
    from job.spec.parse import build_spec

    given = {"data.source": str(pairs_file), "model.base": str(tiny_encoder)}
    given |= tiny_settings | {"training.epochs": "1", "training.seeds": "2"}
    return tiny_training(build_spec({}, given), tmp_path_factory.mktemp("unused"))


def train_all(tiny, folder):
    context = TrainingContext(Workspace(folder), StopSignal())
    return train_seeds(tiny.load(), tiny.load, tiny.dataset, tiny.base, tiny.spec, context)


def test_each_seed_is_trained_once_also_if_the_run_is_interrupted(tiny, tmp_path, monkeypatch):
    """The second start loads the first seed's scores; the result is that of one start."""
    training, results = train_all(tiny, tmp_path / "whole")
    assert [result.seed for result in results] == [42, 43]
    first, second = (result.scores[32].metrics[METRIC] for result in results)
    assert not np.array_equal(first, second)
    best = max(results, key=lambda result: result.validation)
    assert training.best_validation == pytest.approx(best.validation)
    assert training.hyperparameters.spec.seed == best.seed
    test, corpus = tiny.dataset.test, tiny.dataset.corpus
    again = score(training.model, test, corpus, [32], 64)
    assert again[32].mean(METRIC) == pytest.approx(best.scores[32].mean(METRIC))

    trained, train = [], seeds.train

    def train_until(*arguments):
        trained.append(arguments[3].seed)
        if trained == [42, 43]:
            msg = "stopped in the second training"
            raise Interrupted(msg)
        return train(*arguments)

    monkeypatch.setattr(seeds, "train", train_until)
    with pytest.raises(Interrupted):
        train_all(tiny, tmp_path / "parts")
    assert Workspace(tmp_path / "parts").has_checkpoints
    resumed, resumed_results = train_all(tiny, tmp_path / "parts")
    # The last one restores the best model from its checkpoint.
    assert trained == [42, 43, 43, best.seed]
    assert [result.validation for result in resumed_results] == [r.validation for r in results]
    weights = [found.model.encoder.state_dict() for found in (training, resumed)]
    for name, values in weights[0].items():
        assert torch.equal(values, weights[1][name])


def test_a_run_with_two_seeds_reports_both(tiny_spec, tmp_path):
    """The mean lift stands beside that of the stored model, whose scores the report has."""
    spec = tiny_spec(training__seeds="2", training__epochs="1")
    run(spec, Workspace(tmp_path / "work"), RunContext("seeds", "cpu"), StopSignal())
    folder = tmp_path / "runs" / "seeds"
    report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    found = report["scope"]["seeds"]
    assert [each["seed"] for each in found["seeds"]] == [42, 43]
    stored = next(each for each in found["seeds"] if each["seed"] == found["chosen"])
    assert report["scope"]["dimension"] == 64
    assert stored["ndcg"] == pytest.approx(report["scores"]["tuned"]["64"]["float32"][METRIC])
    assert stored["validation"] == max(each["validation"] for each in found["seeds"])
    assert found["lift"] == pytest.approx(np.mean([each["lift"] for each in found["seeds"]]))
    assert found["ci"][0] < found["lift"] < found["ci"][1]
    page = (folder / "report" / "report.html").read_text("utf-8")
    assert report["scope"]["training"].startswith("Mean lift of 2 trainings at ")
    assert "Lift of each training" in page
