"""The settings in a base model's own files: their types, and the folders that they name.

Needs no torch.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from job.core.errors import ModelError

Count = Annotated[int, Field(gt=0)]
MODULES, LIBRARY = "modules.json", "config_sentence_transformers.json"
# This module has no settings, and some downloads leave its empty folder out.
WITHOUT_FOLDER = "Normalize"
REPAIR = "Correct the file, or download the model again."
VALUE_CHARACTERS = 60


class _Settings(BaseModel):
    """A JSON object; fields that are not listed are the library's own concern."""

    model_config = ConfigDict(strict=True, protected_namespaces=())


class _Module(_Settings):
    type: str
    path: str


class _Modules(RootModel[list[_Module]]):
    model_config = ConfigDict(strict=True)


class _Library(_Settings):
    prompts: dict[str, str | None] = {}
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    similarity_fn_name: str | None = None


class _Transformer(_Settings):
    max_seq_length: int | None = None
    do_lower_case: bool | None = None


class _Tokenizer(_Settings):
    # Tokenizers without a limit state 10^30.
    model_max_length: float | None = None


class _Config(_Settings):
    architectures: list[str] | None = None
    max_position_embeddings: int | None = None
    n_positions: int | None = None
    pad_token_id: int | None = None


class _Pooling(_Settings):
    embedding_dimension: Count | None = None
    word_embedding_dimension: Count | None = None
    pooling_mode: str | Annotated[list[str], Field(min_length=1)] = "mean"
    include_prompt: bool | None = True


class _Dense(_Settings):
    in_features: Count
    out_features: Count
    bias: bool = True
    activation_function: str = ""


class _LayerNorm(_Settings):
    dimension: Count


# The files of the model itself, and of the library's modules, by their class.
FILES: dict[str, type[BaseModel]] = {MODULES: _Modules, LIBRARY: _Library}
MODULE_FILES: dict[str, dict[str, type[BaseModel]]] = {
    "Transformer": {
        "config.json": _Config,
        "sentence_bert_config.json": _Transformer,
        "tokenizer_config.json": _Tokenizer,
    },
    "Pooling": {"config.json": _Pooling},
    "Dense": {"config.json": _Dense},
    "LayerNorm": {"config.json": _LayerNorm},
}


def read_settings(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of the model; empty if there is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def module_types(folder: Path) -> list[str]:
    """Return the classes that `modules.json` names, each with its Python module."""
    return [kind for kind, _ in _modules(folder)]


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the class and the folder of each module that `modules.json` names."""
    try:
        modules = json.loads((folder / MODULES).read_text("utf-8"))
        return [(str(m["type"]), folder / str(m.get("path", ""))) for m in modules]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def _routed_modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the class and the folder of each module in the folder of a router."""
    types = read_settings(folder / "router_config.json").get("types")
    found = types.items() if isinstance(types, dict) else ()
    return [(str(kind), folder / str(name)) for name, kind in found]


def transformer_folder(folder: Path) -> Path:
    """Return the folder of the model's transformer; some keep it below their own folder."""
    found = (path for kind, path in _modules(folder) if kind.endswith(".Transformer"))
    return next(found, folder)


def is_of_library(kind: str) -> bool:
    """Return whether a module's class is one of sentence-transformers, not of the model."""
    return kind.startswith("sentence_transformers.")


def require_valid_settings(base: str, folder: Path) -> None:
    """Raise `ModelError` if a file of the model has a setting of a wrong type or lacks a folder."""
    start = f"The model `{base}` cannot be loaded: "
    for name, expected in FILES.items():
        _require_valid(start, folder, folder / name, expected)
    # Without `modules.json`, the folder is that of a transformer.
    modules = _modules(folder) or [("sentence_transformers.Transformer", folder)]
    modules += [routed for kind, path in modules for routed in _routed_modules(path)]
    for kind, path in modules:
        # What a module of own code needs is its own concern.
        if not is_of_library(kind):
            continue
        if not path.is_dir() and not kind.endswith(WITHOUT_FOLDER):
            msg = f"{start}`{MODULES}` names the folder `{_relative(path, folder)}`, which is "
            raise ModelError(msg + f"missing. {REPAIR}")
        for name, expected in MODULE_FILES.get(kind.rsplit(".", 1)[-1], {}).items():
            _require_valid(start, folder, path / name, expected)


def _relative(path: Path, folder: Path) -> str:
    # `modules.json` may name a folder elsewhere.
    return Path(os.path.relpath(path, folder)).as_posix()


def _require_valid(start: str, folder: Path, path: Path, expected: type[BaseModel]) -> None:
    if not path.is_file():
        return
    name = f"`{_relative(path, folder)}`"
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{start}{name} is not readable JSON ({error}). {REPAIR}"
        raise ModelError(msg) from None
    try:
        expected.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        # The types of a field that takes several are not parts of its name.
        parts = [str(part) for part in problem["loc"]]
        where = ".".join(p for p in parts if p != "str" and not p.startswith(("list[", "constr")))
        place = f"`{where}` in {name}" if where else name
        if problem["type"] == "missing":
            msg = f"{start}{place} is missing. {REPAIR}"
            raise ModelError(msg) from None
        shown = json.dumps(problem["input"])[:VALUE_CHARACTERS]
        rule = problem["msg"].replace("Input should be", "must be")
        if problem["type"] == "model_type":
            rule = "must be an object"
        msg = f"{start}{place} is `{shown}`; it {rule}. {REPAIR}"
        raise ModelError(msg) from None


def stated_limit(folder: Path) -> tuple[str, str] | None:
    """Return the file and the setting that limit the tokens of a text; None if no file does."""
    inner = transformer_folder(folder)
    for name, setting in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
        ("config.json", "max_position_embeddings"),
    ):
        if read_settings(inner / name).get(setting) is not None:
            return _relative(inner / name, folder), setting
    return None
