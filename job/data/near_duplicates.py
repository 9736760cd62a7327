"""Which rows belong together: those that share a question or a context, or nearly so.

Groups never cross a split. Near-duplicates are found with MinHash (library `datasketch`) and
locality-sensitive hashing, and confirmed by the exact Jaccard similarity of their word shingles.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from job.storage import arrow_tables
from job.storage.arrow_tables import BATCH, IntArray, JoinedColumn, KeyArray
from job.storage.mapped_arrays import zeros

WORD = re.compile(r"\w+")
SHINGLE_WORDS = 3
PERMUTATIONS = 64
# Of a text's candidates so many are compared exactly; templated texts have thousands.
MAX_CANDIDATES = 32
# A text with so many candidates is none for later ones.
MAX_ALIKE = 256
# A group of more rows than this share would decide a split alone.
MAX_GROUP_SHARE = 0.05
# Any odd number with many digits: it mixes the parts of a hash.
HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Groups:
    """`labels` gives each row its group (0-based); the counts are for the report."""

    labels: IntArray
    near_duplicate_pairs: int
    # Groups that near-duplicates chained beyond the cap; in them only equal texts count.
    oversized: int


class KeyedTexts(Mapping[int, str]):
    """Columns of texts by their keys, in the order in which the keys first stand.

    Of several spellings of a text it is the last one.
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

    `keys` are columns of text keys, one value a row: rows with a common key are connected.
    `texts_by_key` are the texts to be compared for near-duplicates.
    """
    columns = list(keys)
    nodes, flat = np.unique(np.concatenate(columns), return_inverse=True)
    numbers = np.split(flat.astype(np.int64), len(columns))
    same = np.stack([numbers[0], numbers[-1]], axis=1)
    near = np.empty((0, 2), dtype=np.int64)
    if threshold is not None:
        found = np.fromiter(near_duplicates(texts_by_key, threshold), np.dtype((nodes.dtype, 2)))
        near = np.searchsorted(nodes, found).astype(np.int64)
    exact = _components(len(nodes), same)[numbers[0]]
    loose = _components(len(nodes), np.concatenate([same, near]))[numbers[0]]
    sizes = np.bincount(loose)
    oversized = sizes > max(2, MAX_GROUP_SHARE * len(loose))
    # A component without near-duplicates is the same either way, so only chained ones count.
    width = int(exact.max()) + 1
    parts = np.bincount(np.unique(loose * width + exact) // width)
    chained = oversized & (parts > 1)
    labels = np.where(chained[loose], exact + len(sizes), loose)
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return Groups(labels, len(near), int(chained.sum()))


def near_duplicates(texts_by_key: Mapping[int, str], threshold: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of keys whose texts' shingles have at least this Jaccard similarity.

    Enough pairs to connect near-duplicates, not all of them. Takes 8 bytes of memory a text, 8
    more a band on the disk, and about 12 a band for each text that another one may be like.
    """
    keys = np.fromiter(texts_by_key, np.uint64, len(texts_by_key))
    bands = _bands(texts_by_key, threshold)
    neighbors = _in_company(bands)
    keys, index = keys[neighbors], _Index([band[neighbors] for band in bands])
    for number, key in enumerate(keys.tolist()):
        candidates = index.query(number)
        words = shingles(texts_by_key[key]) if candidates else set()
        for candidate in sorted(keys[list(candidates)].tolist())[:MAX_CANDIDATES]:
            if jaccard(words, shingles(texts_by_key[candidate])) >= threshold:
                yield key, candidate
        # Else a million texts of one template would each meet all those before it.
        if len(candidates) < MAX_ALIKE:
            index.insert(number)


def _bands(texts_by_key: Mapping[int, str], threshold: float) -> list[KeyArray]:
    """Hash each text's sketch by bands: texts that agree in one of them may be alike.

    A text of signs only has nothing in common with another: its hashes are all 0.
    """
    from datasketch import MinHash, MinHashLSH

    # Candidates are confirmed exactly, so what costs is a missed pair, which may leak. Evenly
    # weighted, two pairs in three at the threshold are missed; above 0.9 there are too few bands.
    plan = MinHashLSH(threshold=min(threshold, 0.9), num_perm=PERMUTATIONS, weights=(0.05, 0.95))
    sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
    bands = list(zeros((plan.b, len(texts_by_key)), np.uint64, arrow_tables.MAX_IN_MEMORY))
    block = np.empty((BATCH, PERMUTATIONS), dtype=np.uint64)
    silent = np.zeros(BATCH, dtype=bool)
    for number, key in enumerate(texts_by_key):
        row = number % BATCH
        words = shingles(texts_by_key[key])
        silent[row] = words == {""}
        sketch.clear()
        sketch.update_batch([word.encode("utf-8") for word in words])
        block[row] = sketch.hashvalues
        if row + 1 == BATCH or number + 1 == len(texts_by_key):
            for band in range(plan.b):
                hashes = _hashed(block[: row + 1, band * plan.r : (band + 1) * plan.r])
                bands[band][number - row : number + 1] = np.where(silent[: row + 1], 0, hashes)
    return bands


def _hashed(values: KeyArray) -> KeyArray:
    """Hash each row to 64 bits that are odd; a collision costs one comparison."""
    hashes = np.zeros(len(values), dtype=np.uint64)
    for column in values.T:
        hashes = hashes * HASH_FACTOR + column
    return hashes * np.uint64(2) + np.uint64(1)


def _in_company(bands: list[KeyArray]) -> IntArray:
    """Find the texts that agree with another one in some band."""
    shared = np.zeros(len(bands[0]), dtype=bool)
    for band in bands:
        order = np.argsort(band, kind="stable")
        same = band[order[1:]] == band[order[:-1]]
        shared[order[1:][same]] = shared[order[:-1][same]] = True
    return np.flatnonzero(shared & (np.asarray(bands[0]) != 0))


class _Index:
    """Texts by the hashes of their bands, as linked lists that are arrays."""

    def __init__(self, bands: list[KeyArray]) -> None:
        self._buckets = [np.unique(band, return_inverse=True)[1].astype(np.int32) for band in bands]
        # The last text of a bucket, and the one before each text; -1 where there is none.
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
