"""The lift of a recipe, not of one model: several trainings, and an interval that covers others."""

import math
from collections.abc import Mapping

import numpy as np
from scipy.stats import t

from job.data.query_groups import effective_groups
from job.evaluation.metrics import FloatArray, IntArray
from job.evaluation.results import CONFIDENCE
from job.evaluation.scope import OneSeed, SeedLifts


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
    seed_variance = float(by_seed.var(ddof=1)) / count
    members = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(members).astype(float)
    sums = np.bincount(members, weights=lifts.mean(axis=0)).astype(np.float64)
    query_variance = _jackknife_variance(sums, sizes)
    error = math.sqrt(query_variance + seed_variance)
    freedom = max(1e-3, effective_groups(sizes) - 1)
    if seed_variance > 0:
        parts = query_variance**2 / freedom + seed_variance**2 / (count - 1)
        freedom = (query_variance + seed_variance) ** 2 / parts
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error if len(sizes) > 1 else 2.0
    return SeedLifts(
        seeds=[
            OneSeed(seed=seed, validation=validation[seed], ndcg=float(values.mean()), lift=lift)
            for (seed, values), lift in zip(tuned.items(), by_seed.tolist(), strict=True)
        ],
        chosen=max(tuned, key=lambda seed: validation[seed]),
        lift=mean,
        ci=(max(-1.0, mean - half), min(1.0, mean + half)),
        query_error=math.sqrt(query_variance),
        seed_deviation=float(by_seed.std(ddof=1)),
        degrees_of_freedom=freedom,
    )


def _jackknife_variance(sums: FloatArray, sizes: FloatArray) -> float:
    """Return the variance of the mean of all queries, each group left out once."""
    count = len(sizes)
    if count < 2:
        return 0.0
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    return (count - 1) / count * float(((without - without.mean()) ** 2).sum())
