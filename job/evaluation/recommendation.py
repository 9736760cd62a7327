"""Which vectors to deploy: the smallest that are provably good enough, and why those."""

import math
from collections.abc import Iterable

from job.core.formatting import RESCORED, precision_label, share_interval
from job.evaluation.comparison import Point
from job.evaluation.quantization import BITS, stored_as
from job.evaluation.results import Recommendation
from job.spec.schema import EvaluationSpec

# Sizes of an index are told for so many documents.
DOCUMENTS = (1_000_000, 10_000_000, 100_000_000)


def recommend(
    points: Iterable[Point], best: Point, spec: EvaluationSpec, opening: str = "Deploy"
) -> Recommendation:
    """Choose among the points that the spec allows; `best` is the best float32 one."""
    budget = spec.max_bytes_per_vector or math.inf
    allowed = [
        point
        for point in points
        if point.bytes_per_vector <= budget and stored_as(point.precision) in spec.precisions
    ]
    if spec.min_ndcg is None:
        enough = [point for point in allowed if point.retention.ci[0] >= spec.retention]
    else:
        enough = [point for point in allowed if point.ci[0] >= spec.min_ndcg]
    if not enough:
        chosen = max(allowed, key=lambda p: (p.ndcg, *(-part for part in _size(p))))
        rule, reason = "best", _why_best(chosen, best, spec)
    else:
        # Of those that take the same space the one that gives most.
        chosen = min(enough, key=lambda p: (p.bytes_per_vector, -p.ndcg, *_size(p)))
        smallest = chosen.bytes_per_vector == min(p.bytes_per_vector for p in allowed)
        if spec.min_ndcg is None:
            rule, reason = "retention", _why_share(chosen, best, spec, smallest=smallest)
        else:
            rule = "min_ndcg"
            reason = f"their nDCG@10 is provably {spec.min_ndcg:g} or more: {_reached(chosen)}"
            reason += "." if smallest else "; that of nothing smaller is."
    size, vectors = chosen.bytes_per_vector, f"{chosen.dimension} dimensions"
    return Recommendation(
        dimension=chosen.dimension,
        precision=chosen.precision,
        stored_as=stored_as(chosen.precision),
        bytes_per_vector=size,
        index_bytes={str(count): count * size for count in DOCUMENTS},
        rule=rule,
        reason=reason,
        sentence=f"{opening} {vectors} as {precision_label(chosen.precision)}: {reason}",
    )


def frontier(points: Iterable[Point]) -> list[Point]:
    """Return the Pareto frontier, small to large: nothing as small is better than these."""
    reached: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bytes_per_vector, -p.ndcg, *_size(p))):
        if not reached or point.ndcg > reached[-1].ndcg:
            reached.append(point)
    return reached


def _size(point: Point) -> tuple[int, int, bool]:
    """Order points of one quality: fewer bytes, fewer components, no rescoring."""
    return (point.bytes_per_vector, point.dimension, point.precision.endswith(RESCORED))


def _why_share(chosen: Point, best: Point, spec: EvaluationSpec, *, smallest: bool) -> str:
    share = _percent(spec.retention)
    if chosen == best and smallest:
        return f"nothing smaller may be used; their nDCG@10 is {best.ndcg:.3f}."
    if chosen == best:
        return (
            f"nothing smaller provably keeps {share} of their nDCG@10, {best.ndcg:.3f} (the "
            "interval's lower bound decides)."
        )
    kept = (
        f"they keep {_kept(chosen, best)}, in {chosen.bytes_per_vector} bytes instead of "
        f"{best.bytes_per_vector}"
    )
    return f"{kept}." if smallest else f"{kept}; nothing smaller provably keeps {share}."


def _why_best(chosen: Point, best: Point, spec: EvaluationSpec) -> str:
    within = ""
    if len(spec.precisions) < len(BITS):
        within += f"as {' or '.join(spec.precisions)} "
    if spec.max_bytes_per_vector is not None:
        within += f"within {spec.max_bytes_per_vector} bytes "
    if spec.min_ndcg is None:
        wanted, come = f"keeps {_percent(spec.retention)}", _kept(chosen, best)
    else:
        wanted, come = f"reaches an nDCG@10 of {spec.min_ndcg:g}", _reached(chosen)
    return f"nothing {within}provably {wanted}; they come closest with {come}."


def _kept(chosen: Point, best: Point) -> str:
    kept = f"{chosen.retention.share:.1%} {share_interval(chosen.retention.ci)}"
    return f"{kept} of the best float32 nDCG@10 ({best.ndcg:.3f} at {best.dimension} dimensions)"


def _reached(point: Point) -> str:
    return f"{point.ndcg:.3f} [{point.ci[0]:.3f}, {point.ci[1]:.3f}]"


def _percent(share: float) -> str:
    # 99.5 % is not 100 %.
    return f"{round(100 * share, 6):g}%"
