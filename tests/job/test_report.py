"""The report says what was measured, and nothing beyond it."""

import json
import re

import numpy as np
import pytest
import torch

from job.baseline import Baseline, PromptChoice
from job.compare import compare
from job.data import load_dataset
from job.evaluate import Dimensions, Validation, bound_corpus
from job.machine import Machine
from job.model import Prompts
from job.ranking import METRICS, Scores
from job.recipe import Recipe
from job.report import Results, build_report, format_p, job_cost, score_table, to_markdown
from job.spec import DataSpec, EvaluationSpec, JobSpec, ResolvedTraining
from job.store import write_report
from job.train import Training

DIMENSIONS = Dimensions((64, 32, 16), 32)
HERE = {"model": {"uri": "builtin:minilm"}}
SECONDS = {"data": 1.25, "train": 1798.75, "score tuned": 0.04}
BASE = {64: 0.60, 32: 0.55, 16: 0.40}
BETTER = {64: 0.90, 32: 0.88, 16: 0.70}
RESOLVED = ResolvedTraining(epochs=5, batch_size=32, mini_batch_size=16, learning_rate=1e-4)
RECIPE = Recipe(
    RESOLVED,
    {
        "learning_rate": "22,713,216 parameters",
        "mini_batch_size": "a batch needs about 3.0 GiB, more than is free",
    },
)


@pytest.fixture(scope="module")
def dataset(pairs_file):
    return load_dataset(DataSpec(source=str(pairs_file)), {})


def scores_around(mean, count, seed):
    """Draw each query's metrics; ranks and documents do not matter to a report."""
    values = np.clip(np.random.default_rng(seed).normal(mean, 0.05, size=count), 0, 1)
    metrics = {metric: values * (1 - 0.01 * number) for number, metric in enumerate(METRICS)}
    return Scores(metrics, np.ones(count, np.int64), np.zeros((count, 10), np.int64))


@pytest.fixture(scope="module")
def make_report(dataset):
    """Make the report of a run that scored so, on average, at each dimension."""

    def make(
        after=None,
        *,
        before=BASE,
        best_step=20,
        retention=0.99,
        price=None,
        prompts=None,
        recipe=RECIPE,
        preset="balanced",
        inputs=HERE,
    ):
        count = len(dataset.test)
        base = {d: scores_around(before[d], count, seed=d) for d in DIMENSIONS.all}
        tuned = {d: scores_around((after or before)[d], count, seed=d + 1) for d in base}
        if best_step == 0:
            tuned = base
        search = bound_corpus(dataset.validation, dataset.corpus, 5000, seed=0)
        choice = prompts or PromptChoice(Prompts(), Prompts(), 0.5, 0.5)
        results = Results(
            machine=Machine("cpu", "float32", "as the spec says"),
            inputs=inputs,
            dataset=dataset,
            base=Baseline(
                bm25=scores_around(0.31, count, seed=0),
                test=base,
                prompts=choice,
                tuned_prompts=choice.used,
                corpus_vectors=torch.zeros(len(dataset.corpus), 64),
                validation=Validation(search, DIMENSIONS, 64, 0.5),
            ),
            training=Training(None, 30, 0, best_step, recipe, 0.5, 0.6, []),
            tuned_prompts=choice.used,
            tuned=tuned,
            comparison=compare(
                base,
                tuned,
                dataset.test.groups,
                DIMENSIONS,
                EvaluationSpec(retention=retention, permutations=1000),
                seed=0,
            ),
        )
        spec = JobSpec(preset=preset, evaluation={"retention": retention})
        return build_report("my-run", spec, results, SECONDS, job_cost(SECONDS, price))

    return make


@pytest.fixture(scope="module")
def report(make_report):
    return make_report(BETTER, price=2.0)


def numbers(text):
    return [float(number) for number in re.findall(r"[-+]?\d+(?:\.\d+)?", text)]


def numbers_of_main(report):
    """Write the numbers that every verdict carries."""
    before, after = (report["scores"][m]["32"]["float32"]["ndcg@10"] for m in ("base", "tuned"))
    verdict = report["verdict"]
    low, high = verdict["ci"]
    return (
        f"nDCG@10 at 32 dimensions: {before:.3f} → {after:.3f}, {verdict['lift']:+.3f} "
        f"[{low:+.3f}, {high:+.3f}], {format_p(verdict['p_value'])}"
    )


# The table and the page


