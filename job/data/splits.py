"""Split rows with a seed, keeping groups whole, and compute what a random split would leak."""

from typing import Any

import numpy as np

from job.storage.arrow_tables import IntArray, KeyArray

UNDECIDED, TRAIN, VALIDATION, TEST = -1, 0, 1, 2
SPLIT_NAMES = ("train", "validation", "test")
# A larger group would decide the result of its split alone.
MAX_GROUP_SHARE = 0.1
# Smaller groups are never too large, however small the split.
MIN_LARGE_GROUP = 2


def split_rows(
    groups: IntArray, decided: IntArray, fractions: tuple[float, float], seed: int
) -> IntArray:
    """Assign each undecided row to a split; rows of one group get the same split.

    `decided` has a split or `UNDECIDED` for each row; `fractions` are the shares of (validation,
    test) of the undecided rows. A split that already has rows gets no more. A group of more than
    `MAX_GROUP_SHARE` of a split enters it only if smaller groups do not fill it.
    """
    codes = decided.copy()
    free = decided == UNDECIDED
    labels, sizes = np.unique(groups[free], return_counts=True)
    room = {
        code: 0 if (decided == code).any() else round(fraction * int(free.sum()))
        for code, fraction in ((TEST, fractions[1]), (VALIDATION, fractions[0]))
    }
    chosen = np.full(len(labels), TRAIN, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    caps = {code: max(MIN_LARGE_GROUP, MAX_GROUP_SHARE * size) for code, size in room.items()}
    for limit in (caps, room):
        for position in order[chosen[order] == TRAIN]:
            # A group that fits into neither split goes to train; smaller groups fill the room.
            for code, left in room.items():
                if sizes[position] <= min(left, limit[code]):
                    chosen[position] = code
                    room[code] -= int(sizes[position])
                    break
    codes[free] = chosen[np.searchsorted(labels, groups[free])]
    return codes


def number_folds(groups: IntArray, folds: int, seed: int) -> IntArray:
    """Assign rows to folds of about equal size, from 0; rows of one group get the same fold."""
    labels, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    filled, chosen = np.zeros(folds, dtype=np.int64), np.zeros(len(labels), dtype=np.int64)
    # The largest first: the many small groups then even the folds out.
    for position in order[np.argsort(-sizes[order], kind="stable")]:
        chosen[position] = filled.argmin()
        filled[chosen[position]] += sizes[position]
    numbered: IntArray = chosen[inverse]
    return numbered


def leaked_rows(codes: IntArray, keys: KeyArray | IntArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return a mask of rows whose key is also in a later split (train < validation < test)."""
    leaked = np.zeros(len(codes), dtype=bool)
    for split in (TRAIN, VALIDATION):
        later = keys[codes > split]
        leaked |= (codes == split) & np.isin(keys, later)
    return leaked


def number_in_order(keys: KeyArray) -> tuple[IntArray, IntArray]:
    """Number distinct keys by first occurrence; return the first place and each key's number."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[inverse]


def shared_share(codes: IntArray, keys: KeyArray) -> float:
    """Return the share of test rows whose key (of question or context) is also in train."""
    test = keys[codes == TEST]
    return float(np.isin(test, keys[codes == TRAIN]).mean()) if len(test) else 0.0


def random_split_share(keys: KeyArray, fraction: float, seed: int) -> float:
    """Return the `shared_share` of a random split."""
    order = np.random.default_rng(seed).permutation(len(keys))
    codes = np.full(len(keys), TRAIN)
    codes[order[: round(fraction * len(keys))]] = TEST
    return shared_share(codes, keys)
