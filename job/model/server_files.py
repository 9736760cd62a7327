"""Rewrite a saved model's files so that servers read them too.

Since version 5.4, sentence-transformers writes other names of modules and fields than the versions
before. Servers that know only the earlier ones refuse the folder, or take another pooling without
a warning (vLLM issue 45995). The library still reads the earlier form.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Settings = dict[str, Any]
# Classes that the library had before version 5.4, as `sentence_transformers.models.NAME`.
EARLIER = ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "StaticEmbedding")
# Poolings by their earlier field, in the order in which several are concatenated.
POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
CONCATENATED = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# What the library assumes of a transformer whose settings have none of these fields.
TEXT_ENCODER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
# The fields of a dense layer before version 5.4, and values of later ones that change nothing.
DENSE = ("in_features", "out_features", "bias", "activation_function")
EMBEDDING = "sentence_embedding"


def write_for_servers(folder: Path, max_tokens: float, dimensions: Sequence[int] = ()) -> None:
    """Rewrite the settings of a saved model in their earlier form; weights are not touched.

    `max_tokens` is the number of tokens after which texts are cut; infinite without a limit.
    `dimensions` are those that servers may be asked for.
    """
    modules: list[Settings] = json.loads((folder / "modules.json").read_text("utf-8"))
    for module in modules:
        name = module["type"].rpartition(".")[2]
        if not module["type"].startswith("sentence_transformers.") or name not in EARLIER:
            continue
        module["type"] = f"sentence_transformers.models.{name}"
        own = folder / module["path"]
        if name == "Transformer":
            _rewrite(own / "sentence_bert_config.json", lambda s: _transformer(s, max_tokens))
            _rewrite(own / "tokenizer_config.json", _tokenizer)
        elif name in ("Pooling", "Dense"):
            _rewrite(own / "config.json", _pooling if name == "Pooling" else _dense)
    _write(folder / "modules.json", modules)
    if dimensions:
        _rewrite(folder / "config.json", lambda settings: _matryoshka(settings, dimensions))


def _matryoshka(settings: Settings, dimensions: Sequence[int]) -> Settings:
    # vLLM and SGLang refuse a request for fewer dimensions without these fields.
    return settings | {"is_matryoshka": True, "matryoshka_dimensions": sorted(dimensions)}


def _transformer(settings: Settings, max_tokens: float) -> Settings:
    # Set for training (`parts.keep_padding`); earlier versions refuse the name.
    settings = {name: value for name, value in settings.items() if name != "unpad_inputs"}
    # Other settings belong to models that earlier versions cannot run anyway.
    kept = {name: value for name, value in settings.items() if TEXT_ENCODER.get(name) != value}
    if kept.keys() & TEXT_ENCODER.keys():
        kept = settings
    # text-embeddings-inference does not start without the limit.
    limit = {"max_seq_length": int(max_tokens)} if max_tokens < float("inf") else {}
    return {**limit, "do_lower_case": False, **kept}


def _tokenizer(settings: Settings) -> Settings:
    # A name that only transformers 5 knows. Its default are these inputs; before, token types too,
    # which some transformers refuse.
    if settings.get("tokenizer_class") == "TokenizersBackend":
        inputs = {"model_input_names": ["input_ids", "attention_mask"]}
        return inputs | settings | {"tokenizer_class": "PreTrainedTokenizerFast"}
    return settings


def _pooling(settings: Settings) -> Settings:
    mode = settings.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else list(mode or ())
    if not modes or modes != [name for name in CONCATENATED if name in modes]:
        return settings
    rest = {n: v for n, v in settings.items() if n not in ("pooling_mode", "embedding_dimension")}
    # vLLM takes the first field that is true: the poolings stand before `include_prompt`.
    return {
        "word_embedding_dimension": settings["embedding_dimension"],
        **{field: name in modes for name, field in POOLINGS.items()},
        **rest,
    }


def _dense(settings: Settings) -> Settings:
    later = {name: value for name, value in settings.items() if name not in DENSE}
    if any(value not in (None, EMBEDDING, False) for value in later.values()):
        return settings
    return {name: settings[name] for name in DENSE if name in settings}


def _rewrite(path: Path, change: Callable[[Settings], Settings]) -> None:
    if path.is_file():
        _write(path, change(json.loads(path.read_text("utf-8"))))


def _write(path: Path, settings: object) -> None:
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")
