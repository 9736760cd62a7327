"""`auto` resolves to documented values from data, model and memory, each with a reason."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from saved_bytes import peak_bytes, saved_bytes
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny_models import build_model
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModel, TrainerState

from job.core.errors import TrainingError
from job.core.memory import LoraChoice, model_size, usable_bytes
from job.core.memory import count_parameters as count_stored
from job.data.dataset import TrainingPairs
from job.model.device import Machine
from job.model.encoder import Model, Prompts, count_parameters, load_model
from job.spec.schema import ModelSpec, ResolvedTraining, TrainingSpec
from job.storage.workspace import Workspace
from job.training.auto_values import batch_size, epochs, learning_rate
from job.training.checkpoints import write_checksums
from job.training.hyperparameters import (
    Hyperparameters,
    choose_before_loading,
    read_hyperparameters,
    resolve,
)

GIB = 2**30
# For each field that allows `auto`, a value that `auto` would not choose.
EXPLICIT = {
    "epochs": 2,
    "batch_size": 48,
    "mini_batch_size": 5,
    "learning_rate": 3e-6,
    "lora": "on",
    "gradient_checkpointing": "on",
}


@dataclass(frozen=True)
class Limited(Machine):
    """A CPU with the given number of free bytes."""

    free: int = 64 * GIB

    def free_memory(self):
        return self.free


ROOMY = Limited("cpu", "float32", "as the spec says")


@pytest.fixture(scope="module")
def model(tiny_encoder):
    """Load the tiny encoder on a machine with 64 GiB."""
    return load_model(ModelSpec(base=str(tiny_encoder)), ROOMY)


def pairs_of(count, document="tell1 a tell2 of tell3", negatives=()):
    """Make training pairs; only their number and their text lengths matter here."""
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
    """Resolve only the mini-batch size; return its value and its reason."""
    usual = {"lora": "off", "gradient_checkpointing": "off", "mini_batch_size": "auto"}
    spec = TrainingSpec(**EXPLICIT | usual | {"batch_size": batch} | fields)
    hyperparameters = resolve(spec, model, pairs)
    return hyperparameters.spec.mini_batch_size, hyperparameters.reasons["mini_batch_size"]


def bytes_needed(model, pairs, batch=128, **fields):
    """Find the smallest free memory in which the whole batch is embedded at once."""
    low, high = 0, 64 * GIB
    while high - low > 1:
        middle = (low + high) // 2
        rows, _ = mini_batch(with_memory(model, middle), pairs, batch, **fields)
        low, high = (low, middle) if rows is None else (middle, high)
    return high


# The values.


@pytest.mark.parametrize(
    ("pairs", "batch", "n_epochs"),
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
def test_automatic_batches_and_epochs_give_six_steps_an_epoch_and_fifty_updates(
    pairs, batch, n_epochs
):
    """128 pairs, halved while an epoch has fewer than six steps; three to ten epochs."""
    assert batch_size(pairs) == batch
    assert epochs(pairs, batch) == n_epochs


@pytest.mark.parametrize(
    ("millions", "rate"),
    [(0, 1e-4), (22, 1e-4), (50, 1e-4), (109, 5e-5), (200, 5e-5), (335, 2e-5), (7_000, 2e-5)],
)
def test_the_automatic_learning_rate_depends_on_the_models_size(millions, rate):
    """Small models tolerate and need a higher rate."""
    assert learning_rate(millions * 10**6) == (rate, f"{millions * 10**6:,} parameters")


def test_the_parameters_of_the_model_decide_its_learning_rate():
    """They are counted, not guessed from the model's name."""
    # On the device "meta" weights have a shape but take no memory.
    encoder = torch.nn.Linear(1000, 335_000, bias=False, device="meta")
    large = Model(torch.nn.Sequential(encoder), ROOMY, 1000, Prompts())

    assert count_parameters(large) == 335 * 10**6
    assert resolve(TrainingSpec(), large, pairs_of(320)).spec.learning_rate == 2e-5


