"""Compare base and tuned at every dimension, and smaller vectors with the best tuned ones."""

from dataclasses import dataclass

from job.evaluation.dimensions import Dimensions
from job.evaluation.metrics import METRIC, ByVector, Scores
from job.evaluation.quantization import bytes_per_vector
from job.evaluation.results import Interval, Lift, ParetoPoint, Retention
from job.evaluation.significance import GroupedQueries


class Point(ParetoPoint):
    """The tuned model's vectors at a dimension and precision; `ci` belongs to their nDCG@10."""

    ci: Interval


@dataclass(frozen=True)
class Comparison:
    dimensions: Dimensions
    lifts: dict[int, Lift]
    # The tuned model at each dimension against the base model at full dimension, and against BM25.
    against_full_base: dict[int, Lift]
    against_bm25: dict[int, Lift]
    # Every dimension and precision; retention is relative to `best`, the best float32 point.
    points: tuple[Point, ...]
    best: Point
    minimum_detectable_effect: float
    improved: bool


def compare(
    base: ByVector, tuned: ByVector, bm25: Scores, by_group: GroupedQueries, dimensions: Dimensions
) -> Comparison:
    """Compare base and tuned scores of the same queries."""
    old, new = (
        {d: scores[d]["float32"].metrics[METRIC] for d in dimensions.all}
        for scores in (base, tuned)
    )
    lifts = {d: by_group.lift(new[d] - old[d]) for d in dimensions.all}
    points, best = compute_points(tuned, dimensions, by_group)
    return Comparison(
        dimensions=dimensions,
        lifts=lifts,
        against_full_base={d: by_group.lift(new[d] - old[dimensions.full]) for d in dimensions.all},
        against_bm25={d: by_group.lift(new[d] - bm25.metrics[METRIC]) for d in dimensions.all},
        points=points,
        best=best,
        minimum_detectable_effect=by_group.minimum_detectable_effect(
            new[dimensions.main] - old[dimensions.main]
        ),
        improved=lifts[dimensions.main].is_gain,
    )


def compute_points(
    tuned: ByVector, dimensions: Dimensions, by_group: GroupedQueries
) -> tuple[tuple[Point, ...], Point]:
    """Return the points of all dimensions and precisions, and the best float32 point."""
    values = {
        (d, precision): scores.metrics[METRIC]
        for d in dimensions.all
        for precision, scores in tuned[d].items()
    }
    # Among equals, the largest dimension: a smaller one must prove that it retains the quality.
    best = max(((d, "float32") for d in dimensions.all), key=lambda k: (values[k].mean(), k[0]))
    points = {
        (d, precision): Point(
            dimension=d,
            precision=precision,
            bytes_per_vector=bytes_per_vector(d, precision),
            ndcg=float(found.mean()),
            ci=by_group.mean_interval(found),
            # The best point retains all of itself, even if the jackknife has too few groups.
            retention=Retention(share=1.0, ci=(1.0, 1.0))
            if (d, precision) == best
            else by_group.retention(found, values[best]),
        )
        for (d, precision), found in values.items()
    }
    return tuple(points.values()), points[best]
