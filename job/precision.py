"""Smaller vectors: int8 and binary, quantized and searched as sentence-transformers does it.

What is stored can be searched in two ways: by the codes alone, or rescored, where the best by codes
are ranked again by the float query against what their codes stand for. Both take the same space.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from job.ranking import DEPTH, FloatArray, IntArray, rank_products
from job.wording import RESCORED

if TYPE_CHECKING:
    import torch

# Bits that a component of a stored vector takes.
BITS = {"float32": 32, "int8": 8, "binary": 1}
# The library's default: twice as many candidates are rescored as are wanted.
RESCORE_MULTIPLIER = 2
# Components quantized or rescored at once: 2^18 float64 are 2 MiB, which a cache holds.
BLOCK = 2**18

CodeArray = np.ndarray[Any, np.dtype[np.int8]]


def stored_as(precision: str) -> str:
    """Name what is stored for a way of searching: `int8` for `int8_rescored`."""
    return precision.removesuffix(RESCORED)


def bytes_per_vector(dimension: int, precision: str) -> int:
    return math.ceil(dimension * BITS[stored_as(precision)] / 8)


def rank_quantized(
    queries: "torch.Tensor", corpus: "torch.Tensor", dimension: int, precision: str
) -> dict[str, IntArray]:
    """Rank by int8 or binary codes of the first `dimension` components, alone and rescored.

    Takes (n_queries, width) and (n_documents, width); returns positions, (n_queries, ≤ 100).
    """
    import torch
    from torch.nn.functional import normalize

    # Truncate, normalize, quantize: what is cut off a unit vector leaves a shorter one, the ranges
    # of int8 must be those of the vectors that are stored, and codes cannot be normalized.
    left, right = (normalize(v[:, :dimension].float(), dim=1) for v in (queries, corpus))
    # Calibrated on the corpus, as one that is deployed would be.
    ranges = torch.stack([right.amin(dim=0), right.amax(dim=0)]).cpu().numpy()
    asked, stored = (_codes(vectors, precision, ranges) for vectors in (left, right))
    # Sums of products of such small whole numbers are exact in float32, and in TF32 as well.
    numbers = [torch.from_numpy(c).to(corpus.device, torch.float32) for c in (asked, stored)]
    found = rank_products(numbers[0], numbers[1], RESCORE_MULTIPLIER * DEPTH)
    weights = left.cpu().numpy().astype(np.float64)
    if precision == "int8":
        # An int8 code stands for `start + step * (code + 128)`: all but the steps is the same for
        # every document. Signs need no more than the query itself.
        weights = weights * ((ranges[1] - ranges[0]) / 255).astype(np.float64)
    return {precision: found[:, :DEPTH], precision + RESCORED: _rescore(found, weights, stored)}


def _codes(vectors: "torch.Tensor", precision: str, ranges: FloatArray) -> CodeArray:
    """Quantize with the library: int8 codes, or -1 and 1 for the bits of a binary vector."""
    from sentence_transformers import quantize_embeddings

    def quantize(block: FloatArray) -> CodeArray:
        if precision == "int8":
            return np.asarray(quantize_embeddings(block, "int8", ranges=ranges))
        packed = np.asarray(quantize_embeddings(block, "ubinary"))
        bits: CodeArray = np.unpackbits(packed, axis=1, count=block.shape[1]).astype(np.int8)
        # The product of signs is the dimension minus twice the Hamming distance.
        return 2 * bits - 1

    rows = max(1, BLOCK // vectors.shape[1])
    blocks = (vectors[start : start + rows] for start in range(0, len(vectors), rows))
    return np.concatenate([quantize(block.cpu().numpy()) for block in blocks])


def _rescore(found: IntArray, weights: FloatArray, codes: CodeArray) -> IntArray:
    """Rank the found documents, (n_queries, n_found), by weighted sums of their codes."""
    # Equal scores go by position, as everywhere.
    candidates = np.sort(found, axis=1)
    rows = max(1, BLOCK // (candidates.shape[1] * codes.shape[1]))
    ranked = []
    for start in range(0, len(candidates), rows):
        block = candidates[start : start + rows]
        # Not a BLAS product, whose rounding depends on a row's place: equal codes must score alike.
        numbers = codes[block].astype(np.float64)
        scores = np.einsum("qd,qcd->qc", weights[start : start + rows], numbers)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        ranked.append(np.take_along_axis(block, order, axis=1))
    return np.concatenate(ranked)
