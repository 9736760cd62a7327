"""A model that is no text encoder, or is damaged, is refused at the start in one sentence."""

import json

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Router
from tiny_models import (
    BERT,
    ENCODER,
    QWEN3,
    WORDS,
    Shape,
    build_model,
    build_tokenizer,
    modules_of,
    save,
)
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from job.core.errors import ModelError
from job.model.device import Machine
from job.model.encoder import load_model, own_limit
from job.model.save import write_model
from job.spec.schema import ModelSpec

CPU = Machine("cpu", "float32", "as the spec says")
WEIGHTS, LIBRARY = "model.safetensors", "config_sentence_transformers.json"


def refusal(folder, **fields):
    with pytest.raises(ModelError) as caught:
        load_model(ModelSpec(base=str(folder), **fields), CPU)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(folder), "MODEL")


def follow(message, folder, **names):
    """Run the Python code that a message advises; it saves the model in `folder`/saved."""
    code = message.split("in Python: `")[1].removesuffix("`.")
    for name, path in {"FOLDER": folder / "saved", **names}.items():
        code = code.replace(f"'{name}'", repr(str(path)))
    exec(f"from sentence_transformers import SentenceTransformer\n{code}")


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
    follow(message, tmp_path, MODEL=tmp_path)
    assert load_model(ModelSpec(base=str(tmp_path / "saved")), CPU).width == 64


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


def test_a_model_without_a_table_of_tokens_is_loaded(tmp_path, monkeypatch):
    """CANINE hashes characters; its tokenizer is not compared with its weights."""

    def fail(_):
        raise NotImplementedError

    monkeypatch.setattr(BertModel, "get_input_embeddings", fail)
    folder = build_model("bert", tmp_path / "bert")

    assert load_model(ModelSpec(base=str(folder)), CPU).width == 64


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


def test_a_model_that_truncates_its_vectors_is_loaded_at_full_width(tmp_path):
    """The job truncates vectors itself."""
    build_model("bert", tmp_path / "model")
    change_json(tmp_path / "model/config_sentence_transformers.json", truncate_dim=16)
    model = load_model(ModelSpec(base=str(tmp_path / "model")), CPU)
    assert model.encoder.encode(["a question"]).shape == (1, model.width)


def test_a_model_that_compares_by_distance_is_stored_with_cosine(tmp_path):
    """It is trained and scored by cosine, so `similarity` of the stored model uses it, too."""
    build_model("bert", tmp_path / "model")
    change_json(tmp_path / "model" / LIBRARY, similarity_fn_name="euclidean")
    model = load_model(ModelSpec(base=str(tmp_path / "model")), CPU)

    write_model(model, tmp_path / "stored", "float32")

    stored = json.loads((tmp_path / "stored" / LIBRARY).read_text("utf-8"))
    assert stored["similarity_fn_name"] == "cosine"


@pytest.mark.parametrize("limit", [-5, 0, 1, 2])
def test_a_limit_that_leaves_no_word_of_a_text_is_refused(tmp_path, limit):
    """Two tokens are special. The command in the message works."""
    folder = build_model("bert", tmp_path / "model")
    change_json(folder / "sentence_bert_config.json", max_seq_length=limit)

    assert refusal(folder) == (
        f"The model `MODEL` cuts texts after {limit} tokens (`max_seq_length` in "
        "`sentence_bert_config.json`), and 2 of them are special, so no word is left. Correct the "
        "file, or add `--set model.max_length=65`."
    )
    model = load_model(ModelSpec(base=str(folder), max_length=65), CPU)
    assert model.encoder.max_seq_length == 65


def test_a_limit_of_the_tokenizer_that_leaves_no_word_is_refused(tmp_path):
    """Decoders add one special token; their tokenizer states the limit."""
    folder = build_model("plain encoder", tmp_path / "model")
    change_json(folder / "tokenizer_config.json", model_max_length=0)

    message = refusal(folder)
    assert "after 0 tokens (`model_max_length` in `tokenizer_config.json`), and 2 of" in message


def test_senseless_positions_limit_nothing(tmp_path):
    """Some configurations state -1 for no limit."""
    folder = build_model("t5", tmp_path / "model")
    change_json(folder / "config.json", max_position_embeddings=-1)
    model = load_model(ModelSpec(base=str(folder)), CPU)
    assert own_limit(model.encoder) == 64


@pytest.mark.parametrize("name", ["bert", "t5", "qwen3"])
def test_a_model_without_tokenizer_files_is_refused(tmp_path, name):
    """The library makes a tokenizer of special tokens, to which every word is unknown."""
    folder = build_model(name, tmp_path / "model")
    for path in folder.glob("tokenizer*"):
        path.unlink()

    assert refusal(folder) == (
        "The tokenizer of the model `MODEL` knows no words, because its files are missing. Restore "
        "`tokenizer.json` from the model that it was made of."
    )


