"""What in the data may explain a result, and what to try: computed from the report's own numbers.

Thresholds are ours; each finding says the number that crossed one.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from job.ranking import METRIC
from job.wording import change, interval, score, share

# On our benchmark data 500 pairs proved a gain at one dimension, 1,000 at all (job/LOG.md).
FEW_PAIRS = 800
MANY_UNFOUND = 0.05
MANY_CUT = 0.1
MANY_DROPPED = 0.2
# Beyond this there is little left to gain.
CEILING = 0.95

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it."""

    finding: str
    do: str


def advise(report: Report) -> list[dict[str, str]]:
    """Go through all that is known to spoil a tuning; what helped has fewer questions to answer."""
    rules = ALWAYS if report["verdict"]["improved"] else (*UNLESS_IMPROVED, *ALWAYS)
    findings = (rule(report) for rule in rules)
    return [asdict(found) for found in findings if found]


def _untrained(report: Report) -> Finding | None:
    if report["training"]["steps"]:
        return None
    return Finding("Nothing was trained: `training.epochs` is 0.", "Set `training.epochs=auto`.")


def _few_pairs(report: Report) -> Finding | None:
    pairs = report["data"]["splits"]["train"]
    if pairs >= FEW_PAIRS:
        return None
    return Finding(
        f"Only {pairs} pairs were trained on.",
        "Bring more: about 1,000 pairs are where a gain could be proven on our own data. Questions "
        "written by a language model for your documents are pairs, too.",
    )


def _small_test(report: Report) -> Finding | None:
    verdict = report["verdict"]
    if not 0 < verdict["lift"] < verdict["minimum_detectable_effect"]:
        return None
    queries = report["data"]["queries"]["test"]
    return Finding(
        f"The test set is small: {queries} queries show a lift of "
        f"{score(verdict['minimum_detectable_effect'])} or more, and {score(verdict['lift'])} was "
        "measured.",
        "Bring more rows, or raise `data.test_fraction`.",
    )


def _ceiling(report: Report) -> Finding | None:
    base = _at_main(report, "base")
    if base < CEILING:
        return None
    return Finding(
        f"The base model already reaches {score(base)}; little is left to gain.",
        "Take the smaller vectors that the base model allows, or test on harder questions.",
    )


def _lexical(report: Report) -> Finding | None:
    """Say so where words alone find as much as the base model does."""
    bm25, base, tuned = (
        report["scores"]["bm25"][METRIC],
        _at_main(report, "base"),
        _at_main(report, "tuned"),
    )
    against = _main(report)["against_bm25"]
    if against["ci"][1] < 0:
        return Finding(
            f"BM25 is better than the tuned model: {score(bm25)} against {score(tuned)}, "
            f"{change(against['lift'])} {interval(against['ci'])}.",
            f"Search with BM25, or with both (fused: {score(_fused(report))}).",
        )
    if report["verdict"]["improved"] or bm25 < base:
        return None
    return Finding(
        f"The questions repeat their answers' words: BM25, without any model, reaches "
        f"{score(bm25)}, the base model {score(base)}.",
        f"Search with both (fused: {score(_fused(report))}), and train on questions in users' own "
        "words.",
    )


def _labels(report: Report) -> Finding | None:
    queries, unfound = report["data"]["queries"]["test"], report["where"]["unfound"]
    if unfound < MANY_UNFOUND * queries:
        return None
    return Finding(
        f"The answers of {unfound} of {queries} test queries ({share(unfound / queries)}) are "
        "found by nothing: neither model, nor BM25, has them among the first hundred.",
        "Look at them below: wrong labels teach what is wrong, and hide what was learned.",
    )


def _truncation(report: Report) -> Finding | None:
    truncation = report["data"]["truncation"]
    documents = truncation["documents"]
    if documents["cut"] < MANY_CUT * documents["texts"]:
        return None
    part = share(documents["cut"] / documents["texts"])
    return Finding(
        f"{part} of the documents are longer than the {truncation['max_tokens']} tokens that the "
        f"model reads (the longest: {documents['longest']}); the rest of them is not searched.",
        "Split documents into shorter passages, raise `model.max_length` where the model can read "
        "more, or start from a model that does.",
    )


def _dropped(report: Report) -> Finding | None:
    data = report["data"]
    rows = sum(dropped["rows"] for dropped in data["dropped"].values())
    # One row may hold several pairs.
    total = data["used"] + rows
    if rows < MANY_DROPPED * total:
        return None
    reason, most = max(data["dropped"].items(), key=lambda item: item[1]["rows"])
    return Finding(
        f"{rows} of {total} pairs were dropped, most of them ({most['rows']}) for: {reason}.",
        "See `rejected.jsonl`, or `embedtune check`; the first stand at "
        f"{', '.join(most['first'])}.",
    )


def _validation_only(report: Report) -> Finding | None:
    """The gain that chose the checkpoint did not show on the test set."""
    training = report["training"]
    gain = training["best_validation"] - training["base_validation"]
    if training["best_step"] == 0 or gain <= 0 or report["verdict"]["lift"] > gain / 2:
        return None
    return Finding(
        f"On validation the model gained {score(gain)}, on the test set "
        f"{change(report['verdict']['lift'])}.",
        "The validation queries may be few, or unlike those of the test set; compare another "
        "`data.seed`.",
    )


def _no_checkpoint(report: Report) -> Finding | None:
    training = report["training"]
    if not training["steps"] or training["best_step"]:
        return None
    return Finding(
        f"No checkpoint came above the base model's {score(training['base_validation'])} on "
        "validation.",
        "Try a lower `training.learning_rate`, or fewer `training.epochs`, and look at the labels.",
    )


def _hybrid(report: Report) -> Finding | None:
    main = str(report["verdict"]["dimension"])
    alone = report["fusion"]["comparison"][main]["against_alone"]
    if alone["ci"][0] <= 0 or alone["p_value"] >= 0.05:
        return None
    return Finding(
        f"Fused with BM25 the tuned model gains {change(alone['lift'])} {interval(alone['ci'])} "
        f"more, to {score(_fused(report))}.",
        "If your search engine can, search with both and fuse by reciprocal rank.",
    )


def _main(report: Report) -> Mapping[str, Any]:
    main: Mapping[str, Any] = report["comparison"][str(report["verdict"]["dimension"])]["float32"]
    return main


def _at_main(report: Report, model: str) -> float:
    return float(report["scores"][model][str(report["verdict"]["dimension"])]["float32"][METRIC])


def _fused(report: Report) -> float:
    return float(report["fusion"]["scores"]["tuned"][str(report["verdict"]["dimension"])][METRIC])


Rule = Callable[[Report], Finding | None]
UNLESS_IMPROVED: tuple[Rule, ...] = (
    _untrained,
    _no_checkpoint,
    _few_pairs,
    _small_test,
    _ceiling,
    _validation_only,
)
ALWAYS: tuple[Rule, ...] = (_lexical, _labels, _truncation, _dropped, _hybrid)
