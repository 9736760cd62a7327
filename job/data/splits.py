"""Which row goes where: seeded splits that no group crosses, and what a random split would leak."""

from typing import Any

import numpy as np

from job.storage.arrow_tables import IntArray, KeyArray

UNDECIDED, TRAIN, VALIDATION, TEST = -1, 0, 1, 2
SPLIT_NAMES = ("train", "validation", "test")


def split_rows(
    groups: IntArray, decided: IntArray, fractions: tuple[float, float], seed: int
) -> IntArray:
    """Give each undecided row a split; rows of one group get the same.

    `decided` holds `UNDECIDED` or a split a row; `fractions` are those of (validation, test) among
    the undecided rows. A split that was decided for some rows gets no further ones.
    """
    codes = decided.copy()
    free = decided == UNDECIDED
    labels, sizes = np.unique(groups[free], return_counts=True)
    room = {
        code: 0 if (decided == code).any() else round(fraction * int(free.sum()))
        for code, fraction in ((TEST, fractions[1]), (VALIDATION, fractions[0]))
    }
    chosen = np.full(len(labels), TRAIN, dtype=np.int64)
    for position in np.random.default_rng(seed).permutation(len(labels)):
        # A group that is larger than the room left is trained on; smaller ones fill the room.
        for code, left in room.items():
            if sizes[position] <= left:
                chosen[position] = code
                room[code] -= int(sizes[position])
                break
    codes[free] = chosen[np.searchsorted(labels, groups[free])]
    return codes


def leaked_rows(codes: IntArray, questions: KeyArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Mark rows whose question also stands in a later split (train < validation < test)."""
    leaked = np.zeros(len(codes), dtype=bool)
    for split in (TRAIN, VALIDATION):
        later = questions[codes > split]
        leaked |= (codes == split) & np.isin(questions, later)
    return leaked


def shared_share(codes: IntArray, keys: KeyArray) -> float:
    """Share of the test rows whose key (a question's or a context's) also stands in training."""
    test = keys[codes == TEST]
    return float(np.isin(test, keys[codes == TRAIN]).mean()) if len(test) else 0.0


def random_split_share(keys: KeyArray, fraction: float, seed: int) -> float:
    """Compute what `shared_share` would be, had the rows been split at random."""
    order = np.random.default_rng(seed).permutation(len(keys))
    codes = np.full(len(keys), TRAIN)
    codes[order[: round(fraction * len(keys))]] = TEST
    return shared_share(codes, keys)
