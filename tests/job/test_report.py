"""The report says what was measured, and nothing beyond it."""

import json
import re

import numpy as np
import pytest
import torch

from job.baseline import Baseline, PromptChoice
from job.compare import compare
from job.data import load_dataset
from job.evaluate import Dimensions, Validation, Vectors, bound_corpus
from job.machine import Machine
from job.model import Prompts
from job.ranking import METRICS, Scores
from job.recipe import Recipe
from job.report import (
    Results,
    build_report,
    format_p,
    job_cost,
    precision_table,
    score_table,
    to_markdown,
)
from job.spec import DataSpec, EvaluationSpec, JobSpec, ResolvedTraining
from job.store import write_report
from job.train import Training
from job.where import look_where
from job.where_markdown import where_section

DIMENSIONS = Dimensions((64, 32, 16), 32)
HERE = {"model": {"uri": "builtin:minilm"}}
SECONDS = {"data": 1.25, "train": 1798.75, "score tuned": 0.04}
BASE = {64: 0.60, 32: 0.55, 16: 0.40}
BETTER = {64: 0.90, 32: 0.88, 16: 0.70}
# Shares of float32's scores that codes alone keep.
KEEPS = {"int8": 0.97, "binary": 0.8}
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


def smaller(scores, keeps):
    """Make the scores of other precisions, which keep a share of each query's and, rescored, more.

    The first query loses a little more than the others: intervals are no points.
    """
    found = {"float32": scores}
    uneven = 1 - 0.01 * (np.arange(len(scores.rank)) == 0)
    for precision, share in keeps.items():
        for name, kept in ((precision, share), (f"{precision}_rescored", (1 + share) / 2)):
            metrics = {metric: values * kept * uneven for metric, values in scores.metrics.items()}
            found[name] = Scores(metrics, scores.rank, scores.top)
    return found


@pytest.fixture(scope="module")
def make_report(dataset):
    """Make the report of a run that scored so, on average, at each dimension."""

    def make(
        after=None,
        *,
        before=BASE,
        best_step=20,
        retention=0.99,
        keeps=KEEPS,
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
        base = {d: {"float32": scores} for d, scores in base.items()}
        tuned = {d: smaller(scores, keeps) for d, scores in tuned.items()}
        evaluation = EvaluationSpec(
            retention=retention, permutations=1000, precisions=["float32", *keeps]
        )
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
                vectors=Vectors(torch.zeros(count, 64), torch.zeros(len(dataset.corpus), 64)),
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
                evaluation,
                seed=0,
            ),
            where=look_where(
                dataset.test,
                dataset.corpus,
                base[DIMENSIONS.main]["float32"],
                tuned[DIMENSIONS.main]["float32"],
                scores_around(0.31, count, seed=0),
            ),
        )
        spec = JobSpec(preset=preset, evaluation=evaluation.model_dump())
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
    assert score_table(report) in to_markdown(report)
    header, rule, *rows = score_table(report).splitlines()

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

{report["recommendation"]["sentence"]}

{score_table(report)}

BM25, without any model: nDCG@10 {bm25:.3f}.
Lift is tuned minus base, with its 95 % interval (jackknife over groups of queries) and p-value \
(sign flips), each query paired with itself.

## Smaller vectors

{precision_table(report)}

Kept: share of the best float32 nDCG@10, with its 95 % interval.
GB: vectors only, of 10 million documents; ids, graphs and texts come on top.
int8 is calibrated on the corpus; rescored: the best 200 by codes are ranked again by the float32 \
query.
Frontier: nothing as small scores higher.

## Where

{where_section(report["where"], 32)}

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


# Smaller vectors, and the recommendation


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_every_number_of_the_precision_table_is_the_reports(report):
    """Each dimension and precision once, large to small, with what it keeps and what it takes."""
    page = to_markdown(report)
    header, rule, *rows = precision_table(report).splitlines()

    assert f"## Smaller vectors\n\n{precision_table(report)}\n" in page
    assert rule.count("|") == header.count("|")
    assert cells(header)[:7] == [
        "dimension", "precision", "nDCG@10", "kept", "95 % interval", "bytes", "GB",
    ]  # fmt: skip
    names = ["float32", "int8", "int8_rescored", "binary", "binary_rescored"]
    assert [cells(row)[:2] for row in rows] == [
        [str(d), name.replace("_", ", ")] for d in DIMENSIONS.all for name in names
    ]
    on_frontier = [(str(p["dimension"]), p["precision"]) for p in report["pareto"]]
    advice = report["recommendation"]
    for row in rows:
        dimension, spoken, score, kept, interval, size, gigabytes, mark = cells(row)
        name = spoken.replace(", ", "_")
        found = report["comparison"][dimension][name]
        reported = report["scores"]["tuned"][dimension][name]["ndcg@10"]
        assert float(score) == pytest.approx(reported, abs=5.01e-4)
        assert numbers(kept)[0] / 100 == pytest.approx(found["retention"]["share"], abs=5.01e-4)
        ci = [number / 100 for number in numbers(interval)]
        assert ci == pytest.approx(found["retention"]["ci"], abs=5.01e-4)
        assert int(size) == found["bytes_per_vector"]
        # Ten million vectors, in 10^9 bytes.
        assert float(gigabytes) == pytest.approx(int(size) / 100, abs=5.01e-3)
        assert ("frontier" in mark) == ((dimension, name) in on_frontier)
        recommended = (int(dimension), name) == (advice["dimension"], advice["precision"])
        assert ("**recommended**" in mark) == recommended


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
    }
