"""Smaller vectors: int8 and binary, quantized and searched as sentence-transformers does it.

What is stored can be searched in two ways: by the codes alone, or rescored, where the best by codes
are ranked again by the float query against what their codes stand for. Both take the same space.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from job.core.formatting import RESCORED
from job.evaluation.exact_search import Transform, search, tiles
from job.evaluation.metrics import DEPTH, IntArray

# Bits that a component of a stored vector takes.
BITS = {"float32": 32, "int8": 8, "binary": 1}
# The library's default: twice as many candidates are rescored as are wanted.
RESCORE_MULTIPLIER = 2
# Components rescored at once: 2^18 float64 are 2 MiB, which a cache holds.
RESCORE_COMPONENTS = 2**18


def stored_as(precision: str) -> str:
    """Name what is stored for a way of searching: `int8` for `int8_rescored`."""
    return precision.removesuffix(RESCORED)


def bytes_per_vector(dimension: int, precision: str) -> int:
    return math.ceil(dimension * BITS[stored_as(precision)] / 8)


@dataclass(frozen=True, kw_only=True)
class Quantizer(Transform):
    """Vectors cut, normalized and quantized, in this order, to what the library makes of them.

    What is cut off a unit vector leaves a shorter one, the ranges of int8 must be those of the
    vectors that are stored, and codes cannot be normalized.
    """

    dimension: int
    precision: str
    # The smallest and the largest of each component, (2, dimension).
    ranges: torch.Tensor
    depth: int = RESCORE_MULTIPLIER * DEPTH

    @property
    def steps(self) -> torch.Tensor:
        return (self.ranges[1] - self.ranges[0]) / 255

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return codes, (n, dimension), as float32.

        Sums of products of such small whole numbers are exact in float32, and in TF32 as well.
        """
        units = super().apply(vectors)
        if self.precision == "binary":
            # The product of signs is the dimension minus twice the Hamming distance.
            return (units > 0).float() * 2 - 1
        starts, steps = self.ranges[0].to(units.device), self.steps.to(units.device)
        return ((units - starts) / steps.where(steps != 0, 1)).floor().clamp(0, 255) - 128


def rank(
    queries: torch.Tensor,
    corpus: torch.Tensor,
    dimensions: Collection[int],
    precisions: Collection[str],
    device: str = "cpu",
) -> dict[int, dict[str, IntArray]]:
    """Rank by the first components of each number: by float32, and by codes, alone and rescored.

    Takes (n_queries, width) and (n_documents, width); returns positions, (n_queries, ≤ 100).
    """
    wanted = [name for name in BITS if name in precisions and name != "float32"]
    # Calibrated on the corpus, as one that is deployed would be.
    ranges = _ranges(corpus, dimensions, device) if wanted else {}
    units = [Transform(dimension) for dimension in dimensions]
    codes = [
        Quantizer(dimension=d, precision=name, ranges=ranges[d])
        for d in dimensions
        for name in wanted
    ]
    found = [best.positions.numpy() for best in search(queries, corpus, [*units, *codes], device)]
    ranked: dict[int, dict[str, IntArray]] = {
        dimension: {"float32": best} for dimension, best in zip(dimensions, found, strict=False)
    }
    for transform, best in zip(codes, found[len(units) :], strict=True):
        ranked[transform.dimension] |= {
            transform.precision: best[:, :DEPTH],
            transform.precision + RESCORED: _rescore(best, transform, queries, corpus),
        }
    return ranked


def _ranges(
    corpus: torch.Tensor, dimensions: Collection[int], device: str
) -> dict[int, torch.Tensor]:
    """Find the smallest and the largest of each component at each dimension: (2, dimension)."""
    found: dict[int, torch.Tensor] = {}
    for _, tile in tiles(corpus, device):
        for dimension in dimensions:
            ends = torch.stack(Transform(dimension).apply(tile).aminmax(dim=0)).cpu()
            seen = torch.cat([found.get(dimension, ends), ends])
            found[dimension] = torch.stack(seen.aminmax(dim=0))
    return found


def _rescore(
    found: IntArray, transform: Quantizer, queries: torch.Tensor, corpus: torch.Tensor
) -> IntArray:
    """Rank the found documents, (n_queries, n_found), by the float query and their codes."""
    # Equal scores go by position, as everywhere.
    candidates = np.sort(found, axis=1)
    count, dimension = candidates.shape[1], transform.dimension
    rows = max(1, RESCORE_COMPONENTS // (count * dimension))
    ranked = []
    for start in range(0, len(candidates), rows):
        block = candidates[start : start + rows]
        documents = corpus[:, :dimension][torch.from_numpy(block.ravel())]
        codes = transform.apply(documents).double().numpy().reshape(len(block), count, dimension)
        weights = Transform(dimension).apply(queries[start : start + rows]).cpu().double().numpy()
        if transform.precision == "int8":
            # An int8 code stands for `start + step * (code + 128)`: all but the steps is the same
            # for every document. Signs need no more than the query itself.
            weights = weights * transform.steps.double().numpy()
        # Not a BLAS product, whose rounding depends on a row's place: equal codes must score alike.
        scores = np.einsum("qd,qcd->qc", weights, codes)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        ranked.append(np.take_along_axis(block, order, axis=1))
    return np.concatenate(ranked)
