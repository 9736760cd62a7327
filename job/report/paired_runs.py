"""Differences between runs of one test set, paired by query, with simultaneous intervals."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from job.core.errors import StorageError
from job.evaluation.jackknife import (
    FEW_CHANGED,
    SECOND,
    changed_groups,
    clipped,
    group_sums,
    jackknife,
    number_groups,
    simultaneous_quantile,
    widened,
)
from job.evaluation.results import METRIC, Interval
from job.storage.arrow_tables import FloatArray, IntArray

SIGN_FLIPS = 10_000


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
    however many runs there are (max-t). If hardly any query changed, an interval allows for one
    more group that moves between rank 1 and rank 2, as that of a lift does.
    """
    reference = runs[first]
    others = [name for name in runs if name != first]
    members = _groups(runs.values())
    gains = np.stack([runs[name].values - reference.values for name in others])
    sizes = np.bincount(members).astype(float)
    if len(sizes) < 2:
        # One group gives no estimate of the variance, so no difference can be excluded.
        means = gains.mean(axis=1).tolist()
        return [Difference(n, m, (-1.0, 1.0)) for n, m in zip(others, means, strict=True)]
    sums = group_sums(gains, members)
    found = jackknife(sums, sizes)
    factor = simultaneous_quantile(found, sizes, SIGN_FLIPS, seed, two_sided=True)

    def interval_of(sums: FloatArray, sizes: FloatArray) -> Interval:
        one = jackknife(sums[None], sizes)
        mean, half = float(one.ratios[0]), factor * float(one.errors[0])
        return (mean - half, mean + half)

    differences = []
    for name, gain, own, mean in zip(others, gains, sums, found.ratios.tolist(), strict=True):
        ci = interval_of(own, sizes)
        if changed_groups(gain, members) < FEW_CHANGED:
            ci = widened(interval_of, own, sizes, SECOND - 1, 1 - SECOND)
        differences.append(Difference(name, mean, clipped(ci, -1.0)))
    return differences


def _groups(runs: Iterable[PerQuery]) -> IntArray:
    """Number the groups of the queries; a query is a group of its own if no run stores groups."""
    found = list(runs)
    known = next((run.groups for run in found if run.groups is not None), None)
    groups = np.arange(len(found[0].values)) if known is None else known
    return number_groups(groups)
