"""Refuse, before anything is computed, models that cannot be trained as text encoders."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.core.errors import ModelError, first_line
from job.model.parts import ROLES, route
from job.spec.schema import ModelSpec

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch.nn import Module

# By the end of the architecture's name in `config.json`, in folders without `modules.json`.
OTHER_ARCHITECTURES = {
    "ForSequenceClassification": "a cross-encoder or classifier, which scores texts but has no "
    "vectors",
    "ForTokenClassification": "a classifier of tokens",
    "ForQuestionAnswering": "a reader, which marks answers in a text but has no vectors",
}
# By the value of `model_type` in `config_sentence_transformers.json`.
OTHER_LIBRARY_MODELS = {
    "CrossEncoder": "a cross-encoder, which scores pairs of texts but has no vectors",
    "SparseEncoder": "a sparse encoder",
    "MultiVectorEncoder": "a multi-vector encoder, with a vector for each token",
}
USE_AN_ENCODER = "Use a text encoder, such as `BAAI/bge-base-en-v1.5`."
# What a module of sentence-transformers calls the width of its input.
INPUT_WIDTHS = ("in_features", "embedding_dimension", "dimension")


def read_settings(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of the model; empty if there is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def refuse_other_kinds(base: str, folder: Path) -> None:
    """Raise `ModelError` if the model's files declare another kind of model."""
    config = read_settings(folder / "config.json")
    declared = read_settings(folder / "config_sentence_transformers.json").get("model_type")
    if kind := OTHER_LIBRARY_MODELS.get(str(declared)):
        msg = f"The model `{base}` is {kind}. {USE_AN_ENCODER}"
        raise ModelError(msg)
    for part in ("vision_config", "audio_config"):
        if part in config:
            sense = part.removesuffix("_config")
            msg = f"The model `{base}` ({config.get('model_type')}) has a {sense} part: it is no "
            raise ModelError(msg + f"pure text encoder. {USE_AN_ENCODER}")
    if (folder / "modules.json").is_file():
        return
    architecture = next(iter(config.get("architectures") or ()), "")
    for ending, kind in OTHER_ARCHITECTURES.items():
        if architecture.endswith(ending):
            msg = f"The model `{base}` (`{architecture}`) is {kind}. {USE_AN_ENCODER}"
            raise ModelError(msg)
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        msg = (
            f"The model `{base}` (`{architecture}`) is a causal language model without "
            "`modules.json`, which would say how a text's vector is pooled from its tokens. Save "
            "it with a pooling layer, in Python: `from sentence_transformers.sentence_transformer."
            "modules import Transformer, Pooling; t = Transformer('MODEL'); SentenceTransformer("
            "modules=[t, Pooling(t.get_embedding_dimension(), 'lasttoken')]).save('FOLDER')`."
        )
        raise ModelError(msg)


def explain_load_error(spec: ModelSpec, folder: Path, error: Exception) -> ModelError:
    """Return the `ModelError` of a model that the library could not load."""
    import transformers
    from packaging.version import InvalidVersion, Version

    config = read_settings(folder / "config.json")
    start = f"The model `{spec.base}` cannot be loaded: "
    if "trust_remote_code" in str(error) and not spec.trust_remote_code:
        names = ", ".join(f"`{name}`" for name in _own_code(folder))
        return ModelError(
            f"The model `{spec.base}` needs Python code of its repository ({names}), which is not "
            "run by default. If you trust its author, add `--set model.trust_remote_code=true`."
        )
    saved = str(config.get("transformers_version", ""))
    try:
        is_newer = bool(saved) and Version(saved) > Version(transformers.__version__)
    except InvalidVersion:
        is_newer = False
    if is_newer:
        return ModelError(
            f"{start}{first_line(error)}. It was saved by transformers {saved}, and this machine "
            f"has {transformers.__version__}: install a newer one, or use another model."
        )
    if "attention implementation" in str(error):
        return ModelError(
            f"{start}its architecture ({config.get('model_type')}) has no attention "
            f"implementation `{spec.attention}`. Use `--set model.attention=auto`. "
            f"({first_line(error)}.)"
        )
    return ModelError(
        f"{start}{first_line(error)}. It must be saved by sentence-transformers or transformers, "
        "with weights as safetensors."
    )


