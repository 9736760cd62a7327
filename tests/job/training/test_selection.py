"""Test scores select nothing: not the prompts, hyperparameters, negatives or checkpoint."""

import hashlib
import inspect
import json

import pytest
from conftest import make_pairs, write_jsonl

from job.data.dataset import TrainingData
from job.pipeline import RunContext, run
from job.runtime.signals import StopSignal
from job.storage.workspace import Workspace
from job.training.train import train


@pytest.fixture
def trained(tiny_spec, tmp_path):
    """Run the whole job with a given test set; return the model's digest and the report."""

    def job(name, test_rows, **fields):
        test = write_jsonl(tmp_path / f"{name}.jsonl", test_rows)
        spec = tiny_spec(data__test=str(test), **fields)
        run(spec, Workspace(tmp_path / name), RunContext(name), StopSignal())
        results = tmp_path / "runs" / name
        weights = (results / "model" / "model.safetensors").read_bytes()
        report = json.loads((results / "report" / "report.json").read_text("utf-8"))
        return hashlib.sha256(weights).hexdigest(), report

    return job


@pytest.mark.parametrize(
    "chosen",
    [
        {"preset": "balanced"},
        pytest.param({"preset": "quick"}, marks=pytest.mark.exhaustive),
        pytest.param({"training__mined_negatives": "3"}, marks=pytest.mark.exhaustive),
    ],
)
def test_a_test_set_with_wrong_labels_changes_only_the_scores(trained, chosen):
    """The model and all choices stay the same.

    Both test sets contain the same texts, so the corpus is the same too.
    """
    rows = make_pairs(440)[400:]
    contexts = [row["context"] for row in rows]
    moved = [
        {**row, "context": context}
        for row, context in zip(rows, contexts[1:] + contexts[:1], strict=True)
    ]
    fields = {**chosen, "model__query_prompt": "auto"}

    right, wrong = trained("right", rows, **fields), trained("wrong", moved, **fields)

    assert right[0] == wrong[0]
    measured = {"seconds", "pairs_per_second", "peak_memory"}
    for section in ("training", "prompts"):
        for field in right[1][section].keys() - measured:
            assert right[1][section][field] == wrong[1][section][field], field
    scores = [report["scores"]["tuned"]["32"]["float32"]["ndcg@10"] for _, report in (right, wrong)]
    assert scores[0] > scores[1] + 0.1


def test_training_receives_no_test_split():
    """The arguments of `train` contain pairs, validation queries and a corpus only."""
    assert inspect.signature(train).parameters["data"].annotation is TrainingData
    assert set(TrainingData.__dataclass_fields__) == {"train", "validation", "corpus"}
