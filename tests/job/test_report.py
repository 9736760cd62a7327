"""The report says what was measured: every number in it is one, and its sentences follow them."""

import json
from functools import partial

import pytest
import torch
from made_reports import BASE, BETTER, DIMENSIONS, RESOLVED
from made_reports import make_report as made

from job.baseline import PromptChoice
from job.data import load_dataset
from job.markdown import precision_table, to_markdown
from job.model import Prompts
from job.page import to_html
from job.ranking import METRICS
from job.recipe import Recipe
from job.report import job_cost
from job.spec import DataSpec
from job.wording import format_p
from job.write import write_report


@pytest.fixture(scope="module")
def make_report(pairs_file):
    return partial(made, load_dataset(DataSpec(source=str(pairs_file)), {}))


@pytest.fixture(scope="module")
def report(make_report):
    return make_report(BETTER, price=2.0)


def numbers_of_main(report):
    """Write the numbers that every verdict carries."""
    before, after = (report["scores"][m]["32"]["float32"]["ndcg@10"] for m in ("base", "tuned"))
    verdict = report["verdict"]
    low, high = verdict["ci"]
    return (
        f"nDCG@10 at 32 dimensions: {before:.3f} → {after:.3f}, {verdict['lift']:+.3f} "
        f"[{low:+.3f}, {high:+.3f}], {format_p(verdict['p_value'])}"
    )


def test_the_numbers_of_the_table_fit_together(report):
    """Lift is tuned minus base, inside its interval; every query wins, ties or loses."""
    for dimension, by in report["comparison"].items():
        lift = by["float32"]
        base, tuned = (
            report["scores"][m][dimension]["float32"]["ndcg@10"] for m in ("base", "tuned")
        )
        assert lift["lift"] == pytest.approx(tuned - base)
        assert lift["ci"][0] <= lift["lift"] <= lift["ci"][1]
        assert lift["wins"] + lift["ties"] + lift["losses"] == report["data"]["queries"]["test"]
        full = report["scores"]["tuned"]["64"]["float32"]["ndcg@10"]
        assert lift["retention"]["share"] == pytest.approx(tuned / full)


def test_the_files_hold_the_report(report, tmp_path):
    """report.json is the document itself, the others are its pages."""
    write_report(report, tmp_path / "report")

    written = (tmp_path / "report" / "report.json").read_text("utf-8")
    assert json.loads(written) == json.loads(json.dumps(report))
    assert (tmp_path / "report" / "report.md").read_text("utf-8") == to_markdown(report)
    assert (tmp_path / "report" / "report.html").read_text("utf-8") == to_html(report)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]


# The verdict


def test_an_improvement_names_the_smallest_dimension_that_beats_the_whole_base_model(report):
    """The gain at the main dimension, and how far embeddings may shrink before it is lost."""
    assert report["verdict"]["improved"] is True
    assert report["verdict"]["sentence"] == (
        f"Improved. {numbers_of_main(report)}; 16 dimensions now beat the base model at 64."
    )


def test_an_improvement_that_beats_the_base_model_at_no_smaller_dimension_claims_none(make_report):
    """Better at each dimension, but not so good that a smaller one suffices."""
    report = make_report({64: 0.70, 32: 0.59, 16: 0.45})

    assert report["verdict"]["improved"] is True
    assert report["verdict"]["sentence"] == f"Improved. {numbers_of_main(report)}."


def test_a_gain_that_chance_can_explain_is_no_improvement(make_report):
    """The sentence says so, and how large a gain this test set would have shown."""
    report = make_report(BASE)

    assert report["verdict"]["improved"] is False
    assert report["verdict"]["ci"][0] < 0 < report["verdict"]["ci"][1]
    effect = report["verdict"]["minimum_detectable_effect"]
    assert report["verdict"]["sentence"] == (
        f"Not improved: the gain is not beyond chance. {numbers_of_main(report)}; this test set "
        f"would show {effect:+.3f} or more."
    )


def test_a_loss_beyond_chance_is_called_a_loss(make_report):
    """Worse than before, with certainty, is no "gain that is not beyond chance"."""
    report = make_report({64: 0.50, 32: 0.45, 16: 0.30})

    assert report["verdict"]["improved"] is False
    assert report["verdict"]["ci"][1] < 0
    assert report["verdict"]["sentence"].startswith("Not improved: ")
    assert "gain" not in report["verdict"]["sentence"]
    assert "worse" in report["verdict"]["sentence"]


def test_what_validation_did_not_like_is_no_improvement(make_report):
    """The base model stays, whatever the test set would have said; the sentence says why."""
    report = make_report(BETTER, best_step=0)

    assert report["verdict"]["improved"] is False
    assert (report["verdict"]["lift"], report["verdict"]["p_value"]) == (0.0, 1.0)
    assert report["verdict"]["sentence"] == (
        "Not improved: no checkpoint beat the base model on validation, so `model/` holds the base "
        f"model. {numbers_of_main(report)}."
    )


