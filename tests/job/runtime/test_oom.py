"""If memory runs out, smaller batches do the same work; if one row does not fit, it is an error."""

import logging
import weakref
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from tiny_training import CPU, tiny_training

from job.core.errors import OutOfMemory
from job.evaluation.evaluate import encode
from job.model.encoder import load_model
from job.runtime.logs import log
from job.runtime.oom import batch_size_facts, is_out_of_memory, retry_on_oom
from job.spec.parse import build_spec


class Gauge:
    """Simulates a device whose memory holds `limit` rows; records the batches that failed."""

    def __init__(self, encoder):
        self.limit = 10_000
        self.failures = []
        encoder[0].register_forward_pre_hook(self._check)

    def _check(self, _module, given):
        rows = len(given[0]["input_ids"])
        if rows > self.limit:
            self.failures.append(rows)
            msg = "CUDA out of memory. Tried to allocate 2.00 GiB."
            raise torch.OutOfMemoryError(msg)


@pytest.fixture(scope="module")
def prepare(tiny_encoder, pairs_file, tiny_settings, tmp_path_factory):
    """Set up a training of one epoch of ten steps of 32 pairs each."""

    def make(mini_batch_size=None, dropout=0.3):
        given = {
            "data.source": str(pairs_file),
            "model.base": str(tiny_encoder),
            "training.epochs": "1",
            "training.mini_batch_size": str(mini_batch_size or "null"),
            "training.dropout": str(dropout),
            "evaluation.batch_size": "16",
        }
        spec = build_spec({}, tiny_settings | given)
        trainer = tiny_training(spec, tmp_path_factory.mktemp("work")).trainer()
        return trainer, Gauge(trainer.model)

    return make


@pytest.fixture(scope="module")
def known(prepare):
    """A training in mini-batches of 8, for which the memory suffices."""
    trainer, _ = prepare(8)
    trainer.train()
    return trainer


@pytest.fixture
def lines():
    """Log events about memory: stage, batch size, the one before, reason."""

    events, handler = [], logging.Handler()

    def emit(record):
        if record.msg["event"].startswith("warning: memory ran out"):
            names = ("what", "mini_batch_size", "before", "reason")
            events.append(tuple(record.msg[name] for name in names))

    handler.emit = emit
    log.addHandler(handler)
    yield events
    log.removeHandler(handler)


def largest_difference(one, other):
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("given", [None, pytest.param(16, marks=pytest.mark.exhaustive)])
def test_training_retries_with_smaller_batches(prepare, known, lines, given):
    """With memory for 8 rows, the weights equal those of `mini_batch_size: 8`, bit by bit."""
    trainer, gauge = prepare(given)
    gauge.limit = 8

    trainer.train()

    assert largest_difference(trainer, known) == 0.0
    assert trainer.state.global_step == known.state.global_step == 10
    assert trainer.retries.mini_batch_size == 8
    # Three batches are repeated before all are divided.
    halved = 3 * ([(16, 32), (8, 16)] if given is None else [(8, 16)])
    assert [line for line in lines if line[0] == "train"] == [
        ("train", *pair, "CUDA out of memory. Tried to allocate 2.00 GiB") for pair in halved
    ]
    # Validation does not fit either, and retries too.
    assert ("encode", 8, 16) in {line[:3] for line in lines}
    assert trainer.state.best_metric == pytest.approx(known.state.best_metric, abs=1e-6)


def test_one_batch_that_does_not_fit_changes_only_its_own_step(prepare):
    """The next ones are whole again: gradient caching takes twice the time."""
    trainer, gauge = prepare()
    step, passes = trainer.training_step, []

    def record(model, given):
        if model.training:
            passes[-1].append(len(given[0]["input_ids"]))

    hook = trainer.model.register_forward_pre_hook(record)

    def count(*given):
        passes.append([])
        gauge.limit = 8 if len(passes) in (2, 5) else 10_000
        return step(*given)

    trainer.training_step = count
    trainer.train()
    hook.remove()

    cached = [number for number, rows in enumerate(passes, 1) if min(rows) < 8 or len(rows) > 4]
    assert cached == [2, 5]
    assert trainer.retries.mini_batch_size == 32


