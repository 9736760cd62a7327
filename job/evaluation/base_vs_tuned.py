"""Compare base and tuned at every dimension, and smaller vectors with those of full width."""

from dataclasses import dataclass

import numpy as np

from job.evaluation.dimensions import Dimensions
from job.evaluation.jackknife import EPSILON
from job.evaluation.metrics import METRIC, ByVector, Scores
from job.evaluation.quantization import bytes_per_vector
from job.evaluation.results import Interval, Lift, ParetoPoint, Retention, Swap
from job.evaluation.significance import GroupedQueries


class Point(ParetoPoint):
    """The tuned model's vectors at a dimension and precision; `ci` belongs to their nDCG@10."""

    ci: Interval
    # The simultaneous lower bound of their nDCG@10.
    at_least: float


@dataclass(frozen=True)
class Comparison:
    dimensions: Dimensions
    lifts: dict[int, Lift]
    # The tuned model at each dimension against the base model at full dimension, and against BM25.
    against_full_base: dict[int, Lift]
    against_bm25: dict[int, Lift]
    # Every dimension and precision; retention is relative to `reference`.
    points: tuple[Point, ...]
    # The float32 vectors of full width. Chosen in advance: the best vectors of this test set would
    # be too good by chance.
    reference: Point
    minimum_detectable_effect: float

    @property
    def full_width(self) -> Lift:
        return self.lifts[self.dimensions.full]

    @property
    def improved(self) -> bool:
        """The first test of the fixed sequence: tuned against base at full width, float32."""
        return self.full_width.is_gain

    @property
    def smallest_that_beats_base(self) -> int:
        """The last dimension that beats the base model at full width, from large to small.

        The tests stop at the first dimension that does not, so that none is significant only
        because several were tried.
        """
        smallest = self.dimensions.full
        for dimension, lift in self.against_full_base.items():
            if not lift.is_gain:
                break
            smallest = dimension
        return smallest


def compare(
    base: ByVector, tuned: ByVector, bm25: Scores, by_group: GroupedQueries, dimensions: Dimensions
) -> Comparison:
    """Compare base and tuned scores of the same queries."""
    old, new = (
        {d: scores[d]["float32"].metrics[METRIC] for d in dimensions.all}
        for scores in (base, tuned)
    )
    lifts = {d: by_group.lift(new[d] - old[d]) for d in dimensions.all}
    points, reference = compute_points(tuned, dimensions, by_group)
    return Comparison(
        dimensions=dimensions,
        lifts=lifts,
        against_full_base={d: by_group.lift(new[d] - old[dimensions.full]) for d in dimensions.all},
        against_bm25={d: by_group.lift(new[d] - bm25.metrics[METRIC]) for d in dimensions.all},
        points=points,
        reference=reference,
        minimum_detectable_effect=by_group.minimum_detectable_effect(
            new[dimensions.full] - old[dimensions.full]
        ),
    )


def compute_points(
    tuned: ByVector, dimensions: Dimensions, by_group: GroupedQueries
) -> tuple[tuple[Point, ...], Point]:
    """Return the points of all dimensions and precisions, and the reference: float32, full width.

    Their lower bounds are simultaneous over all points, as any of them may be recommended.
    """
    keys = [(d, precision) for d in dimensions.all for precision in tuned[d]]
    values = np.stack([tuned[d][precision].metrics[METRIC] for d, precision in keys])
    at_full_width = keys.index((dimensions.full, "float32"))
    reference = values[at_full_width]
    scores = by_group.score_bounds(values)
    kept = by_group.retention_bounds(values, reference)
    # The reference keeps all of itself, whatever the test set.
    whole = Retention(share=1.0, ci=(1.0, 1.0), at_least=1.0)
    points = [
        Point(
            dimension=d,
            precision=precision,
            bytes_per_vector=bytes_per_vector(d, precision),
            ndcg=float(found.mean()),
            ci=by_group.mean_interval(found),
            at_least=float(scores[number]),
            retention=whole
            if number == at_full_width
            else by_group.retention(found, reference).model_copy(
                update={"at_least": float(kept[number])}
            ),
        )
        for number, ((d, precision), found) in enumerate(zip(keys, values, strict=True))
    ]
    return tuple(points), points[at_full_width]


def compare_swap(
    base: ByVector,
    tuned: ByVector,
    bm25: Scores,
    by_group: GroupedQueries,
    recommended: ParetoPoint,
) -> Swap:
    """Compare the recommended vectors with the base model's float32 vectors at full width.

    The second test of the fixed sequence; it decides whether to deploy if the first one shows that
    the model improved.
    """
    full = max(base)
    old = base[full]["float32"].metrics[METRIC]
    new = tuned[recommended.dimension][recommended.precision].metrics[METRIC]
    return Swap(
        **dict(by_group.lift(new - old)),
        dimension=recommended.dimension,
        precision=recommended.precision,
        full_dimension=full,
        base=float(old.mean()),
        tuned=float(new.mean()),
        worse=by_group.share(new - old < -EPSILON),
        against_bm25=by_group.lift(new - bm25.metrics[METRIC]),
    )
