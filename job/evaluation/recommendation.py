"""Recommend the vectors to deploy: the smallest whose lower bound meets the target, and why."""

import math
from collections.abc import Iterable, Sequence

from job.core.formatting import RESCORED, precision_label
from job.evaluation.base_vs_tuned import Point
from job.evaluation.quantization import BITS, stored_as
from job.evaluation.results import Recommendation
from job.spec.schema import EvaluationSpec

# The report gives the index size for these numbers of documents.
INDEX_SIZES = (1_000_000, 10_000_000, 100_000_000)


def choose(points: Iterable[Point], spec: EvaluationSpec) -> tuple[Point, str]:
    """Return the smallest allowed point whose lower bound meets the target, and the rule.

    The bounds are simultaneous over all points, so the choice does not make them too high. If none
    meets the target, the point with the highest bound is chosen.
    """
    budget = spec.max_bytes_per_vector or math.inf
    allowed = [
        point
        for point in points
        if point.bytes_per_vector <= budget and stored_as(point.precision) in spec.precisions
    ]
    rule, target = "retention", spec.retention
    if spec.min_ndcg is not None:
        rule, target = "min_ndcg", spec.min_ndcg

    def bound(point: Point) -> float:
        return point.at_least if rule == "min_ndcg" else point.retention.at_least or 0.0

    sufficient = [point for point in allowed if bound(point) >= target]
    if sufficient:
        # Among points of the same size, take the one with the highest bound.
        return min(sufficient, key=lambda p: (p.bytes_per_vector, -bound(p), *_size_key(p))), rule
    return min(allowed, key=lambda p: (-bound(p), -p.ndcg, *_size_key(p))), "best"


def recommend(
    points: Sequence[Point], reference: Point, spec: EvaluationSpec, opening: str = "Deploy"
) -> Recommendation:
    """Recommend the chosen point, with the reason; `reference` is float32 at full width."""
    chosen, rule = choose(points, spec)
    smallest = chosen.bytes_per_vector == min(
        p.bytes_per_vector for p in points if stored_as(p.precision) in spec.precisions
    )
    if rule == "best":
        reason = _best_reason(chosen, reference, spec)
    elif rule == "retention":
        reason = _retention_reason(chosen, reference, spec, smallest=smallest)
    else:
        reason = _score(chosen)
        reason += "." if smallest else f"; no smaller vectors are shown to reach {spec.min_ndcg:g}."
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


def _retention_reason(
    chosen: Point, reference: Point, spec: EvaluationSpec, *, smallest: bool
) -> str:
    share = _percent(spec.retention)
    if chosen == reference and smallest:
        return f"the job file allows no smaller vectors; their nDCG@10 is {reference.ndcg:.3f}."
    if chosen == reference:
        return (
            f"no smaller vectors are shown to keep {share} of their nDCG@10, {reference.ndcg:.3f}; "
            "the lower bound decides."
        )
    kept = (
        f"they keep {_kept(chosen, reference)}, in {chosen.bytes_per_vector} bytes instead of "
        f"{reference.bytes_per_vector}"
    )
    return f"{kept}." if smallest else f"{kept}; no smaller vectors are shown to keep {share}."


def _best_reason(chosen: Point, reference: Point, spec: EvaluationSpec) -> str:
    limits = ""
    if len(spec.precisions) < len(BITS):
        limits += f"as {' or '.join(spec.precisions)} "
    if spec.max_bytes_per_vector is not None:
        limits += f"within {spec.max_bytes_per_vector} bytes "
    if spec.min_ndcg is None:
        target = f"keep {_percent(spec.retention)}"
        result = f"they keep {_kept(chosen, reference)}"
    else:
        target, result = f"reach an nDCG@10 of {spec.min_ndcg:g}", _score(chosen)
    return f"no vectors {limits}are shown to {target}; these come closest: {result}."


def _kept(chosen: Point, reference: Point) -> str:
    retention = chosen.retention
    return (
        f"at least {retention.at_least or 0.0:.1%} (simultaneous 95 % bound; measured: "
        f"{retention.share:.1%}) of the nDCG@10 of {reference.dimension} float32 dimensions, "
        f"{reference.ndcg:.3f}"
    )


def _score(point: Point) -> str:
    return (
        f"their nDCG@10 is at least {point.at_least:.3f} (simultaneous 95 % bound; measured: "
        f"{point.ndcg:.3f})"
    )


def _percent(share: float) -> str:
    # Keep the decimals: 99.5 % must not print as 100 %.
    return f"{round(100 * share, 6):g}%"
