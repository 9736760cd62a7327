"""Recommend the vectors to deploy: the smallest that provably meet the quality target, and why."""

import math
from collections.abc import Iterable

from job.core.formatting import RESCORED, precision_label, share_interval
from job.evaluation.comparison import Point
from job.evaluation.quantization import BITS, stored_as
from job.evaluation.results import Recommendation
from job.spec.schema import EvaluationSpec

# The report gives the index size for these numbers of documents.
INDEX_SIZES = (1_000_000, 10_000_000, 100_000_000)


def recommend(
    points: Iterable[Point], best: Point, spec: EvaluationSpec, opening: str = "Deploy"
) -> Recommendation:
    """Choose among the points that the spec allows; `best` is the best float32 point.

    A point meets the target if the lower bound of its confidence interval does.
    """
    budget = spec.max_bytes_per_vector or math.inf
    allowed = [
        point
        for point in points
        if point.bytes_per_vector <= budget and stored_as(point.precision) in spec.precisions
    ]
    if spec.min_ndcg is None:
        sufficient = [point for point in allowed if point.retention.ci[0] >= spec.retention]
    else:
        sufficient = [point for point in allowed if point.ci[0] >= spec.min_ndcg]
    if not sufficient:
        chosen = max(allowed, key=lambda p: (p.ndcg, *(-part for part in _size_key(p))))
        rule, reason = "best", _best_reason(chosen, best, spec)
    else:
        # Among points of the same size, take the one with the highest nDCG.
        chosen = min(sufficient, key=lambda p: (p.bytes_per_vector, -p.ndcg, *_size_key(p)))
        smallest = chosen.bytes_per_vector == min(p.bytes_per_vector for p in allowed)
        if spec.min_ndcg is None:
            rule, reason = "retention", _retention_reason(chosen, best, spec, smallest=smallest)
        else:
            rule = "min_ndcg"
            reason = (
                f"their nDCG@10 is provably {spec.min_ndcg:g} or more: {_ndcg_interval(chosen)}"
            )
            reason += "." if smallest else "; no smaller vectors provably reach that."
    size, vectors = chosen.bytes_per_vector, f"{chosen.dimension} dimensions"
    return Recommendation(
        dimension=chosen.dimension,
        precision=chosen.precision,
        stored_as=stored_as(chosen.precision),
        bytes_per_vector=size,
        index_bytes={str(count): count * size for count in INDEX_SIZES},
        rule=rule,
        reason=reason,
        sentence=f"{opening} {vectors} as {precision_label(chosen.precision)}: {reason}",
    )


def frontier(points: Iterable[Point]) -> list[Point]:
    """Return the Pareto frontier, small to large: no other point is as small and as good."""
    optimal: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bytes_per_vector, -p.ndcg, *_size_key(p))):
        if not optimal or point.ndcg > optimal[-1].ndcg:
            optimal.append(point)
    return optimal


def _size_key(point: Point) -> tuple[int, int, bool]:
    """Sort points of equal quality: fewer bytes, then fewer dimensions, then no rescoring."""
    return (point.bytes_per_vector, point.dimension, point.precision.endswith(RESCORED))


def _retention_reason(chosen: Point, best: Point, spec: EvaluationSpec, *, smallest: bool) -> str:
    share = _percent(spec.retention)
    if chosen == best and smallest:
        return f"the job file allows no smaller vectors; their nDCG@10 is {best.ndcg:.3f}."
    if chosen == best:
        return (
            f"no smaller vectors provably keep {share} of their nDCG@10, {best.ndcg:.3f} (the "
            "interval's lower bound decides)."
        )
    retained = (
        f"they keep {_retained(chosen, best)}, in {chosen.bytes_per_vector} bytes instead of "
        f"{best.bytes_per_vector}"
    )
    return f"{retained}." if smallest else f"{retained}; no smaller vectors provably keep {share}."


def _best_reason(chosen: Point, best: Point, spec: EvaluationSpec) -> str:
    limits = ""
    if len(spec.precisions) < len(BITS):
        limits += f"as {' or '.join(spec.precisions)} "
    if spec.max_bytes_per_vector is not None:
        limits += f"within {spec.max_bytes_per_vector} bytes "
    if spec.min_ndcg is None:
        target, result = f"keep {_percent(spec.retention)}", _retained(chosen, best)
    else:
        target, result = f"reach an nDCG@10 of {spec.min_ndcg:g}", _ndcg_interval(chosen)
    return f"no vectors {limits}provably {target}; these come closest, with {result}."


def _retained(chosen: Point, best: Point) -> str:
    share = f"{chosen.retention.share:.1%} {share_interval(chosen.retention.ci)}"
    return f"{share} of the best float32 nDCG@10 ({best.ndcg:.3f} at {best.dimension} dimensions)"


def _ndcg_interval(point: Point) -> str:
    return f"{point.ndcg:.3f} [{point.ci[0]:.3f}, {point.ci[1]:.3f}]"


def _percent(share: float) -> str:
    # Keep the decimals: 99.5 % must not print as 100 %.
    return f"{round(100 * share, 6):g}%"
