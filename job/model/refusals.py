"""Refuse, before anything is computed, models that cannot be trained as text encoders."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.core.errors import ModelError, first_line
from job.model.parts import ROLES, route
from job.model.settings import (
    LIBRARY,
    MODULES,
    REPAIR,
    is_of_library,
    module_types,
    read_settings,
    transformer_folder,
)
from job.model.vocabulary import require_fitting_tokenizer
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
# By the class of a module in `modules.json`.
SPARSE = "a sparse encoder, which has a weight for each word instead of a vector"
OTHER_MODULES = {
    "CLIPModel": "a model of images and texts (CLIP)",
    "MLMTransformer": SPARSE,
    "SpladePooling": SPARSE,
    "SparseAutoEncoder": SPARSE,
    "SparseStaticEmbedding": SPARSE,
    "MultiVectorMask": "a multi-vector encoder, with a vector for each token",
    "BoW": "a bag of words, which counts words and has no weights to train",
    "WordEmbeddings": "a model of word embeddings that split a text at its spaces",
    "LSTM": "an LSTM, which needs word embeddings",
}
USE_AN_ENCODER = "Use a text encoder, such as `BAAI/bge-base-en-v1.5`."
NEEDED = "It must be saved by sentence-transformers or transformers, with weights as safetensors."
# What a module of sentence-transformers calls the width of its input.
INPUT_WIDTHS = ("in_features", "embedding_dimension", "dimension")


def refuse_other_kinds(base: str, folder: Path) -> None:
    """Raise `ModelError` if the model's files declare another kind of model."""
    config = read_settings(folder / "config.json")
    declared = read_settings(folder / LIBRARY).get("model_type")
    if kind := OTHER_LIBRARY_MODELS.get(str(declared)):
        msg = f"The model `{base}` is {kind}. {USE_AN_ENCODER}"
        raise ModelError(msg)
    for part in ("vision_config", "audio_config"):
        if config.get(part):
            sense = part.removesuffix("_config")
            msg = f"The model `{base}` ({config.get('model_type')}) has a {sense} part: it is no "
            raise ModelError(msg + f"pure text encoder. {USE_AN_ENCODER}")
    for module in module_types(folder):
        if kind := OTHER_MODULES.get(module.rsplit(".", 1)[-1]):
            msg = f"The model `{base}` is {kind}. {USE_AN_ENCODER}"
            raise ModelError(msg)
    _refuse_adapters(base, folder)
    if (folder / MODULES).is_file():
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


def _refuse_adapters(base: str, folder: Path) -> None:
    """Raise `ModelError` if the folder has an adapter instead of a model's weights."""
    if not (folder / "adapter_config.json").is_file() or any(folder.glob("model*.safetensors")):
        return
    whole = read_settings(folder / "adapter_config.json").get("base_model_name_or_path")
    msg = (
        f"The model `{base}` is only an adapter (LoRA) of the model `{whole}`. Merge the two, in "
        "Python: `from peft import PeftModel; from sentence_transformers import "
        f"SentenceTransformer; m = SentenceTransformer('{whole}'); m[0].model = "
        f"PeftModel.from_pretrained(m[0].model, '{base}').merge_and_unload(); m.save('FOLDER')`."
    )
    raise ModelError(msg)


def explain_load_error(spec: ModelSpec, folder: Path, error: Exception) -> ModelError:
    """Return the `ModelError` of a model that the library could not load."""
    if "trust_remote_code" in str(error) and not spec.trust_remote_code:
        names = ", ".join(f"`{name}`" for name in _own_code(folder))
        return ModelError(
            f"The model `{spec.base}` needs Python code of its repository ({names}), which is not "
            "run by default. If you trust its author, add `--set model.trust_remote_code=true`."
        )
    return ModelError(f"The model `{spec.base}` cannot be loaded: {_cause(spec, folder, error)}")


def _cause(spec: ModelSpec, folder: Path, error: Exception) -> str:
    """Return why a model cannot be loaded, and what to do."""
    import transformers
    from safetensors import SafetensorError

    inner = transformer_folder(folder)
    config, line = read_settings(inner / "config.json"), _message(error)
    if not any((folder / name).is_file() for name in ("config.json", MODULES)):
        return f"its folder has no `config.json`. {NEEDED}"
    if _is_newer(saved := str(config.get("transformers_version", ""))):
        return (
            f"{line}. It was saved by transformers {saved}, and this machine has "
            f"{transformers.__version__}: install a newer one, or use another model."
        )
    if "processing class" in str(error):
        return _missing_package(inner) or (
            "the files of its tokenizer are missing or damaged. Restore `tokenizer.json` and "
            "`tokenizer_config.json` from the model that it was made of."
        )
    if "FlashAttention" in str(error):
        return (
            f"`model.attention` is `{spec.attention}`, which needs a GPU and the package "
            f"`flash-attn`. Use `--set model.attention=auto`. ({line}.)"
        )
    if "attention implementation" in str(error):
        return (
            f"its architecture ({config.get('model_type')}) has no attention implementation "
            f"`{spec.attention}`. Use `--set model.attention=auto`. ({line}.)"
        )
    is_file = isinstance(error, (OSError, SafetensorError))
    return f"{line}. {NEEDED if is_file else REPAIR}"


