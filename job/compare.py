"""Is the gain real, and which dimension suffices? Paired by query, resampled by group."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from job.evaluate import Dimensions
from job.ranking import METRIC, FloatArray, IntArray, Scores

CONFIDENCE = 0.95
# Chance of finding an effect of the minimum detectable size.
POWER = 0.8
# Differences below this are floating-point noise, not wins or losses.
EPSILON = 1e-9
BLOCK = 1_000


@dataclass(frozen=True)
class Lift:
    """A paired difference of means over queries, with its 95 % interval and two-sided p-value."""

    lift: float
    ci: tuple[float, float]
    p_value: float
    wins: int
    ties: int
    losses: int

    @property
    def is_gain(self) -> bool:
        return self.ci[0] > 0 and self.p_value < 1 - CONFIDENCE


@dataclass(frozen=True)
class Retention:
    """Share of the full dimension's quality that a dimension keeps."""

    share: float
    ci: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """Base against tuned at every dimension, and what follows from it."""

    dimensions: Dimensions
    lifts: dict[int, Lift]
    # Tuned at a dimension against the base model at its full one.
    against_full_base: dict[int, Lift]
    retention: dict[int, Retention]
    minimum_detectable_effect: float
    recommended: int
    improved: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            str(d): {
                "float32": {
                    **asdict(self.lifts[d]),
                    "against_full_base": asdict(self.against_full_base[d]),
                    "retention": asdict(self.retention[d]),
                }
            }
            for d in self.dimensions.all
        }


def compare(
    base: Mapping[int, Scores],
    tuned: Mapping[int, Scores],
    groups: IntArray,
    dimensions: Dimensions,
    *,
    retention: float,
    samples: int,
    seed: int,
) -> Comparison:
    """Compare two sets of scores of the same queries; `groups` are resampled together."""
    resampler = Resampler(groups, samples, seed)
    old = {d: base[d].metrics[METRIC] for d in dimensions.all}
    new = {d: tuned[d].metrics[METRIC] for d in dimensions.all}
    lifts = {d: resampler.lift(new[d] - old[d]) for d in dimensions.all}
    kept = {d: resampler.retention(new[d], new[dimensions.full]) for d in dimensions.all}
    sufficient = [d for d in dimensions.all if kept[d].ci[0] >= retention]
    return Comparison(
        dimensions=dimensions,
        lifts=lifts,
        against_full_base={
            d: resampler.lift(new[d] - old[dimensions.full]) for d in dimensions.all
        },
        retention=kept,
        minimum_detectable_effect=resampler.detectable(new[dimensions.main] - old[dimensions.main]),
        recommended=min(sufficient, default=dimensions.full),
        improved=lifts[dimensions.main].is_gain,
    )


class Resampler:
    """Bootstrap and permutation over groups of queries.

    Queries of one group share a context, so they are not independent: drawing them apart would
    make intervals too narrow.
    """

    def __init__(self, groups: IntArray, samples: int, seed: int) -> None:
        self._members = np.unique(groups, return_inverse=True)[1]
        self._sizes = np.bincount(self._members).astype(float)
        self._samples = samples
        self._seed = seed

    def lift(self, differences: FloatArray) -> Lift:
        wins = int((differences > EPSILON).sum())
        losses = int((differences < -EPSILON).sum())
        return Lift(
            lift=float(differences.mean()),
            ci=self._interval(self._means(differences)),
            p_value=self._p_value(differences),
            wins=wins,
            ties=len(differences) - wins - losses,
            losses=losses,
        )

    def retention(self, values: FloatArray, full: FloatArray) -> Retention:
        """Compare means as a ratio; 1 where both are 0."""
        share = values.mean() / full.mean() if full.mean() else 1.0
        below = self._means(full)
        ratios = np.where(below > 0, self._means(values) / np.maximum(below, EPSILON), 1.0)
        return Retention(float(share), self._interval(ratios))

    def detectable(self, differences: FloatArray) -> float:
        """Compute the smallest true lift that this test set would show with 80 % chance."""
        return detectable_lift(self._standard_error(differences))

    def _standard_error(self, differences: FloatArray) -> float:
        residuals = self._sums(differences - differences.mean())
        return float(np.sqrt((residuals**2).sum()) / len(differences))

    def _sums(self, values: FloatArray) -> FloatArray:
        return np.bincount(self._members, weights=values).astype(np.float64)

    def _means(self, values: FloatArray) -> FloatArray:
        """Means of `values` over resampled groups; every call draws the same resamples."""
        sums = self._sums(values)
        return np.concatenate([(drawn @ sums) / (drawn @ self._sizes) for drawn in self._draws()])

    def _draws(self) -> Iterator[FloatArray]:
        random = np.random.default_rng(self._seed)
        count = len(self._sizes)
        for size in _blocks(self._samples):
            yield random.multinomial(count, np.full(count, 1 / count), size=size).astype(float)

    def _interval(self, means: FloatArray) -> tuple[float, float]:
        """Take percentiles, spread as Student's t asks (Hesterberg 2015, section 5.3.2).

        Plain percentiles are too narrow for few groups.
        """
        from scipy.stats import norm, t

        groups = len(self._sizes)
        if groups < 2:
            # A single group says nothing about others: no effect can be excluded.
            return (-1.0, 1.0)
        stretch = math.sqrt(groups / (groups - 1)) * t.ppf((1 + CONFIDENCE) / 2, groups - 1)
        tail = norm.cdf(-stretch)
        low, high = np.quantile(means, [tail, 1 - tail])
        return (float(low), float(high))

    def _p_value(self, differences: FloatArray) -> float:
        """Flip signs by group: how often is chance as far from zero as what was observed?"""
        sums = self._sums(differences)
        observed = abs(sums.sum()) - EPSILON
        random = np.random.default_rng(self._seed + 1)
        extreme = 0
        for size in _blocks(self._samples):
            signs = random.integers(0, 2, size=(size, len(sums))) * 2.0 - 1.0
            extreme += int((np.abs(signs @ sums) >= observed).sum())
        return (1 + extreme) / (1 + self._samples)


def detectable_lift(standard_error: float) -> float:
    """Return the lift found significant (95 %, two-sided) with 80 % chance."""
    from scipy.stats import norm

    return float((norm.ppf((1 + CONFIDENCE) / 2) + norm.ppf(POWER)) * standard_error)


def _blocks(samples: int) -> Iterator[int]:
    for start in range(0, samples, BLOCK):
        yield min(BLOCK, samples - start)
