"""A saved model's files are in the form that servers read, and load to the same vectors."""

import json

import pytest
from tiny_models import build_model

from job.model.device import Machine
from job.model.encoder import load_model
from job.model.save import VectorSizes, compare_saved, write_model
from job.model.server_files import write_for_servers
from job.spec.schema import ModelSpec

CPU = Machine("cpu", "float32", "set in the spec")
SIZES = VectorSizes((64, 32, 16))


def read(path):
    return json.loads(path.read_text("utf-8"))


@pytest.fixture
def saved(tmp_path, tiny_encoder):
    """Save the tiny model, or one of another shape, with a few dimensions to ask for."""

    def save(name=None, sizes=SIZES):
        folder = build_model(name, tmp_path / "base") if name else tiny_encoder
        model = load_model(ModelSpec(base=str(folder)), CPU)
        write_model(model, tmp_path / "saved", "float32", sizes)
        texts = ["ask1 ask2", "tell3 the tell4 of tell5"]
        samples = {"query": texts, "document": texts}
        cosines, unequal = compare_saved(model, tmp_path / "saved", samples)
        assert not unequal
        assert min(cosines.values()) > 0.999999
        return tmp_path / "saved"

    return save


def test_a_server_may_ask_for_the_dimensions_that_the_report_measured(saved):
    """vLLM and SGLang read these two fields."""
    config = read(saved() / "config.json")
    assert (config["is_matryoshka"], config["matryoshka_dimensions"]) == (True, [16, 32, 64])


def test_a_model_is_saved_in_the_form_that_servers_have_always_read(saved):
    """text-embeddings-inference 1.9 requires each of these fields and names."""
    folder = saved()
    assert [module["type"] for module in read(folder / "modules.json")] == [
        "sentence_transformers.models.Transformer",
        "sentence_transformers.models.Pooling",
    ]
    assert read(folder / "sentence_bert_config.json") == {
        "max_seq_length": 64,
        "do_lower_case": False,
    }
    pooling = read(folder / "1_Pooling" / "config.json")
    assert pooling["word_embedding_dimension"] == 64
    # vLLM takes the first field that is true.
    assert next(name for name, value in pooling.items() if value is True) == (
        "pooling_mode_mean_tokens"
    )
    assert "pooling_mode" not in pooling
    tokenizer = read(folder / "tokenizer_config.json")
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    # transformers 4 would also pass token types, which DistilBERT, ModernBERT and T5 refuse.
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]


def test_a_dense_layer_keeps_only_the_fields_that_it_always_had(saved):
    folder = saved("dense layer")
    (path,) = (m["path"] for m in read(folder / "modules.json") if m["type"].endswith(".Dense"))
    assert read(folder / path / "config.json").keys() == {
        *("in_features", "out_features", "bias", "activation_function"),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("cls pooling", "cls and mean with LayerNorm", "mean pooling of a decoder"),
        *("T5 with dense layer, normalized", "no maximum length", "static embeddings", "router"),
    ],
)
def test_every_shape_loads_to_the_same_vectors(saved, name):
    saved(name)


def test_settings_that_the_earlier_form_cannot_say_are_kept(saved):
    """Poolings in another order, a dense layer of other embeddings, a transformer's other task."""
    folder = saved("dense layer")
    path = next(p for p in folder.iterdir() if p.name.endswith("_Dense")) / "config.json"
    changes = {
        folder / "1_Pooling" / "config.json": {
            "embedding_dimension": 64,
            "pooling_mode": ["mean", "cls"],
            "include_prompt": True,
        },
        path: read(path) | {"use_residual": True},
        folder / "sentence_bert_config.json": {
            "transformer_task": "fill-mask",
            "max_seq_length": 64,
            "do_lower_case": False,
        },
    }
    for file, settings in changes.items():
        file.write_text(json.dumps(settings), "utf-8")

    write_for_servers(folder, 64)

    assert {file: read(file) for file in changes} == changes


@pytest.mark.parametrize(("default", "width"), [(None, 64), (16, 16)])
def test_the_saved_model_returns_the_recommended_dimension_only_if_asked(saved, default, width):
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(saved(sizes=VectorSizes((64, 16), default))), device="cpu")
    assert encoder.encode_query(["ask1 ask2"]).shape == (1, width)