def _message(error: Exception) -> str:
    """Return a library's message in one line that makes sense without its traceback."""
    line = first_line(error)
    if isinstance(error, KeyError):
        return f"a file lacks the setting {line}, or has this unknown value"
    if line.startswith("Default prompt name"):
        return f"`default_prompt_name` in `{LIBRARY}` names no prompt of the model ({line})"
    # The cause is in the next lines.
    return " ".join(str(error).split())[:300] if line.endswith(":") else line


def _missing_package(folder: Path) -> str | None:
    """Return which package the model's tokenizer needs, and how to do without; None if it is none.

    sentence-transformers hides the error of transformers.
    """
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # noqa: BLE001  whatever a tokenizer's code raises
        if not isinstance(error, ImportError) and "pip install" not in str(error):
            return None
        return (
            f"its tokenizer needs a Python package that is not installed ({first_line(error)}). "
            "Install it, in an image `FROM` embedtune's too, or use a model with `tokenizer.json`."
        )
    return None


def _is_newer(saved: str) -> bool:
    """Return whether a version of transformers is newer than this machine's."""
    import transformers
    from packaging.version import InvalidVersion, Version

    try:
        return bool(saved) and Version(saved) > Version(transformers.__version__)
    except InvalidVersion:
        return False


def _own_code(folder: Path) -> list[str]:
    """Return the classes that a model brings as Python code."""
    own = [name for name in module_types(folder) if not is_of_library(name)]
    mapped = read_settings(folder / "config.json").get("auto_map")
    return own or [str(name) for name in (mapped or {}).values()] or ["its own code"]


def require_sound(base: str, encoder: "SentenceTransformer") -> int:
    """Return the width of the vectors.

    Raises `ModelError` if parts do not fit together or weights are not numbers.
    """
    if others := {str(m) for m in encoder.modalities} - {"text", "message"}:
        msg = f"The model `{base}` reads more than texts ({', '.join(sorted(others))}). "
        raise ModelError(msg + USE_AN_ENCODER)
    ways = {role: _route(base, encoder, role) for role in ROLES}
    for modules in ways.values():
        _require_reader(base, modules[0])
        _require_pooling(base, modules)
    widths = {role: _require_fitting_widths(base, modules) for role, modules in ways.items()}
    if widths["query"] != widths["document"]:
        msg = f"The model `{base}` has vectors of {widths['query']} dimensions for queries and of "
        raise ModelError(msg + f"{widths['document']} for documents, which cannot be compared.")
    for modules in ways.values():
        require_fitting_tokenizer(base, modules[0])
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


def _require_reader(base: str, first: "Module") -> None:
    """Raise `ModelError` if the first module does not read texts."""
    if getattr(first, "tokenizer", None) is None:
        msg = (
            f"The first module of the model `{base}`, `{type(first).__name__}`, has no tokenizer, "
        )
        msg += "so it reads no texts. Correct the order in `modules.json`, or use another model."
        raise ModelError(msg)


def _require_pooling(base: str, modules: "list[Module]") -> None:
    """Raise `ModelError` if no module makes one vector of a transformer's vectors of the tokens."""
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    first = modules[0]
    if not isinstance(first, Transformer) or first.module_output_name != "token_embeddings":
        return
    others = modules[1:]
    # A module of the model's own code may pool.
    is_known = all(
        type(module).__module__.startswith("sentence_transformers.") for module in others
    )
    if is_known and not any(isinstance(module, Pooling) for module in others):
        msg = f"The model `{base}` has no pooling layer, so it gives a vector for each token and "
        msg += "none for the text. Save it with one, in Python: `from sentence_transformers import "
        msg += "SentenceTransformer; from sentence_transformers.sentence_transformer.modules "
        msg += "import Pooling; m = SentenceTransformer('MODEL'); m.append(Pooling("
        msg += "m[0].get_embedding_dimension(), 'mean')); m.save('FOLDER')`."
        raise ModelError(msg)


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
