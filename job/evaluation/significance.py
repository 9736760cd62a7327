"""Test differences for significance: paired by query, resampled by group.

Confidence intervals come from a grouped jackknife, p-values from a sign-flip permutation test,
simultaneous bounds from sign flips of the jackknife's deviations.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from job.data.query_groups import effective_groups
from job.evaluation.metrics import FloatArray, IntArray
from job.evaluation.results import CONFIDENCE, Interval, Lift, QueryGroups, Retention, Share

# Statistical power at the minimum detectable effect.
POWER = 0.8
# Differences below this are floating-point noise, not wins or losses.
EPSILON = 1e-9
PERMUTATIONS_PER_BLOCK = 1_000
# If fewer groups of queries changed, the jackknife's interval of a lift is too narrow (measured:
# 80 % coverage of 30 queries of which 8 % change).
FEW_CHANGED = 6
SEGMENT_FLIPS = 2_000
# nDCG@10 of a query whose only answer falls from rank 1 to rank 2.
SECOND = 1 / math.log2(3)
# With hardly more than one effective group, Student's t exceeds the range of floats.
MAX_QUANTILE = 1e9


class Jackknife(NamedTuple):
    """Ratios of sums, (n,), their deviations when a group is left out, (n, groups), and errors."""

    ratios: FloatArray
    deviations: FloatArray
    errors: FloatArray


class GroupedQueries:
    """Confidence intervals and p-values of queries that come in groups.

    Queries of one group share a context, so they are not independent. Treating them as independent
    makes intervals too narrow (measured: 84 % coverage, against 95 % by group).
    """

    def __init__(self, groups: IntArray, permutations: int, seed: int) -> None:
        """Take each query's group and the number of sign flips for a p-value."""
        self._members = np.unique(groups, return_inverse=True)[1]
        self._sizes = np.bincount(self._members).astype(float)
        self._permutations = permutations
        self._seed = seed

    @cached_property
    def facts(self) -> QueryGroups:
        return QueryGroups(
            queries=len(self._members),
            count=len(self._sizes),
            effective=effective_groups(self._sizes),
            largest=int(self._sizes.max()),
        )

    def lift(self, differences: FloatArray) -> Lift:
        wins = int((differences > EPSILON).sum())
        losses = int((differences < -EPSILON).sum())
        sums = self._sums(differences)
        ci = _clipped(_interval(sums, self._sizes), -1.0)
        wide_ci = _clipped(self._widened(sums, ci, SECOND - 1, 1 - SECOND), -1.0)
        return Lift(
            lift=float(differences.mean()),
            ci=wide_ci if self._changed(differences) < FEW_CHANGED else ci,
            p_value=self._p_value(sums),
            wins=wins,
            ties=len(differences) - wins - losses,
            losses=losses,
            wide_ci=wide_ci,
        )

    def mean_interval(self, values: FloatArray) -> Interval:
        """Return the interval of a mean of values from 0 to 1, such as nDCG@10.

        Its ends reckon with one more group of zeros or ones. Otherwise the interval would be too
        narrow if nearly all values are equal: at a true nDCG@10 of 0.95 the lower bound of 30
        queries would be above the truth in 16 % of the test sets, instead of 2.5 %.
        """
        sums = self._sums(values)
        return _clipped(self._widened(sums, _interval(sums, self._sizes), 0.0, 1.0), 0.0)

    def share(self, flags: np.ndarray) -> Share:
        """Return the share of the queries for which a flag is set."""
        values = flags.astype(np.float64)
        interval = self.mean_interval(values)
        return Share(queries=int(flags.sum()), share=float(values.mean()), ci=interval)

    def retention(self, values: FloatArray, reference: FloatArray) -> Retention:
        """Return the ratio of the means; 1 if both are 0.

        If hardly any query changed, the interval reckons with one more group of queries that moves
        between rank 1 and rank 2.
        """
        kept, whole = self._sums(values), self._sums(reference)
        low, high = _interval(kept, whole, self._sizes)
        if self._changed(values - reference) < FEW_CHANGED:
            one = self._sizes.mean()
            sizes = np.append(self._sizes, one)
            first, second = np.append(kept, one), np.append(kept, one * SECOND)
            low = min(low, _interval(second, np.append(whole, one), sizes)[0])
            high = max(high, _interval(first, np.append(whole, one * SECOND), sizes)[1])
        share = float(_ratio(kept.sum(), whole.sum()))
        return Retention(share=share, ci=(max(0.0, low), high))

    def retention_bounds(self, values: FloatArray, reference: FloatArray) -> FloatArray:
        """Return simultaneous lower bounds of the retentions of several vectors, (n, n_queries).

        Each also reckons with one more group whose answers fall from rank 1 to rank 2: without a
        changed query the jackknife has no width, but the test set does not prove that none changes.
        """
        return self._bounds(values, self._sums(reference), SECOND)

    def score_bounds(self, values: FloatArray) -> FloatArray:
        """Return simultaneous lower bounds of several means, of (n, n_queries) from 0 to 1.

        Each also reckons with one more group that scores 0, as in `mean_interval`.
        """
        return self._bounds(values, self._sizes, 0.0)

    def minimum_detectable_effect(self, differences: FloatArray) -> float:
        """Return the smallest true lift that this test set detects with 80 % power.

        At least 1 / n_queries: if all queries changed equally, the standard error is zero, but that
        does not make the test set infinitely sensitive.
        """
        residuals = self._sums(differences - differences.mean())
        standard_error = float(np.linalg.norm(residuals)) / len(differences)
        return max(detectable_lift(standard_error, self.facts.effective), 1 / len(differences))

    def _changed(self, differences: FloatArray) -> int:
        """Return the number of groups in which a query changed."""
        return len(np.unique(self._members[np.abs(differences) > EPSILON]))

    def _sums(self, values: FloatArray) -> FloatArray:
        return np.bincount(self._members, weights=values).astype(np.float64)

    def _widened(self, sums: FloatArray, interval: Interval, low: float, high: float) -> Interval:
        """Extend an interval of a mean by one more group that scores `low` or `high`."""
        one = self._sizes.mean()
        sizes = np.append(self._sizes, one)
        below = _interval(np.append(sums, one * low), sizes)[0]
        above = _interval(np.append(sums, one * high), sizes)[1]
        return (min(interval[0], below), max(interval[1], above))

    def _bounds(self, values: FloatArray, weights: FloatArray, added: float) -> FloatArray:
        if len(self._sizes) < 2:
            return np.zeros(len(values))
        sums = np.stack([self._sums(row) for row in values])
        found = _jackknife(sums, weights)
        bounds = found.ratios - self._critical_value(found) * found.errors
        # One more group of average size, in which the reference ranks every answer first.
        one = self._sizes.mean()
        sizes = np.append(self._sizes, one)
        more = np.append(sums, np.full((len(sums), 1), one * added), axis=1)
        wider = _jackknife(more, np.append(weights, one))
        single = _quantile(CONFIDENCE, sizes)
        return np.maximum(0.0, np.minimum(bounds, wider.ratios - single * wider.errors))

    def _critical_value(self, found: Jackknife) -> float:
        """Return the factor of the standard errors that makes one-sided bounds simultaneous.

        It is the 95 % quantile of the largest deviation if each group's sign is drawn at random
        (a wild bootstrap, which keeps the correlations), and at least Student's t of one bound.
        Flipped signs leave the standard errors as they are, so the quantile is that of a normal
        distribution; Student's t of the same probability allows for their estimation.
        """
        single, groups = _quantile(CONFIDENCE, self._sizes), len(self._sizes)
        moved = found.errors > EPSILON
        if not moved.any():
            return single
        scaled = found.deviations[moved] / found.errors[moved, None]
        scaled *= math.sqrt((groups - 1) / groups)
        largest = [(signs @ scaled.T).max(axis=1) for signs in self._sign_flips(self._seed + 2)]
        probability = float(norm.cdf(np.quantile(np.concatenate(largest), CONFIDENCE)))
        return max(single, _quantile(probability, self._sizes))

    def _p_value(self, sums: FloatArray) -> float:
        """Return the two-sided p-value of a sign-flip permutation test by group."""
        observed = abs(sums.sum()) - EPSILON
        flips = self._sign_flips(self._seed + 1)
        extreme = sum(int((np.abs(signs @ sums) >= observed).sum()) for signs in flips)
        return (1 + extreme) / (1 + self._permutations)

    def _sign_flips(self, seed: int) -> Iterator[FloatArray]:
        """Yield random signs in blocks, (n, groups)."""
        random = np.random.default_rng(seed)
        for start in range(0, self._permutations, PERMUTATIONS_PER_BLOCK):
            size = min(PERMUTATIONS_PER_BLOCK, self._permutations - start)
            signs: FloatArray = random.integers(0, 2, (size, len(self._sizes))).astype(np.float64)
            yield 2 * signs - 1


