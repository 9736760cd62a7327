"""A setting of a wrong type or a senseless value in a model's own files is refused by its name."""

import json

import pytest
from sentence_transformers import SentenceTransformer
from tiny_models import build_model

from job.core.errors import ModelError
from job.model.refusals import refuse_other_kinds
from job.model.settings import module_types, require_valid_settings, stated_limit

LIBRARY, TRANSFORMER = "config_sentence_transformers.json", "sentence_bert_config.json"
POOLING, DENSE, NORM = "1_Pooling/config.json", "2_Dense/config.json", "3_LayerNorm/config.json"
PREFIX = "sentence_transformers.models."
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": f"{PREFIX}Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{PREFIX}Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": f"{PREFIX}Dense"},
    {"idx": 3, "name": "3", "path": "3_LayerNorm", "type": f"{PREFIX}LayerNorm"},
    # Downloads leave the empty folder of this module out.
    {"idx": 4, "name": "4", "path": "4_Normalize", "type": f"{PREFIX}Normalize"},
]
SOUND = {
    "modules.json": MODULES,
    "config.json": {"architectures": ["BertModel"], "max_position_embeddings": 512},
    LIBRARY: {"prompts": {"query": "ask: "}, "truncate_dim": None, "similarity_fn_name": "cosine"},
    TRANSFORMER: {"max_seq_length": None, "do_lower_case": False},
    "tokenizer_config.json": {"model_max_length": 10**30},
    POOLING: {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True},
    DENSE: {"in_features": 64, "out_features": 32, "activation_function": "torch.nn.Tanh"},
    NORM: {"dimension": 32},
}


@pytest.fixture
def folder(tmp_path):
    for name, content in SOUND.items():
        write(tmp_path, name, content)
    return tmp_path


def write(folder, name, content):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content), "utf-8")


def refusal(folder):
    with pytest.raises(ModelError) as caught:
        require_valid_settings("MODEL", folder)
    return str(caught.value).removeprefix("The model `MODEL` cannot be loaded: ")


def test_sound_settings_are_accepted(folder):
    """Files may be missing, and fields that the job does not know are the library's concern."""
    require_valid_settings("MODEL", folder)
    (folder / LIBRARY).unlink()
    write(folder, POOLING, {"embedding_dimension": 64, "pooling_mode": ["cls", "mean"], "new": 1})
    require_valid_settings("MODEL", folder)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        (LIBRARY, "prompts", None),
        (LIBRARY, "prompts", ["ask: "]),
        (LIBRARY, "default_prompt_name", 3),
        (LIBRARY, "truncate_dim", "16"),
        (LIBRARY, "similarity_fn_name", []),
        (TRANSFORMER, "max_seq_length", "64"),
        (TRANSFORMER, "max_seq_length", 64.5),
        (TRANSFORMER, "max_seq_length", True),
        (TRANSFORMER, "do_lower_case", "yes"),
        ("tokenizer_config.json", "model_max_length", "512"),
        ("config.json", "architectures", "BertModel"),
        ("config.json", "max_position_embeddings", "512"),
        (POOLING, "embedding_dimension", "64"),
        (POOLING, "word_embedding_dimension", -64),
        (POOLING, "pooling_mode", None),
        (POOLING, "pooling_mode", []),
        (POOLING, "include_prompt", "no"),
        (DENSE, "in_features", 64.0),
        (DENSE, "out_features", 0),
        (DENSE, "bias", None),
        (DENSE, "activation_function", None),
        (NORM, "dimension", None),
    ],
)
def test_a_wrong_setting_is_named_with_its_file_and_value(folder, name, field, value):
    write(folder, name, SOUND[name] | {field: value})

    message = refusal(folder)

    assert message.startswith(f"`{field}` in `{name}` is `{json.dumps(value)}`; it ")
    assert message.endswith(". Correct the file, or download the model again.")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("modules.json", {"a": 1}, '`modules.json` is `{"a": 1}`; it must be a valid list.'),
        ("modules.json", [{"path": ""}], "`0.type` in `modules.json` is missing."),
        ("modules.json", [{"type": "a.B"}], "`0.path` in `modules.json` is missing."),
        ("config.json", [], "`config.json` is `[]`; it must be an object."),
        (LIBRARY, {"prompts": {"query": 3}}, f"`prompts.query` in `{LIBRARY}` is `3`; it must be"),
        (DENSE, {"out_features": 3}, f"`in_features` in `{DENSE}` is missing."),
        (
            "modules.json",
            [MODULES[0], MODULES[1] | {"path": "1_CLS"}],
            "`modules.json` names the folder `1_CLS`, which is missing.",
        ),
    ],
)
def test_a_file_of_another_form_is_named(folder, name, content, message):
    write(folder, name, content)
    assert refusal(folder).startswith(message)


