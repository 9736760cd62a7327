"""Where memory runs out, fewer rows at once do the same work; where none fits, it is said."""

import logging

import pytest

from job.baseline import score_base
from job.data import load_dataset
from job.errors import OutOfMemory
from job.evaluate import choose_dimensions, encode
from job.interruption import StopSignal
from job.machine import Machine
from job.memory import RandomState, halvings, is_out_of_memory, with_fewer_rows
from job.model import load_model
from job.recipe import resolve
from job.trainer import TrainingInputs, build_trainer
from job.workspace import Workspace

CPU = Machine("cpu", "float32", "as the spec says")


class Gauge:
    """A device whose memory holds so many rows at once; counts the passes, keeps the failures."""

    def __init__(self, encoder):
        self.limit = 10_000
        self.failures = []
        encoder[0].register_forward_pre_hook(self._look)

    def _look(self, _module, given):
        import torch

        rows = len(given[0]["input_ids"])
        if rows > self.limit:
            self.failures.append(rows)
            msg = "CUDA out of memory. Tried to allocate 2.00 GiB."
            raise torch.OutOfMemoryError(msg)


@pytest.fixture
def prepare(tiny_spec, tmp_path):
    """Set up a training of one epoch of ten steps of 32 pairs each."""
    numbers = iter(range(10))

    def make(mini_batch_size=None, dropout=0.0):
        spec = tiny_spec(
            training__epochs="1",
            training__mini_batch_size=str(mini_batch_size or "null"),
            training__dropout=str(dropout),
        )
        dataset = load_dataset(spec.data, {})
        model = load_model(spec.model, CPU)
        dimensions = choose_dimensions(spec.evaluation, model.width)
        base = score_base(model, dataset, dimensions, spec)
        workspace = Workspace(tmp_path / str(next(numbers)))
        recipe = resolve(spec.training, model, dataset.train)
        trainer = build_trainer(
            TrainingInputs(model, dataset.train, base.validation, recipe.spec),
            workspace,
            StopSignal(),
        )
        return trainer, Gauge(model.encoder)

    return make


class Lines(logging.Handler):
    """Keeps what is said of memory."""

    def __init__(self):
        super().__init__()
        self.said = []

    def emit(self, record):
        if "memory ran out" in record.getMessage():
            self.said.append(record.getMessage())


@pytest.fixture
def lines():
    handler = Lines()
    logging.getLogger("embedtune").addHandler(handler)
    yield handler.said
    logging.getLogger("embedtune").removeHandler(handler)


def largest_difference(one, other):
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("given", [None, 16])
def test_what_does_not_fit_is_trained_as_if_the_mini_batch_had_been_smaller(
    prepare, lines, dropout, given
):
    """Memory for 8 rows: from the first step on, every bit is that of `mini_batch_size: 8`."""
    known, _ = prepare(8, dropout)
    known.train()
    trainer, gauge = prepare(given, dropout)
    gauge.limit = 8

    trainer.train()

    assert largest_difference(trainer, known) == 0.0
    assert trainer.state.global_step == known.state.global_step == 10
    assert trainer.rows_at_once == 8
    reason = 'reason="CUDA out of memory. Tried to allocate 2.00 GiB."'
    halvings = [(16, 32), (8, 16)] if given is None else [(8, 16)]
    assert [line for line in lines if line.startswith("train")] == [
        f"train: memory ran out, going on rows_at_once={after} before={before} {reason}"
        for after, before in halvings
    ]
    # Its validation does not fit either, and is scored all the same.
    assert f"encode: memory ran out, going on rows_at_once=8 before=16 {reason}" in lines
    assert trainer.state.best_metric == pytest.approx(known.state.best_metric, abs=1e-6)


def test_memory_that_runs_out_midway_costs_no_step_and_doubles_none(prepare):
    """From the seventh step on: the weights differ by the order of summation alone."""
    known, _ = prepare(16)
    known.train()
    trainer, gauge = prepare(16)
    plain = trainer.training_step
    steps = []

    def step(*given):
        steps.append(len(steps) + 1)
        gauge.limit = 10_000 if steps[-1] < 7 else 4
        return plain(*given)

    trainer.training_step = step
    trainer.train()

    assert steps == list(range(1, 11))
    assert trainer.rows_at_once == 4
    assert 0.0 < largest_difference(trainer, known) < 1e-5


@pytest.mark.parametrize("given", [None, 16])
def test_a_step_that_broke_off_leaves_nothing(prepare, given):
    """Memory runs out in the backward pass: some weights have gradients, dropout was drawn."""
    import torch

    known, _ = prepare(8, dropout=0.3)
    known.train()
    trainer, _ = prepare(given, dropout=0.3)
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
    trainer.rows_at_once = 16
    trainer.train()

    assert trainer.rows_at_once == 8
    assert largest_difference(trainer, known) == 0.0


def test_not_even_one_row_is_the_machines_fault(prepare):
    """It ends in one line and the code of memory, not in a bug."""
    trainer, gauge = prepare()
    gauge.limit = 0

    with pytest.raises(OutOfMemory) as caught:
        trainer.train()

    assert str(caught.value) == (
        "Memory does not suffice for a single text (CUDA out of memory. Tried to allocate "
        "2.00 GiB.). Lower `model.max_length`, or take a machine with more."
    )
    assert gauge.failures == [32, 16, 8, 4, 2, 1]


def test_texts_are_encoded_in_smaller_batches(tiny_spec, lines):
    """The vectors are those of large batches, in their order."""
    import pyarrow as pa
    import torch

    model = load_model(tiny_spec().model, CPU)
    texts = pa.array([f"ask{n % 24} " * (n % 7 + 1) for n in range(100)])
    expected = encode(model, texts, "", 64)
    gauge = Gauge(model.encoder)
    gauge.limit = 20

    found = encode(model, texts, "", 64)

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert gauge.failures == [64, 32]
    assert len(lines) == 2


def test_torchs_own_words_for_full_memory_are_known():
    """Its CPU allocator has no error class of its own."""
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)

    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_other_errors_are_nobodys_business():
    def work(rows):
        calls.append(rows)
        msg = "shapes cannot be multiplied"
        raise RuntimeError(msg)

    calls = []
    with pytest.raises(RuntimeError, match="shapes"):
        with_fewer_rows(32, work, "train")
    assert calls == [32]


def test_what_filled_the_memory_is_free_before_the_next_try():
    """The error of the first try keeps nothing of it alive."""
    import weakref

    class Tensor:
        pass

    kept = []

    def work(rows):
        alive = [reference() for reference in kept if reference() is not None]
        filling = Tensor()
        # A cycle, as autograd's graphs have them: counting references does not free it.
        filling.itself = filling
        kept.append(weakref.ref(filling))
        if rows > 1:
            raise MemoryError
        return alive

    assert with_fewer_rows(4, work, "train") == []


@pytest.mark.parametrize(
    ("asked", "limit", "used", "halved"),
    [(32, 99, 32, 0), (32, 8, 8, 2), (24, 4, 3, 3), (7, 1, 1, 2)],
)
def test_the_report_tells_what_was_asked_and_what_was_used(asked, limit, used, halved):
    """As often halved as the memory demanded; not at all where it sufficed."""

    def work(rows):
        if rows > limit:
            raise MemoryError
        return rows

    found = halvings(asked, with_fewer_rows(asked, work, "train"))
    assert found == {"asked": asked, "used": used, "halved": halved}


def test_random_numbers_are_drawn_again():
    import torch

    state = RandomState()
    first = torch.rand(3)
    state.restore()
    assert torch.equal(torch.rand(3), first)