def heterogeneity_p_value(
    segments: Sequence[IntArray], groups: IntArray, lifts: FloatArray
) -> float:
    """Return the p-value of the hypothesis that all segments have the same mean lift.

    The statistic is the variance between segments. Its distribution comes from flipping the signs
    of the residuals by group, which keeps unequal variances and the dependence within groups.
    `segments` are disjoint: each holds the indices of its queries.
    """
    members = np.unique(groups, return_inverse=True)[1]
    sizes = np.array([len(segment) for segment in segments], dtype=np.float64)
    means = np.array([lifts[segment].mean() for segment in segments])
    residuals = np.zeros((members.max() + 1, len(segments)))
    for number, segment in enumerate(segments):
        # A mean of few queries follows them: without the factor, residuals would be too small.
        factor = math.sqrt(len(segment) / (len(segment) - 1))
        values = (lifts[segment] - means[number]) * factor
        residuals[:, number] = np.bincount(members[segment], values, len(residuals))
    signs = np.random.default_rng(0).integers(0, 2, (SEGMENT_FLIPS, len(residuals))) * 2.0 - 1.0
    flipped = signs @ residuals / sizes
    observed, drawn = (
        (sizes * (found - np.average(found, axis=-1, weights=sizes)[..., None]) ** 2).sum(axis=-1)
        for found in (means, flipped)
    )
    return float((1 + (drawn >= observed - EPSILON).sum()) / (1 + SEGMENT_FLIPS))


