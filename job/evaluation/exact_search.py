"""Exact search among more vectors than fit into memory: tile by tile, and only the best are kept.

A corpus is read from wherever it lies, a tile at a time; what a device holds does not grow with it.
Best are the highest scores; equal ones go by position, ascending, whatever tile they lie in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch.nn.functional import normalize

from job.evaluation.metrics import DEPTH

# Documents of a tile: 2^15 of 1,024 float32 are 128 MiB.
TILE = 2**15
# Scores held at once: 2^25 float32 are 128 MiB.
CHUNK = 2**25
# Queries are taken so many at once that their components (2^26 float32 are 256 MiB) and their best
# documents (2^24 scores and positions are 192 MiB) have room on a device.
COMPONENTS = 2**26
LEADERS = 2**24
# Scores among which equals are sought at once.
CANDIDATES = 2**22


@dataclass(frozen=True)
class RowSubset:
    """Chosen rows of a matrix that is too large to be copied."""

    vectors: "Matrix"
    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice | torch.Tensor, /) -> torch.Tensor:
        return self.vectors[self.rows[part]]


# What is read in slices: vectors, mapped or not, or chosen ones.
Matrix: TypeAlias = torch.Tensor | RowSubset


@dataclass(frozen=True)
class Transform:
    """Vectors cut to their first components (None: all), of length 1: products are cosines.

    That is what a search multiplies in place of queries and documents, and how deep it is.
    """

    dimension: int | None = None
    depth: int = DEPTH

    def of(self, vectors: torch.Tensor) -> torch.Tensor:
        return normalize(vectors[:, : self.dimension].float(), dim=1)


class SearchResult(NamedTuple):
    """Scores and positions of the best documents, best first: (n_queries, ≤ depth) each."""

    scores: torch.Tensor
    positions: torch.Tensor


def search(
    queries: Matrix, corpus: Matrix, views: Sequence[Transform], device: str = "cpu"
) -> list[SearchResult]:
    """Search once by each view; they share one reading of the corpus. Results are on the CPU.

    Scores are float32, also within an autocast block, as the trainer's evaluation is one.
    """
    depth = sum(min(view.depth, len(corpus)) for view in views)
    rows = max(1, min(LEADERS // depth, COMPONENTS // queries[:1].shape[1]))
    with torch.autocast(torch.device(device).type, enabled=False):
        parts = [
            _search_by_some(queries[start : start + rows].to(device), corpus, views)
            for start in range(0, len(queries), rows)
        ]
    return [_joined(by_view) for by_view in zip(*parts, strict=True)]


def _search_by_some(
    queries: torch.Tensor, corpus: Matrix, views: Sequence[Transform]
) -> list[SearchResult]:
    blocks = torch.split(queries, max(1, CHUNK // min(TILE, len(corpus))))
    asked = [[view.of(block) for block in blocks] for view in views]
    best: list[list[SearchResult]] = [[] for _ in views]
    for first, tile in tiles(corpus, queries.device):
        for number, view in enumerate(views):
            documents = view.of(tile)
            scores = (block @ documents.T for block in asked[number])
            if not first:
                best[number] = [best_of(block, view.depth) for block in scores]
            else:
                known = zip(best[number], scores, strict=True)
                best[number] = [_update(old, new, first, view.depth) for old, new in known]
    return [_joined(parts) for parts in best]


def tiles(corpus: Matrix, device: torch.device | str) -> Iterator[tuple[int, torch.Tensor]]:
    """Bring a corpus to a device piece by piece, each with the position of its first document."""
    for first in range(0, len(corpus), TILE):
        yield first, corpus[first : first + TILE].to(device)


def _joined(parts: Sequence[SearchResult]) -> SearchResult:
    return SearchResult(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def _update(old: SearchResult, scores: torch.Tensor, first: int, depth: int) -> SearchResult:
    """Let the next documents compete with the best so far; the first has the position `first`."""
    new = best_of(scores, depth, above=old.scores[:, -1])
    both = torch.cat([old.scores, new.scores], dim=1)
    positions = torch.cat([old.positions, new.positions + first], dim=1)
    # Stable: equal scores are in the order of their positions already.
    order = both.argsort(dim=1, descending=True, stable=True)[:, :depth]
    return SearchResult(both.gather(1, order), positions.gather(1, order))


def best_of(scores: torch.Tensor, depth: int, above: torch.Tensor | None = None) -> SearchResult:
    """Rank a block of scores, (n_queries, n_documents).

    Of scores that do not exceed `above`, (n_queries,), any are taken: they will not be kept.
    """
    depth, width = min(depth, scores.shape[1]), scores.shape[1]
    # One more than wanted tells whether the last place is shared.
    values, positions = scores.topk(min(depth + 1, width), dim=1)
    positions, last = positions[:, :depth], values[:, depth - 1]
    # topk takes any of several equal scores.
    crowded = (last == values[:, -1]) & (width > depth)
    if above is not None:
        crowded &= last > above
    # Should all scores be equal, so many rows take 200 MiB.
    for rows in torch.split(crowded.nonzero()[:, 0], max(1, CANDIDATES // width)):
        positions[rows] = _first_of_equals(scores[rows], last[rows], depth)
    positions = positions.sort(dim=1).values
    values = scores.gather(1, positions)
    order = values.argsort(dim=1, descending=True, stable=True)
    return SearchResult(values.gather(1, order), positions.gather(1, order))


def _first_of_equals(scores: torch.Tensor, last: torch.Tensor, depth: int) -> torch.Tensor:
    """Choose `depth` positions of each row; of the scores that equal the last, the first ones."""
    rows, positions = (~(scores < last[:, None])).nonzero(as_tuple=True)
    equal = scores[rows, positions] == last[rows]
    better, equals = (torch.bincount(rows[some], minlength=len(scores)) for some in (~equal, equal))
    # Counted through all rows.
    first = equals.cumsum(0) - equals
    chosen = ~equal | (equal.cumsum(0) <= (first + depth - better)[rows])
    return positions[chosen].view(len(scores), depth)
