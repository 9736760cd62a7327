"""What `auto` becomes: documented values, from the data, the model and the memory, with reasons."""

import json
import logging
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.data import TrainingPairs
from job.errors import TrainingError
from job.machine import Machine
from job.model import Model, Prompts, load_model, parameters
from job.recipe import (
    Recipe,
    batch_size,
    epochs,
    learning_rate,
    read_recipe,
    resolve,
)
from job.spec import ModelSpec, ResolvedTraining, TrainingSpec

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
    recipe = resolve(spec, model, pairs)
    return recipe.spec.mini_batch_size, recipe.reasons["mini_batch_size"]


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
    ("pairs", "expected"),
    [
        (1_000_000, 128),
        (768, 128),
        (767, 64),
        (384, 64),
        (383, 32),
        (192, 32),
        (191, 16),
        (96, 16),
        (20, 16),
        (1, 16),
    ],
)
def test_an_automatic_batch_leaves_six_steps_an_epoch(pairs, expected):
    """128 pairs, halved while an epoch had fewer than six steps, and never below 16."""
    assert batch_size(pairs) == expected


@pytest.mark.parametrize(
    ("pairs", "batch", "expected"),
    [
        (1_000_000, 128, 3),
        (5_600, 128, 3),
        (2_176, 128, 3),
        (2_048, 128, 4),
        (1_024, 128, 7),
        (768, 128, 9),
        (640, 64, 5),
        (320, 32, 5),
        (96, 16, 9),
        (80, 16, 10),
        (20, 16, 10),
        (320, 1024, 10),
    ],
)
def test_automatic_epochs_make_about_fifty_updates(pairs, batch, expected):
    """At least three, so that there is a choice of checkpoints; at most ten."""
    assert epochs(pairs, batch) == expected


@given(st.integers(1, 10**7), st.integers(2, 65_536))
@settings(deadline=None)
def test_automatic_values_are_legal_for_any_data(pairs, batch):
    """Whatever the number of pairs, the spec would have taken the values from the user too."""
    assert batch_size(pairs) in {16, 32, 64, 128}
    assert 3 <= epochs(pairs, batch) <= 10
    assert epochs(pairs + 1, batch) <= epochs(pairs, batch)
    assert batch_size(pairs + 1) >= batch_size(pairs)


@pytest.mark.parametrize(
    ("millions", "rate"),
    [(0, 1e-4), (22, 1e-4), (50, 1e-4), (109, 5e-5), (200, 5e-5), (335, 2e-5), (7_000, 2e-5)],
)
def test_an_automatic_learning_rate_goes_by_size(millions, rate):
    """Small models bear, and need, a higher rate."""
    assert learning_rate(millions * 10**6) == (rate, f"{millions * 10**6:,} parameters")


@pytest.mark.parametrize(("millions", "rate"), [(22, 1e-4), (109, 5e-5), (335, 2e-5)])
def test_the_parameters_of_the_model_decide_its_learning_rate(millions, rate):
    """They are counted on the model itself, whatever its name says."""
    import torch

    # On the device "meta" weights have a shape and no memory.
    encoder = torch.nn.Linear(1000, millions * 1000, bias=False, device="meta")
    large = Model(torch.nn.Sequential(encoder), ROOMY, 1000, Prompts())

    recipe = resolve(TrainingSpec(), large, pairs_of(320))

    assert parameters(large) == millions * 10**6
    assert recipe.spec.learning_rate == rate
    assert recipe.reasons["learning_rate"] == f"{millions * 10**6:,} parameters"


@pytest.mark.parametrize(
    ("pairs", "batch", "passes", "batches", "updates"),
    [(1_000, 128, 7, 7, 56), (320, 32, 5, 10, 50), (100, 16, 8, 6, 56)],
)
def test_all_fields_are_resolved_with_their_reasons(model, pairs, batch, passes, batches, updates):
    """A spec that leaves all to us: four values, each with a sentence that says where from."""
    recipe = resolve(TrainingSpec(), model, pairs_of(pairs))

    assert recipe.spec == ResolvedTraining(
        epochs=passes, batch_size=batch, mini_batch_size=None, learning_rate=1e-4
    )
    assert recipe.reasons == {
        "batch_size": f"{pairs} pairs are {batches} such batches",
        "epochs": f"about {updates} updates",
        "learning_rate": "62,720 parameters",
        "mini_batch_size": "a batch needs about 0.0 GiB, which is free",
    }


# What was given.