def test_a_file_that_is_not_json_is_named(folder):
    (folder / "modules.json").write_text("[{", "utf-8")
    assert refusal(folder).startswith("`modules.json` is not readable JSON (")


def test_modules_of_a_router_are_checked(folder):
    """They lie in folders of their route."""
    write(folder, "modules.json", [MODULES[0] | {"type": f"{PREFIX}Router"}])
    write(folder, "router_config.json", {"types": {"query_1_Pooling": f"{PREFIX}Pooling"}})
    write(folder, "query_1_Pooling/config.json", {"embedding_dimension": "64"})
    assert refusal(folder).startswith("`embedding_dimension` in `query_1_Pooling/config.json` is")


def test_the_settings_of_a_transformer_below_the_folder_are_checked(folder):
    """As version 2 of sentence-transformers saved it."""
    write(folder, "modules.json", [MODULES[0] | {"path": "0_Transformer"}, *MODULES[1:]])
    inner = "0_Transformer/config.json"
    write(folder, inner, {"max_position_embeddings": "65"})
    assert refusal(folder).startswith(f"`max_position_embeddings` in `{inner}` is `")
    write(folder, inner, {"max_position_embeddings": 65})
    require_valid_settings("MODEL", folder)
    assert stated_limit(folder) == (inner, "max_position_embeddings")


def test_a_module_elsewhere_is_checked(folder, tmp_path_factory):
    """`modules.json` may name it by an absolute path, and the library loads it."""
    other = tmp_path_factory.mktemp("other")
    write(folder, "modules.json", [*MODULES, MODULES[1] | {"idx": 5, "path": str(other)}])
    require_valid_settings("MODEL", folder)
    write(other, "config.json", {"embedding_dimension": "64"})
    assert refusal(folder).startswith("`embedding_dimension` in `../")


def test_files_that_the_library_does_not_read_are_not_checked(folder):
    """Exports, old checkpoints, and modules of the model's own code, whatever their folder."""
    own = {"idx": 3, "name": "3", "path": "5_Dense", "type": "my_modules.MyDense"}
    without_folder = own | {"idx": 4, "path": "4_Own"}
    write(folder, "modules.json", [*MODULES, own, without_folder])
    write(folder, "5_Dense/config.json", {"in_dim": 64})
    for name in ("onnx/tokenizer_config.json", "checkpoint-5/1_Pooling/config.json"):
        write(folder, name, {})
        (folder / name).write_text('{"a', "utf-8")

    require_valid_settings("MODEL", folder)


@pytest.fixture
def built(tmp_path):
    return build_model("dense layer", tmp_path / "built")


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        (POOLING, "include_prompt", None),
        (LIBRARY, "truncate_dim", 0),
        (LIBRARY, "truncate_dim", -1),
        (LIBRARY, "prompts", {}),
        (TRANSFORMER, "max_seq_length", None),
        (TRANSFORMER, "do_lower_case", None),
        ("config.json", "architectures", None),
        ("config.json", "vision_config", None),
        ("tokenizer_config.json", "model_max_length", 10**30),
        (DENSE, "bias", True),
    ],
)
def test_what_the_library_loads_is_accepted(built, name, field, value):
    """Each setting is loaded by the library, and by the job."""
    write(built, name, json.loads((built / name).read_text("utf-8")) | {field: value})

    SentenceTransformer(str(built), device="cpu")
    require_valid_settings("MODEL", built)
    refuse_other_kinds("MODEL", built)


def test_the_file_that_limits_the_tokens_is_the_first_that_states_it(folder):
    """sentence-transformers' own file, else the tokenizer's, else the transformer's."""
    assert stated_limit(folder) == ("tokenizer_config.json", "model_max_length")
    write(folder, TRANSFORMER, {"max_seq_length": 0})
    assert stated_limit(folder) == (TRANSFORMER, "max_seq_length")
    assert module_types(folder)[1] == f"{PREFIX}Pooling"