@pytest.fixture
def logged(monkeypatch):
    """Collect the facts of log lines."""
    events = []
    monkeypatch.setattr(
        "job.training.hyperparameters.tell", lambda _, **facts: events.append(facts)
    )
    return events


@pytest.mark.parametrize(
    ("pairs", "batch", "n_epochs", "batches", "updates"),
    [(1_000, 128, 7, 7, 56), (100, 16, 8, 6, 56)],
)
def test_all_fields_are_resolved_with_their_reasons(
    model, logged, pairs, batch, n_epochs, batches, updates
):
    """The report and the log give a reason for each of the six values."""
    hyperparameters = resolve(TrainingSpec(), model, pairs_of(pairs))

    expected = {
        "batch_size": (batch, f"{pairs} pairs fill {batches} batches per epoch"),
        "epochs": (n_epochs, f"about {updates} updates"),
        "lora": ("off", "62,720 parameters need little memory"),
        "learning_rate": (1e-4, "62,720 parameters"),
        "gradient_checkpointing": ("off", "8 pairs fit in memory without it"),
        "mini_batch_size": (None, "a batch needs about 0.0 GiB, which fits in memory"),
    }
    assert hyperparameters.spec == ResolvedTraining(
        **{f: value for f, (value, _) in expected.items()}
    )
    assert hyperparameters.facts() == {
        f: {"value": v, "reason": r} for f, (v, r) in expected.items()
    }
    assert [(*facts, facts["reason"]) for facts in logged] == [
        (field, "reason", reason) for field, (_, reason) in expected.items()
    ]


# Explicit values.


def test_explicit_values_stay_and_have_no_reason(model, logged):
    """The other fields of the section do not change either."""
    spec = TrainingSpec(**EXPLICIT, seed=7, schedule="linear", dropout=None, report_to=())

    hyperparameters = resolve(spec, model, pairs_of(320))

    assert hyperparameters.reasons == hyperparameters.facts() == {}
    assert hyperparameters.spec.model_dump() == spec.model_dump()
    assert logged == []


@pytest.mark.parametrize(
    ("field", "value"), [*EXPLICIT.items(), ("mini_batch_size", None), ("epochs", 0)]
)
def test_one_explicit_value_stays_and_the_others_are_resolved(model, field, value):
    """Each field that was `auto` has a reason; `null` is explicit, even if memory is low."""
    hyperparameters = resolve(TrainingSpec(**{field: value}), with_memory(model, 1), pairs_of(320))

    assert getattr(hyperparameters.spec, field) == value
    assert hyperparameters.reasons.keys() == EXPLICIT.keys() - {field}
    # Validation decides the rotation, once the model is there.
    assert "auto" not in hyperparameters.spec.model_dump(exclude={"rotate"}).values()


@pytest.mark.parametrize(("batch", "n_epochs"), [(320, 10), (8, 3)])
def test_automatic_epochs_depend_on_the_explicit_batch_size(model, batch, n_epochs):
    """Few large batches give few updates, so there are more epochs."""
    hyperparameters = resolve(TrainingSpec(batch_size=batch), model, pairs_of(320))

    assert (hyperparameters.spec.batch_size, hyperparameters.spec.epochs) == (batch, n_epochs)


# The memory.


@pytest.fixture(scope="module")
def needed(model):
    """Return the bytes needed by an automatic batch of 128 pairs."""
    return bytes_needed(model, pairs_of(1_000))


