"""What in the data may explain a result, and what to try: computed from the report's own numbers.

Thresholds are ours; each finding says the number that crossed one.
"""

from collections.abc import Callable

from job.report_document import Finding, Report
from job.report_scores import METRIC
from job.wording import change, interval, score, share

# On our benchmark data 500 pairs proved a gain at one dimension, 1,000 at all (job/LOG.md).
FEW_PAIRS = 800
MANY_UNFOUND = 0.05
MANY_CUT = 0.1
MANY_DROPPED = 0.2
# Beyond this there is little left to gain.
CEILING = 0.95

# What was found, and what to do about it.
Advice = tuple[str, str] | None


def advise(report: Report) -> list[Finding]:
    """Go through all that is known to spoil a tuning; what helped has fewer questions to answer."""
    rules = ALWAYS if report.verdict.improved else (*UNLESS_IMPROVED, *ALWAYS)
    return [Finding(finding=found[0], do=found[1]) for rule in rules if (found := rule(report))]


def _untrained(report: Report) -> Advice:
    if report.training.steps:
        return None
    return ("Nothing was trained: `training.epochs` is 0.", "Set `training.epochs=auto`.")


def _few_pairs(report: Report) -> Advice:
    pairs = report.data.splits["train"]
    if pairs >= FEW_PAIRS:
        return None
    return (
        f"Only {pairs} pairs were trained on.",
        (
            "Bring more: about 1,000 pairs are where a gain could be proven on our own data. "
            "Questions written by a language model for your documents are pairs, too."
        ),
    )


def _small_test(report: Report) -> Advice:
    verdict = report.verdict
    if not 0 < verdict.lift < verdict.minimum_detectable_effect:
        return None
    queries = report.data.queries["test"]
    return (
        (
            f"The test set is small: {queries} queries show a lift of "
            f"{score(verdict.minimum_detectable_effect)} or more, and {score(verdict.lift)} was "
            "measured."
        ),
        "Bring more rows, or raise `data.test_fraction`.",
    )


def _ceiling(report: Report) -> Advice:
    base = report.ndcg("base", report.main)
    if base < CEILING:
        return None
    return (
        f"The base model already reaches {score(base)}; little is left to gain.",
        "Take the smaller vectors that the base model allows, or test on harder questions.",
    )


def _lexical(report: Report) -> Advice:
    """Say so where words alone find as much as the base model does."""
    main, bm25 = report.main, report.scores.bm25[METRIC]
    base, tuned = report.ndcg("base", main), report.ndcg("tuned", main)
    fused = report.fusion.scores.tuned[main][METRIC]
    against = report.comparison[main].float32.against_bm25
    if against.ci[1] < 0:
        return (
            (
                f"BM25 is better than the tuned model: {score(bm25)} against {score(tuned)}, "
                f"{change(against.lift)} {interval(against.ci)}."
            ),
            f"Search with BM25, or with both (fused: {score(fused)}).",
        )
    if report.verdict.improved or bm25 < base:
        return None
    return (
        (
            f"The questions repeat their answers' words: BM25, without any model, reaches "
            f"{score(bm25)}, the base model {score(base)}."
        ),
        f"Search with both (fused: {score(fused)}), and train on questions in users' own words.",
    )


def _labels(report: Report) -> Advice:
    queries, unfound = report.data.queries["test"], report.where.unfound
    if unfound < MANY_UNFOUND * queries:
        return None
    return (
        (
            f"The answers of {unfound} of {queries} test queries ({share(unfound / queries)}) are "
            "found by nothing: neither model, nor BM25, has them among the first hundred."
        ),
        "Look at them below: wrong labels teach what is wrong, and hide what was learned.",
    )


def _truncation(report: Report) -> Advice:
    truncation = report.data.truncation
    documents = truncation.documents
    if documents.cut < MANY_CUT * documents.texts:
        return None
    part = share(documents.cut / documents.texts)
    return (
        (
            f"{part} of the documents are longer than the {truncation.max_tokens} tokens that the "
            f"model reads (the longest: {documents.longest}); the rest of them is not searched."
        ),
        (
            "Split documents into shorter passages, raise `model.max_length` where the model can "
            "read more, or start from a model that does."
        ),
    )


def _dropped(report: Report) -> Advice:
    data = report.data
    rows = sum(dropped.rows for dropped in data.dropped.values())
    # One row may hold several pairs.
    total = data.used + rows
    if rows < MANY_DROPPED * total:
        return None
    reason, most = max(data.dropped.items(), key=lambda item: item[1].rows)
    return (
        f"{rows} of {total} pairs were dropped, most of them ({most.rows}) for: {reason}.",
        f"See `rejected.jsonl`, or `embedtune check`; the first stand at {', '.join(most.first)}.",
    )


def _validation_only(report: Report) -> Advice:
    """The gain that chose the checkpoint did not show on the test set."""
    training = report.training
    gain = training.best_validation - training.base_validation
    if training.best_step == 0 or gain <= 0 or report.verdict.lift > gain / 2:
        return None
    return (
        (
            f"On validation the model gained {score(gain)}, on the test set "
            f"{change(report.verdict.lift)}."
        ),
        (
            "The validation queries may be few, or unlike those of the test set; compare another "
            "`data.seed`."
        ),
    )


def _no_checkpoint(report: Report) -> Advice:
    training = report.training
    if not training.steps or training.best_step:
        return None
    return (
        (
            f"No checkpoint came above the base model's {score(training.base_validation)} on "
            "validation."
        ),
        "Try a lower `training.learning_rate`, or fewer `training.epochs`, and look at the labels.",
    )


def _hybrid(report: Report) -> Advice:
    alone = report.fusion.comparison[report.main].against_alone
    fused = report.fusion.scores.tuned[report.main][METRIC]
    if not alone.is_gain:
        return None
    return (
        (
            f"Fused with BM25 the tuned model gains {change(alone.lift)} {interval(alone.ci)} "
            f"more, to {score(fused)}."
        ),
        "If your search engine can, search with both and fuse by reciprocal rank.",
    )


Rule = Callable[[Report], Advice]
UNLESS_IMPROVED: tuple[Rule, ...] = (
    _untrained,
    _no_checkpoint,
    _few_pairs,
    _small_test,
    _ceiling,
    _validation_only,
)
ALWAYS: tuple[Rule, ...] = (_lexical, _labels, _truncation, _dropped, _hybrid)
