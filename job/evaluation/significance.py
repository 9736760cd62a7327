"""Test differences for significance: paired by query, resampled by group.

Confidence intervals come from a grouped jackknife, p-values from a sign-flip permutation test,
simultaneous bounds from sign flips of the jackknife's deviations.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t

from job.data.query_groups import effective_groups
from job.evaluation.jackknife import (
    EPSILON,
    FEW_CHANGED,
    SECOND,
    allow_for_skewness,
    changed_groups,
    clipped,
    group_sums,
    jackknife,
    number_groups,
    quantile,
    ratio,
    sign_flips,
    simultaneous_quantile,
    widened,
)
from job.evaluation.results import CONFIDENCE, Interval, Lift, Retention, Share
from job.storage.arrow_tables import FloatArray, IntArray

# Statistical power at the minimum detectable effect.
POWER = 0.8
SEGMENT_FLIPS = 2_000


class GroupedQueries:
    """Confidence intervals and p-values of queries that come in groups.

    Queries of one group share a context, so they are not independent. Treating them as independent
    makes intervals too narrow (measured: 84 % coverage, against 95 % by group).
    """

    def __init__(self, groups: IntArray, permutations: int, seed: int) -> None:
        """Take each query's group and the number of sign flips for a p-value."""
        self._members = number_groups(groups)
        self._sizes = np.bincount(self._members).astype(float)
        self._permutations = permutations
        self._seed = seed

    def lift(self, differences: FloatArray) -> Lift:
        wins = int((differences > EPSILON).sum())
        losses = int((differences < -EPSILON).sum())
        sums = self._sums(differences)
        ci = clipped(_interval(sums, self._sizes), -1.0)
        wide_ci = clipped(widened(_interval, sums, self._sizes, SECOND - 1, 1 - SECOND), -1.0)
        return Lift(
            lift=float(differences.mean()),
            ci=wide_ci if changed_groups(differences, self._members) < FEW_CHANGED else ci,
            p_value=self._p_value(sums),
            wins=wins,
            ties=len(differences) - wins - losses,
            losses=losses,
            wide_ci=wide_ci,
        )

    def mean_interval(self, values: FloatArray) -> Interval:
        """Return the interval of a mean of values from 0 to 1, such as nDCG@10.

        Its ends are computed with one more group of zeros or ones. Otherwise the interval would be
        too narrow if nearly all values are equal: at a true nDCG@10 of 0.95 the lower bound of 30
        queries would be above the truth in 16 % of the test sets, instead of 2.5 %.
        """
        return clipped(widened(_interval, self._sums(values), self._sizes, 0.0, 1.0), 0.0)

    def share(self, flags: np.ndarray) -> Share:
        """Return the share of the queries for which a flag is set."""
        values = flags.astype(np.float64)
        interval = self.mean_interval(values)
        return Share(queries=int(flags.sum()), share=float(values.mean()), ci=interval)

    def retention(self, values: FloatArray, reference: FloatArray) -> Retention:
        """Return the ratio of the means; 1 if both are 0.

        If hardly any query changed, the interval is computed with one more group of queries that
        moves between rank 1 and rank 2.
        """
        kept, whole = self._sums(values), self._sums(reference)
        low, high = _interval(kept, whole, self._sizes)
        if changed_groups(values - reference, self._members) < FEW_CHANGED:
            one = self._sizes.mean()
            sizes = np.append(self._sizes, one)
            first, second = np.append(kept, one), np.append(kept, one * SECOND)
            low = min(low, _interval(second, np.append(whole, one), sizes)[0])
            high = max(high, _interval(first, np.append(whole, one * SECOND), sizes)[1])
        share = float(ratio(kept.sum(), whole.sum()))
        # No vectors score above 1, so none keep more than this.
        most = max(1.0, 1 / max(reference.mean(), EPSILON))
        return Retention(share=share, ci=(max(0.0, low), min(high, most)))

    def share_of_lift(self, differences: FloatArray, whole: FloatArray) -> tuple[float, Interval]:
        """Return the ratio of two mean lifts with its interval; `whole` is a significant gain."""
        kept, gained = self._sums(differences), self._sums(whole)
        return float(ratio(kept.sum(), gained.sum())), _interval(kept, gained, self._sizes)

    def retention_bounds(self, values: FloatArray, reference: FloatArray) -> FloatArray:
        """Return simultaneous lower bounds of the retentions of several vectors, (n, n_queries).

        Each is at most the bound that is computed with one more group whose answers fall from
        rank 1 to rank 2: without a changed query the jackknife has no width, but the test set does
        not prove that none changes.
        """
        return self._bounds(values, self._sums(reference), SECOND)

    def score_bounds(self, values: FloatArray) -> FloatArray:
        """Return simultaneous lower bounds of several means, of (n, n_queries) from 0 to 1.

        Each is at most the bound that is computed with one more group that scores 0, as in
        `mean_interval`.
        """
        return self._bounds(values, self._sizes, 0.0)

    def minimum_detectable_effect(self, differences: FloatArray) -> float:
        """Return the smallest true lift that this test set detects with 80 % power.

        At least 1 / n_queries: if all queries changed equally, the standard error is zero, but that
        does not make the test set infinitely sensitive.
        """
        found = jackknife(self._sums(differences)[None], self._sizes)
        detectable = detectable_lift(float(found.errors[0]), effective_groups(self._sizes))
        return max(detectable, 1 / len(differences))

    def _sums(self, values: FloatArray) -> FloatArray:
        return group_sums(values, self._members)

    def _bounds(self, values: FloatArray, weights: FloatArray, added: float) -> FloatArray:
        """Return simultaneous lower bounds of ratios to `weights`, at least 0."""
        if len(self._sizes) < 2:
            return np.zeros(len(values))
        sums = self._sums(values)
        found = jackknife(sums, weights)
        factor = simultaneous_quantile(found, self._sizes, self._permutations, self._seed + 2)
        bounds = found.ratios - allow_for_skewness(factor, found, self._sizes) * found.errors
        # One more group of average size, in which the reference ranks every answer first.
        one = self._sizes.mean()
        more = np.append(sums, np.full((len(sums), 1), one * added), axis=1)
        wider = jackknife(more, np.append(weights, one))
        single = quantile(CONFIDENCE, np.append(self._sizes, one))
        return np.maximum(0.0, np.minimum(bounds, wider.ratios - single * wider.errors))

    def _p_value(self, sums: FloatArray) -> float:
        """Return the two-sided p-value of a sign-flip permutation test by group."""
        observed = abs(sums.sum()) - EPSILON
        flips = sign_flips(len(sums), self._permutations, self._seed + 1)
        extreme = sum(int((np.abs(signs @ sums) >= observed).sum()) for signs in flips)
        return (1 + extreme) / (1 + self._permutations)


