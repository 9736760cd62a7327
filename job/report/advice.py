"""What in the data may explain a result, and what to try: computed from the report's own numbers.

Thresholds are ours; each finding says the number that crossed one.
"""

from collections.abc import Iterator

from job.core.formatting import change, interval, score, share
from job.evaluation.results import METRIC
from job.report.document import Finding, Report

# On our benchmark data 500 pairs proved a gain at one dimension, 1,000 at all (job/LOG.md).
FEW_PAIRS = 800
MANY_UNFOUND = 0.05
MANY_CUT = 0.1
MANY_DROPPED = 0.2
# Beyond this there is little left to gain.
CEILING = 0.95


def advise(report: Report) -> list[Finding]:
    """Go through all that is known to spoil a tuning; what helped has fewer questions to answer."""
    why = [] if report.verdict.improved else [*_training(report), *_test(report)]
    return [*why, *_lexical(report), *_data(report), *_hybrid(report)]


def _training(report: Report) -> Iterator[Finding]:
    training, pairs = report.training, report.data.splits["train"]
    if not training.steps:
        yield Finding(
            finding="Nothing was trained: `training.epochs` is 0.", do="Set `training.epochs=auto`."
        )
    elif not training.best_step:
        yield Finding(
            finding="No checkpoint came above the base model's "
            f"{score(training.base_validation)} on validation.",
            do="Try a lower `training.learning_rate`, or fewer `training.epochs`, and look at the "
            "labels.",
        )
    if pairs < FEW_PAIRS:
        yield Finding(
            finding=f"Only {pairs} pairs were trained on.",
            do="Bring more: about 1,000 pairs are where a gain could be proven on our own data. "
            "Questions written by a language model for your documents are pairs, too.",
        )


def _test(report: Report) -> Iterator[Finding]:
    verdict, training = report.verdict, report.training
    if 0 < verdict.lift < verdict.minimum_detectable_effect:
        yield Finding(
            finding=f"The test set is small: {report.data.queries['test']} queries show a lift of "
            f"{score(verdict.minimum_detectable_effect)} or more, and {score(verdict.lift)} was "
            "measured.",
            do="Bring more rows, or raise `data.test_fraction`.",
        )
    base = report.ndcg("base", report.main)
    if base >= CEILING:
        yield Finding(
            finding=f"The base model already reaches {score(base)}; little is left to gain.",
            do="Take the smaller vectors that the base model allows, or test on harder questions.",
        )
    # The gain that chose the checkpoint did not show on the test set.
    gain = training.best_validation - training.base_validation
    if training.best_step and gain > 0 and verdict.lift <= gain / 2:
        yield Finding(
            finding=f"On validation the model gained {score(gain)}, on the test set "
            f"{change(verdict.lift)}.",
            do="The validation queries may be few, or unlike those of the test set; compare "
            "another `data.seed`.",
        )


def _lexical(report: Report) -> Iterator[Finding]:
    """Say so where words alone find as much as the base model does."""
    main, bm25 = report.main, report.scores.bm25[METRIC]
    base, tuned = report.ndcg("base", main), report.ndcg("tuned", main)
    fused = report.fusion.scores.tuned[main][METRIC]
    against = report.comparison[main].float32.against_bm25
    if against.ci[1] < 0:
        yield Finding(
            finding=f"BM25 is better than the tuned model: {score(bm25)} against {score(tuned)}, "
            f"{change(against.lift)} {interval(against.ci)}.",
            do=f"Search with BM25, or with both (fused: {score(fused)}).",
        )
    elif not report.verdict.improved and bm25 >= base:
        yield Finding(
            finding="The questions repeat their answers' words: BM25, without any model, reaches "
            f"{score(bm25)}, the base model {score(base)}.",
            do=f"Search with both (fused: {score(fused)}), and train on questions in users' own "
            "words.",
        )


def _data(report: Report) -> Iterator[Finding]:
    data, not_found = report.data, report.error_analysis.not_found
    queries, documents = data.queries["test"], data.truncation.documents
    if not_found >= MANY_UNFOUND * queries:
        yield Finding(
            finding=f"The answers of {not_found} of {queries} test queries "
            f"({share(not_found / queries)}) are found by nothing: neither model, nor BM25, has "
            "them among the first hundred.",
            do="Look at them below: wrong labels teach what is wrong, and hide what was learned.",
        )
    if documents.cut >= MANY_CUT * documents.texts:
        yield Finding(
            finding=f"{share(documents.cut / documents.texts)} of the documents are longer than "
            f"the {data.truncation.max_tokens} tokens that the model reads (the longest: "
            f"{documents.longest}); the rest of them is not searched.",
            do="Split documents into shorter passages, raise `model.max_length` where the model "
            "can read more, or start from a model that does.",
        )
    dropped = sum(found.rows for found in data.dropped.values())
    # One row may hold several pairs.
    total = data.used + dropped
    if dropped >= MANY_DROPPED * total:
        reason, most = max(data.dropped.items(), key=lambda item: item[1].rows)
        yield Finding(
            finding=f"{dropped} of {total} pairs were dropped, most of them ({most.rows}) for: "
            f"{reason}.",
            do="See `rejected.jsonl`, or `embedtune check`; the first stand at "
            f"{', '.join(most.first)}.",
        )


def _hybrid(report: Report) -> Iterator[Finding]:
    alone = report.fusion.comparison[report.main].against_alone
    if alone.is_gain:
        fused = report.fusion.scores.tuned[report.main][METRIC]
        yield Finding(
            finding=f"Fused with BM25 the tuned model gains {change(alone.lift)} "
            f"{interval(alone.ci)} more, to {score(fused)}.",
            do="If your search engine can, search with both and fuse by reciprocal rank.",
        )