def test_a_training_that_was_stopped_early_says_why(make_report):
    """In the verdict where the base model stays, and beside the training in any case."""
    why = "the loss is nan at step 30 of 50; lower `training.learning_rate`"
    base = make_report(BETTER, best_step=0, stopped_early=why)
    kept = make_report(BETTER, best_step=20, stopped_early=why)

    assert base["verdict"]["sentence"] == (
        f"Not improved: training was stopped early ({why}), so `model/` holds the base model. "
        f"{numbers_of_main(base)}."
    )
    assert kept["verdict"]["sentence"].startswith("Improved. ")
    assert base["training"]["remark"] == (
        f"Training was stopped early: {why}. The base model was kept."
    )
    assert kept["training"]["remark"] == (
        f"Training was stopped early: {why}. The checkpoint of step 20 was kept."
    )
    assert base["training"]["stopped_early"] == kept["training"]["stopped_early"] == why


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "p = 1.000"), (0.05, "p = 0.050"), (0.001, "p = 0.001"), (0.00099, "p < 0.001")],
)
def test_a_p_value_is_never_zero(value, text):
    """A permutation test cannot tell how much smaller than its resolution a p-value is."""
    assert format_p(value) == text


# Smaller vectors, and the recommendation


def test_the_numbers_of_smaller_vectors_fit_together(report):
    """Shares are of the best float32 score, inside their intervals, as scores are in theirs."""
    scores = report["scores"]["tuned"]
    best = max(by["float32"]["ndcg@10"] for by in scores.values())
    assert {name for by in scores.values() for name in by} == {
        name for by in report["comparison"].values() for name in by
    }
    for dimension, by_precision in report["comparison"].items():
        for name, found in by_precision.items():
            score, kept = scores[dimension][name]["ndcg@10"], found["retention"]
            assert kept["share"] == pytest.approx(score / best)
            assert kept["ci"][0] <= kept["share"] <= kept["ci"][1]
            assert found["score_ci"][0] < score < found["score_ci"][1]
            assert set(scores[dimension][name]) == set(METRICS)


def test_base_and_tuned_are_compared_as_float32_only(report):
    """A lift compares models, not storage: other precisions carry what they keep, and no more."""
    for dimension in map(str, DIMENSIONS.all):
        assert set(report["scores"]["base"][dimension]) == {"float32"}
        for name, found in report["comparison"][dimension].items():
            expected = {"retention", "score_ci", "bytes_per_vector"}
            assert (set(found) == expected) == (name != "float32")


def test_the_frontier_of_the_report_is_that_of_its_scores(report):
    """Small to large, each with the numbers that stand at its dimension and precision."""
    every = {
        (found["bytes_per_vector"], report["scores"]["tuned"][dimension][name]["ndcg@10"])
        for dimension, by_precision in report["comparison"].items()
        for name, found in by_precision.items()
    }
    listed = [(p["bytes_per_vector"], p["ndcg@10"]) for p in report["pareto"]]

    assert listed == sorted(
        (size, score)
        for size, score in every
        if not any((s <= size and q > score) or (s < size and q >= score) for s, q in every)
    )
    for point in report["pareto"]:
        found = report["comparison"][str(point["dimension"])][point["precision"]]
        assert (point["retention"], point["bytes_per_vector"]) == (
            found["retention"],
            found["bytes_per_vector"],
        )


def test_the_recommendation_is_explained_by_what_it_keeps(make_report):
    """Share, interval and space, by the numbers that the tables show."""
    report = make_report({64: 0.90, 32: 0.899, 16: 0.70}, retention=0.93)

    kept = report["comparison"]["32"]["int8_rescored"]["retention"]
    low, high = kept["ci"]
    best = report["scores"]["tuned"]["64"]["float32"]["ndcg@10"]
    reason = (
        f"they keep {kept['share']:.1%} [{low:.1%}, {high:.1%}] of the best float32 nDCG@10 "
        f"({best:.3f} at 64 dimensions), in 32 bytes instead of 256; nothing smaller provably "
        "keeps 93%."
    )
    assert report["recommendation"] == {
        "dimension": 32,
        "precision": "int8_rescored",
        "stored_as": "int8",
        "bytes_per_vector": 32,
        "index_bytes": {"1000000": 32e6, "10000000": 320e6, "100000000": 3.2e9},
        "rule": "retention",
        "reason": reason,
        "sentence": f"Deploy 32 dimensions as int8, rescored: {reason}",
    }


def test_with_float32_alone_the_smallest_dimension_is_recommended(make_report):
    """As long as no other precision is wanted, none is scored, shown or recommended."""
    report = make_report({64: 0.90, 32: 0.90, 16: 0.70}, retention=0.95, keeps={})

    assert report["recommendation"]["dimension"] == 32
    assert report["recommendation"]["precision"] == "float32"
    assert {name for by in report["scores"]["tuned"].values() for name in by} == {"float32"}
    assert len(precision_table(report).splitlines()) == 2 + len(DIMENSIONS.all)


