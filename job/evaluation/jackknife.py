"""Leave each group of queries out once: standard errors, and the quantiles that go with them.

Queries of one group depend on each other, so everything here counts groups. Sums are by group,
(groups,), or one row for each of several things that are measured on the same queries, (n, groups).
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from job.data.query_groups import effective_groups
from job.evaluation.results import CONFIDENCE, Interval
from job.storage.arrow_tables import FloatArray, IntArray

# Differences below this are floating-point noise.
EPSILON = 1e-9
FLIPS_PER_BLOCK = 1_000
# If fewer groups of queries changed, the jackknife's interval of a lift is too narrow (measured:
# 80 % coverage of 30 queries of which 8 % change).
FEW_CHANGED = 6
# nDCG@10 of a query whose only answer falls from rank 1 to rank 2.
SECOND = 1 / math.log2(3)
# With hardly more than one effective group, Student's t exceeds the range of floats.
MAX_QUANTILE = 1e9


class Jackknife(NamedTuple):
    """Ratios of sums, (n,), their deviations when a group is left out, (n, groups), and errors."""

    ratios: FloatArray
    deviations: FloatArray
    errors: FloatArray

    @property
    def skewness(self) -> FloatArray:
        """Of the groups' influence on each ratio: negative if a few groups lower it much."""
        squares, cubes = ((-self.deviations) ** power for power in (2, 3))
        spread = np.maximum(squares.mean(axis=1), EPSILON**2) ** 1.5
        skewness: FloatArray = cubes.mean(axis=1) / spread
        return skewness


def number_groups(groups: IntArray) -> IntArray:
    """Number the groups from 0 on, given each query's group."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def group_sums(values: FloatArray, members: IntArray) -> FloatArray:
    """Add up the values of each group's queries; of a matrix, row by row."""
    if values.ndim == 2:
        return np.stack([group_sums(row, members) for row in values])
    return np.bincount(members, weights=values).astype(np.float64)


def jackknife(sums: FloatArray, weights: FloatArray) -> Jackknife:
    """Leave each group out of ratios of sums: of (n, groups) sums and (groups,) weights."""
    totals = sums.sum(axis=1)
    without = ratio(totals[:, None] - sums, weights.sum() - weights)
    deviations = without - without.mean(axis=1, keepdims=True)
    return Jackknife(ratio(totals, weights.sum()), deviations, standard_errors(deviations))


def standard_errors(deviations: FloatArray) -> FloatArray:
    """Return the root of the sum of squares, over the last axis.

    Without the jackknife's factor (groups - 1) / groups, which MacKinnon and White (1985) have: for
    means of equal groups this is the estimator HC3 as Davidson and MacKinnon (1993) simplified it,
    a little wider if there are few groups (job/LOG.md has its effect).
    """
    errors: FloatArray = np.sqrt((deviations**2).sum(axis=-1))
    return errors


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide elementwise; 1 if the denominator is 0."""
    return np.where(denominator > EPSILON, numerator / np.maximum(denominator, EPSILON), 1.0)


def quantile(probability: float, sizes: FloatArray) -> float:
    """Return Student's t; a large group among small ones leaves few degrees of freedom."""
    return student(probability, effective_groups(sizes) - 1)


@lru_cache(maxsize=1_000)
def student(probability: float, freedom: float) -> float:
    return min(MAX_QUANTILE, float(t.ppf(probability, max(1e-3, freedom))))


def simultaneous_quantile(
    found: Jackknife, sizes: FloatArray, flips: int, seed: int, *, two_sided: bool = False
) -> float:
    """Return the factor of the standard errors that makes all bounds hold together.

    It is the 95 % quantile of the largest deviation if each group's sign is drawn at random
    (a wild bootstrap, which keeps the correlations), and at least Student's t of one bound.
    Flipped signs leave the standard errors as they are, so the quantile is that of a normal
    distribution; Student's t of the same probability allows for their estimation.
    """
    single = quantile((1 + CONFIDENCE) / 2 if two_sided else CONFIDENCE, sizes)
    moved = found.errors > EPSILON
    if not moved.any():
        return single
    scaled = found.deviations[moved] / found.errors[moved, None]
    drawn = (signs @ scaled.T for signs in sign_flips(len(sizes), flips, seed))
    largest = [(np.abs(each) if two_sided else each).max(axis=1) for each in drawn]
    probability = float(norm.cdf(np.quantile(np.concatenate(largest), CONFIDENCE)))
    return max(single, quantile(probability, sizes))


def allow_for_skewness(factor: float, found: Jackknife, sizes: FloatArray) -> FloatArray:
    """Raise the factor of the standard errors for lower bounds of ratios that few groups lower.

    Such ratios seem too high and too certain unless one of these groups is in the test set. The
    first term of the Edgeworth expansion of Student's t (Hall, 1992, "The Bootstrap and Edgeworth
    Expansion") says by how much. Skewness to the other side narrows no bound.
    """
    towards_losses = np.maximum(0.0, -found.skewness)
    root = math.sqrt(effective_groups(sizes))
    return factor + towards_losses * (2 * factor**2 + 1) / (6 * root)


def widened(
    interval_of: Callable[[FloatArray, FloatArray], Interval],
    sums: FloatArray,
    sizes: FloatArray,
    low: float,
    high: float,
) -> Interval:
    """Return an interval of a mean, extended by one more group that scores `low` or `high`.

    `interval_of` computes it from sums and sizes; the group has the average size.
    """
    interval, one = interval_of(sums, sizes), sizes.mean()
    more = np.append(sizes, one)
    below = interval_of(np.append(sums, one * low), more)[0]
    above = interval_of(np.append(sums, one * high), more)[1]
    return (min(interval[0], below), max(interval[1], above))


def changed_groups(differences: FloatArray, members: IntArray) -> int:
    """Return the number of groups in which a query changed."""
    return len(np.unique(members[np.abs(differences) > EPSILON]))


def clipped(interval: Interval, lowest: float) -> Interval:
    """Clip to the range of scores, 0 to 1, or of lifts, -1 to 1."""
    return (max(lowest, interval[0]), min(1.0, interval[1]))


def sign_flips(groups: int, flips: int, seed: int) -> Iterator[FloatArray]:
    """Yield random signs in blocks, (n, groups)."""
    random = np.random.default_rng(seed)
    for start in range(0, flips, FLIPS_PER_BLOCK):
        size = min(FLIPS_PER_BLOCK, flips - start)
        signs: FloatArray = random.integers(0, 2, (size, groups)).astype(np.float64)
        yield 2 * signs - 1
