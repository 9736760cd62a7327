"""The groups that the queries of a test come in: how many there are in effect, and how uneven."""

from typing import Any

import numpy as np

from job.data.splits import MAX_GROUP_SHARE, MIN_LARGE_GROUP
from job.storage.arrow_tables import FloatArray, IntArray


def count_groups(groups: IntArray) -> dict[str, Any]:
    """Count the groups of queries, given each query's group."""
    sizes = group_sizes(groups)
    return {
        "groups": len(sizes),
        "effective": round(effective_groups(sizes), 1),
        "largest": int(sizes.max(initial=0)),
    }


def group_sizes(groups: IntArray) -> IntArray:
    """Return the number of queries of each group, given each query's group."""
    return np.unique(groups, return_counts=True)[1]


def effective_groups(sizes: IntArray | FloatArray) -> float:
    """Return the number of groups of equal size that would give intervals as wide: n² / Σ n_g²."""
    return float(sizes.sum()) ** 2 / max(1.0, float((sizes.astype(float) ** 2).sum()))


def warnings_about_groups(found: dict[str, Any], queries: int) -> list[str]:
    """Say that one group holds many of the test queries, if it does."""
    largest = found["largest"]
    if largest <= max(MIN_LARGE_GROUP, MAX_GROUP_SHARE * queries):
        return []
    warning = (
        f"one group of similar rows holds {largest} of the {queries} test queries "
        f"({largest / queries:.0%}): they count as {found['effective']:g} groups of equal size, "
        "and the test result depends on that group; add rows with other contexts"
    )
    return [warning]