@pytest.mark.parametrize("share", [0.99, 0.5, 0.1, 1e-6])
def test_little_memory_does_not_change_the_loss(model, needed, share):
    """The mini-batch is a power of two below the batch size; only activations may be checkpointed.

    Batch size, epochs and learning rate stay.
    """
    pairs = pairs_of(1_000)
    ample = resolve(TrainingSpec(), model, pairs)
    limited = resolve(TrainingSpec(), with_memory(model, share * needed), pairs)

    rows = limited.spec.mini_batch_size
    assert (ample.spec.batch_size, ample.spec.mini_batch_size) == (128, None)
    assert rows in {2**power for power in range(7)}
    # A batch has 256 texts of almost equal length.
    assert rows <= max(1, min(64, 256 * share)) < 2 * rows + 1
    assert limited.spec.gradient_checkpointing == ("on" if share < 0.1 else "off")
    changed = dict.fromkeys(("mini_batch_size", "gradient_checkpointing"))
    assert limited.spec.model_dump() | changed == ample.spec.model_dump() | changed
    assert limited.reasons | changed == ample.reasons | changed


def test_a_batch_uses_only_a_share_of_the_free_memory(model):
    """The rest is for the weights, the optimizer's state and kernels."""
    pairs = pairs_of(10, "tell1 " * 60)
    reason = mini_batch(with_memory(model, GIB), pairs, batch=4096)[1]

    needed = float(reason.split()[4])
    assert reason == f"a batch needs about {needed:.1f} GiB, more than fits in memory"
    assert needed / (bytes_needed(model, pairs, 4096) / GIB) == pytest.approx(0.6, rel=0.1)


def test_longer_texts_and_negatives_need_more_memory(model):
    """All documents of a row are embedded; truncated tokens need no memory."""
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

    # A third of the texts' positions are padding: widths are multiples of 16 tokens.
    assert long > 1.4 * short
    assert negative > 1.4 * short
    assert exact == beyond
    # Negatives that will be mined count too.
    assert bytes_needed(model, pairs_of(10, "tell1"), mined_negatives=2) == negative


def test_a_few_long_texts_hardly_change_the_estimate(model):
    """They have a pass of their own, so the others are not padded to their length."""
    tables = pairs_of(99).table, pairs_of(1, "tell1 " * 60).table
    mixed = TrainingPairs(pa.concat_tables(tables), *[np.arange(100)] * 3)

    assert 1.0 < bytes_needed(model, mixed) / bytes_needed(model, pairs_of(100)) < 1.3


def test_attention_that_stores_its_scores_needs_more_memory(model):
    """Eager attention on CPUs stores a score per pair of tokens; fused attention does not."""
    pairs = pairs_of(10, "tell1 " * 60)
    free = bytes_needed(model, pairs) - 1

    assert mini_batch(with_memory(model, free), pairs)[0] == 64
    assert mini_batch(with_memory(model, free, "mps"), pairs)[0] is None


def test_a_gpu_is_used_except_for_a_tenth_and_a_gibibyte(model):
    """No other program shares it; gradients, optimizer and copies come on top."""
    pairs, states = pairs_of(10, "tell1 " * 60), 3 * GIB
    whole = usable_bytes("cuda", 20 * GIB, states)
    assert whole == 18 * GIB - states - GIB
    gibibytes = float(mini_batch(with_memory(model, 0, "cuda"), pairs, 4096)[1].split()[4])
    needed = (gibibytes + 1.1) / 0.9 * GIB
    assert mini_batch(with_memory(model, needed, "cuda"), pairs, 4096)[0] is None
    assert mini_batch(with_memory(model, 0.8 * needed, "cuda"), pairs, 4096)[0] == 2048


