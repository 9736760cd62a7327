"""Several trainings share the base scores; the stored model is the best on validation."""

import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from tiny_training import tiny_training

from job import pipeline, scoring
from job.core.errors import Interrupted
from job.evaluation.cache import save_scores
from job.evaluation.evaluate import score
from job.evaluation.metrics import METRIC
from job.pipeline import RunContext, run
from job.runtime.logs import tell
from job.runtime.signals import StopSignal
from job.storage.hub import Push
from job.storage.workspace import Workspace
from job.training import seeds
from job.training.seeds import train_seeds
from job.training.train import Training, TrainingContext

HALVED = {"asked": 32, "used": 16, "halved": 1}


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
        training = train(*arguments)
        is_restored = training.resumed_from_step > 0
        return training if is_restored else replace(training, mini_batch_size=HALVED)

    monkeypatch.setattr(seeds, "train", train_until)
    with pytest.raises(Interrupted):
        train_all(tiny, tmp_path / "parts")
    assert Workspace(tmp_path / "parts").has_checkpoints
    resumed, resumed_results = train_all(tiny, tmp_path / "parts")
    # The last one restores the best model from its checkpoint.
    assert trained == [42, 43, 43, best.seed]
    # Of the training, not of the start that restores its model.
    assert training.mini_batch_size == {"asked": 32, "used": 32, "halved": 0}
    assert resumed.mini_batch_size == HALVED
    assert [result.validation for result in resumed_results] == [r.validation for r in results]
    weights = [found.model.encoder.state_dict() for found in (training, resumed)]
    for name, values in weights[0].items():
        assert torch.equal(values, weights[1][name])


def test_the_cache_of_an_older_image_is_read(tmp_path, tiny):
    """It has no batch size; the training is complete and must not be repeated."""
    context = TrainingContext(Workspace(tmp_path), StopSignal())
    facts = {"validation": 0.5, "pairs": 16, "seconds": 1.0}
    scores = {str(d): found["float32"] for d, found in tiny.base.test.items()}
    save_scores(context.workspace.seed_scores, scores, facts)
    found = seeds._cached(context, 42)
    assert (found.validation, found.pairs, found.mini_batch_size) == (0.5, 16, None)


class Pushed(Push):
    """Notes the branches that checkpoints are pushed to, instead of pushing."""

    branches: ClassVar = set()

    def prepare(self):
        self.branches.clear()

    def checkpoint(self, folder, run):
        assert (folder / "model.safetensors").is_file()
        self.branches.add(f"{run}-checkpoints")

    def results(self, *_):
        return "commit"


@pytest.mark.parametrize(
    ("dtype", "is_rounded"), [("bfloat16", True), ("float32", False)], ids=["bfloat16", "float32"]
)
def test_a_seed_is_scored_with_the_weights_that_would_be_stored(
    tiny, monkeypatch, dtype, is_rounded
):
    """Otherwise a seed's score would differ from that of the stored model."""
    model = tiny.load()
    scored = []
    monkeypatch.setattr(seeds, "score", lambda model, *_: scored.append(model) or {})
    training = Training(model, 1, 0, 1, None, 0.1, 0.2, [])

    seeds._score_test(training, tiny.dataset, tiny.base, 64, dtype)

    (found,) = scored
    weights = list(found.encoder.state_dict().values())
    as_stored = [values.to(torch.bfloat16).to(values.dtype) for values in weights]
    equal = [torch.equal(*pair) for pair in zip(weights, as_stored, strict=True)]
    assert all(equal) == is_rounded


def test_a_run_with_two_seeds_reports_both(tiny_spec, tmp_path, monkeypatch):
    """The mean lift stands beside that of the stored model, whose scores the report has."""
    monkeypatch.setattr(pipeline, "Push", Pushed)
    measure = scoring.measure_sizes

    def measured(*given):
        tell("sizes")
        return measure(*given)

    monkeypatch.setattr(
        scoring, "measure_sizes", lambda *given: (tell("sizes"), measure(*given))[1]
    )
    hub = {"output__hub": "me/tiny", "output__hub_strategy": "checkpoint"}
    spec = tiny_spec(training__seeds="2", training__epochs="1", **hub)
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
    assert Pushed.branches == {"seeds-seed-42-checkpoints", "seeds-seed-43-checkpoints"}
    log = (folder / "logs" / "job.log").read_text("utf-8")
    assert "seed: start seed=43 training=2 trainings=2" in log
    # The searches in smaller corpora take time, so they belong to a stage.
    assert log.index("compare: start") < log.index("sizes:") < log.index("compare: done")
    page = (folder / "report" / "report.html").read_text("utf-8")
    assert report["scope"]["training"].startswith("Mean lift of 2 trainings at ")
    assert "Lift of each training" in page
