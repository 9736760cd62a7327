"""What holds on a CPU holds on a GPU: whole jobs, memory, search, the loss, resuming."""

import json
import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from job.core.errors import Interrupted
from job.data.dataset import load_dataset
from job.evaluation.evaluate import choose_dimensions
from job.evaluation.exact_search import Transform, search
from job.evaluation.quantization import rank
from job.model.device import choose_machine
from job.model.encoder import load_model, size_of
from job.pipeline import RunContext, run
from job.runtime.signals import StopSignal
from job.spec.parse import build_spec
from job.spec.schema import ResolvedTraining
from job.storage.workspace import Workspace
from job.training.callbacks import ProgressLogger
from job.training.columns import column_arguments, training_rows
from job.training.loss import matryoshka_loss
from job.training.memory import _batch_memory
from job.training.padding import LengthCollator

pytestmark = pytest.mark.gpu
KIT, DEVICE = Path(os.environ.get("EMBEDTUNE_KIT", ".")), os.environ.get("EMBEDTUNE_KIT_DEVICE")
ROWS = int(os.environ.get("EMBEDTUNE_KIT_ROWS") or 1_500)
IS_GPU = DEVICE == "cuda"
only_gpu = pytest.mark.skipif(not IS_GPU, reason="about the memory of a GPU")
TINY = {
    "data.source": str(KIT / "data/tiny.jsonl"),
    "data.min_test_queries": "10",
    "model.base": str(KIT / "tiny"),
    "training.epochs": "2",
    "training.batch_size": "32",
    "training.learning_rate": "3e-3",
    "evaluation.dimensions": "[64, 32, 16]",
    "evaluation.main_dimension": "32",
}
REAL = {
    "data.source": str(KIT / "data/pairs.jsonl"),
    "data.limit": str(ROWS),
    "data.min_test_queries": "10",
    "model.base": str(KIT / "model"),
    "training.epochs": "1" if IS_GPU else "0.5",
    "evaluation.validation_corpus_limit": "200",
}
BOTH = {"evaluation.permutations": "100", "training.report_to": "[]"}


def spec_of(settings, **fields):
    given = {name.replace("__", "."): value for name, value in fields.items()}
    return build_spec({}, settings | BOTH | given)


def job(folder, settings, stop=None, **fields):
    """Run a whole job in this process, without drawing its page; return its report."""
    spec = spec_of(settings, output__uri=str(folder / "runs"), **fields)
    with patch("job.report.write.to_html", return_value=""):
        run(spec, Workspace(folder / "work"), RunContext("run", DEVICE), stop or StopSignal())
    return json.loads((folder / "runs/run/report/report.json").read_text("utf-8"))


def ndcg(report, model, dimension):
    return report["scores"][model][str(dimension)]["float32"]["ndcg@10"]


@pytest.fixture(scope="module")
def real():
    """Load the real model on the device, in its best precision, with its data."""
    spec = spec_of(REAL)
    return load_model(spec.model, choose_machine(DEVICE, "auto")), load_dataset(spec.data, {})


PRECISIONS = ["float32", "bfloat16", *(["float16"] if IS_GPU else [])]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_tiny_model_learns_in_each_precision(tmp_path, precision):
    report = job(tmp_path, TINY, model__precision=precision)
    assert report["verdict"]["improved"], report["verdict"]


@pytest.mark.parametrize("precision", PRECISIONS if IS_GPU else ["auto"])
def test_a_real_model_is_trained_in_each_precision(tmp_path, precision):
    """Until the report; a job verifies by itself that the stored model gives the same vectors."""
    report = job(tmp_path, REAL, model__precision=precision)
    assert report["training"]["steps"] > 0


def batch_of(model, dataset, pairs):
    """Return a batch as the trainer passes it, on the device."""
    rows = training_rows(dataset.train)
    collate = LengthCollator(model.encoder.preprocess, **column_arguments(model, rows.column_names))
    batch = collate(rows.select(range(pairs)).to_list())
    there = {n: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for n, v in batch.items()}
    columns = [
        {n.removeprefix(f"{c}_"): v for n, v in there.items() if n.startswith(f"{c}_")}
        for c in ("anchor", "positive")
    ]
    return columns, there["label"]


