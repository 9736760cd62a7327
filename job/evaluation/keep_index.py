"""How much of the gain remains if the documents keep the base model's vectors. Needs no torch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from job.core.formatting import change, format_p, interval, share, share_interval
from job.evaluation.conclusions import no_gain
from job.evaluation.results import METRIC, Interval, Lift, Part

if TYPE_CHECKING:
    # These load numpy, which readers of a report do not need.
    from job.evaluation.metrics import Scores
    from job.evaluation.significance import GroupedQueries

TUNED_QUERIES, ADAPTER = "tuned_queries", "adapter"
LABELS = {
    TUNED_QUERIES: "the tuned model's queries",
    ADAPTER: "the base model's queries after a linear adapter",
}


class KeptIndex(Part):
    """Queries of one kind, searched among the base model's document vectors.

    `against_base` compares them with the base model's queries among the same vectors, and
    `against_tuned` with the tuned model's queries and documents. `kept` is the share of the tuned
    model's gain; it may be negative, and is None without a significant gain.
    """

    ndcg: float
    against_base: Lift
    against_tuned: Lift
    kept: float | None = None
    kept_ci: Interval | None = None


class KeepIndex(Part):
    """Search with the existing index, by kind of query; float32 vectors of full width."""

    dimension: int
    base: float
    tuned: float
    rows: dict[str, KeptIndex]
    # Of the adapter: pairs and passes that it was trained with, and nDCG@10 on validation before
    # and after. 0 passes: the adapter changes nothing, as no pass improved validation.
    pairs: int
    passes: int
    validation: tuple[float, float]
    sentence: str

    def label(self, name: str) -> str:
        return LABELS.get(name, name)

    @property
    def adapter(self) -> str:
        before, after = self.validation
        if not self.passes:
            return (
                f"No adapter trained on {self.pairs} pairs improved validation ({before:.3f}), so "
                "it changes nothing."
            )
        passes = "1 pass" if self.passes == 1 else f"{self.passes} passes"
        return (
            f"The adapter is a square matrix, `query_adapter.npy`: `query @ matrix`, then length "
            f"1. It was trained on {self.pairs} pairs; {passes} scored best on validation "
            f"({before:.3f} before, {after:.3f} after)."
        )


def compare_kept(
    base: "Scores",
    tuned: "Scores",
    found: "Mapping[str, Scores]",
    by_group: "GroupedQueries",
    *,
    improved: bool,
) -> dict[str, KeptIndex]:
    """Compare each kind of query with both models; shares need a gain (`improved`)."""
    old, new = base.metrics[METRIC], tuned.metrics[METRIC]
    rows = {}
    for name, scores in found.items():
        values = scores.metrics[METRIC]
        kept, ci = by_group.share_of_lift(values - old, new - old) if improved else (None, None)
        rows[name] = KeptIndex(
            ndcg=scores.mean(METRIC),
            against_base=by_group.lift(values - old),
            against_tuned=by_group.lift(values - new),
            kept=kept,
            kept_ci=ci,
        )
    return rows


def conclude(base: float, rows: Mapping[str, KeptIndex], worth: float, *, improved: bool) -> str:
    """Say whether an index of the base model's document vectors can be kept.

    `base` is nDCG@10 of the base model's queries.
    """
    opening = f"Among the base model's document vectors, its own queries score {base:.3f}."
    sentences = [opening, *(_row(LABELS[name], row, worth) for name, row in rows.items())]
    gains = [row for row in rows.values() if row.against_base.is_gain]
    if not improved:
        advice = "No gain is shown that an index could keep."
    elif not gains:
        advice = (
            "Nothing of the gain is shown to remain without encoding the documents again: "
            "encode them again."
        )
    elif all(row.against_tuned.is_loss for row in gains):
        advice = "The rest of the gain needs the documents encoded again."
    else:
        advice = "That encoding the documents again gains more is not shown."
    return " ".join([*sentences, advice])


def _row(label: str, row: KeptIndex, worth: float) -> str:
    lift = row.against_base
    size = f"{change(lift.lift)} {interval(lift.ci)}, {format_p(lift.p_value)}"
    opening = f"{label[:1].upper()}{label[1:]} score {row.ndcg:.3f} there"
    if lift.is_loss:
        return f"{opening}: worse ({size})."
    if not lift.is_gain:
        return f"{opening} ({size}): {no_gain(lift, worth)}."
    kept = ""
    if row.kept is not None and row.kept_ci is not None:
        kept = f", {share(row.kept)} {share_interval(row.kept_ci)} of the tuned model's gain"
    return f"{opening}: better ({size}){kept}."