def detectable_lift(standard_error: float, groups: float) -> float:
    """Return the lift that is significant (two-sided, 5 %) with 80 % power; at most 1.

    `groups` is the effective number of groups.
    """
    if 2.0 ** (1 - groups) >= 1 - CONFIDENCE:
        # With so few groups even equal signs in all of them are not significant.
        return 1.0
    spread = math.sqrt(groups / (groups - 1)) * standard_error
    quantiles = t.ppf((1 + CONFIDENCE) / 2, groups - 1) + t.ppf(POWER, groups - 1)
    return min(1.0, float(quantiles * spread))


def _quantile(probability: float, sizes: FloatArray) -> float:
    """Return Student's t; a large group among small ones leaves few degrees of freedom."""
    return _student(probability, effective_groups(sizes) - 1)


@lru_cache(maxsize=1_000)
def _student(probability: float, freedom: float) -> float:
    return min(MAX_QUANTILE, float(t.ppf(probability, freedom)))


def _interval(values: FloatArray, weights: FloatArray, sizes: FloatArray | None = None) -> Interval:
    """Return the jackknife confidence interval of a ratio of sums, with Student's t.

    Each group is left out once; `sizes` are the groups' sizes if `weights` are not. Bootstrap
    percentiles are too narrow with few or uneven groups, or if few queries differ (job/LOG.md has
    the measured coverage of both methods).
    """
    if len(values) < 2:
        # One group gives no estimate of the variance, so no effect can be excluded.
        return (-1.0, 1.0)
    found = _jackknife(values[None], weights)
    quantile = _quantile((1 + CONFIDENCE) / 2, weights if sizes is None else sizes)
    ratio, half = float(found.ratios[0]), quantile * float(found.errors[0])
    return (ratio - half, ratio + half)


def _jackknife(values: FloatArray, weights: FloatArray) -> Jackknife:
    """Leave each group out of ratios of sums: of (n, groups) values and (groups,) weights."""
    groups = values.shape[1]
    totals = values.sum(axis=1)
    without = _ratio(totals[:, None] - values, weights.sum() - weights)
    deviations = without - without.mean(axis=1, keepdims=True)
    errors = np.sqrt((groups - 1) / groups * (deviations**2).sum(axis=1))
    return Jackknife(_ratio(totals, weights.sum()), deviations, errors)


def _clipped(interval: Interval, lowest: float) -> Interval:
    """Clip to the range of scores, 0 to 1, or of lifts, -1 to 1."""
    return (max(lowest, interval[0]), min(1.0, interval[1]))


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide elementwise; 1 if the denominator is 0."""
    return np.where(denominator > EPSILON, numerator / np.maximum(denominator, EPSILON), 1.0)