def loss_and_gradients(model, dataset, pairs, rows):
    """Return the loss, the gradients, and the bytes in use before the backward pass."""
    section = ResolvedTraining(epochs=1, batch_size=pairs, mini_batch_size=rows, learning_rate=1e-4)
    dimensions = choose_dimensions(spec_of(REAL).evaluation, model.width).all
    loss = matryoshka_loss(model, dataset.train, dimensions, section).to(DEVICE)
    columns, labels = batch_of(model, dataset, pairs)
    model.encoder.zero_grad()
    model.encoder.eval()
    before = torch.cuda.memory_allocated() if IS_GPU else 0
    with model.machine.autocast():
        value = loss(columns, labels)
    used = torch.cuda.memory_allocated() - before if IS_GPU else 0
    value.backward()
    found = {n: w.grad.clone() for n, w in model.encoder.named_parameters() if w.grad is not None}
    model.encoder.zero_grad()
    return value.item(), found, used


def test_cached_gradients_equal_those_of_the_whole_batch(real):
    """In float32, up to the order of sums."""
    model, dataset = real
    exact = replace(model, machine=choose_machine(DEVICE, "float32"))
    torch.set_float32_matmul_precision("highest")
    whole, cached = (loss_and_gradients(exact, dataset, 32, rows) for rows in (None, 8))
    assert cached[0] == pytest.approx(whole[0], rel=1e-4)
    largest = max(float(gradient.abs().max()) for gradient in whole[1].values())
    for name, gradient in whole[1].items():
        torch.testing.assert_close(cached[1][name], gradient, rtol=0, atol=1e-3 * largest)


@only_gpu
def test_the_estimated_memory_is_the_one_in_use(real):
    """Within 20 %, without the weights' copies in half precision."""
    model, dataset = real
    pairs = min(128, len(dataset.train))
    copies = 2 * sum(weights.numel() for weights in model.encoder.parameters())
    used = loss_and_gradients(model, dataset, pairs, None)[2] - copies
    memory = _batch_memory(model, size_of(model), dataset.train, 0)
    print(f"in use {used / 2**20:.0f} MiB")
    assert memory.bytes(pairs, checkpointing=False) == pytest.approx(used, rel=0.2)


@only_gpu
def test_a_job_survives_a_gpu_that_is_too_small(tmp_path, real):
    """The batch does not fit; it is embedded in parts, and the run ends as usual."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    share = (torch.cuda.memory_reserved() + 900 * 2**20) / total
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        report = job(tmp_path, REAL, training__mini_batch_size="null", training__batch_size="512")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert report["training"]["mini_batch_size"]["used"] <= 512


def test_a_search_on_the_device_finds_what_the_cpu_finds():
    """Full float32: of 10,000 results, at most a few change places by the order of sums."""
    torch.manual_seed(0)
    queries, corpus = torch.randn(1_000, 384), torch.randn(20_000, 384)
    there, here = (search(queries, corpus, [Transform(None, 10)], d)[0] for d in (DEVICE, "cpu"))
    torch.testing.assert_close(there.scores, here.scores, rtol=0, atol=2e-6)
    assert float((there.positions == here.positions).float().mean()) > 0.999


def test_int8_and_binary_codes_rank_as_on_the_cpu():
    torch.manual_seed(0)
    queries, corpus = torch.randn(200, 128), torch.randn(5_000, 128)
    there, here = (rank(queries, corpus, [64], ["int8", "binary"], d)[64] for d in (DEVICE, "cpu"))
    assert there.keys() == here.keys()
    for precision, found in there.items():
        assert (found[:, :10] == here[precision][:, :10]).mean() > 0.99, precision


def test_a_stopped_job_is_resumed(tmp_path):
    """On a GPU, sums have no fixed order: scores agree to the second decimal, not bit by bit."""
    once = job(tmp_path / "once", TINY)
    stop, end = StopSignal(), ProgressLogger.on_step_end

    def stop_at_seven(self, args, state, control, **event):
        if state.global_step == 7:
            stop.request()
        end(self, args, state, control, **event)

    with patch.object(ProgressLogger, "on_step_end", stop_at_seven), pytest.raises(Interrupted):
        job(tmp_path / "twice", TINY, stop)
    twice = job(tmp_path / "twice", TINY)
    assert twice["training"]["resumed_from_step"] == 7
    tolerance = 0.05 if IS_GPU else 0.0
    assert ndcg(twice, "tuned", 64) == pytest.approx(ndcg(once, "tuned", 64), abs=tolerance)


def test_one_process_does_not_divide_its_batches():
    """Also where several GPUs are visible."""
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    visible = torch.cuda.device_count() if IS_GPU else 0
    if visible < 2:
        pytest.skip("needs two GPUs")
    assert Arguments(output_dir="none").n_gpu == 1
