"""What `auto` becomes: documented values, from the data, the model and the memory, with reasons."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models

from job.core.errors import TrainingError
from job.data.dataset import TrainingPairs
from job.model.device import Machine
from job.model.encoder import Model, Prompts, count_parameters, load_model
from job.spec.schema import ModelSpec, ResolvedTraining, TrainingSpec
from job.training.hyperparameters import (
    Hyperparameters,
    batch_size,
    epochs,
    learning_rate,
    read_hyperparameters,
    resolve,
)

GIB = 2**30
# Another value than `auto` would give, for each field that has it.
EXPLICIT = {"epochs": 2, "batch_size": 48, "mini_batch_size": 5, "learning_rate": 3e-6}


@dataclass(frozen=True)
class Limited(Machine):
    """A CPU that has just so many bytes left."""

    free: int = 64 * GIB

    def free_memory(self):
        return self.free


ROOMY = Limited("cpu", "float32", "as the spec says")


@pytest.fixture(scope="module")
def model(tiny_encoder):
    """Load the tiny encoder on a machine with 64 GiB."""
    return load_model(ModelSpec(base=str(tiny_encoder)), ROOMY)


def pairs_of(count, document="tell1 a tell2 of tell3", negatives=()):
    """Make so many training pairs; only their number and their lengths matter here."""
    columns = {
        "id": pa.array([str(row) for row in range(count)]),
        "anchor": pa.array(["ask1 ask2 the"] * count, pa.large_string()),
        "positive": pa.array([document] * count, pa.large_string()),
        "negatives": pa.array([list(negatives)] * count, pa.list_(pa.large_string())),
    }
    return TrainingPairs(pa.table(columns), *[np.arange(count)] * 3)


def with_memory(model, free, device="cpu"):
    return replace(model, machine=Limited(device, "float32", "", int(free)))


def mini_batch(model, pairs, batch=128, **fields):
    """Resolve the mini-batch only; returns its value and its reason."""
    spec = TrainingSpec(**EXPLICIT | {"batch_size": batch, "mini_batch_size": "auto"} | fields)
    hyperparameters = resolve(spec, model, pairs)
    return hyperparameters.spec.mini_batch_size, hyperparameters.reasons["mini_batch_size"]


def bytes_needed(model, pairs, batch=128, **fields):
    """Find the least memory in which the whole batch is embedded at once."""
    low, high = 0, 64 * GIB
    while high - low > 1:
        middle = (low + high) // 2
        rows, _ = mini_batch(with_memory(model, middle), pairs, batch, **fields)
        low, high = (low, middle) if rows is None else (middle, high)
    return high


# The values.


@pytest.mark.parametrize(
    ("pairs", "batch", "passes"),
    [
        (1_000_000, 128, 3),
        (2_176, 128, 3),
        (2_048, 128, 4),
        (768, 128, 9),
        (767, 64, 5),
        (384, 64, 9),
        (383, 32, 5),
        (192, 32, 9),
        (191, 16, 5),
        (80, 16, 10),
        (1, 16, 10),
    ],
)
def test_automatic_batches_and_epochs_make_six_steps_an_epoch_and_fifty_updates(
    pairs, batch, passes
):
    """128 pairs, halved while an epoch had fewer than six steps; three to ten passes."""
    assert batch_size(pairs) == batch
    assert epochs(pairs, batch) == passes


@pytest.mark.parametrize(
    ("millions", "rate"),
    [(0, 1e-4), (22, 1e-4), (50, 1e-4), (109, 5e-5), (200, 5e-5), (335, 2e-5), (7_000, 2e-5)],
)
def test_an_automatic_learning_rate_goes_by_size(millions, rate):
    """Small models bear, and need, a higher rate."""
    assert learning_rate(millions * 10**6) == (rate, f"{millions * 10**6:,} parameters")


def test_the_parameters_of_the_model_decide_its_learning_rate():
    """They are counted on the model itself, whatever its name says."""
    # On the device "meta" weights have a shape and no memory.
    encoder = torch.nn.Linear(1000, 335_000, bias=False, device="meta")
    large = Model(torch.nn.Sequential(encoder), ROOMY, 1000, Prompts())

    assert count_parameters(large) == 335 * 10**6
    assert resolve(TrainingSpec(), large, pairs_of(320)).spec.learning_rate == 2e-5


@pytest.fixture
def told(monkeypatch):
    """Listen to what is logged."""
    events = []
    monkeypatch.setattr(
        "job.training.hyperparameters.tell", lambda _, **facts: events.append(facts)
    )
    return events


@pytest.mark.parametrize(
    ("pairs", "batch", "passes", "batches", "updates"),
    [(1_000, 128, 7, 7, 56), (100, 16, 8, 6, 56)],
)
def test_all_fields_are_resolved_with_their_reasons(
    model, told, pairs, batch, passes, batches, updates
):
    """Four values, each with a sentence that says where from, in the report and in the log."""
    hyperparameters = resolve(TrainingSpec(), model, pairs_of(pairs))

    expected = {
        "batch_size": (batch, f"{pairs} pairs are {batches} such batches"),
        "epochs": (passes, f"about {updates} updates"),
        "learning_rate": (1e-4, "62,720 parameters"),
        "mini_batch_size": (None, "a batch needs about 0.0 GiB, which is free"),
    }
    assert hyperparameters.spec == ResolvedTraining(
        **{f: value for f, (value, _) in expected.items()}
    )
    assert hyperparameters.facts() == {
        f: {"value": v, "reason": r} for f, (v, r) in expected.items()
    }
    assert [(*facts, facts["reason"]) for facts in told] == [
        (field, "reason", reason) for field, (_, reason) in expected.items()
    ]


# What was given.


def test_explicit_values_are_kept_and_have_no_reason(model, told):
    """What the user decided is not ours to explain, and the rest of the section is untouched."""
    spec = TrainingSpec(**EXPLICIT, seed=7, schedule="linear", dropout=None, report_to=())

    hyperparameters = resolve(spec, model, pairs_of(320))

    assert hyperparameters.reasons == hyperparameters.facts() == {}
    assert hyperparameters.spec.model_dump() == spec.model_dump()
    assert told == []


@pytest.mark.parametrize(
    ("field", "value"), [*EXPLICIT.items(), ("mini_batch_size", None), ("epochs", 0)]
)
def test_one_explicit_value_is_kept_and_the_others_are_resolved(model, field, value):
    """A reason stands at each field that was `auto`; `null` is a value, even in little memory."""
    hyperparameters = resolve(TrainingSpec(**{field: value}), with_memory(model, 1), pairs_of(320))

    assert getattr(hyperparameters.spec, field) == value
    assert hyperparameters.reasons.keys() == EXPLICIT.keys() - {field}
    assert "auto" not in hyperparameters.spec.model_dump().values()


@pytest.mark.parametrize(("batch", "passes"), [(320, 10), (8, 3)])
def test_automatic_epochs_count_the_batches_that_were_given(model, batch, passes):
    """Few large batches are few updates, so there are more passes."""
    hyperparameters = resolve(TrainingSpec(batch_size=batch), model, pairs_of(320))

    assert (hyperparameters.spec.batch_size, hyperparameters.spec.epochs) == (batch, passes)


# The memory.


@pytest.fixture(scope="module")
def needed(model):
    """Bytes of an automatic batch of 128 pairs."""
    return bytes_needed(model, pairs_of(1_000))


@pytest.mark.parametrize("share", [0.99, 0.5, 0.1, 1e-6])
def test_little_memory_makes_the_mini_batch_smaller_and_changes_nothing_else(model, needed, share):
    """The mini-batch is a power of two below the batch; batch, epochs and rate are the task."""
    pairs = pairs_of(1_000)
    roomy = resolve(TrainingSpec(), model, pairs)
    cramped = resolve(TrainingSpec(), with_memory(model, share * needed), pairs)

    rows = cramped.spec.mini_batch_size
    assert (roomy.spec.batch_size, roomy.spec.mini_batch_size) == (128, None)
    assert rows in {2**power for power in range(7)}
    assert rows <= max(1, 128 * share) < 2 * rows + 1
    assert cramped.spec.model_copy(update={"mini_batch_size": None}) == roomy.spec
    changed = {"mini_batch_size": cramped.reasons["mini_batch_size"]}
    assert cramped.reasons == roomy.reasons | changed


def test_the_batch_fits_with_room_to_spare(model):
    """A share of the free memory is left to what else a step needs: weights, moments, kernels."""
    pairs = pairs_of(10, "tell1 " * 60)
    reason = mini_batch(with_memory(model, GIB), pairs, batch=4096)[1]

    needed = float(reason.split()[4])
    assert reason == f"a batch needs about {needed:.1f} GiB, more than is free"
    assert needed / (bytes_needed(model, pairs, 4096) / GIB) == pytest.approx(0.6, rel=0.1)


def test_longer_texts_and_negatives_need_more_memory(model):
    """Each document of a row is embedded, each token kept; what is cut off is not computed."""
    short, long, negative, exact, beyond = (
        bytes_needed(model, pairs_of(10, *texts))
        for texts in (
            ("tell1",),
            ("tell1 " * 20,),
            ("tell1", ["tell2", "tell3"]),
            ("tell1 " * 62,),
            ("tell1 " * 500,),
        )
    )

    assert long > 2 * short
    assert negative > 1.4 * short
    assert exact == beyond
    # Those that will be mined are not there yet.
    assert bytes_needed(model, pairs_of(10, "tell1"), mined_negatives=2) == negative


def test_a_few_long_texts_do_not_decide_for_all(model):
    """Nine of ten texts are no longer than what the estimate goes by."""
    tables = pairs_of(99).table, pairs_of(1, "tell1 " * 60).table
    mixed = TrainingPairs(pa.concat_tables(tables), *[np.arange(100)] * 3)

    assert bytes_needed(model, mixed) == bytes_needed(model, pairs_of(100))


def test_attention_that_keeps_its_scores_needs_more_memory(model):
    """The CPU's plain attention holds a number for each pair of tokens; the fused one none."""
    pairs = pairs_of(10, "tell1 " * 60)
    free = bytes_needed(model, pairs) - 1

    assert mini_batch(with_memory(model, free), pairs)[0] == 64
    assert mini_batch(with_memory(model, free, "cuda"), pairs)[0] is None