@pytest.mark.exhaustive
def test_no_step_is_lost_or_repeated_if_memory_runs_out_midway(prepare):
    """In the seventh step; the weights differ only by the order of summation."""
    plain, _ = prepare(16, dropout=0.0)
    plain.train()
    trainer, gauge = prepare(16, dropout=0.0)
    take, steps = trainer.training_step, []

    def step(*given):
        steps.append(len(steps) + 1)
        gauge.limit = 10_000 if steps[-1] < 7 else 4
        return take(*given)

    trainer.training_step = step
    trainer.train()

    assert steps == list(range(1, 11))
    assert trainer.retries.mini_batch_size == 4
    assert 0.0 < largest_difference(trainer, plain) < 1e-5


@pytest.mark.parametrize("given", [None, 16])
@pytest.mark.exhaustive
def test_a_failed_step_leaves_no_trace(prepare, known, given, monkeypatch):
    """Memory runs out in the backward pass, after some gradients and the dropout masks exist.

    One retry lowers the size for good, so that all steps equal those of a training with that size.
    """
    monkeypatch.setattr("job.training.retries.MAX_RETRIES", 1)
    trainer, _ = prepare(given)
    gradients = []

    def break_once(gradient):
        gradients.append(gradient)
        # Late in the backward pass of the second mini-batch, or of the only one.
        if len(gradients) == (2 if given else 1):
            msg = "CUDA out of memory"
            raise torch.OutOfMemoryError(msg)

    def break_late(module, given, output):
        if output.requires_grad:
            output.register_hook(break_once)

    trainer.model[0].model.embeddings.register_forward_hook(break_late)
    trainer.retries.mini_batch_size = 16
    trainer.train()

    assert trainer.retries.mini_batch_size == 8
    assert largest_difference(trainer, known) == 0.0


def test_a_single_row_that_does_not_fit_is_an_out_of_memory_error(prepare):
    """The error is expected, with its own exit code: not a bug."""
    trainer, gauge = prepare()
    gauge.limit = 0

    with pytest.raises(OutOfMemory, match=r"2\.00 GiB.*`model\.max_length`"):
        trainer.train()

    # All questions and documents, before the batch is divided; then they are passes of their own.
    assert gauge.failures == [64, 16, 8, 4, 2, 1]


def test_texts_are_encoded_in_smaller_batches(tiny_spec, lines):
    """The vectors equal those of large batches, in the same order."""
    model = replace(load_model(tiny_spec().model, CPU), packs=False)
    texts = pa.array([f"ask{n % 24} " * (n % 7 + 1) for n in range(100)])
    expected = encode(model, texts, "query", 64)
    gauge = Gauge(model.encoder)
    gauge.limit = 20

    found = encode(model, texts, "query", 64)

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert gauge.failures == [64, 32]
    assert len(lines) == 2


def test_torchs_messages_of_full_memory_are_recognized():
    """Its CPU allocator has no error class of its own."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)

    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_other_errors_are_not_retried():
    with pytest.raises(ZeroDivisionError):
        retry_on_oom(32, lambda rows: rows // 0, "train")


def test_memory_is_released_before_the_next_try():
    """The error of the first try holds no references."""

    class Tensor:
        pass

    kept = []

    def work(rows):
        alive = [reference() for reference in kept if reference() is not None]
        filling = Tensor()
        # A reference cycle, as in autograd's graphs.
        filling.itself = filling
        kept.append(weakref.ref(filling))
        if rows > 1:
            raise MemoryError
        return alive

    assert retry_on_oom(4, work, "train") == []


@pytest.mark.parametrize(
    ("asked", "limit", "used", "halved"),
    [(32, 99, 32, 0), (32, 8, 8, 2), (24, 4, 3, 3), (7, 1, 1, 2)],
)
def test_the_report_has_the_requested_and_the_used_batch_size(asked, limit, used, halved):
    """And the number of halvings; 0 if the memory sufficed."""

    def work(rows):
        if rows > limit:
            raise MemoryError
        return rows

    found = batch_size_facts(asked, retry_on_oom(asked, work, "train"))
    assert found == {"asked": asked, "used": used, "halved": halved}
