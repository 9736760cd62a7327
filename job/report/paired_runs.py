"""Differences between runs of one test set, paired by query, with simultaneous intervals."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import t

from job.core.errors import StorageError
from job.evaluation.results import CONFIDENCE, METRIC, Interval

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]
SIGN_FLIPS = 10_000
FLIPS_PER_BLOCK = 1_000


@dataclass(frozen=True)
class PerQuery:
    """nDCG@10 of each query by a run's tuned model, and the query's group; None if not stored."""

    values: FloatArray
    groups: IntArray | None


@dataclass(frozen=True)
class Difference:
    """Mean nDCG@10 of a run minus that of another; all intervals hold together at 95 %."""

    run: str
    lift: float
    ci: Interval


def read_per_query(path: Path, dimension: int) -> PerQuery | None:
    """Read the tuned model's scores by float32 vectors of a dimension; None if there are none."""
    try:
        table = pq.read_table(path)
        chosen = table.filter(
            (pc.field("model") == "tuned")
            & (pc.field("dimension") == dimension)
            & (pc.field("precision") == "float32")
        )
        values = chosen[METRIC].to_numpy().astype(np.float64)
        # Older versions did not store the groups.
        groups = chosen["group"].to_numpy() if "group" in chosen.column_names else None
    except (OSError, KeyError, pa.ArrowException) as error:
        msg = f"`{path.name}` is damaged: {error}."
        raise StorageError(msg) from None
    return PerQuery(values, groups) if len(values) else None


def differences_from(first: str, runs: Mapping[str, PerQuery], seed: int = 0) -> list[Difference]:
    """Return each other run's difference from the run `first`.

    The intervals are simultaneous: with 95 % probability all of them cover the true differences,
    however many runs there are. The factor of the standard errors is the 95 % quantile of the
    largest studentized deviation under random signs of whole groups of queries (max-t).
    """
    reference = runs[first]
    others = [name for name in runs if name != first]
    groups = _groups(runs.values())
    gains = np.stack([runs[name].values - reference.values for name in others])
    sizes = np.bincount(groups).astype(float)
    count = len(sizes)
    if count < 2:
        # One group gives no estimate of the variance, so no difference can be excluded.
        means = gains.mean(axis=1).tolist()
        return [Difference(n, m, (-1.0, 1.0)) for n, m in zip(others, means, strict=True)]
    sums = np.stack([np.bincount(groups, weights=row, minlength=count) for row in gains])
    means = sums.sum(axis=1) / sizes.sum()
    without = (sums.sum(axis=1, keepdims=True) - sums) / (sizes.sum() - sizes)
    deviations = without - without.mean(axis=1, keepdims=True)
    errors = np.sqrt((count - 1) / count * (deviations**2).sum(axis=1))
    half = _critical_value(deviations, errors, sizes, seed) * errors
    return [
        Difference(name, float(mean), (max(-1.0, float(mean - h)), min(1.0, float(mean + h))))
        for name, mean, h in zip(others, means, half, strict=True)
    ]


def _groups(runs: Iterable[PerQuery]) -> IntArray:
    """Number the groups of the queries; a query is a group of its own if no run stores groups."""
    found = list(runs)
    known = next((run.groups for run in found if run.groups is not None), None)
    groups = np.arange(len(found[0].values)) if known is None else known
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _critical_value(
    deviations: FloatArray, errors: FloatArray, sizes: FloatArray, seed: int
) -> float:
    """Return the factor of the standard errors; at least Student's t of a single interval."""
    effective = float(sizes.sum() ** 2 / (sizes**2).sum())
    single = float(t.ppf((1 + CONFIDENCE) / 2, max(effective - 1, 1e-3)))
    differing = errors > 0
    if not differing.any():
        return single
    count = len(sizes)
    scaled = math.sqrt((count - 1) / count) * deviations[differing] / errors[differing, None]
    random = np.random.default_rng(seed)
    largest = []
    for _ in range(SIGN_FLIPS // FLIPS_PER_BLOCK):
        signs = random.integers(0, 2, size=(FLIPS_PER_BLOCK, count)) * 2.0 - 1.0
        flipped = np.abs(signs @ scaled.T).max(axis=1)
        # The standard error of the flipped deviations, not of the observed ones: with few groups
        # the quantile would be that of the normal distribution, which is too small.
        largest.append(flipped * np.sqrt((effective - 1) / np.maximum(effective - flipped**2, 0.1)))
    return max(single, float(np.quantile(np.concatenate(largest), CONFIDENCE)))