def test_explicit_values_are_kept_and_have_no_reason(model):
    """What the user decided is not ours to explain, and the rest of the section is untouched."""
    spec = TrainingSpec(**EXPLICIT, seed=7, schedule="linear", dropout=None, report_to=())

    recipe = resolve(spec, model, pairs_of(320))

    assert recipe.reasons == recipe.facts() == {}
    assert recipe.spec.model_dump() == spec.model_dump()


@pytest.mark.parametrize("field", EXPLICIT)
def test_one_explicit_value_is_kept_and_the_others_are_resolved(model, field):
    """A reason stands at each field that was `auto`, and at no other."""
    recipe = resolve(TrainingSpec(**{field: EXPLICIT[field]}), model, pairs_of(320))

    assert getattr(recipe.spec, field) == EXPLICIT[field]
    assert recipe.reasons.keys() == EXPLICIT.keys() - {field}
    assert "auto" not in recipe.spec.model_dump().values()


def test_null_is_an_explicit_mini_batch(model):
    """`null` wants the whole batch at once, even where the memory is short."""
    recipe = resolve(TrainingSpec(mini_batch_size=None), with_memory(model, 1), pairs_of(320))

    assert recipe.spec.mini_batch_size is None
    assert "mini_batch_size" not in recipe.reasons


@pytest.mark.parametrize(("batch", "passes"), [(320, 10), (64, 10), (8, 3)])
def test_automatic_epochs_count_the_batches_that_were_given(model, batch, passes):
    """Few large batches are few updates, so there are more passes."""
    recipe = resolve(TrainingSpec(batch_size=batch), model, pairs_of(320))

    assert (recipe.spec.batch_size, recipe.spec.epochs) == (batch, passes)


def test_no_epochs_stay_none(model):
    """0 means "only score" and is no `auto`."""
    assert resolve(TrainingSpec(epochs=0), model, pairs_of(320)).spec.epochs == 0


# The memory.


@pytest.mark.parametrize("share", [0.99, 0.7, 0.5, 0.1, 0.02, 1e-6])
def test_little_memory_makes_the_mini_batch_smaller_and_changes_nothing_else(model, share):
    """The mini-batch is a power of two below the batch; batch, epochs and rate are the task."""
    pairs = pairs_of(1_000)
    assert batch_size(len(pairs)) == 128
    roomy = resolve(TrainingSpec(), model, pairs)
    cramped = resolve(TrainingSpec(), with_memory(model, share * bytes_needed(model, pairs)), pairs)

    rows = cramped.spec.mini_batch_size
    assert roomy.spec.mini_batch_size is None
    assert rows in {2**power for power in range(7)}
    assert rows <= max(1, 128 * share) < 2 * rows + 1
    assert cramped.spec.model_copy(update={"mini_batch_size": None}) == roomy.spec
    reasons = {field: cramped.reasons[field] for field in ("batch_size", "epochs", "learning_rate")}
    assert cramped.reasons == reasons | {"mini_batch_size": cramped.reasons["mini_batch_size"]}
    assert reasons.items() <= roomy.reasons.items()


def test_the_batch_fits_with_room_to_spare(model):
    """A share of the free memory is left to what else a step needs: weights, moments, kernels."""
    reason = mini_batch(with_memory(model, GIB), pairs_of(10, "tell1 " * 60), batch=4096)[1]

    needed = float(reason.split()[4])
    assert reason == f"a batch needs about {needed:.1f} GiB, more than is free"
    least = bytes_needed(model, pairs_of(10, "tell1 " * 60), batch=4096) / GIB
    assert needed / least == pytest.approx(0.6, rel=0.1)


def test_longer_texts_and_negatives_need_more_memory(model):
    """Each document of a row is embedded, and each token of it is kept."""
    short, long, negative = (
        bytes_needed(model, pairs_of(10, *texts))
        for texts in (("tell1",), ("tell1 " * 20,), ("tell1", ["tell2", "tell3"]))
    )

    assert long > 2 * short
    assert negative > 1.4 * short


def test_negatives_that_will_be_mined_count_like_given_ones(model):
    """They are not there yet when the recipe is made, and will be in every batch."""
    given = pairs_of(10, "tell1", ["tell2", "tell3"])

    assert bytes_needed(model, pairs_of(10, "tell1"), mined_negatives=2) == bytes_needed(
        model, given
    )


def test_a_text_beyond_the_models_length_needs_no_more_than_one_of_it(model):
    """What is cut off is not computed."""
    exact, beyond = (bytes_needed(model, pairs_of(10, "tell1 " * n)) for n in (62, 500))

    assert exact == beyond


