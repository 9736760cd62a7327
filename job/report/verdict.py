"""The verdict: whether the model improved, whether to deploy it, and the sentence that says so.

Two tests in a fixed order, each two-sided at 5 %, keep the probability of a false claim at 5 %:
first tuned against base at full width as float32 ("improved"); then, only if that is a gain, the
recommended vectors against the base model at full width ("deploy"). The report's headline is the
second, because it is the swap that the reader makes.
"""

from typing import TYPE_CHECKING, Any

from job.core.formatting import change, interval, precision_label, score, share, share_interval
from job.evaluation.conclusions import no_gain, numbers
from job.evaluation.metrics import METRIC

if TYPE_CHECKING:
    from job.report.build import Results

METRIC_NAME = "nDCG@10"
NOTHING_BETTER = "no checkpoint beat the base model on validation"
# With folds, the model counts as better if most trainings found a better one.
NOT_IN_MOST_FOLDS = f"in at least half of the folds, {NOTHING_BETTER}"


def verdict(results: "Results", worth: float) -> dict[str, Any]:
    """Return the `verdict` section; its lift, interval and p-value are those of the swap."""
    comparison, swap = results.comparison, results.swap
    return {
        "improved": results.improved,
        "deploy": results.deploy,
        "metric": METRIC,
        "dimension": swap.dimension,
        "precision": swap.precision,
        "main_dimension": comparison.dimensions.main,
        "full_width": comparison.full_width,
        "minimum_detectable_effect": comparison.minimum_detectable_effect,
        "sentence": f"{_sentence(results, worth)}{synthetic_note(results.test_by)}",
        **({"test_by": results.test_by} if results.test_by else {}),
        **swap.model_dump(include={"lift", "ci", "p_value"}),
    }


def synthetic_note(test_by: str | None) -> str:
    """Return a sentence that says who wrote the test questions, if no person did."""
    if test_by is None:
        return ""
    return f" The test questions are synthetic: the language model `{test_by}` wrote them."


def recommendation_opening(results: "Results") -> str:
    """Return how the recommendation begins: a model that did not help is not recommended."""
    if results.deploy or not results.training.improved_on_validation:
        # In the second case `model/` holds the base model.
        return "Deploy"
    if results.comparison.full_width.is_loss:
        return "Keep the base model; if you deploy this one, use"
    if results.improved:
        return "The gain is shown at full width, not for these; if you need smaller vectors, use"
    return "If you deploy this model, use"


def _sentence(results: "Results", worth: float) -> str:
    full = results.comparison.dimensions.full
    if not results.training.steps:
        return f"Not improved: nothing was trained (`training.epochs` is 0). {_base(results)}"
    if not results.training.improved_on_validation:
        early = results.training.stopped_early
        why = f"training was stopped early ({early})" if early else NOTHING_BETTER
        if results.dataset.folds:
            why = NOT_IN_MOST_FOLDS
        return f"Not improved: {why}, so `model/` holds the base model. {_base(results)}"
    if results.deploy:
        return f"Improved. {_swap(results)}{_smaller(results)}"
    lift = results.comparison.full_width
    at_full_width = f"{METRIC_NAME} of {full} float32 dimensions: {_at(results, full)}."
    if results.improved:
        smaller = (
            "The recommended vectors are worse than that base model."
            if results.swap.is_loss
            else "For the recommended vectors a gain over that base model is not shown."
        )
        return f"Improved at full width. {at_full_width} {smaller} {_swap(results)}"
    if lift.is_loss:
        return f"Not improved: the tuned model is worse than the base model. {at_full_width}"
    return f"Not improved: {no_gain(lift, worth)}. {at_full_width}{_gain_at_main(results)}"


def _base(results: "Results") -> str:
    full = results.comparison.dimensions.full
    found = results.base.test[full]["float32"].mean(METRIC)
    return f"{METRIC_NAME} of the base model at {full} float32 dimensions: {score(found)}."


def _at(results: "Results", dimension: int) -> str:
    before, after = (
        scores[dimension]["float32"].mean(METRIC) for scores in (results.base.test, results.tuned)
    )
    return numbers(before, after, results.comparison.lifts[dimension])


def _swap(results: "Results") -> str:
    """Return the numbers of the swap, and the share of queries that it makes worse."""
    swap = results.swap
    worse = swap.worse
    return (
        f"{METRIC_NAME} from the base model ({swap.full_dimension} float32 dimensions) to the "
        f"recommended vectors ({swap.dimension} dimensions as {precision_label(swap.precision)}): "
        f"{numbers(swap.base, swap.tuned, swap)}; {share(worse.share)} "
        f"{share_interval(worse.ci)} of the queries got worse."
    )


def _smaller(results: "Results") -> str:
    smallest = results.comparison.smallest_that_beats_base
    full = results.comparison.dimensions.full
    if smallest == full:
        return ""
    return f" Down to {smallest} dimensions, float32 vectors beat the base model at {full}."


def _gain_at_main(results: "Results") -> str:
    """Report a gain at the main dimension only, which the verdict does not count."""
    main = results.comparison.dimensions.main
    lift = results.comparison.lifts[main]
    if not lift.is_gain:
        return ""
    return (
        f" At {main} dimensions the tuned model is better than the base model truncated to {main}: "
        f"{change(lift.lift)} {interval(lift.ci)}."
    )
