"""Quantize vectors to int8 and binary codes and search them, as sentence-transformers does.

Codes are searched in two ways: alone, or rescored: the top candidates are ranked again by the
float query against the values that their codes represent. Both take the same space.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from job.core.formatting import RESCORED
from job.evaluation.exact_search import Transform, search, tiles
from job.evaluation.metrics import DEPTH
from job.runtime.counter import Counter
from job.storage.arrow_tables import IntArray

# Bits per component of a stored vector.
BITS = {"float32": 32, "int8": 8, "binary": 1}
# The library's default: rescore twice as many candidates as are returned.
RESCORE_MULTIPLIER = 2
# Candidates quantized at once, and components of them rescored at once: 2^21 float64 take 16 MiB.
RESCORE_DOCUMENTS, RESCORE_COMPONENTS = 2**15, 2**21
# Whole numbers of up to 53 bits, and their sums, are exact in float64. Codes take 7 bits of them.
FLOAT64_BITS, CODE_BITS = 53, 7


def stored_as(precision: str) -> str:
    """Return the precision of the stored vectors: `int8` for `int8_rescored`."""
    return precision.removesuffix(RESCORED)


def bytes_per_vector(dimension: int, precision: str) -> int:
    return math.ceil(dimension * BITS[stored_as(precision)] / 8)


@dataclass(frozen=True, kw_only=True)
class Quantizer(Transform):
    """Truncate, normalize and quantize vectors, in this order, to the library's codes.

    The order matters: truncating shortens a unit vector, int8 ranges must be those of the stored
    vectors, and codes cannot be normalized.
    """

    dimension: int
    precision: str
    # The minimum and maximum of each component, (2, dimension).
    ranges: torch.Tensor
    depth: int = RESCORE_MULTIPLIER * DEPTH

    @property
    def steps(self) -> torch.Tensor:
        return (self.ranges[1] - self.ranges[0]) / 255

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return codes, (n, dimension), as float32.

        Dot products of such small integers are exact in float32, and in TF32 too; those of int8 in
        the worst case up to 1,024 dimensions.
        """
        return self.codes(super().apply(vectors))

    def codes(self, units: torch.Tensor) -> torch.Tensor:
        """Return the codes of vectors that are truncated and normalized already."""
        if self.precision == "binary":
            # The dot product of signs is the dimension minus twice the Hamming distance.
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
    """Rank at each dimension by float32 vectors, and by codes, alone and rescored.

    Takes (n_queries, width) and (n_documents, width).
    Returns corpus positions, (n_queries, ≤ 100), by dimension and precision.
    """
    quantized = [name for name in BITS if name in precisions and name != "float32"]
    # Calibrated on the corpus, like a deployed index.
    ranges = _ranges(corpus, dimensions, device) if quantized else {}
    units = [Transform(dimension) for dimension in dimensions]
    codes = [
        Quantizer(dimension=d, precision=name, ranges=ranges[d])
        for d in dimensions
        for name in quantized
    ]
    found = [best.positions.numpy() for best in search(queries, corpus, [*units, *codes], device)]
    ranked: dict[int, dict[str, IntArray]] = {
        dimension: {"float32": best} for dimension, best in zip(dimensions, found, strict=False)
    }
    for transform, best in zip(codes, found[len(units) :], strict=True):
        ranked[transform.dimension] |= {
            transform.precision: best[:, :DEPTH],
            transform.precision + RESCORED: _rescore(best, transform, queries, corpus, device),
        }
    return ranked


def _ranges(
    corpus: torch.Tensor, dimensions: Collection[int], device: str
) -> dict[int, torch.Tensor]:
    """Return each component's minimum and maximum, (2, dimension), by dimension."""
    found: dict[int, torch.Tensor] = {}
    for _, tile in tiles(corpus, device):
        for dimension in dimensions:
            ends = torch.stack(Transform(dimension).apply(tile).aminmax(dim=0)).cpu()
            both = torch.cat([found.get(dimension, ends), ends])
            found[dimension] = torch.stack(both.aminmax(dim=0))
    return found


def _rescore(
    found: IntArray, transform: Quantizer, queries: torch.Tensor, corpus: torch.Tensor, device: str
) -> IntArray:
    """Rank the candidates, (n_queries, n_found), by the float query and their codes."""
    # Only MPS has no float64.
    device = "cpu" if device == "mps" else device
    # Sorted, so that the stable sort below orders equal scores by position.
    candidates = torch.from_numpy(np.sort(found, axis=1))
    rows = max(1, RESCORE_DOCUMENTS // candidates.shape[1])
    counter = Counter("rescore", "queries", len(candidates))
    ranked = []
    for start in range(0, len(candidates), rows):
        block = candidates[start : start + rows]
        # Queries share candidates: each is quantized once.
        documents, numbers = torch.unique(block, return_inverse=True)
        codes = transform.apply(corpus[:, : transform.dimension][documents].to(device)).char()
        weights = _weights(queries[start : start + rows].to(device), transform)
        scores = _scores(weights, codes, numbers.to(device))
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :DEPTH]
        ranked.append(block.gather(1, order.cpu()).numpy())
        counter.add(len(block))
    return np.concatenate(ranked)


def _weights(queries: torch.Tensor, transform: Quantizer) -> torch.Tensor:
    """Return what each component of a code adds to a score, (n_queries, dimension), float64.

    Rounded to so few bits that sums of products with codes are exact in any order: documents with
    equal codes must get equal scores, and matrix products add in an order that depends on the row.
    """
    weights = Transform(transform.dimension).apply(queries).double()
    if transform.precision == "int8":
        # An int8 code represents `start + step * (code + 128)`. Only `step * code` differs between
        # documents, so the query is scaled by the steps. Signs need no scaling.
        weights *= transform.steps.to(weights.device).double()
    bits = FLOAT64_BITS - CODE_BITS - math.ceil(math.log2(transform.dimension))
    largest = weights.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (weights / (largest.log2().ceil() - bits).exp2()).round()


def _scores(weights: torch.Tensor, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Score the documents that each query numbers, (n_queries, n_found), by their codes."""
    rows = max(1, RESCORE_COMPONENTS // (numbers.shape[1] * codes.shape[1]))
    parts = zip(torch.split(weights, rows), torch.split(numbers, rows), strict=True)
    return torch.cat([(codes[rows].double() @ asked[..., None])[..., 0] for asked, rows in parts])
