"""A model that is no text encoder, or is damaged, is refused at the start in one sentence."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer.modules import Dense, Router
from tiny_models import (
    BERT,
    ENCODER,
    QWEN3,
    Shape,
    build_model,
    build_tokenizer,
    modules_of,
    save,
)
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from job.core.errors import ModelError
from job.model.device import Machine
from job.model.encoder import load_model
from job.spec.schema import ModelSpec

CPU = Machine("cpu", "float32", "as the spec says")
WEIGHTS = "model.safetensors"


def refusal(folder, **fields):
    with pytest.raises(ModelError) as caught:
        load_model(ModelSpec(base=str(folder), **fields), CPU)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(folder), "MODEL")


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_a_cross_encoder_is_refused(tmp_path):
    BertForSequenceClassification(BertConfig(**ENCODER, num_labels=1)).save_pretrained(tmp_path)
    build_tokenizer(Shape()).save_pretrained(tmp_path)

    assert refusal(tmp_path) == (
        "The model `MODEL` (`BertForSequenceClassification`) is a cross-encoder or classifier, "
        "which scores texts but has no vectors. Use a text encoder, such as "
        "`BAAI/bge-base-en-v1.5`."
    )


def test_a_sparse_encoder_is_refused(tmp_path):
    """Its folder looks like one of a text encoder, but its configuration names the kind."""
    folder = build_model("bert", tmp_path / "sparse")
    change_json(folder / "config_sentence_transformers.json", model_type="SparseEncoder")

    assert refusal(folder).startswith("The model `MODEL` is a sparse encoder. Use a text encoder")


def test_a_causal_language_model_without_pooling_is_refused(tmp_path):
    """The message says what it is, and how to save it with a pooling layer; that is accepted."""
    sizes = {"head_dim": 32, "num_key_value_heads": 1} | ENCODER
    Qwen3ForCausalLM(Qwen3Config(**sizes)).save_pretrained(tmp_path)
    build_tokenizer(QWEN3).save_pretrained(tmp_path)

    message = refusal(tmp_path)

    assert message.startswith(
        "The model `MODEL` (`Qwen3ForCausalLM`) is a causal language model without `modules.json`, "
    )
    code = message.split("in Python: `")[1].removesuffix("`.")
    code = code.replace("'MODEL'", repr(str(tmp_path)))
    exec(  # the advice works
        "from sentence_transformers import SentenceTransformer\n"
        + code.replace("'FOLDER'", repr(str(tmp_path / "pooled")))
    )
    assert load_model(ModelSpec(base=str(tmp_path / "pooled")), CPU).width == 64


def test_clip_is_refused(tmp_path):
    config = CLIPConfig(
        text_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        vision_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    )
    CLIPModel(config).save_pretrained(tmp_path)

    assert refusal(tmp_path).startswith(
        "The model `MODEL` (clip) has a vision part: it is no pure text encoder."
    )


def test_a_tokenizer_that_does_not_fit_the_weights_is_refused(tmp_path):
    """A token without an embedding would crash the run once a text contains it."""
    folder = build_model("bert", tmp_path / "bert")
    weights = load_file(folder / WEIGHTS)
    name = "embeddings.word_embeddings.weight"
    save_file(weights | {name: weights[name][:50].clone()}, folder / WEIGHTS, {"format": "pt"})
    change_json(folder / "config.json", vocab_size=50)

    assert refusal(folder) == (
        "The tokenizer of the model `MODEL` does not fit its weights: the token `tell23` has the "
        "number 58, but there are embeddings for 50 tokens only. Restore the model's own "
        "`tokenizer.json`."
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(tmp_path, value):
    folder = build_model("bert", tmp_path / "bert")
    weights = load_file(folder / WEIGHTS)
    weights["encoder.layer.1.output.dense.bias"][3] = value
    save_file(weights, folder / WEIGHTS, {"format": "pt"})

    message = refusal(folder)
    assert message.startswith("The weights `")
    assert "encoder.layer.1.output.dense.bias` of the model `MODEL` contain NaN or inf" in message


def test_a_dense_layer_of_another_width_is_refused(tmp_path):
    """It would fail in the first forward pass."""
    transformer, pooling = modules_of(BERT, tmp_path / "transformer")
    folder = save([transformer, pooling, Dense(48, 32)], tmp_path / "wrong")

    assert refusal(folder) == (
        "In the model `MODEL`, the module `Dense` expects vectors of 48 dimensions, but the module "
        "before it gives 64. Correct its `config.json`, or download the model again."
    )


def test_routes_of_different_widths_are_refused(tmp_path):
    """Their vectors cannot be compared."""
    queries = modules_of(BERT, tmp_path / "query")
    documents = [*modules_of(BERT, tmp_path / "document"), Dense(64, 48)]
    folder = save([Router.for_query_document(queries, documents)], tmp_path / "router")

    assert refusal(folder) == (
        "The model `MODEL` has vectors of 64 dimensions for queries and of 48 for documents, which "
        "cannot be compared."
    )


def test_a_router_without_the_two_routes_is_refused(tmp_path):
    routes = {name: modules_of(BERT, tmp_path / name) for name in ("left", "right")}
    folder = save([Router(routes)], tmp_path / "router")

    assert refusal(folder).startswith("The router of the model `MODEL` has no way for a query: ")


def test_a_config_of_a_newer_transformers_is_refused(tmp_path):
    """The message names both versions."""
    folder = build_model("bert", tmp_path / "bert")
    change_json(folder / "config.json", model_type="bert9", transformers_version="99.1.0")

    message = refusal(folder)

    assert message.startswith("The model `MODEL` cannot be loaded: ")
    assert "It was saved by transformers 99.1.0, and this machine has 5." in message


def test_own_code_of_a_model_is_refused_by_name(tmp_path):
    """Nothing of it runs."""
    folder = build_model("bert", tmp_path / "bert")
    own = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    change_json(folder / "config.json", model_type="own", auto_map=own)
    (folder / "own.py").write_text("raise SystemExit('it ran')", "utf-8")

    assert refusal(folder) == (
        "The model `MODEL` needs Python code of its repository (`own.OwnConfig`, `own.OwnModel`), "
        "which is not run by default. If you trust its author, add "
        "`--set model.trust_remote_code=true`."
    )


def test_an_attention_that_the_architecture_lacks_is_refused(tmp_path):
    folder = build_model("mpnet", tmp_path / "mpnet")

    assert "(mpnet) has no attention implementation `sdpa`. Use `--set model.attention=auto`." in (
        refusal(folder, attention="sdpa")
    )


def test_a_tokenizer_without_padding_and_end_token_is_refused(tmp_path):
    folder = build_model("no padding token", tmp_path / "decoder")
    change_json(folder / "tokenizer_config.json", eos_token=None)

    assert refusal(folder).startswith(
        "The tokenizer of the model `MODEL` has neither a padding token nor an end token"
    )


@pytest.mark.parametrize("name", ["bert", "qwen3", "static embeddings", "router"])
def test_sound_models_are_loaded(tmp_path, name):
    folder = build_model(name, tmp_path / "model")
    model = load_model(ModelSpec(base=str(folder)), CPU)
    assert model.width == 64
    assert all(weights.dtype == torch.float32 for weights in model.encoder.parameters())


@pytest.mark.parametrize("prompts", [None, ["query: "], "query: ", {"query": 3}])
def test_prompts_of_a_wrong_type_are_refused(tmp_path, prompts):
    build_model("bert", tmp_path / "model")
    change_json(tmp_path / "model/config_sentence_transformers.json", prompts=prompts)
    assert refusal(tmp_path / "model").startswith("The model `MODEL` cannot be loaded: ")


def test_a_model_that_truncates_its_vectors_is_loaded_at_full_width(tmp_path):
    """The job truncates vectors itself."""
    build_model("bert", tmp_path / "model")
    change_json(tmp_path / "model/config_sentence_transformers.json", truncate_dim=16)
    model = load_model(ModelSpec(base=str(tmp_path / "model")), CPU)
    assert model.encoder.encode(["a question"]).shape == (1, model.width)
