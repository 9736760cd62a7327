"""Group rows that share a question, a context or a document, or have near-duplicate texts.

All rows of a group go to the same split. MinHash (library `datasketch`) and locality-sensitive
hashing find candidates; the exact Jaccard similarity of word shingles confirms near-duplicates.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from job.data.words import words_of
from job.runtime.counter import count_each
from job.storage import arrow_tables
from job.storage.arrow_tables import BATCH, IntArray, JoinedColumn, KeyArray
from job.storage.mapped_arrays import zeros

SHINGLE_WORDS = 3
PERMUTATIONS = 64
# Candidates of a text to compare exactly; templated texts have thousands.
MAX_CANDIDATES = 32
# A text with this many candidates is not indexed: it is no candidate of later texts.
MAX_SIMILAR = 256
# A group with a larger share of the rows would dominate a split.
MAX_GROUP_SHARE = 0.05
# Any odd number with many digits: it mixes the parts of a hash.
HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Groups:
    """The group of each row (`labels`, 0-based), and counts for the report."""

    labels: IntArray
    near_duplicate_pairs: int
    # Groups that near-duplicates made too large; they were regrouped by equal texts only.
    oversized: int
    # Cluster of near-duplicates of each row's question and context, (2, n_rows): equal numbers
    # mean that texts are equal, or connected by near-duplicates. None if they were not sought.
    clusters: IntArray | None = None


class KeyedTexts(Mapping[int, str]):
    """Texts by key, in the order of the keys' first occurrence.

    If texts with the same key are spelled differently, the last one is returned.
    """

    def __init__(self, keys: Sequence[KeyArray], columns: Sequence[pa.ChunkedArray]) -> None:
        every = np.concatenate(keys)
        self._keys, first = np.unique(every, return_index=True)
        self._order = np.argsort(first)
        self._last = len(every) - 1 - np.unique(every[::-1], return_index=True)[1]
        self._texts = JoinedColumn(columns)

    def __getitem__(self, key: int) -> str:
        return str(self._texts[self._last[np.searchsorted(self._keys, np.uint64(key))]])

    def __iter__(self) -> Iterator[int]:
        return map(int, self._keys[self._order])

    def __len__(self) -> int:
        return len(self._keys)


def group_rows(
    keys: Iterable[KeyArray], texts_by_key: Mapping[int, str], threshold: float | None
) -> Groups:
    """Group rows by connected components.

    `keys` are columns of keys, one value per row: rows with a common key are connected. The first
    two are of the question and the context.
    `texts_by_key` are the texts to search for near-duplicates.
    """
    columns = list(keys)
    nodes, flat = np.unique(np.concatenate(columns), return_inverse=True)
    numbers = np.split(flat.astype(np.int64), len(columns))
    same = np.concatenate([np.stack([numbers[0], other], axis=1) for other in numbers[1:]])
    near = np.empty((0, 2), dtype=np.int64)
    if threshold is not None:
        found = np.fromiter(near_duplicates(texts_by_key, threshold), np.dtype((nodes.dtype, 2)))
        near = np.searchsorted(nodes, found).astype(np.int64)
    exact = _components(len(nodes), same)[numbers[0]]
    loose = _components(len(nodes), np.concatenate([same, near]))[numbers[0]]
    sizes = np.bincount(loose)
    oversized = sizes > max(2, MAX_GROUP_SHARE * len(loose))
    # Only components that near-duplicates connect can be divided into smaller ones.
    width = int(exact.max()) + 1
    parts = np.bincount(np.unique(loose * width + exact) // width)
    chained = oversized & (parts > 1)
    labels = np.where(chained[loose], exact + len(sizes), loose)
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    clusters = None
    if threshold is not None:
        clusters = _components(len(nodes), near)[np.stack(numbers[:2])]
    return Groups(labels, len(near), int(chained.sum()), clusters)


def near_duplicates(texts_by_key: Mapping[int, str], threshold: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of keys whose texts' shingles have at least this Jaccard similarity.

    These pairs connect near-duplicates; they are not all pairs. Takes 8 bytes of memory per text,
    about 12 per band for each text with a candidate, and on disk 8 bytes per band and text.
    """
    keys = np.fromiter(texts_by_key, np.uint64, len(texts_by_key))
    bands = _hash_bands(texts_by_key, threshold)
    neighbors = _sharing_a_band(bands)
    keys, index = keys[neighbors], _Index([band[neighbors] for band in bands])
    texts = count_each(keys.tolist(), "near duplicates", "texts", len(keys))
    for number, key in enumerate(texts):
        candidates = index.query(number)
        words = shingles(texts_by_key[key]) if candidates else set()
        for candidate in sorted(keys[list(candidates)].tolist())[:MAX_CANDIDATES]:
            if jaccard(words, shingles(texts_by_key[candidate])) >= threshold:
                yield key, candidate
        # Otherwise each of a million texts of one template has all earlier ones as candidates.
        if len(candidates) < MAX_SIMILAR:
            index.insert(number)


