"""Write a saved model as ONNX or OpenVINO, in the layout that sentence-transformers reads."""

import io
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import torch

from job.exports.kinds import Kind
from job.exports.runtimes import OUTPUT, import_openvino
from job.model.settings import transformer_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

OPSET = 17
# Texts of different lengths, so that the trace reads a mask.
TEXTS = ["a", "a text of some more words"]
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "README.md")
# Texts from which the ranges of OpenVINO's int8 activations are found.
CALIBRATION = 300


def write_export(
    encoder: "SentenceTransformer", model: Path, folder: Path, kind: Kind, texts: Sequence[str]
) -> None:
    """Export the model; `encoder` is what is stored in the folder `model`, in float32 on the CPU.

    `texts`, of the training split and with their prompts, calibrate OpenVINO's int8.
    """
    own = transformer_folder(model)
    unused = shutil.ignore_patterns(*WEIGHTS)
    shutil.copytree(
        model, folder, ignore=lambda at, names: unused(at, names) if Path(at) == own else ()
    )
    target = folder / own.relative_to(model) / kind.file
    target.parent.mkdir()
    with TemporaryDirectory(prefix="trace-", dir=folder) as temporary:
        traced = target if kind.name == "onnx-float32" else Path(temporary) / "model.onnx"
        trace(encoder, traced)
        if kind.name == "onnx-int8":
            _quantize_onnx(traced, target)
        elif kind.format == "openvino":
            _convert(traced, target, kind.precision, encoder, texts)


class _TokenEmbeddings(torch.nn.Module):
    """Gives a transformer positional inputs and a single output, which the tracer needs."""

    def __init__(self, transformer: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.transformer, self._names = transformer, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        named = dict(zip(self._names, inputs, strict=True))
        found: torch.Tensor = self.transformer(**named, return_dict=True)[OUTPUT]
        return found


def trace(encoder: "SentenceTransformer", path: Path) -> None:
    """Write the encoder's transformer as ONNX, for any number of texts and tokens."""
    inputs, first = inputs_of(encoder, TEXTS), cast("Any", encoder[0])
    sizes = {0: "texts", 1: "tokens"}
    # The newer exporter (`dynamo=True`) fails on T5 and takes 10 to 30 times as long (job/LOG.md).
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _TokenEmbeddings(first.model, list(inputs)).eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[OUTPUT],
            dynamic_axes=dict.fromkeys([*inputs, OUTPUT], sizes),
        )


def inputs_of(encoder: "SentenceTransformer", texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return what the encoder's transformer reads of texts, by name: (texts, tokens)."""
    transformer: Any = encoder[0]
    taken = signature(transformer.model.forward).parameters
    features = transformer.preprocess(list(texts))
    return {
        name: value
        for name, value in features.items()
        if isinstance(value, torch.Tensor) and name in taken
    }


def _quantize_onnx(source: Path, target: Path) -> None:
    """Round weights to int8, each output channel by its own step; activations when it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Seven bits: on CPUs without VNNI, sums of eight-bit products overflow unnoticed.
    options = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
    with _quiet():
        quantize_dynamic(source, target, **options)


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the quantizers print: progress bars on stdout, advice that does not apply."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _convert(
    source: Path, target: Path, precision: str, encoder: "SentenceTransformer", texts: Sequence[str]
) -> None:
    openvino = import_openvino()
    model = openvino.convert_model(str(source))
    if precision == "int8":
        import nncf

        samples = [
            {name: value.numpy() for name, value in inputs_of(encoder, [text]).items()}
            for text in texts[:CALIBRATION]
        ]
        with _quiet():
            model = nncf.quantize(
                model,
                nncf.Dataset(samples),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(samples),
            )
    openvino.save_model(model, str(target), compress_to_fp16=precision == "float16")