def test_every_number_of_the_table_is_the_reports(report):
    """What a person reads and what a program reads are the same numbers."""
    page = to_markdown(report)
    header, rule, *rows = [line for line in page.splitlines() if line.startswith("|")]

    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        "dimension",
        "base",
        "tuned",
        "lift",
        "95 % interval",
        "p",
        "wins / ties / losses",
        "kept",
    ]
    assert rule.count("|") == header.count("|")
    assert [int(numbers(row)[0]) for row in rows] == list(DIMENSIONS.all)
    for row in rows:
        dimension, base, tuned, lift, interval, p, counts, kept = map(
            str.strip, row.strip("|").split("|")
        )
        expected = report["comparison"][dimension]["float32"]
        scores = [report["scores"][m][dimension]["float32"]["ndcg@10"] for m in ("base", "tuned")]
        half = pytest.approx
        assert [float(base), float(tuned)] == half(scores, abs=5.01e-4)
        assert float(lift) == half(expected["lift"], abs=5.01e-4)
        assert numbers(interval) == half(expected["ci"], abs=5.01e-4)
        assert p == format_p(expected["p_value"])
        assert counts == f"{expected['wins']} / {expected['ties']} / {expected['losses']}"
        assert float(kept.rstrip("%")) / 100 == half(expected["retention"]["share"], abs=5.01e-4)


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


def test_the_page_answers_in_the_order_of_the_questions(report, pairs_file):
    """Did it help, what to deploy, the numbers, the data, the run: as one page."""
    bm25 = report["scores"]["bm25"]["ndcg@10"]
    effect = report["verdict"]["minimum_detectable_effect"]

    assert (
        to_markdown(report)
        == f"""# my-run

**{report["verdict"]["sentence"]}**

Deploy 64 dimensions: {report["recommendation"]["reason"]}

{score_table(report)}

BM25, without any model: nDCG@10 {bm25:.3f}.
Lift is tuned minus base, with its 95 % interval (jackknife over groups of queries) and p-value \
(sign flips), each query paired with itself.

## Data

- Source: `{pairs_file}`, 400 rows read, 400 used; dropped: none.
- Fetched: nothing, all was here.
- Splits (by group): train 320, validation 40, test 40; corpus: 400 documents, those of the \
training included.
- Test contexts that are also trained on: 0.0% (a random split: 0.0%).
- This test set shows a lift of {effect:.3f} or more (with 80 % chance).
- No prompts are used; the model documents none, or the spec says so.

## Run

- 30 steps, checkpoint of step 20 (0: the base model); preset `balanced`.
- `auto` became: learning_rate 0.0001 (22,713,216 parameters); mini_batch_size 16 (a batch needs \
about 3.0 GiB, more than is free).
- cpu, float32: as the spec says.
- Seconds: data 1.2, train 1798.8, score tuned 0.0.
- Cost: $1.0000 (1800 measured seconds of the job at $2 an hour).
"""
    )


def test_the_files_hold_the_report(report, tmp_path):
    """report.json is the document itself, report.md its page."""
    write_report(report, tmp_path / "report")

    written = (tmp_path / "report" / "report.json").read_text("utf-8")
    assert json.loads(written) == json.loads(json.dumps(report))
    assert (tmp_path / "report" / "report.md").read_text("utf-8") == to_markdown(report)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
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


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "p = 1.000"), (0.05, "p = 0.050"), (0.001, "p = 0.001"), (0.00099, "p < 0.001")],
)
def test_a_p_value_is_never_zero(value, text):
    """A permutation test cannot tell how much smaller than its resolution a p-value is."""
    assert format_p(value) == text


# The recommendation


def test_the_recommended_dimension_is_explained_by_what_it_keeps(make_report):
    """Share, interval, space, and that smaller ones keep less."""
    report = make_report({64: 0.90, 32: 0.90, 16: 0.70}, retention=0.95)

    kept = report["comparison"]["32"]["float32"]["retention"]
    low, high = kept["ci"]
    assert report["recommendation"] == {
        "dimension": 32,
        "precision": "float32",
        "reason": f"32 dimensions keep {kept['share']:.1%} [{low:.1%}, {high:.1%}] of the nDCG@10 "
        "at 64 in 50% of the space; smaller ones do not provably keep 95%.",
    }


def test_the_full_dimension_is_recommended_where_no_smaller_one_suffices(report):
    """Where it is not proven, nothing is saved."""
    assert report["recommendation"] == {
        "dimension": 64,
        "precision": "float32",
        "reason": "No smaller dimension provably keeps 99% of the nDCG@10 at 64 (the interval's "
        "lower bound decides).",
    }


def test_nothing_is_said_of_dimensions_that_were_not_scored(make_report):
    """Below the smallest dimension nothing was measured, so nothing is claimed."""
    report = make_report(dict.fromkeys(DIMENSIONS.all, 0.9), retention=0.9)

    assert report["recommendation"]["dimension"] == 16
    assert "smaller" not in report["recommendation"]["reason"]


def test_a_wanted_share_is_shown_as_it_was_wanted(make_report):
    """99.5 % is not 100 %."""
    report = make_report(BETTER, retention=0.995)

    assert "keeps 99.5% of" in report["recommendation"]["reason"]


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
    }
