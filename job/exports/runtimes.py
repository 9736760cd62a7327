"""Load an export as a sentence-transformers model whose transformer onnxruntime or OpenVINO runs.

sentence-transformers itself needs optimum for that, which requires an older transformers than ours.
Pooling, dense layers, normalization and prompts are the library's own.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from job.exports.kinds import FILES
from job.model.parts import keep_padding, keep_vectors_in_float32
from job.model.settings import transformer_folder
from job.runtime.watchdog import record_activity

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

OUTPUT = "last_hidden_state"
# Computes token embeddings, (texts, tokens, width), from arrays by the names of the inputs.
Run = Callable[[Mapping[str, "np.ndarray[Any, Any]"]], "np.ndarray[Any, Any]"]


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry: each import would send an event to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")


class Transformer(torch.nn.Module):
    """Stands where sentence-transformers expects a model of transformers."""

    def __init__(self, config: object, names: list[str], run: Run) -> None:
        super().__init__()
        self.config, self._names, self._run = config, names, run

    def forward(self, **features: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self._run({name: features[name].numpy() for name in self._names})
        return {OUTPUT: torch.from_numpy(found)}


def open_export(folder: Path, *, trust_code: bool = False) -> "SentenceTransformer":
    """Load an export, to compute on this machine's CPU, with as many threads as torch."""
    from sentence_transformers import SentenceTransformer

    own = transformer_folder(folder)
    is_onnx = (own / FILES["onnx"]).is_file()
    names, run = _open_onnx(own) if is_onnx else _open_openvino(own)
    with _transformer_replaced(lambda config: Transformer(config, names, run)):
        encoder = SentenceTransformer(str(folder), device="cpu", trust_remote_code=trust_code)
    keep_vectors_in_float32(encoder)
    keep_padding(encoder)
    encoder[0].register_forward_pre_hook(record_activity)
    encoder.truncate_dim = None
    return encoder


def _open_onnx(folder: Path) -> tuple[list[str], Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin while they wait slow down everything else on the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path, providers = str(folder / FILES["onnx"]), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, options, providers)

    def run(features: Mapping[str, "np.ndarray[Any, Any]"]) -> "np.ndarray[Any, Any]":
        found: np.ndarray[Any, Any] = session.run([OUTPUT], features)[0]
        return found

    return [given.name for given in session.get_inputs()], run


def _open_openvino(folder: Path) -> tuple[list[str], Run]:
    openvino = import_openvino()
    # By default, OpenVINO rounds to bfloat16 on CPUs that compute in it.
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    settings["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
    model = openvino.Core().compile_model(str(folder / FILES["openvino"]), "CPU", settings)

    def run(features: Mapping[str, "np.ndarray[Any, Any]"]) -> "np.ndarray[Any, Any]":
        # A copy: the next call overwrites the output.
        return np.array(model(features)[OUTPUT])

    return [given.get_any_name() for given in model.inputs], run


@contextmanager
def _transformer_replaced(build: Callable[[object], Transformer]) -> Iterator[None]:
    """Within this block, sentence-transformers loads this instead of a model's weights."""
    from sentence_transformers.base.modules import Transformer as Library

    original = Library._load_model

    def load(_self: object, *arguments: object, **_options: object) -> Transformer:
        _path, _task, config, *_ = arguments
        return build(config)

    Library._load_model = load
    try:
        yield
    finally:
        Library._load_model = original