BERT = {
    "vocab_size": 99,
    "hidden_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
QWEN3 = {"vocab_size": 99, "hidden_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8,
         "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 1536}  # fmt: skip


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("kind", "sizes", "attention"),
    [("bert", BERT, "sdpa"), ("bert", BERT, "eager"), ("qwen3", QWEN3, "sdpa")],
)
def test_the_estimate_is_what_autograd_keeps(kind, sizes, attention, precision):
    """Within 15 %, counted with tensors that have no memory, by the rules of CUDA's autocast."""
    config = AutoConfig.for_model(kind, **sizes)
    config._attn_implementation = attention

    def kept(rows):
        return saved_bytes(lambda: AutoModel.from_config(config), (rows, 128), precision)

    text = model_size(config.to_dict(), 1).text_bytes(
        128, precision=precision, stores_scores=attention == "eager", checkpointing=False
    )
    # The difference leaves out the weights' copies, which the states contain.
    assert text == pytest.approx((kept(24) - kept(8)) / 16, rel=0.15)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("kind", "sizes", "attention"),
    [("bert", BERT, "sdpa"), ("bert", BERT, "eager"), ("qwen3", QWEN3, "sdpa")],
)
def test_a_text_is_embedded_in_the_bytes_of_one_layer(kind, sizes, attention, precision):
    """Without gradients; the estimate is on the safe side, but at most three times as high."""
    config = AutoConfig.for_model(kind, **sizes)
    config._attn_implementation = attention

    def taken(rows):
        return peak_bytes(lambda: AutoModel.from_config(config), (rows, 128), precision)

    estimate = model_size(config.to_dict(), 1).layer_bytes(
        128, precision=precision, stores_scores=attention == "eager"
    )
    assert estimate / 3 < (taken(24) - taken(8)) / 16 < estimate


def test_without_layer_sizes_the_whole_batch_is_embedded_at_once():
    """Static embeddings have no layers; the reason explains that nothing is estimated."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "ask1": 1}, unk_token="[UNK]"))
    static = StaticEmbedding(tokenizer, embedding_dim=8)
    encoder = SentenceTransformer(modules=[static], device="cpu")
    unknown = Model(encoder, Limited("cpu", "float32", "", 1), 8, Prompts())

    expected = (None, "the model's config does not state its layer sizes")
    assert mini_batch(unknown, pairs_of(10)) == expected


# Before the model is loaded.


@pytest.mark.parametrize("folder", ["checkpoints", "checkpoints/seed-1", "checkpoints/seed-2"])
def test_a_resumed_run_keeps_its_choice_of_lora(tmp_path, folder):
    """Its checkpoints hold an adapter, though memory would now allow to train all weights.

    With several seeds, each training has its own folder, and any of them may be the first.
    """
    part = tmp_path / folder
    spec = ResolvedTraining(**EXPLICIT)
    Hyperparameters(spec, {"lora": "a decoder with 600,000,000 parameters"}).write(
        part / "hyperparameters.json"
    )
    wanted = TrainingSpec(seed=1, seeds=2)

    def choose():
        return choose_before_loading(wanted, tmp_path / "base", ROOMY, Workspace(tmp_path))

    assert not choose().on
    checkpoint = part / "checkpoint-5"
    checkpoint.mkdir()
    TrainerState().save_to_json(str(checkpoint / "trainer_state.json"))
    write_checksums(checkpoint)
    assert choose() == LoraChoice(on=True, reason="a decoder with 600,000,000 parameters")


@pytest.mark.parametrize(
    "name", ["bert", "mpnet", "t5", "deberta-v2", "qwen3", "static embeddings", "router"]
)
def test_the_files_have_the_parameters_of_the_loaded_model(tmp_path, name):
    """LoRA is chosen by the files and the learning rate by the model; both print the number."""
    folder = build_model(name, tmp_path / "base")
    model = load_model(ModelSpec(base=str(folder)), ROOMY)
    # As older versions saved them.
    for path in folder.rglob("*.safetensors"):
        save_file(load_file(path) | {"embeddings.position_ids": torch.arange(64)}, path)
    assert count_stored(folder) == count_parameters(model)


# The file.


def test_hyperparameters_are_read_as_written(tmp_path):
    """Including lists, `null` and reasons; the folder is created and contains only this file."""
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
def test_damaged_hyperparameters_raise_an_error(tmp_path, text):
    """A checkpoint whose hyperparameters are unknown cannot be resumed from."""
    path = tmp_path / "hyperparameters.json"
    path.write_text(text)
    with pytest.raises(TrainingError, match=r"hyperparameters\.json` is damaged"):
        read_hyperparameters(path)
