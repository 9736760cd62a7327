"""Refuse, before anything is computed, models that cannot be exported."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from job.core.errors import EmbedtuneError, ModelError, first_line
from job.exports.kinds import Kind
from job.exports.measure import EQUAL
from job.exports.runtimes import OUTPUT, open_export
from job.exports.write import write_export
from job.model.encoder import Model, open_encoder
from job.model.parts import has_static_embeddings
from job.model.save import write_model
from job.runtime.oom import is_out_of_memory

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# An ONNX file holds 2 GB at most.
MAX_BYTES = 2_000_000_000
FLOAT32_BYTES = 4
ADVICE = "Use another base model, or no `output.exports`."


def prove_exportable(
    model: Model, base: str, kinds: Collection[Kind], texts: Sequence[str], folder: Path
) -> None:
    """Export the model in float32 to each format below `folder`, load it, and compare `texts`.

    Raises `ModelError`, which names the base model, if any of it fails.
    """
    require_exportable(model.encoder, base)
    encoder, code = model.encoder, model.encoder.trust_remote_code
    settings = encoder.prompts, encoder.default_prompt_name
    try:
        with TemporaryDirectory(prefix="proof-", dir=folder) as saved:
            write_model(model, Path(saved) / "model", "float32")
            original = open_encoder(Path(saved) / "model", "cpu", trust_code=code, dtype="float32")
            for name in sorted({kind.format for kind in kinds}):
                kind, target = Kind(name, "float32"), Path(saved) / name
                with explained(base, name):
                    write_export(original, Path(saved) / "model", target, kind, texts)
                    exported = open_export(target, trust_code=code)
                    cosine = _lowest_cosine(original, exported, texts)
                if not cosine >= EQUAL:
                    msg = f"The model `{base}` cannot be exported as {name}: the export embeds a "
                    raise ModelError(msg + f"text differently (cosine {cosine:.4f}). {ADVICE}")
    finally:
        encoder.prompts, encoder.default_prompt_name = settings


def require_exportable(encoder: "SentenceTransformer", base: str) -> None:
    """Raise `ModelError` unless the model starts with one transformer, of at most 2 GB."""
    from sentence_transformers.base.modules import Router, Transformer

    first, *others = encoder.children()
    start = f"The model `{base}` cannot be exported: "
    if has_static_embeddings(encoder) and not isinstance(first, Router):
        msg = f"{start}it has static embeddings, a table that needs no faster format. {ADVICE}"
        raise ModelError(msg)
    if not isinstance(first, Transformer) or any(isinstance(m, Transformer) for m in others):
        kind = "a router" if isinstance(first, Router) else f"`{type(first).__name__}`"
        msg = f"{start}it begins with {kind} instead of one transformer. {ADVICE}"
        raise ModelError(msg)
    method = first.modality_config.get("text", {})
    if method.get("method") != "forward" or method.get("method_output_name") != OUTPUT:
        msg = f"{start}its vectors do not come from the transformer's last layer. {ADVICE}"
        raise ModelError(msg)
    size = FLOAT32_BYTES * sum(weights.numel() for weights in encoder.parameters())
    if size > MAX_BYTES:
        msg = f"{start}its weights take {size / 1e9:.1f} GB as float32, and an ONNX file holds "
        raise ModelError(msg + f"{MAX_BYTES / 1e9:g} GB. {ADVICE}")


@contextmanager
def explained(base: str, name: str) -> Iterator[None]:
    """Convert what the exporters raise, which is anything, to one line."""
    try:
        yield
    except Exception as error:
        # A full disk has a number; the libraries' own errors of this class have none.
        is_disk = isinstance(error, OSError) and error.errno is not None
        if is_disk or is_out_of_memory(error) or isinstance(error, EmbedtuneError):
            raise
        why = f"{type(error).__name__}: {first_line(error)}"
        msg = f"The model `{base}` cannot be exported as {name} ({why}). {ADVICE}"
        raise ModelError(msg) from error


def _lowest_cosine(
    original: "SentenceTransformer", exported: "SentenceTransformer", texts: Sequence[str]
) -> float:
    """Embed the texts together and one alone, which gives inputs of other sizes."""
    lowest = []
    for part in (list(texts), list(texts[:1])):
        one, other = (
            encoder.encode_document(part, convert_to_tensor=True, show_progress_bar=False)
            for encoder in (original, exported)
        )
        width = min(one.shape[1], other.shape[1])
        one, other = one[:, :width].float(), other[:, :width].float()
        lowest.append(float(torch.nn.functional.cosine_similarity(one, other).min()))
    return min(lowest)