def test_a_tokenizer_of_sentencepiece_is_loaded(tmp_path):
    """DeBERTa v3 and mT5 are published without `tokenizer.json`."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="not installed on Python 3.13")
    folder = build_model("deberta-v2", tmp_path / "model")
    text = tmp_path / "text"
    text.write_text("\n".join(f"ask{i} the tell{i}" for i in range(24)), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "spm"), vocab_size=50, hard_vocab_limit=False,
        pad_id=0, unk_id=1, bos_id=2, eos_id=3, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "DebertaV2Tokenizer", "vocab_type": "spm"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")

    tokenizer = load_model(ModelSpec(base=str(folder)), CPU).encoder.tokenizer
    assert tokenizer.decode(tokenizer("ask1 the")["input_ids"], skip_special_tokens=True) == (
        "ask1 the"
    )


def test_a_package_that_a_tokenizer_needs_is_named(tmp_path):
    folder = build_model("bert", tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(WORDS), "utf-8")
    own = {"word_tokenizer_type": "mecab", "subword_tokenizer_type": "wordpiece"}
    change_json(folder / "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer", **own)

    message = refusal(folder)

    assert "its tokenizer needs a Python package that is not installed (You need to" in message
    assert "fugashi" in message


@pytest.mark.parametrize(
    ("name", "setting", "value", "cause"),
    [
        ("config.json", "num_attention_heads", "2", "'num_attention_heads' expected int, got str"),
        ("config.json", "hidden_size", 0, "0.0 cannot be raised to a negative power"),
        ("config.json", "hidden_act", "foo", "a file lacks the setting 'foo', or has this unknown"),
        (LIBRARY, "default_prompt_name", "foo", f"`default_prompt_name` in `{LIBRARY}` names no"),
    ],
)
def test_what_the_library_cannot_load_is_refused_with_its_cause(
    tmp_path, name, setting, value, cause
):
    folder = build_model("bert", tmp_path / "model")
    change_json(folder / name, **{setting: value})

    message = refusal(folder)

    assert message.startswith("The model `MODEL` cannot be loaded: ")
    assert cause in message


def test_a_model_that_begins_with_pooling_is_refused(tmp_path):
    folder = build_model("bert", tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    (folder / "modules.json").write_text(json.dumps(modules[::-1]), "utf-8")

    assert refusal(folder) == (
        "The first module of the model `MODEL`, `Pooling`, has no tokenizer, so it reads no texts. "
        "Correct the order in `modules.json`, or use another model."
    )


def test_a_damaged_tokenizer_is_refused(tmp_path):
    folder = build_model("bert", tmp_path / "model")
    (folder / "tokenizer.json").write_text("{", "utf-8")

    assert "cannot be loaded: the files of its tokenizer are missing or damaged." in refusal(folder)


def test_a_model_without_pooling_is_refused(tmp_path):
    """The message says how to save it with a pooling layer; that is accepted."""
    folder = build_model("bert", tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    (folder / "modules.json").write_text(json.dumps(modules[:1]), "utf-8")

    message = refusal(folder)

    assert message.startswith("The model `MODEL` has no pooling layer, so it gives a vector for ")
    follow(message, tmp_path, MODEL=folder)
    assert load_model(ModelSpec(base=str(tmp_path / "saved")), CPU).width == 64


# peft asks transformers about checkpointing by an old name.
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_adapter_alone_is_refused(tmp_path):
    """The message says how to merge it; that is accepted, and changes the vectors."""
    folder = build_model("bert", tmp_path / "whole")
    encoder = SentenceTransformer(str(folder), device="cpu")
    before = encoder.encode("ask1")
    encoder.add_adapter(LoraConfig(target_modules=["query", "value"], init_lora_weights=False))
    encoder.save_pretrained(str(tmp_path / "adapter"), create_model_card=False)

    message = refusal(tmp_path / "adapter")

    assert message.startswith("The model `MODEL` is only an adapter (LoRA) of the model `")
    follow(message, tmp_path, MODEL=tmp_path / "adapter")
    merged = load_model(ModelSpec(base=str(tmp_path / "saved")), CPU).encoder
    assert abs(merged.encode("ask1") - encoder.encode("ask1")).max() < 1e-5
    assert abs(merged.encode("ask1") - before).max() > 1e-3


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("sentence_transformers.models.CLIPModel", "a model of images and texts (CLIP)"),
        ("sentence_transformers.sparse_encoder.models.SpladePooling", "a sparse encoder, which"),
        ("sentence_transformers.models.BoW", "a bag of words, which counts words"),
        ("sentence_transformers.models.WordEmbeddings", "a model of word embeddings that split"),
        ("sentence_transformers.models.LSTM", "an LSTM, which needs word embeddings"),
    ],
)
def test_models_of_other_modules_are_refused(tmp_path, module, kind):
    """Old layouts do not state their kind; its modules do."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": module}]
    (tmp_path / "modules.json").write_text(json.dumps(modules), "utf-8")

    assert refusal(tmp_path).startswith(f"The model `MODEL` is {kind}")


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert refusal(tmp_path).startswith(
        "The model `MODEL` cannot be loaded: its folder has no `config.json`. It must be saved by "
    )


def test_a_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")

    assert refusal(path).startswith("The model `MODEL` is a file. Use the folder with the model's ")
