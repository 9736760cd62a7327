"""The estimate before a launch: its inputs, and no estimate if they are unknown."""

import json

import pytest

from job.spec.parse import build_spec
from launcher.aws.duration import forecast
from launcher.aws.pricing import estimate
from launcher.plan.machine import MachineOptions
from launcher.plan.plan import Plan

ROW = {"question": "What is it?", "context": "It is a number."}
# As one line of JSON with its newline.
ROW_BYTES = len(json.dumps(ROW)) + 1


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text((json.dumps(ROW) + "\n") * 1_000)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(4_000))

    def make(**fields):
        given = {"data.source": "pairs.jsonl", "model.base": "model"}
        given |= {name.replace("__", "."): value for name, value in fields.items()}
        return Plan("first", build_spec({}, given), MachineOptions("sagemaker"))

    return make


def test_the_estimate_counts_rows_bytes_and_weights(plan):
    """800 of 1,000 rows are training pairs; four bytes of weights are one parameter."""
    tokens = ROW_BYTES / 4.5
    assert forecast(plan(training__epochs="2")) == estimate(
        pairs=800,
        tokens_per_pair=tokens,
        corpus_documents=1_000,
        tokens_per_document=0.7 * tokens,
        epochs=2.0,
        parameters=1_000,
        instance_type="ml.g5.2xlarge",
        instances=1,
    )


def test_a_training_on_all_pairs_is_counted(plan):
    """800 pairs, then 1,000."""
    once, twice = forecast(plan()), forecast(plan(training__refit="true"))
    assert once.seconds < twice.seconds


def test_a_limit_on_rows_shortens_the_estimate(plan):
    assert forecast(plan(data__limit="100")).seconds < forecast(plan()).seconds


@pytest.mark.parametrize(
    "fields",
    [
        {"data__source": "s3://box/pairs.jsonl"},
        {"data__source": "builtin:aws-docs"},
        {"data__source": "pairs.parquet"},
        {"model__base": "builtin:minilm"},
        {"model__base": "s3://box/model"},
        # Tests have no access to the Hub.
        {"model__base": "me/model"},
    ],
)
def test_data_or_a_model_of_unknown_size_has_no_estimate(plan, tmp_path, fields):
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1")
    assert forecast(plan(**fields)) is None


def test_an_empty_file_has_no_estimate(plan, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("")
    assert forecast(plan()) is None
