"""The groups that the queries of a test come in: how many there are in effect, and how uneven."""

from typing import Any

import numpy as np

from job.data.splits import MAX_GROUP_SHARE, MIN_LARGE_GROUP
from job.storage.arrow_tables import IntArray


def count_groups(groups: IntArray) -> dict[str, Any]:
    """Count the groups of queries, given each query's group.

    `effective` is n² / Σ n_g²: so many groups of equal size would be as informative.
    """
    sizes = np.unique(groups, return_counts=True)[1]
    return {
        "groups": len(sizes),
        "effective": round(effective_groups(sizes), 1),
        "largest": int(sizes.max(initial=0)),
    }


def effective_groups(sizes: IntArray) -> float:
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
