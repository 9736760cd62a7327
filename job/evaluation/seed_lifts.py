"""The lift of a recipe, not of one model: several trainings, and an interval that covers others."""

import math
from collections.abc import Mapping

import numpy as np

from job.data.query_groups import effective_groups
from job.evaluation.jackknife import (
    FEW_CHANGED,
    SECOND,
    changed_groups,
    clipped,
    group_sums,
    jackknife,
    number_groups,
    student,
    widened,
)
from job.evaluation.results import CONFIDENCE, Interval
from job.evaluation.scope import OneSeed, SeedLifts
from job.storage.arrow_tables import FloatArray, IntArray


def combine_seeds(
    base: FloatArray,
    tuned: Mapping[int, FloatArray],
    validation: Mapping[int, float],
    groups: IntArray,
) -> SeedLifts:
    """Return the mean lift over trainings, with an interval for other queries and trainings.

    `base` is nDCG@10 of each query by the base model, `tuned` the same by seed. The variance of the
    mean is that over queries (jackknife by group, of each query's mean lift over the seeds) plus
    s²/K, with s the standard deviation of the K lifts. The degrees of freedom are Welch's and
    Satterthwaite's, so few seeds that differ much give a wide interval.
    """
    lifts = np.stack([values - base for values in tuned.values()])
    by_seed = lifts.mean(axis=1)
    mean, count = float(by_seed.mean()), len(lifts)
    seed_error = float(by_seed.std(ddof=1)) / math.sqrt(count)
    members = number_groups(groups)
    sizes = np.bincount(members).astype(float)
    sums = group_sums(lifts.mean(axis=0), members)

    def interval_of(sums: FloatArray, sizes: FloatArray) -> Interval:
        if len(sizes) < 2:
            # One group gives no estimate of the variance, so no lift can be excluded.
            return (-1.0, 1.0)
        found = jackknife(sums[None], sizes)
        error, freedom = _combined(float(found.errors[0]), seed_error, sizes, count)
        half = student((1 + CONFIDENCE) / 2, freedom) * error
        return (float(found.ratios[0]) - half, float(found.ratios[0]) + half)

    ci = interval_of(sums, sizes)
    if changed_groups(np.abs(lifts).max(axis=0), members) < FEW_CHANGED:
        ci = widened(interval_of, sums, sizes, SECOND - 1, 1 - SECOND)
    query_error = float(jackknife(sums[None], sizes).errors[0]) if len(sizes) > 1 else 0.0
    return SeedLifts(
        seeds=[
            OneSeed(seed=seed, validation=validation[seed], ndcg=float(values.mean()), lift=lift)
            for (seed, values), lift in zip(tuned.items(), by_seed.tolist(), strict=True)
        ],
        chosen=max(tuned, key=lambda seed: validation[seed]),
        lift=mean,
        ci=clipped(ci, -1.0),
        query_error=query_error,
        seed_deviation=float(by_seed.std(ddof=1)),
        degrees_of_freedom=_combined(query_error, seed_error, sizes, count)[1],
    )


def _combined(
    query_error: float, seed_error: float, sizes: FloatArray, seeds: int
) -> tuple[float, float]:
    """Return the standard error over queries and seeds, and its degrees of freedom."""
    freedom = max(1e-3, effective_groups(sizes) - 1)
    error = math.hypot(query_error, seed_error)
    if seed_error > 0:
        freedom = error**4 / (query_error**4 / freedom + seed_error**4 / (seeds - 1))
    return error, freedom
