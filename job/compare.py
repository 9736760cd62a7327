"""Is the gain real, and what do smaller vectors keep? Paired by query, judged by group."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from job.evaluate import Dimensions
from job.precision import bytes_per_vector
from job.ranking import METRIC, FloatArray, IntArray, Scores
from job.report_scores import CONFIDENCE, Interval, Lift, ParetoPoint, Retention

# Chance of finding an effect of the minimum detectable size.
POWER = 0.8
# Differences below this are floating-point noise, not wins or losses.
EPSILON = 1e-9
BLOCK = 1_000


class Point(ParetoPoint):
    """The tuned model's vectors at a dimension and precision; `ci` is that of their nDCG@10."""

    ci: Interval


@dataclass(frozen=True)
class Comparison:
    """Base against tuned at every dimension, and what smaller vectors keep of the tuned one."""

    dimensions: Dimensions
    lifts: dict[int, Lift]
    # Tuned at a dimension against the base model at its full one.
    against_full_base: dict[int, Lift]
    # Every dimension and precision; the best float32 one is what the others keep a share of.
    points: tuple[Point, ...]
    best: Point
    minimum_detectable_effect: float
    improved: bool


def compare(
    base: Mapping[int, Mapping[str, Scores]],
    tuned: Mapping[int, Mapping[str, Scores]],
    by_group: "GroupedQueries",
    dimensions: Dimensions,
) -> Comparison:
    """Compare two sets of scores of the same queries."""
    old, new = (
        {d: scores[d]["float32"].metrics[METRIC] for d in dimensions.all}
        for scores in (base, tuned)
    )
    lifts = {d: by_group.lift(new[d] - old[d]) for d in dimensions.all}
    points, best = measure(tuned, dimensions, by_group)
    return Comparison(
        dimensions=dimensions,
        lifts=lifts,
        against_full_base={d: by_group.lift(new[d] - old[dimensions.full]) for d in dimensions.all},
        points=points,
        best=best,
        minimum_detectable_effect=by_group.detectable(new[dimensions.main] - old[dimensions.main]),
        improved=lifts[dimensions.main].is_gain,
    )


def measure(
    tuned: Mapping[int, Mapping[str, Scores]], dimensions: Dimensions, by_group: "GroupedQueries"
) -> tuple[tuple[Point, ...], Point]:
    """Hold every dimension and precision against the best float32 one, which is returned too."""
    values = {
        (d, precision): scores.metrics[METRIC]
        for d in dimensions.all
        for precision, scores in tuned[d].items()
    }
    # Of equals the largest: nothing is saved that is not proven.
    best = max(((d, "float32") for d in dimensions.all), key=lambda k: (values[k].mean(), k[0]))
    points = {
        (d, precision): Point(
            dimension=d,
            precision=precision,
            bytes_per_vector=bytes_per_vector(d, precision),
            ndcg=float(found.mean()),
            ci=by_group.mean_interval(found),
            # What it keeps of itself is beyond doubt, even where nothing else is.
            retention=Retention(share=1.0, ci=(1.0, 1.0))
            if (d, precision) == best
            else by_group.retention(found, values[best]),
        )
        for (d, precision), found in values.items()
    }
    return tuple(points.values()), points[best]


class GroupedQueries:
    """Intervals and p-values from groups of queries.

    Queries of one group share a context, so they are not independent: taking them as such would
    make intervals too narrow (measured: 84 % coverage where ours cover 95 %).
    """

    def __init__(self, groups: IntArray, permutations: int, seed: int) -> None:
        """Take each query's group, and how many sign flips a p-value shall rest on."""
        self._members = np.unique(groups, return_inverse=True)[1]
        self._sizes = np.bincount(self._members).astype(float)
        self._permutations = permutations
        self._seed = seed

    def lift(self, differences: FloatArray) -> Lift:
        wins = int((differences > EPSILON).sum())
        losses = int((differences < -EPSILON).sum())
        low, high = self._interval(self._sums(differences), self._sizes)
        return Lift(
            lift=float(differences.mean()),
            # Lifts are between -1 and 1, whatever the interval would say.
            ci=(max(-1.0, low), min(1.0, high)),
            p_value=self._p_value(differences),
            wins=wins,
            ties=len(differences) - wins - losses,
            losses=losses,
        )

    def mean_interval(self, values: FloatArray) -> tuple[float, float]:
        low, high = self._interval(self._sums(values), self._sizes)
        return (max(0.0, low), min(1.0, high))

    def retention(self, values: FloatArray, best: FloatArray) -> Retention:
        """Compare means as a ratio; 1 where both are 0."""
        above, below = self._sums(values), self._sums(best)
        share = float(_ratio(above.sum(), below.sum()))
        return Retention(share=share, ci=self._interval(above, below))

    def detectable(self, differences: FloatArray) -> float:
        """Compute the smallest true lift that this test set would show with 80 % chance.

        It is one query's worth at least: queries that all moved alike are no reason to be surer.
        """
        found = detectable_lift(self._standard_error(differences), len(self._sizes))
        return max(found, 1 / len(differences))

    def _standard_error(self, differences: FloatArray) -> float:
        residuals = self._sums(differences - differences.mean())
        return float(np.sqrt((residuals**2).sum()) / len(differences))

    def _sums(self, values: FloatArray) -> FloatArray:
        return np.bincount(self._members, weights=values).astype(np.float64)

    def _interval(self, values: FloatArray, weights: FloatArray) -> tuple[float, float]:
        """Jackknife a ratio of sums: leave each group out once, and take Student's t.

        A bootstrap's percentiles are too narrow where groups are few or uneven, or where few
        queries differ (job/LOG.md has both methods' measured coverage).
        """
        from scipy.stats import t

        groups = len(values)
        if groups < 2:
            # A single group says nothing about others: no effect can be excluded.
            return (-1.0, 1.0)
        without = _ratio(values.sum() - values, weights.sum() - weights)
        deviations = without - without.mean()
        error = math.sqrt((groups - 1) / groups * float((deviations**2).sum()))
        half = float(t.ppf((1 + CONFIDENCE) / 2, groups - 1)) * error
        ratio = float(_ratio(values.sum(), weights.sum()))
        return (ratio - half, ratio + half)

    def _p_value(self, differences: FloatArray) -> float:
        """Flip signs by group: how often is chance as far from zero as what was observed?"""
        sums = self._sums(differences)
        observed = abs(sums.sum()) - EPSILON
        random = np.random.default_rng(self._seed + 1)
        extreme = 0
        for start in range(0, self._permutations, BLOCK):
            size = min(BLOCK, self._permutations - start)
            signs = random.integers(0, 2, size=(size, len(sums))) * 2.0 - 1.0
            extreme += int((np.abs(signs @ sums) >= observed).sum())
        return (1 + extreme) / (1 + self._permutations)


def detectable_lift(standard_error: float, groups: int) -> float:
    """Return the lift found significant (95 %, two-sided) with 80 % chance; at most 1."""
    from scipy.stats import t

    if 2.0 ** (1 - groups) >= 1 - CONFIDENCE:
        # All signs alike is what chance gives so often: nothing can be significant.
        return 1.0
    spread = math.sqrt(groups / (groups - 1)) * standard_error
    quantiles = t.ppf((1 + CONFIDENCE) / 2, groups - 1) + t.ppf(POWER, groups - 1)
    return min(1.0, float(quantiles * spread))


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Divide; 1 where the divisor is 0."""
    return np.where(below > EPSILON, above / np.maximum(below, EPSILON), 1.0)
