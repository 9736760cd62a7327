"""Pool the folds of a dataset: every pair is a test row once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from job.data import overlap
from job.spec.schema import DataSpec

if TYPE_CHECKING:
    from job.data.dataset import Queries


def pool_queries(folds: "Sequence[Queries]") -> "Queries":
    """Join the test queries of all folds, in the order of the folds; no question is in two."""
    counts = np.concatenate([np.diff(fold.offsets) for fold in folds])
    grades = None
    if any(fold.grades is not None for fold in folds):
        ones = (np.ones(len(fold.documents)) for fold in folds)
        given = zip(folds, ones, strict=True)
        grades = np.concatenate([one if f.grades is None else f.grades for f, one in given])
    segments = [fold.segments for fold in folds if fold.segments is not None]
    seen = [fold.seen for fold in folds if fold.seen is not None]
    return replace(
        folds[0],
        ids=pa.concat_arrays([fold.ids for fold in folds]),
        texts=pa.concat_arrays([fold.texts for fold in folds]),
        offsets=np.concatenate([[0], counts.cumsum()]),
        documents=np.concatenate([fold.documents for fold in folds]),
        groups=np.concatenate([fold.groups for fold in folds]),
        segments=pa.concat_arrays(segments) if segments else None,
        grades=grades,
        seen=np.concatenate(seen) if seen else None,
    )


def pool_facts(
    folds: Sequence[dict[str, Any]], of_queries: dict[str, Any], spec: DataSpec, protocol: str
) -> dict[str, Any]:
    """Return the facts of all folds; numbers of training and validation are the first fold's.

    `of_queries` are the facts about the pooled queries.
    """
    first, sizes = folds[0], [fold["splits"]["test"] for fold in folds]
    shares = [fold["leakage"]["test_contexts_in_train"] for fold in folds]
    leaked = float(np.average(shares, weights=np.maximum(sizes, 1)))
    leakage = first["leakage"] | {"test_contexts_in_train": leaked}
    shared = overlap.pooled([fold["overlap"] for fold in folds])
    pooled = {
        "folds": sizes,
        "splits": first["splits"] | {"test": sum(sizes)},
        "leakage": leakage,
        "overlap": overlap.described(shared, spec, protocol, leakage),
    }
    return first | of_queries | pooled