def heterogeneity_p_value(
    segments: Sequence[IntArray], groups: IntArray, lifts: FloatArray
) -> float:
    """Return the p-value of the hypothesis that all segments have the same mean lift.

    The statistic is the variance between segments. Its distribution comes from flipping the signs
    of the residuals by group, which keeps unequal variances and the dependence within groups.
    `segments` are disjoint: each holds the indices of its queries.
    """
    members = number_groups(groups)
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
    quantiles = t.ppf((1 + CONFIDENCE) / 2, groups - 1) + t.ppf(POWER, groups - 1)
    return min(1.0, float(quantiles * standard_error))


def _interval(values: FloatArray, weights: FloatArray, sizes: FloatArray | None = None) -> Interval:
    """Return the jackknife confidence interval of a ratio of sums, with Student's t.

    Each group is left out once; `sizes` are the groups' sizes if `weights` are not. Bootstrap
    percentiles are too narrow with few or uneven groups, or if few queries differ (job/LOG.md has
    the measured coverage of both methods).
    """
    if len(values) < 2:
        # One group gives no estimate of the variance, so no effect can be excluded.
        return (-1.0, 1.0)
    found = jackknife(values[None], weights)
    factor = quantile((1 + CONFIDENCE) / 2, weights if sizes is None else sizes)
    middle, half = float(found.ratios[0]), factor * float(found.errors[0])
    return (middle - half, middle + half)
