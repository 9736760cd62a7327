"""Rotate a model's vectors, so that their first dimensions hold most of what tells texts apart.

Truncated vectors of a base model that was not trained for it lose what their last dimensions hold.
A rotation to principal components changes no cosine at full width, and fewer of truncated vectors.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch.nn.functional import normalize

from job.core.errors import SpecError
from job.data.dataset import TrainingPairs
from job.distributed.process_group import from_rank_zero
from job.evaluation.evaluate import Validation, Vectors, embed, encode, score_vectors
from job.evaluation.exact_search import TILE_ROWS, Matrix, RowSubset
from job.evaluation.metrics import METRIC, Scores
from job.model.encoder import Model
from job.model.parts import compute_in_float32, has_static_embeddings
from job.runtime.logs import tell


@dataclass(frozen=True)
class Rotation:
    """A rotation, (width, width), and what it does to the base model's truncated vectors.

    The scores are means of nDCG@10 on validation over the dimensions below the width, if any.
    """

    matrix: torch.Tensor
    before: float
    after: float

    def facts(self) -> dict[str, Any]:
        return {"base_truncated": round(self.before, 4), "rotated": round(self.after, 4)}


def rotate(
    model: Model,
    pairs: TrainingPairs,
    validation: Validation,
    corpus_vectors: torch.Tensor | None,
    path: Path,
    *,
    only_if_better: bool,
) -> Rotation | None:
    """Append a rotation to a base model, as a dense layer: that of the vectors of its documents.

    `corpus_vectors`, (n_documents, width), are those of the whole corpus, if already computed.
    With `only_if_better`, it is appended if the base model's truncated vectors score higher with
    it. Returns the rotation if it was appended. A collective call.

    It is read from `path` if an earlier start, or another training of this run, has written it:
    weights of models that are rotated differently cannot be averaged.
    Raises `SpecError` if the model has static embeddings and must be rotated.
    """
    if has_static_embeddings(model.encoder):
        if only_if_better:
            return None
        msg = "`training.rotate` needs a transformer, and the model has static embeddings. "
        raise SpecError(msg + "Set it to `off`.")
    smaller = [d for d in validation.dimensions.all if d < model.width]
    if only_if_better and not smaller:
        return None
    found = from_rank_zero(lambda: _read(path))
    if found is None:
        found = _measure(model, pairs, validation, smaller or [model.width], corpus_vectors)
        from_rank_zero(lambda: _write(path, found))
    if only_if_better and found.after <= found.before:
        tell("rotate", "no gain, left out", **found.facts())
        return None
    tell("rotate", "appended", **found.facts())
    append_rotation(model, found.matrix)
    return found


def _measure(
    model: Model,
    pairs: TrainingPairs,
    validation: Validation,
    scored: list[int],
    corpus_vectors: torch.Tensor | None,
) -> Rotation:
    """Score the base model's vectors on validation at the dimensions `scored`, and rotated."""
    documents, first = np.unique(pairs.documents, return_index=True)
    if corpus_vectors is None:
        texts = pairs.table["positive"].combine_chunks().take(first)
        own: Matrix = encode(model, texts, "document", validation.batch_size)
    else:
        own = RowSubset(corpus_vectors, torch.from_numpy(documents))
    search = validation.search
    known = None if corpus_vectors is None else corpus_vectors[search.positions]
    vectors = embed(model, search.queries, search.corpus, validation.batch_size, known)

    def compare() -> Rotation:
        matrix = principal_rotation(own)
        turned = Vectors(vectors.queries @ matrix, vectors.corpus @ matrix, vectors.device)
        before, after = (score_vectors(each, search.queries, scored) for each in (vectors, turned))
        return Rotation(matrix, _mean(before), _mean(after))

    return from_rank_zero(compare)


def _mean(scores: dict[int, dict[str, Scores]]) -> float:
    return fmean(found["float32"].mean(METRIC) for found in scores.values())


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


def _read(path: Path) -> Rotation | None:
    try:
        with path.open("rb") as file, np.load(file) as found:
            scores = found["scores"].tolist()
            return Rotation(torch.from_numpy(found["matrix"]), *scores)
    # What is damaged is computed again.
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None


def _write(path: Path, rotation: Rotation) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f"new-{path.name}")
    scores = np.array([rotation.before, rotation.after])
    np.savez(whole, matrix=rotation.matrix.numpy(), scores=scores)
    whole.replace(path)