def test_a_model_that_does_not_tell_its_size_is_embedded_at_once():
    """Static embeddings have no layers to count; the reason says that nothing was estimated."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "ask1": 1}, unk_token="[UNK]"))
    static = StaticEmbedding(tokenizer, embedding_dim=8)
    encoder = SentenceTransformer(modules=[static], device="cpu")
    unknown = Model(encoder, Limited("cpu", "float32", "", 1), 8, Prompts())

    expected = (None, "the model does not say how large its layers are")
    assert mini_batch(unknown, pairs_of(10)) == expected


# What is kept.


def test_hyperparameters_written_and_read_is_the_same(tmp_path):
    """Lists, `null` and reasons survive; the folder is made, and nothing else is left in it."""
    given = {"dimension_weights": (1.0, 0.5), "evaluate_every": 25, "report_to": ()}
    spec = ResolvedTraining(**EXPLICIT, **given, dropout=None, schedule="linear")
    hyperparameters = Hyperparameters(spec, {"epochs": "about 50 updates"})
    path = tmp_path / "checkpoints" / "hyperparameters.json"
    assert read_hyperparameters(path) is None

    hyperparameters.write(path)

    assert read_hyperparameters(path) == hyperparameters
    assert [file.name for file in path.parent.iterdir()] == ["hyperparameters.json"]
    document = json.loads(path.read_text("utf-8"))
    assert document == {
        "spec": hyperparameters.spec.model_dump(mode="json"),
        "reasons": hyperparameters.reasons,
    }


@pytest.mark.parametrize("text", ["", "{", "[]", '{"spec": {"epochs": -1}, "reasons": {}}'])
def test_damaged_hyperparameters_are_one_line(tmp_path, text):
    """Nobody can go on from a checkpoint whose hyperparameters are lost."""
    path = tmp_path / "hyperparameters.json"
    path.write_text(text)
    with pytest.raises(TrainingError, match=r"hyperparameters\.json` is damaged"):
        read_hyperparameters(path)
