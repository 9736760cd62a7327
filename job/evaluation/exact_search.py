"""Exact top-k search over more vectors than fit into memory.

The corpus is read one tile at a time, so device memory does not grow with it.
Results are ordered by score, descending; equal scores by position, ascending, also across tiles.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch.nn.functional import normalize

from job.evaluation.metrics import DEPTH
from job.model.device import full_float32
from job.runtime.counter import Counter

# Documents per tile: 2^15 vectors of 1,024 float32 take 128 MiB.
TILE_ROWS = 2**15
# Scores in memory at once: 2^25 float32 take 128 MiB.
MAX_SCORES = 2**25
# These limit the queries per block, so that their components (2^26 float32 take 256 MiB) and their
# top-k entries (2^24 scores and positions take 192 MiB) fit on a device.
QUERY_COMPONENTS = 2**26
TOP_K_ENTRIES = 2**24
# Scores per block when ties are broken.
MAX_TIE_SCORES = 2**22


@dataclass(frozen=True)
class RowSubset:
    """A view of selected rows of a matrix that is too large to copy."""

    vectors: "Matrix"
    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice | torch.Tensor, /) -> torch.Tensor:
        return self.vectors[self.rows[part]]


# Vectors that are read in slices: a tensor (memory-mapped or not) or a subset of its rows.
Matrix: TypeAlias = torch.Tensor | RowSubset


@dataclass(frozen=True)
class Transform:
    """Truncate vectors to `dimension` components (None: all) and scale them to length 1.

    A search applies it to queries and documents, so their dot products are cosines.
    `depth` is the number of results per query.
    """

    dimension: int | None = None
    depth: int = DEPTH

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        return normalize(vectors[:, : self.dimension].float(), dim=1)


class SearchResult(NamedTuple):
    """Scores and corpus positions of the best documents, best first: (n_queries, ≤ depth) each."""

    scores: torch.Tensor
    positions: torch.Tensor


def search(
    queries: Matrix, corpus: Matrix, transforms: Sequence[Transform], device: str = "cpu"
) -> list[SearchResult]:
    """Search once per transform, in one pass over the corpus. Results are on the CPU.

    Scores are float32 even inside an autocast block: the trainer evaluates inside one. And they are
    so on GPUs that round to TF32, which would change the first ten documents of some queries.
    """
    depth = sum(min(transform.depth, len(corpus)) for transform in transforms)
    rows = max(1, min(TOP_K_ENTRIES // depth, QUERY_COMPONENTS // queries[:1].shape[1]))
    with torch.autocast(torch.device(device).type, enabled=False), full_float32():
        parts = [
            _search_block(queries[start : start + rows].to(device), corpus, transforms)
            for start in range(0, len(queries), rows)
        ]
    return [_concatenate(by_transform) for by_transform in zip(*parts, strict=True)]


def _search_block(
    queries: torch.Tensor, corpus: Matrix, transforms: Sequence[Transform]
) -> list[SearchResult]:
    blocks = torch.split(queries, max(1, MAX_SCORES // min(TILE_ROWS, len(corpus))))
    transformed = [[transform.apply(block) for block in blocks] for transform in transforms]
    best: list[list[SearchResult]] = [[] for _ in transforms]
    counter = Counter("search", "documents", len(corpus))
    for first, tile in tiles(corpus, queries.device):
        for number, transform in enumerate(transforms):
            documents = transform.apply(tile)
            scores = (block @ documents.T for block in transformed[number])
            if not first:
                best[number] = [top_k(block, transform.depth) for block in scores]
            else:
                pairs = zip(best[number], scores, strict=True)
                best[number] = [_update(old, new, first, transform.depth) for old, new in pairs]
        counter.add(len(tile))
    return [_concatenate(parts) for parts in best]


def tiles(corpus: Matrix, device: torch.device | str) -> Iterator[tuple[int, torch.Tensor]]:
    """Move a corpus to a device tile by tile; yield the position of each tile's first document."""
    for first in range(0, len(corpus), TILE_ROWS):
        yield first, corpus[first : first + TILE_ROWS].to(device)


def _concatenate(parts: Sequence[SearchResult]) -> SearchResult:
    return SearchResult(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def _update(old: SearchResult, scores: torch.Tensor, first: int, depth: int) -> SearchResult:
    """Update the top-k with the scores of the next tile, whose first document is at `first`."""
    new = top_k(scores, depth, above=old.scores[:, -1])
    both = torch.cat([old.scores, new.scores], dim=1)
    positions = torch.cat([old.positions, new.positions + first], dim=1)
    # A stable sort keeps equal scores in the order of their positions.
    order = both.argsort(dim=1, descending=True, stable=True)[:, :depth]
    return SearchResult(both.gather(1, order), positions.gather(1, order))


def top_k(scores: torch.Tensor, depth: int, above: torch.Tensor | None = None) -> SearchResult:
    """Return the top-k of a block of scores, (n_queries, n_documents), ties by position.

    Ties at or below `above`, (n_queries,), are left in any order: the caller drops those scores.
    """
    depth, width = min(depth, scores.shape[1]), scores.shape[1]
    # One more than needed shows whether the last score is tied.
    values, positions = scores.topk(min(depth + 1, width), dim=1)
    positions, last = positions[:, :depth], values[:, depth - 1]
    # torch.topk picks arbitrary ones of several equal scores.
    tied = (last == values[:, -1]) & (width > depth)
    if above is not None:
        tied &= last > above
    # If all scores are equal, a block of this size takes 200 MiB.
    for rows in torch.split(tied.nonzero()[:, 0], max(1, MAX_TIE_SCORES // width)):
        positions[rows] = _break_ties(scores[rows], last[rows], depth)
    positions = positions.sort(dim=1).values
    values = scores.gather(1, positions)
    order = values.argsort(dim=1, descending=True, stable=True)
    return SearchResult(values.gather(1, order), positions.gather(1, order))


def _break_ties(scores: torch.Tensor, last: torch.Tensor, depth: int) -> torch.Tensor:
    """Select `depth` positions per row; among the scores equal to `last`, the lowest positions."""
    rows, positions = (~(scores < last[:, None])).nonzero(as_tuple=True)
    equal = scores[rows, positions] == last[rows]
    better, equals = (torch.bincount(rows[mask], minlength=len(scores)) for mask in (~equal, equal))
    # `equal` is flat: offset each row by the ties of the rows before it.
    first = equals.cumsum(0) - equals
    chosen = ~equal | (equal.cumsum(0) <= (first + depth - better)[rows])
    return positions[chosen].view(len(scores), depth)
