"""Advice: what may explain a result, and what to try, computed from the report's numbers.

The thresholds are ours; each finding states the number that crossed one.
"""

from collections.abc import Iterator

from job.core.formatting import change, interval, score, share
from job.evaluation.conclusions import caution
from job.evaluation.results import METRIC, Lift
from job.report.document import Finding, Report

# On our benchmark data, 500 pairs gave a significant gain at one dimension, 1,000 at all of them
# (job/LOG.md).
FEW_PAIRS = 800
MANY_UNFOUND = 0.05
MANY_CUT = 0.1
MANY_DROPPED = 0.2
# Above this score there is little left to gain.
CEILING = 0.95
# Share of the test queries in one group.
LARGE_GROUP = 0.1
# `evaluation.worth` of older specs, which do not have it.
WORTH = 0.01


def advise(report: Report) -> list[Finding]:
    """Check the report for known problems; some are only checked if tuning did not help."""
    why = [] if report.verdict.improved else [*_training(report), *_test(report)]
    return [*why, *_groups(report), *_lexical(report), *_data(report), *_hybrid(report)]


def _training(report: Report) -> Iterator[Finding]:
    training, pairs = report.training, report.data.splits["train"]
    if not training.steps:
        yield Finding(
            finding="Nothing was trained: `training.epochs` is 0.", do="Set `training.epochs=auto`."
        )
    elif not training.best_step:
        where = "In at least half of the folds, no" if report.data.folds else "No"
        mean = " (mean of the folds)" if report.data.folds else ""
        yield Finding(
            finding=f"{where} checkpoint beat the base model's "
            f"{score(training.base_validation)}{mean} on validation.",
            do="Try a lower `training.learning_rate` or fewer `training.epochs`, and check the "
            "labels.",
        )
    if pairs < FEW_PAIRS:
        yield Finding(
            finding=f"The model was trained on {pairs} pairs only.",
            do="Add pairs: on our benchmark data, about 1,000 were needed for a significant gain "
            "at every dimension. A language model can write questions for your documents.",
        )


def _test(report: Report) -> Iterator[Finding]:
    training, lift = report.training, _at_full_width(report)
    low, high = lift.bounds
    worth = float(report.spec["evaluation"].get("worth", WORTH))
    more_test = "Add rows." if report.data.folds else "Add rows, or raise `data.test_fraction`."
    if training.best_step and not (lift.is_gain or lift.is_loss) and low <= 0 and high >= worth:
        yield Finding(
            finding=f"{report.data.queries['test']} test queries cannot tell if tuning helped: "
            f"{caution(lift)}the true difference at full width is between {change(low)} and "
            f"{change(high)}.",
            do=f"{more_test} A larger test set narrows the interval; it makes a gain neither "
            "larger nor more likely.",
        )
    base = report.ndcg("base", report.full)
    if base >= CEILING:
        yield Finding(
            finding=f"The base model already reaches {score(base)}; little is left to gain.",
            do="Use the base model with smaller vectors, or test on harder questions.",
        )
    # The checkpoint was chosen for a gain on validation that the test set does not confirm.
    gain = training.best_validation - training.base_validation
    on_test = report.comparison[report.main].float32.lift
    if training.best_step and gain > 0 and on_test <= gain / 2:
        yield Finding(
            finding=f"At {report.main} dimensions the model gained {change(gain)} on validation, "
            f"but {change(on_test)} on the test set.",
            do="Believe the test set: the checkpoint was chosen because its validation score is "
            "high, so that score is too high on average. Other seeds until the test agrees would "
            "only select a lucky one.",
        )


def _at_full_width(report: Report) -> Lift:
    return report.comparison[report.full].float32


def _groups(report: Report) -> Iterator[Finding]:
    groups, queries = report.data.test_groups, report.data.queries["test"]
    if groups and groups.groups > 1 and groups.largest > LARGE_GROUP * queries:
        yield Finding(
            finding=f"One group holds {groups.largest} of {queries} test queries "
            f"({share(groups.largest / queries)}); the {groups.groups} groups count as "
            f"{groups.effective:.1f} of equal size, so the intervals are wide.",
            do="Test on questions about more documents.",
        )


def _lexical(report: Report) -> Iterator[Finding]:
    """Report when BM25 scores as high as a model."""
    main, bm25, swap = report.main, report.scores.bm25[METRIC], report.swap
    fused = report.fusion.swap_scores.tuned if report.fusion.swap_scores else None
    if fused is None:
        fused = report.fusion.scores.tuned[main][METRIC]
    base = swap.base if swap else report.ndcg("base", main)
    against = swap.against_bm25 if swap else report.comparison[main].float32.against_bm25
    tuned = swap.tuned if swap else report.ndcg("tuned", main)
    if against.is_loss:
        yield Finding(
            finding=f"BM25 is better than the tuned model: nDCG@10 {score(bm25)} against "
            f"{score(tuned)}, tuned minus BM25 {change(against.lift)} {interval(against.ci)}.",
            do=f"Search with BM25, or with BM25 and the model (fused: {score(fused)}).",
        )
    elif not report.verdict.improved and bm25 >= base:
        yield Finding(
            finding=f"BM25 reaches nDCG@10 {score(bm25)}, the base model {score(base)}: the "
            "questions probably repeat words of their answers.",
            do=f"Search with BM25 and the model (fused: {score(fused)}), and train on questions "
            "in your users' own words.",
        )


def _data(report: Report) -> Iterator[Finding]:
    data, not_found = report.data, report.error_analysis.not_found
    queries, documents = data.queries["test"], data.truncation.documents
    if not_found >= MANY_UNFOUND * queries:
        yield Finding(
            finding=f"For {not_found} of {queries} test queries ({share(not_found / queries)}), "
            "neither model nor BM25 ranks an answer among the first 100.",
            do="Check their labels in the error analysis: wrong labels spoil training and hide "
            "its gain.",
        )
    if documents.cut >= MANY_CUT * documents.texts:
        yield Finding(
            finding=f"{share(documents.cut / documents.texts)} of the documents are longer than "
            f"the model's limit of {data.truncation.max_tokens} tokens (the longest has "
            f"{documents.longest}); text beyond the limit is not searched.",
            do="Split documents into shorter passages, raise `model.max_length` if the model "
            "supports it, or use a base model with a higher limit.",
        )
    dropped = sum(found.rows for found in data.dropped.values())
    # One row may hold several pairs.
    total = data.used + dropped
    if dropped >= MANY_DROPPED * total:
        reason, most = max(data.dropped.items(), key=lambda item: item[1].rows)
        yield Finding(
            finding=f"{dropped} of {total} pairs were dropped; the most frequent reason "
            f"({most.rows}): {reason}.",
            do="See `rejected.jsonl`, or run `embedtune check`; the first such rows: "
            f"{', '.join(most.first)}.",
        )


def _hybrid(report: Report) -> Iterator[Finding]:
    fusion, main = report.fusion, report.main
    alone = (fusion.swap or fusion.comparison[main]).against_alone
    if alone.is_gain:
        fused = fusion.scores.tuned[main][METRIC]
        if fusion.swap_scores:
            fused = fusion.swap_scores.tuned
        yield Finding(
            finding="Fusing the tuned model with BM25 raises nDCG@10 by another "
            f"{change(alone.lift)} {interval(alone.ci)}, to {score(fused)}.",
            do="If your search engine supports hybrid search, fuse BM25 and the model by "
            "reciprocal rank.",
        )
