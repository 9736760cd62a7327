"""What the test queries share with the training data, and so which questions the scores are of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from job.data.rows import Grouping, Rows, given_codes
from job.data.splits import TEST, TRAIN, number_in_order
from job.spec.schema import DataSpec
from job.storage.arrow_tables import BoolArray, IntArray, KeyArray

ESTIMAND = "The scores are of new questions about"


@dataclass(frozen=True)
class Overlap:
    """Which test queries share something with training: masks over the test queries.

    `near_context` and `near_question` do not include equal texts; they are None if near-duplicates
    are not searched. `document` is None if the data does not name documents.
    """

    context: BoolArray
    near_context: BoolArray | None
    near_question: BoolArray | None
    document: BoolArray | None
    # Whether the test rows were given, not drawn by us.
    given: bool

    @property
    def seen(self) -> BoolArray:
        """The queries about a source that training has: a context, a near-duplicate, a document."""
        masks = (self.context, self.near_context, self.document)
        seen: BoolArray = np.any([mask for mask in masks if mask is not None], axis=0)
        return seen

    def facts(self, spec: DataSpec, protocol: str, leakage: dict[str, Any]) -> dict[str, Any]:
        """Return the counts and their sentences, for the report."""
        counts = {
            "queries": len(self.context),
            "context": int(self.context.sum()),
            "near_context": _count(self.near_context),
            "near_question": _count(self.near_question),
            "document": _count(self.document),
            "seen": int(self.seen.sum()),
            "given": self.given,
        }
        return described(counts, spec, protocol, leakage)


def measure_overlap(rows: Rows, grouping: Grouping, codes: IntArray) -> Overlap:
    """Compare the texts and documents of the test rows with those of the training rows."""
    test, train = codes == TEST, codes == TRAIN
    _, queries = number_in_order(grouping.question_keys[test])
    count = int(queries.max(initial=-1)) + 1

    def shared(keys: KeyArray | IntArray) -> BoolArray:
        found = np.isin(keys[test], keys[train])
        return np.bincount(queries, weights=found, minlength=count) > 0

    # The texts: the article's protocol makes each row a document of its own.
    context = shared(rows.cleaned.kept["positive_key"].to_numpy())
    question = shared(grouping.question_keys)
    clusters, parents = grouping.groups.clusters, grouping.parent_keys
    return Overlap(
        context,
        None if clusters is None else shared(clusters[1]) & ~context,
        None if clusters is None else shared(clusters[0]) & ~question,
        None if parents is None else shared(parents),
        given=bool((given_codes(rows.cleaned.kept) == TEST).any()),
    )


def described(
    counts: dict[str, Any], spec: DataSpec, protocol: str, leakage: dict[str, Any]
) -> dict[str, Any]:
    """Add the sentences to the counts."""
    return counts | {
        "estimand": _estimand(counts, spec, protocol),
        "sentence": _sentence(counts, spec, protocol, leakage["under_a_random_split"]),
    }


def pooled(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add up the counts of the folds, without their sentences."""
    names = ("queries", "context", "near_context", "near_question", "document", "seen")
    return {name: _sum([fold[name] for fold in folds]) for name in names} | {"given": False}


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _count(mask: BoolArray | None) -> int | None:
    return None if mask is None else int(mask.sum())


def _estimand(counts: dict[str, Any], spec: DataSpec, protocol: str) -> str:
    """Name the questions that the test queries are a sample of."""
    if not counts["queries"]:
        return ""
    if counts["seen"] == counts["queries"]:
        return f"{ESTIMAND} sources that were trained on."
    if counts["seen"]:
        share = counts["seen"] / counts["queries"]
        drawn = ", drawn as random rows" if protocol == "article" else ""
        return f"{ESTIMAND} sources partly trained on ({share:.0%} of the test queries){drawn}."
    if counts["document"] is not None:
        return (
            f"{ESTIMAND} documents that were not trained on (`data.columns.document` is "
            f"`{spec.columns.document}`)."
        )
    return (
        f"{ESTIMAND} contexts that were not trained on. Other contexts of the same documents may "
        "have been: `data.columns.document` keeps documents in one split."
    )


def _sentence(counts: dict[str, Any], spec: DataSpec, protocol: str, at_random: float) -> str:
    """Say what test queries share with training; a zero that the splits ensure is named so."""
    parts = {
        "with a context that is also in training": counts["context"],
        "with a near-duplicate of a context in training": counts["near_context"],
        "with a document that is trained on": counts["document"],
        "whose question has a near-duplicate in training": counts["near_question"],
    }
    found = [f"{count} {what}" for what, count in parts.items() if count]
    searched = counts["near_context"] is not None
    unknown = "" if searched else " Near-duplicates were not searched for."
    if found:
        return f"Of {counts['queries']} test queries: {', '.join(found)}.{unknown}"
    if counts["given"] or protocol == "article" or spec.large_groups != "keep":
        near = ", nor a near-duplicate of one" if searched else ""
        return f"No test query has a context that is also in training{near}.{unknown}"
    return (
        "By construction, no test query has a context that is also in training; in a random split, "
        f"{at_random:.1%} of the test rows would.{unknown}"
    )
