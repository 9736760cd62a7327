"""`evaluation.folds`: several trainings, whose tests together are the test of the run."""

import json
import logging
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import CPU, tiny_training

from job import folds
from job.core.errors import Interrupted, SpecError
from job.evaluation.baseline import score_base
from job.evaluation.evaluate import choose_dimensions
from job.evaluation.metrics import METRIC
from job.folds import of_fold
from job.model.encoder import load_model
from job.pipeline import RunContext, run
from job.report.build import Results
from job.runtime.signals import StopSignal
from job.spec.parse import build_spec
from job.storage.workspace import Workspace
from job.training.hyperparameters import resolve
from job.training.refit import planned_steps

FIELDS = {"training__epochs": "1", "evaluation__folds": "3"}
# Fields of a report that differ between two runs of one spec.
VOLATILE = {"job_name", "finished", "seconds", "cost", "usage", "repeat", "training"}


@pytest.fixture(autouse=True)
def progress_lines(caplog):
    """Write them as in a job."""
    caplog.set_level(logging.INFO, "embedtune")


@pytest.fixture
def run_job(tiny_spec, tmp_path):
    """Run a job; return the folder of its results and its report."""

    def work(name, stop=None, **fields):
        workspace = Workspace(tmp_path / "work" / name)
        spec = tiny_spec(**FIELDS | fields)
        run(spec, workspace, RunContext(name, "cpu"), stop or StopSignal())
        folder = tmp_path / "runs" / name
        return folder, json.loads((folder / "report" / "report.json").read_text("utf-8"))

    return work


def test_every_pair_is_tested_once_by_a_model_that_was_not_trained_on_it(run_job, monkeypatch):
    """Scores, statistics and files are of all pairs; the stored model is the average."""
    models, train = [], folds.train

    def noted(*arguments):
        training = train(*arguments)
        weights = training.model.encoder.state_dict()
        models.append({name: values.clone() for name, values in weights.items()})
        return training

    monkeypatch.setattr(folds, "train", noted)
    folder, report = run_job("folds")

    assert report["verdict"]["improved"]
    assert report["data"]["queries"]["test"] == sum(report["data"]["folds"]) == 400
    of_folds = report["scope"]["folds"]
    counts = [fold["queries"] for fold in of_folds]
    for name in ("base", "tuned"):
        mean = np.average([fold[name] for fold in of_folds], weights=counts)
        assert mean == pytest.approx(report["scores"][name]["64"]["float32"][METRIC])
    assert all(fold["lift"] > 0 for fold in of_folds)
    assert len({fold["tuned"] for fold in of_folds}) == 3
    rows = pq.read_table(folder / "per_query.parquet").to_pylist()
    assert sum(row["model"] == "bm25" for row in rows) == 400
    # Of the three trainings and of the three restored models.
    assert len(models) == 6
    stored = load_file(next((folder / "model").glob("*.safetensors")))
    for name, values in stored.items():
        whole = next(key for key in models[0] if key.endswith(name))
        mean = torch.stack([model[whole] for model in models[:3]]).mean(dim=0)
        torch.testing.assert_close(values, mean, msg=name)
    found = report["stored"]
    assert (found["kind"], found["tested_fingerprint"]) == ("average", None)
    # A few pairs are a test row of one fold, and validate the other two.
    assert 380 <= found["pairs"] < 400
    assert f"which come from {found['pairs']} pairs together" in found["sentence"]
    assert not (folder / "model_proven").exists()
    card = (folder / "model" / "README.md").read_text("utf-8")
    markdown = (folder / "report" / "report.md").read_text("utf-8")
    assert found["sentence"] in card
    assert found["sentence"] in markdown
    assert "| 3 | " in markdown
    assert "3 folds with " in markdown
    assert "Folds: nDCG@10" in (folder / "report" / "report.html").read_text("utf-8")
    log = (folder / "logs" / "job.log").read_text("utf-8")
    assert "fold: start training=3 trainings=3" in log


def test_a_resumed_run_equals_an_uninterrupted_one(run_job, monkeypatch, tmp_path):
    """It is stopped in the second fold; the first one is not trained again."""
    whole, expected = run_job("whole", training__refit="true")
    stop, score = StopSignal(), folds.score_tuned
    scored = []

    def stopped(*arguments):
        scored.append(arguments)
        if len(scored) == 1:
            stop.request()
        return score(*arguments)

    monkeypatch.setattr(folds, "score_tuned", stopped)
    with pytest.raises(Interrupted):
        run_job("parts", stop=stop, training__refit="true")
    assert Workspace(tmp_path / "work" / "parts").has_checkpoints
    folder, report = run_job("parts", training__refit="true")

    # One before the stop, two after it.
    assert len(scored) == 3
    for key in expected.keys() - VOLATILE:
        assert report[key] == expected[key], key
    for name in ("model/model.safetensors", "per_query.parquet"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert report["stored"]["kind"] == "refit"
    assert report["stored"]["sentence"].startswith("All scores are those of 3 tested models, ")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"training__learning_rate": "1e-9"}, "in at least half of the folds, no checkpoint beat"),
        ({"training__epochs": "0"}, "nothing was trained"),
    ],
)
def test_without_a_gain_on_validation_the_base_model_is_stored(run_job, fields, why):
    _, report = run_job("no-gain", **fields)
    assert report["verdict"]["sentence"].startswith(f"Not improved: {why}")
    assert "stored" not in report
    assert report["scores"]["base"]["64"]["float32"] == report["scores"]["tuned"]["64"]["float32"]