def _own_code(folder: Path) -> list[str]:
    """Return the classes that a model brings as Python code."""
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        types = [str(module["type"]) for module in modules]
    except (OSError, ValueError, TypeError, KeyError):
        types = []
    own = [name for name in types if not name.startswith("sentence_transformers.")]
    mapped = read_settings(folder / "config.json").get("auto_map")
    return own or [str(name) for name in (mapped or {}).values()] or ["its own code"]


def set_padding_tokens(base: str, encoder: "SentenceTransformer") -> None:
    """Use the end token for padding where there is none; it is saved with the model.

    Many decoders have no padding token. Padding is masked, so its token has no effect.
    """
    from transformers import PreTrainedTokenizerBase

    for role in ROLES:
        tokenizer = getattr(_route(base, encoder, role)[0], "tokenizer", None)
        if not isinstance(tokenizer, PreTrainedTokenizerBase) or tokenizer.pad_token is not None:
            continue
        if tokenizer.eos_token is None:
            msg = f"The tokenizer of the model `{base}` has neither a padding token nor an end "
            msg += "token, so texts of different lengths cannot be embedded together. "
            raise ModelError(msg + "Set `pad_token` in its `tokenizer_config.json`.")
        tokenizer.pad_token = tokenizer.eos_token


def require_sound(base: str, encoder: "SentenceTransformer") -> int:
    """Return the width of the vectors.

    Raises `ModelError` if parts do not fit together or weights are not numbers.
    """
    if others := {str(m) for m in encoder.modalities} - {"text", "message"}:
        msg = f"The model `{base}` reads more than texts ({', '.join(sorted(others))}). "
        raise ModelError(msg + USE_AN_ENCODER)
    widths = {role: _require_fitting_widths(base, _route(base, encoder, role)) for role in ROLES}
    if widths["query"] != widths["document"]:
        msg = f"The model `{base}` has vectors of {widths['query']} dimensions for queries and of "
        raise ModelError(msg + f"{widths['document']} for documents, which cannot be compared.")
    for role in ROLES:
        _require_fitting_tokenizer(base, _route(base, encoder, role)[0])
    for name, weights in encoder.named_parameters():
        if not bool(weights.isfinite().all()):
            msg = f"The weights `{name}` of the model `{base}` contain NaN or infinite values. "
            raise ModelError(msg + "Download the model again, or use another one.")
    return widths["query"]


def _route(base: str, encoder: "SentenceTransformer", role: Any) -> "list[Module]":  # noqa: ANN401
    try:
        return route(encoder, role)
    except ValueError as error:
        msg = f"The router of the model `{base}` has no way for a {role}: {first_line(error)}. "
        raise ModelError(
            msg + "It needs the routes `query` and `document`, or a default."
        ) from None


def _require_fitting_widths(base: str, modules: "list[Module]") -> int:
    """Return the width behind the last module."""
    width = None
    for module in modules:
        expected = next((getattr(module, n) for n in INPUT_WIDTHS if hasattr(module, n)), None)
        if width is not None and expected is not None and expected != width:
            msg = f"In the model `{base}`, the module `{type(module).__name__}` expects vectors of "
            msg += f"{expected} dimensions, but the module before it gives {width}. "
            raise ModelError(msg + "Correct its `config.json`, or download the model again.")
        get_width = getattr(module, "get_embedding_dimension", None)
        width = get_width() if get_width is not None else width
    if width is None:
        msg = f"The model `{base}` does not define its embedding dimension. Use another model."
        raise ModelError(msg)
    return int(width)


def _require_fitting_tokenizer(base: str, module: "Module") -> None:
    """Raise `ModelError` if a token's number lies beyond the embedding table."""
    tokenizer = getattr(module, "tokenizer", None)
    rows = _embedding_rows(module)
    if tokenizer is None or rows is None or not hasattr(tokenizer, "get_vocab"):
        return
    token, highest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if highest >= rows:
        msg = f"The tokenizer of the model `{base}` does not fit its weights: the token `{token}` "
        msg += f"has the number {highest}, but there are embeddings for {rows} tokens only. "
        raise ModelError(msg + "Restore the model's own `tokenizer.json`.")


def _embedding_rows(module: "Module") -> int | None:
    from transformers import PreTrainedModel

    model = getattr(module, "model", None)
    if isinstance(model, PreTrainedModel):
        module = model.get_input_embeddings()
    return getattr(module, "num_embeddings", None)
