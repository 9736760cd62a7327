"""Rotate a model's vectors, so that their first dimensions hold most of what tells texts apart.

Truncated vectors of a base model that was not trained for it lose what their last dimensions hold.
A rotation to principal components changes no cosine at full width, and few of truncated vectors.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from job.core.errors import SpecError
from job.data.dataset import TrainingPairs
from job.distributed.process_group import from_rank_zero
from job.evaluation.evaluate import encode
from job.evaluation.exact_search import TILE_ROWS, Matrix
from job.model.encoder import Model
from job.model.parts import compute_in_float32, has_static_embeddings


def rotate(
    model: Model, pairs: TrainingPairs, batch_size: int, corpus_vectors: Matrix | None, path: Path
) -> None:
    """Append the rotation of the corpus's vectors to a base model, as a dense layer.

    It is read from `path` if an earlier start, or another training of this run, has written it:
    weights of models that are rotated differently cannot be averaged. Without `corpus_vectors`,
    (n_documents, width), the documents of the pairs are embedded. A collective call.
    Raises `SpecError` if the model has static embeddings.
    """
    if has_static_embeddings(model.encoder):
        msg = "`training.rotate` needs a transformer, and the model has static embeddings. "
        raise SpecError(msg + "Set it to `false`.")
    found = from_rank_zero(lambda: _read(path))
    if found is None:
        if corpus_vectors is None:
            first = np.unique(pairs.documents, return_index=True)[1]
            texts = pairs.table["positive"].combine_chunks().take(first)
            corpus_vectors = encode(model, texts, "document", batch_size)
        vectors = corpus_vectors
        found = from_rank_zero(lambda: _write(path, principal_rotation(vectors)))
    append_rotation(model, found)


def principal_rotation(vectors: Matrix) -> torch.Tensor:
    """Return the matrix R, (width, width), of which `vectors @ R` has its energy in front.

    Its columns are the eigenvectors of the vectors' second moment, all scaled to length 1.
    """
    width = vectors[:1].shape[1]
    moment = torch.zeros(width, width, dtype=torch.float64)
    for start in range(0, len(vectors), TILE_ROWS):
        tile = normalize(vectors[start : start + TILE_ROWS].double().cpu(), dim=1)
        moment += tile.T @ tile
    components = torch.linalg.eigh(moment).eigenvectors.flip(1)
    # Eigenvectors have no sign of their own, and another machine could choose the other one.
    largest = components.gather(0, components.abs().argmax(dim=0, keepdim=True))
    rotation: torch.Tensor = (components * largest.sign()).float()
    return rotation


def append_rotation(model: Model, rotation: torch.Tensor) -> None:
    """Add a frozen dense layer in front of a final normalization, or at the end."""
    from sentence_transformers.base.modules import Dense, Normalize

    encoder, width = model.encoder, len(rotation)
    weights = rotation.T.contiguous()
    dense = Dense(width, width, bias=False, activation_function=None, init_weight=weights)
    dense.to(encoder.device).requires_grad_(requires_grad=False)
    compute_in_float32(dense, encoder.device.type)
    last = len(encoder) - 1
    encoder.insert(last if isinstance(encoder[last], Normalize) else last + 1, dense)


def _read(path: Path) -> torch.Tensor | None:
    try:
        return torch.from_numpy(np.load(path))
    except (OSError, ValueError, EOFError):
        return None


def _write(path: Path, rotation: torch.Tensor) -> torch.Tensor:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f"new-{path.name}")
    np.save(whole, rotation.numpy())
    whole.replace(path)
    return rotation
