"""`training.refit`: the test is of one model, the stored one was trained on all pairs."""

import json
import logging
import warnings
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from tiny_models import build_model

from job import refit
from job.core.errors import Interrupted
from job.evaluation.results import Agreement
from job.model.save import fingerprint
from job.pipeline import RunContext, run
from job.refit import Refitted, sentence
from job.runtime.signals import StopSignal
from job.storage.workspace import Workspace
from job.training.refit import RefitTraining

FIELDS = {"training__epochs": "1", "training__refit": "true"}


@pytest.fixture(autouse=True)
def progress_lines(caplog):
    """Write them as in a job."""
    caplog.set_level(logging.INFO, "embedtune")


@pytest.fixture
def run_job(tiny_spec, tmp_path):
    """Run a job; return the folder of its results and its report."""

    def work(name, stop=None, **fields):
        workspace = Workspace(tmp_path / "work" / name)
        spec = tiny_spec(**fields)
        run(spec, workspace, RunContext(name, "cpu"), stop or StopSignal())
        folder = tmp_path / "runs" / name
        return folder, json.loads((folder / "report" / "report.json").read_text("utf-8"))

    return work


def test_the_stored_model_is_trained_on_all_pairs_and_the_scores_are_the_tested_ones(run_job):
    """Without `training.refit` the same run stores the tested model, with the same scores."""
    plain, expected = run_job("plain", training__epochs="1")
    folder, report = run_job("refit", **FIELDS)

    found, tested = report["stored"], fingerprint(plain / "model")
    assert found["kind"] == "refit"
    assert found["pairs"] == sum(report["data"]["splits"].values())
    # An epoch of all pairs.
    assert found["steps"] == -(-found["pairs"] // 32) > report["training"]["steps"]
    assert fingerprint(folder / "model_proven") == found["tested_fingerprint"] == tested
    assert fingerprint(folder / "model") == report["models"]["tuned"]["fingerprint"] != tested
    unequal = {"stored", "models", "spec"} | {"job_name", "finished", "seconds", "cost", "usage"}
    unequal |= {"repeat", "training"}
    same = expected.keys() - unequal
    assert {key: report[key] for key in same} == {key: expected[key] for key in same}
    assert 0 < found["agreement"]["same_first"] <= 1
    assert found["agreement"]["queries"] == report["data"]["queries"]["test"]
    card = (folder / "model" / "README.md").read_text("utf-8")
    for text in (card, (folder / "report" / "report.md").read_text("utf-8")):
        assert found["sentence"] in text
    assert f"fine-tuned with embedtune on {found['pairs']} question-context pairs" in card
    assert ", before the training on all pairs" in " ".join(card.split())
    page = (folder / "report" / "report.html").read_text("utf-8")
    assert "It has no score of its own, because it has seen the test queries." in page
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert "model_proven/model.safetensors" in manifest
    log = (folder / "logs" / "job.log").read_text("utf-8")
    assert f"refit: follows the test tested_pairs={report['data']['splits']['train']} " in log
    assert log.index("store: done") < log.index("refit: start") < log.index("refit: done")


def test_a_run_stopped_while_it_trains_on_all_pairs_resumes_there(run_job, monkeypatch, tmp_path):
    """The result equals that of an uninterrupted run; the tested training is not repeated."""
    whole, expected = run_job("whole", **FIELDS)
    stop, train = StopSignal(), refit.train_on_all

    def stopped(*arguments):
        stop.request()
        return train(*arguments)

    monkeypatch.setattr(refit, "train_on_all", stopped)
    with pytest.raises(Interrupted, match="after step 1 of 13"):
        run_job("parts", stop=stop, **FIELDS)
    monkeypatch.setattr(refit, "train_on_all", train)
    assert Workspace(tmp_path / "work" / "parts").has_checkpoints
    folder, report = run_job("parts", **FIELDS)

    assert report["stored"] == expected["stored"]
    assert report["training"]["resumed_from_step"] == report["training"]["steps"]
    assert fingerprint(folder / "model") == fingerprint(whole / "model")
    assert fingerprint(folder / "model_proven") == fingerprint(whole / "model_proven")


@pytest.mark.parametrize("fields", [{"training__learning_rate": "1e-9"}, {"training__epochs": "0"}])
def test_without_a_gain_nothing_is_trained_on_all_pairs(run_job, fields):
    folder, report = run_job("no-gain", **FIELDS | fields)
    assert report["stored"]["kind"] == "tested"
    assert report["stored"]["sentence"] == refit.SKIPPED
    assert not (folder / "model_proven").exists()
    assert "refit: start" not in (folder / "logs" / "job.log").read_text("utf-8")
    assert fingerprint(folder / "model") == report["stored"]["tested_fingerprint"]


def test_a_model_that_ranks_otherwise_is_not_stored(run_job, monkeypatch):
    """The tested model stays in `model/`, and log and report say why."""
    monkeypatch.setattr("job.evaluation.agreement.MIN_SHARE_OF_BASE", 100)
    folder, report = run_job("unlike", **FIELDS)
    found = report["stored"]
    assert found["kind"] == "tested"
    assert "but is not stored: it shares only " in found["sentence"]
    assert fingerprint(folder / "model") == found["tested_fingerprint"]
    assert not (folder / "model_proven").exists()
    assert "fine-tuned with embedtune on 320 " in (folder / "model" / "README.md").read_text(
        "utf-8"
    )
    log = (folder / "logs" / "job.log").read_text("utf-8")
    assert "refit: warning: the model of all pairs is not stored: it shares only " in log


def test_a_failed_training_on_all_pairs_is_named():
    """Its vectors are not compared with anything."""
    failed = Refitted(RefitTraining(None, 3, "the loss is nan at step 3"), None)
    dataset = SimpleNamespace(all_pairs=range(100), train=range(80), folds=())
    assert sentence(failed, dataset) == (
        "A model was trained on all 100 pairs, but is not stored: its training failed: the loss is "
        "nan at step 3. `model/` holds the tested model, which was trained on 80 pairs."
    )
    alike = Agreement(queries=10, same_first=0.9, shared_of_ten=0.8, base_shared_of_ten=0.5)
    assert Refitted(RefitTraining(None, 3, None), alike).fault is None


@pytest.fixture
def decoder(made_once):
    made = made_once("tiny-qwen3", lambda folder: build_model("qwen3", folder / "qwen3"))
    return made / "qwen3"


@pytest.mark.exhaustive
def test_the_adapter_beside_a_merged_model_is_that_of_the_stored_model(run_job, decoder):
    """With LoRA and two seeds: adapter on base gives the vectors of `model/`."""
    fields = FIELDS | {"model__base": str(decoder), "training__lora": "on"}
    fields |= {"training__seeds": "2", "training__learning_rate": "1e-2", "training__epochs": "3"}
    folder, report = run_job("adapter", **fields)
    assert report["stored"]["kind"] == "refit"
    texts = ["ask1 ask2", "tell3 of tell4"]
    stored = SentenceTransformer(str(folder / "model"), device="cpu").encode(texts)
    adapted = SentenceTransformer(str(decoder), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        PeftModel.from_pretrained(adapted[0].model, str(folder / "adapter"))
    assert torch.allclose(torch.tensor(stored), torch.tensor(adapted.encode(texts)), atol=1e-4)