def _hash_bands(texts_by_key: Mapping[int, str], threshold: float) -> list[KeyArray]:
    """Hash the bands of each text's MinHash; texts with an equal band hash are candidates.

    A text without words is no candidate: its hashes are all 0.
    """
    from datasketch import MinHash, MinHashLSH

    # False candidates cost little, as they are checked exactly; a missed pair may leak. With even
    # weights, two of three pairs at the threshold are missed; above 0.9 there are too few bands.
    plan = MinHashLSH(threshold=min(threshold, 0.9), num_perm=PERMUTATIONS, weights=(0.05, 0.95))
    sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
    bands = list(zeros((plan.b, len(texts_by_key)), np.uint64, arrow_tables.MAX_IN_MEMORY))
    block = np.empty((BATCH, PERMUTATIONS), dtype=np.uint64)
    wordless = np.zeros(BATCH, dtype=bool)
    texts = count_each(texts_by_key, "hash texts", "texts", len(texts_by_key))
    for number, key in enumerate(texts):
        row = number % BATCH
        words = shingles(texts_by_key[key])
        wordless[row] = words == {""}
        sketch.clear()
        sketch.update_batch([word.encode("utf-8") for word in words])
        block[row] = sketch.hashvalues
        if row + 1 == BATCH or number + 1 == len(texts_by_key):
            for band in range(plan.b):
                hashes = _hash_rows(block[: row + 1, band * plan.r : (band + 1) * plan.r])
                bands[band][number - row : number + 1] = np.where(wordless[: row + 1], 0, hashes)
    return bands


def _hash_rows(values: KeyArray) -> KeyArray:
    """Hash each row to an odd 64-bit number; a collision only costs one more comparison."""
    hashes = np.zeros(len(values), dtype=np.uint64)
    for column in values.T:
        hashes = hashes * HASH_FACTOR + column
    return hashes * np.uint64(2) + np.uint64(1)


def _sharing_a_band(bands: list[KeyArray]) -> IntArray:
    """Return the positions of texts that share a band hash with another text."""
    shared = np.zeros(len(bands[0]), dtype=bool)
    for band in bands:
        order = np.argsort(band, kind="stable")
        same = band[order[1:]] == band[order[:-1]]
        shared[order[1:][same]] = shared[order[:-1][same]] = True
    return np.flatnonzero(shared & (np.asarray(bands[0]) != 0))


class _Index:
    """Texts by band hash: linked lists, stored as arrays."""

    def __init__(self, bands: list[KeyArray]) -> None:
        self._buckets = [np.unique(band, return_inverse=True)[1].astype(np.int32) for band in bands]
        # The last text of each bucket, and the text before each text; -1: none.
        self._last = [np.full(len(buckets), -1, dtype=np.int32) for buckets in self._buckets]
        self._before = [np.full(len(buckets), -1, dtype=np.int32) for buckets in self._buckets]

    def query(self, text: int) -> set[int]:
        found: set[int] = set()
        for buckets, last, before in zip(self._buckets, self._last, self._before, strict=True):
            other = int(last[buckets[text]])
            while other >= 0:
                found.add(other)
                other = int(before[other])
        return found

    def insert(self, text: int) -> None:
        for buckets, last, before in zip(self._buckets, self._last, self._before, strict=True):
            before[text] = last[buckets[text]]
            last[buckets[text]] = text


def shingles(text: str) -> set[str]:
    words = words_of(text.casefold())
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