@pytest.mark.parametrize(
    ("after", "best_step", "opening"),
    [
        (BETTER, 20, "Deploy"),
        (BETTER, 0, "Deploy"),
        (BASE, 20, "If this model is deployed, then"),
        (
            {64: 0.50, 32: 0.45, 16: 0.30},
            20,
            "Better keep the base model; if this one is deployed, then",
        ),
    ],
    ids=["improved", "the base model is kept", "not beyond chance", "worse"],
)
def test_a_model_that_did_not_help_is_not_recommended(make_report, after, best_step, opening):
    """Sizes are told all the same; where `model/` holds the base model, they are that one's."""
    advice = make_report(after, best_step=best_step)["recommendation"]

    assert advice["sentence"] == (
        f"{opening} {advice['dimension']} dimensions as {advice['precision'].replace('_', ', ')}: "
        f"{advice['reason']}"
    )


# Recipe, prompts, cost, machine


def test_the_report_says_what_auto_became_and_why(report):
    """Each field that was left to us stands there with its value and its reason, and no other."""
    assert report["training"]["recipe"] == {
        "learning_rate": {"value": 1e-4, "reason": "22,713,216 parameters"},
        "mini_batch_size": {
            "value": 16,
            "reason": "a batch needs about 3.0 GiB, more than is free",
        },
    }


def test_a_report_without_any_auto_says_so(make_report):
    """A list of nothing would look like something that was lost."""
    report = make_report(BETTER, recipe=Recipe(RESOLVED, {}))

    assert report["training"]["recipe"] == {}
    assert "- `auto` became: nothing, all was given.\n" in to_markdown(report)


def test_the_report_names_the_preset(make_report):
    """Which preset it was is seen without comparing the spec's fields."""
    report = make_report(BETTER, preset="quick")

    assert report["spec"]["preset"] == "quick"
    assert "; preset `quick`.\n" in to_markdown(report)


def test_the_report_says_exactly_what_was_fetched(make_report):
    """A branch moves on and an object is replaced: commit and version say what was trained on."""
    inputs = {
        "data": {"uri": "owner/pairs", "commit": "c0ffee", "subset": None, "split": "train"},
        "test": {"uri": "s3://bucket/test", "version": "7e57", "file": None, "files": 2,
                 "bytes": 9},
        "model": {"uri": "/models/tiny"},
    }  # fmt: skip

    report = make_report(BETTER, inputs=inputs)

    assert report["inputs"] == inputs
    assert (
        "- Fetched: data `owner/pairs` at `c0ffee`; test `s3://bucket/test` at `7e57`.\n"
    ) in to_markdown(report)


@pytest.mark.parametrize("used", ["with", "without"])
def test_the_report_says_which_prompts_made_the_baseline(make_report, used):
    """Whichever is stronger, with the validation scores of both."""
    documented = Prompts("query: ", "passage: ")
    reached = (0.62, 0.58) if used == "with" else (0.58, 0.62)
    choice = PromptChoice(documented, documented if used == "with" else Prompts(), *reached)

    report = make_report(BETTER, prompts=choice)

    assert report["prompts"]["sentence"] == (
        f"The base model is scored {used} its prompts, where it is stronger on validation "
        f"(ndcg@10 {reached[0]:.3f} with, {reached[1]:.3f} without)."
    )
    assert report["prompts"]["base"] == {
        "query": choice.used.query,
        "document": choice.used.document,
    }
    assert report["prompts"]["sentence"] in to_markdown(report)


def test_the_cost_is_that_of_the_measured_seconds():
    """Hours times price, to a hundredth of a cent."""
    assert job_cost({"data": 600.0, "train": 3000.0}, 1.212) == {
        "usd": 1.212,
        "basis": "3600 measured seconds of the job at $1.212 an hour",
    }
    assert job_cost({"train": 1.0}, 1.0)["usd"] == 0.0003
    assert job_cost({"train": 3600.0}, 0.0)["usd"] == 0.0


def test_without_a_price_the_cost_is_unknown(make_report):
    """Unknown is not free."""
    report = make_report(BETTER)

    assert report["cost"] == {"usd": None, "basis": "no `--price-per-hour` was given"}
    assert "- Cost: unknown (no `--price-per-hour` was given)." in to_markdown(report)


def test_the_report_names_the_versions_it_was_made_with(report):
    """To repeat a run one needs the packages; these decide its numbers."""
    import sentence_transformers

    versions = report["environment"]["versions"]
    assert versions["torch"] == torch.__version__
    assert versions["sentence-transformers"] == sentence_transformers.__version__
    assert {"python", "embedtune", "transformers", "datasets", "bm25s"} <= versions.keys()
    assert report["environment"] == {
        "versions": versions,
        "device": "cpu",
        "precision": "float32",
        "reason": "as the spec says",
        "hosts": 1,
        "processes": 1,
    }
