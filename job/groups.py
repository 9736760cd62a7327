"""Which rows belong together: those that share a question or a context, or nearly so.

Groups never cross a split. Near-duplicates are found with MinHash and locality-sensitive hashing
(library `datasketch`) and confirmed by the exact Jaccard similarity of their word shingles.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

WORD = re.compile(r"\w+")
SHINGLE_WORDS = 3
PERMUTATIONS = 64
# Of a text's candidates so many are compared exactly; templated texts have thousands.
MAX_CANDIDATES = 32
# A text with so many candidates is none for later ones.
MAX_ALIKE = 256
# A group of more rows than this share would decide a split alone.
MAX_GROUP_SHARE = 0.05

IntArray = np.ndarray[Any, np.dtype[np.int64]]
KeyArray = np.ndarray[Any, np.dtype[np.uint64]]


@dataclass(frozen=True)
class Groups:
    """`labels` gives each row its group (0-based); the counts are for the report."""

    labels: IntArray
    near_duplicate_pairs: int
    # Groups that near-duplicates chained beyond the cap; in them only equal texts count.
    oversized: int


def group_rows(
    keys: Iterable[KeyArray], texts_by_key: dict[int, str], threshold: float | None
) -> Groups:
    """Group rows by connected components.

    `keys` are columns of text keys, one value a row: rows with a common key are connected.
    `texts_by_key` are the texts to be compared for near-duplicates.
    """
    columns = list(keys)
    nodes, flat = np.unique(np.concatenate(columns), return_inverse=True)
    numbers = np.split(flat.astype(np.int64), len(columns))
    same = np.stack([numbers[0], numbers[-1]], axis=1)
    near = np.empty((0, 2), dtype=np.int64)
    if threshold is not None:
        found = list(near_duplicates(texts_by_key, threshold))
        if found:
            near = np.searchsorted(nodes, np.array(found, dtype=nodes.dtype)).astype(np.int64)
    exact = _components(len(nodes), same)[numbers[0]]
    loose = _components(len(nodes), np.concatenate([same, near]))[numbers[0]]
    sizes = np.bincount(loose)
    oversized = sizes > max(2, MAX_GROUP_SHARE * len(loose))
    # A component without near-duplicates is the same either way, so only chained ones count.
    chained = oversized & (_distinct_per_label(loose, exact) > 1)
    labels = np.where(chained[loose], exact + len(sizes), loose)
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return Groups(labels, len(near), int(chained.sum()))


def near_duplicates(texts_by_key: dict[int, str], threshold: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of keys whose texts' shingles have at least this Jaccard similarity.

    Enough pairs to connect near-duplicates, not all of them.
    """
    from datasketch import MinHash, MinHashLSH

    # Candidates are confirmed exactly, so what costs is a missed pair, which may leak. Evenly
    # weighted, two pairs in three at the threshold are missed; above 0.9 there are too few bands.
    index = MinHashLSH(threshold=min(threshold, 0.9), num_perm=PERMUTATIONS, weights=(0.05, 0.95))
    template = MinHash(num_perm=PERMUTATIONS, seed=1)
    for key, text in texts_by_key.items():
        words = shingles(text)
        if words == {""}:
            continue  # signs only; such texts have nothing in common
        sketch = template.copy()
        sketch.update_batch([word.encode("utf-8") for word in words])
        candidates = index.query(sketch)
        for candidate in sorted(candidates)[:MAX_CANDIDATES]:
            if jaccard(words, shingles(texts_by_key[candidate])) >= threshold:
                yield key, candidate
        # Else a million texts of one template would each meet all those before it.
        if len(candidates) < MAX_ALIKE:
            index.insert(key, sketch)


def shingles(text: str) -> set[str]:
    words = WORD.findall(text.casefold())
    if len(words) <= SHINGLE_WORDS:
        return {" ".join(words)}
    runs = len(words) - SHINGLE_WORDS + 1
    return {" ".join(words[start : start + SHINGLE_WORDS]) for start in range(runs)}


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def _components(count: int, edges: IntArray) -> IntArray:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(edges), dtype=np.int8)
    graph = coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(count, count))
    labels: IntArray = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def _distinct_per_label(labels: IntArray, values: IntArray) -> IntArray:
    pairs = np.unique(np.stack([labels, values]), axis=1)
    counts: IntArray = np.bincount(pairs[0], minlength=int(labels.max()) + 1)
    return counts