def test_the_baseline_of_a_fold_is_that_of_its_test_queries(tiny_spec, tmp_path):
    """Computed once for all queries; the vectors of a text depend on no other text."""
    spec = tiny_spec(**FIELDS)
    task = tiny_training(spec, tmp_path)
    dimensions = choose_dimensions(spec.evaluation, 64)
    assert len(task.base.folds) == 3
    for number, fold in enumerate(task.dataset.folds, 1):
        found = of_fold(task.base, task.dataset, number)
        alone = score_base(load_model(spec.model, CPU), fold, dimensions, spec)
        for dimension in dimensions.all:
            one, other = (each.test[dimension]["float32"] for each in (found, alone))
            np.testing.assert_allclose(one.metrics[METRIC], other.metrics[METRIC], atol=1e-6)
        np.testing.assert_allclose(found.bm25.metrics[METRIC], alone.bm25.metrics[METRIC])
        assert found.validation.base == pytest.approx(alone.validation.base, abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"training__seeds": "3"}, "excludes `training.seeds=3`: folds are several trainings"),
        ({"evaluation__keep_index": "true"}, "excludes `evaluation.keep_index=True`: it compares"),
        ({"evaluation__protocol": "both"}, "excludes `evaluation.protocol=both`: the article has"),
        ({"data__test": "test.jsonl"}, "excludes `data.test=test.jsonl`: folds test every pair"),
        ({"evaluation__folds": "2"}, "`evaluation.folds`: "),
    ],
)
def test_what_makes_no_sense_with_folds_is_refused_in_one_sentence(tiny_spec, fields, message):
    with pytest.raises(SpecError) as error:
        tiny_spec(**FIELDS | fields)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_preset_that_sets_folds_is_named():
    with pytest.raises(SpecError, match=r"`best` sets it: add `evaluation\.folds=0`"):
        build_spec({"preset": "best"}, {"data.test": "test.jsonl"})
    given = {"data.test": "test.jsonl", "evaluation.folds": "0"}
    assert build_spec({"preset": "best"}, given).evaluation.folds == 0


@pytest.fixture
def without_gain(monkeypatch):
    """Let no checkpoint of these folds, from 1, be better than the base model on validation."""

    def apply(*numbers):
        train, places = folds.train, {}

        def changed(model, data, validation, *rest):
            number = places.setdefault(id(data.train), len(places) + 1)
            found = train(model, data, validation, *rest)
            if number not in numbers:
                return found
            return replace(found, best_step=0, best_validation=validation.base)

        monkeypatch.setattr(folds, "train", changed)

    return apply


def test_a_fold_without_gain_is_named_and_not_averaged(run_job, without_gain):
    """Its queries were tested with the base model."""
    without_gain(2)
    _, report = run_job("two")
    found, scope = report["stored"], report["scope"]
    flags = [fold["improved_on_validation"] for fold in scope["folds"]]
    assert flags == [True, False, True]
    assert "In 1 fold (2) no checkpoint beat the base model on validation: " in scope["training"]
    assert (
        " is the average of the weights of those 2 that are better on validation, which"
        in (found["sentence"])
    )
    # Pairs that both validate or test are in neither training.
    assert 267 <= found["pairs"] <= 400
    assert f"which come from {found['pairs']} pairs together" in found["sentence"]


def test_gains_in_a_minority_of_the_folds_do_not_count(run_job, without_gain):
    without_gain(1, 3)
    _, report = run_job("one")
    assert report["verdict"]["sentence"].startswith(
        "Not improved: in at least half of the folds, no checkpoint beat the base model"
    )
    assert "In 2 folds (1, 3) no checkpoint" in report["scope"]["training"]
    assert report["advice"][0]["finding"].startswith("In at least half of the folds, no checkpoint")
    assert "data.test_fraction" not in json.dumps(report["advice"])


@pytest.mark.parametrize("fault", ["no gain on the test", "unlike the tested models"])
def test_without_a_refit_the_model_of_one_fold_is_stored_and_said(run_job, monkeypatch, fault):
    """With its adapter; it has seen most of the test queries, so it has no score."""
    if fault == "no gain on the test":
        monkeypatch.setattr(Results, "improved", property(lambda _: False))
    else:
        monkeypatch.setattr("job.evaluation.agreement.MIN_SHARE_OF_BASE", 100)
    fields = {"training__refit": "true", "training__lora": "on", "training__learning_rate": "1e-2"}
    folder, report = run_job("kept", **fields)
    found = report["stored"]
    assert (found["kind"], found["tested_fingerprint"]) == ("fold", None)
    assert "`model/` holds the model of one fold, which was trained on about " in found["sentence"]
    assert "it has seen most of the test queries" in (folder / "model" / "README.md").read_text()
    assert report["training"]["lora"]
    assert (folder / "adapter" / "adapter_config.json").is_file()


def test_the_refit_trains_as_far_as_the_folds_did_in_their_schedule(tiny_spec, tmp_path):
    """A training that was stopped early was best at an early step, not at its end."""
    task = tiny_training(tiny_spec(**FIELDS), tmp_path)
    resolved = resolve(task.spec.training, task.load(), task.dataset.train).spec
    planned = [planned_steps(resolved, len(fold.train)) for fold in task.dataset.folds]
    results = [
        folds.FoldResult({"best_step": step, "steps": step}, {}, {}) for step in (2, 4, planned[2])
    ]
    share = folds.median_share(resolved, results, task.dataset)
    assert share == 4 / planned[1] < 1