def test_a_few_long_texts_do_not_decide_for_all(model):
    """Nine of ten texts are no longer than what the estimate goes by."""
    table = pairs_of(99).table
    outlier = pairs_of(1, "tell1 " * 60).table
    mixed = TrainingPairs(pa.concat_tables([table, outlier]), *[np.arange(100)] * 3)

    assert bytes_needed(model, mixed) == bytes_needed(model, pairs_of(100))


def test_attention_that_keeps_its_scores_needs_more_memory(model):
    """The CPU's plain attention holds a number for each pair of tokens; the fused one none."""
    pairs = pairs_of(10, "tell1 " * 60)
    free = bytes_needed(model, pairs) - 1

    assert mini_batch(with_memory(model, free), pairs)[0] == 64
    assert mini_batch(with_memory(model, free, "cuda"), pairs)[0] is None


def test_a_model_that_does_not_tell_its_size_is_embedded_at_once():
    """Static embeddings have no layers to count; the reason says that nothing was estimated."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "ask1": 1}, unk_token="[UNK]"))
    encoder = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu"
    )
    static = Model(encoder, Limited("cpu", "float32", "", 1), 8, Prompts())

    assert mini_batch(static, pairs_of(10)) == (
        None,
        "the model does not say how large its layers are",
    )


# What is kept and what is told.


@pytest.mark.parametrize("spec", [TrainingSpec(), TrainingSpec(**EXPLICIT)])
def test_a_recipe_written_and_read_is_the_same(model, tmp_path, spec):
    """Values and reasons survive; the folder is made, and nothing else is left in it."""
    recipe = resolve(spec, with_memory(model, 10**6), pairs_of(320))
    path = tmp_path / "checkpoints" / "recipe.json"

    recipe.write(path)

    assert read_recipe(path) == recipe
    assert [file.name for file in path.parent.iterdir()] == ["recipe.json"]
    document = json.loads(path.read_text("utf-8"))
    assert document == {"spec": recipe.spec.model_dump(mode="json"), "reasons": recipe.reasons}


def test_every_field_of_the_section_survives(tmp_path):
    """Lists, weights and `null` come back as what they were."""
    spec = ResolvedTraining(
        **EXPLICIT,
        dropout=None,
        dimension_weights=(1.0, 0.5),
        evaluate_every=25,
        report_to=(),
        schedule="linear",
    )
    recipe = Recipe(spec, {"epochs": "about 50 updates"})

    recipe.write(tmp_path / "recipe.json")

    assert read_recipe(tmp_path / "recipe.json") == recipe


def test_without_a_recipe_there_is_none(tmp_path):
    """A missing file is no error: the run has resolved nothing yet."""
    assert read_recipe(tmp_path / "recipe.json") is None


def test_a_reports_facts_are_each_automatic_fields_value_and_reason(model):
    """What was given is not in it: the spec has it already."""
    facts = resolve(TrainingSpec(epochs=2), model, pairs_of(320)).facts()

    assert facts == {
        "batch_size": {"value": 32, "reason": "320 pairs are 10 such batches"},
        "learning_rate": {"value": 1e-4, "reason": "62,720 parameters"},
        "mini_batch_size": {"value": None, "reason": "a batch needs about 0.0 GiB, which is free"},
    }


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.fixture
def logged():
    """Listen to the job's log, whether or not it hands its lines on."""
    log, lines = logging.getLogger("embedtune"), Lines()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(lines)
    yield lines.texts
    log.removeHandler(lines)
    log.setLevel(level)


def test_the_log_tells_each_automatic_field_with_its_reason(model, logged):
    """One line a field, before anything is trained."""
    resolve(TrainingSpec(epochs=2), model, pairs_of(320))

    assert logged == [
        'recipe: batch_size=32 reason="320 pairs are 10 such batches"',
        'recipe: learning_rate=0.0001 reason="62,720 parameters"',
        'recipe: mini_batch_size=null reason="a batch needs about 0.0 GiB, which is free"',
    ]


def test_the_log_is_silent_where_all_was_given(model, logged):
    """There is nothing to explain."""
    resolve(TrainingSpec(**EXPLICIT), model, pairs_of(320))

    assert logged == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"spec": {"epochs": -1}, "reasons": {}}'])
def test_a_damaged_recipe_is_one_line(tmp_path, text):
    """Nobody can go on from a checkpoint whose recipe is lost."""
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(TrainingError, match=r"is damaged.*delete that folder to train anew"):
        read_recipe(path)
    assert read_recipe(tmp_path / "none.json") is None
