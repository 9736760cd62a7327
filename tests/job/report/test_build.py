"""The report contains the measured numbers, and its sentences agree with them."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import reports
import torch
from click.testing import CliRunner
from pydantic import ValidationError

from job.core.errors import StorageError
from job.core.formatting import format_p
from job.data.dataset import load_dataset
from job.evaluation.base_vs_tuned import compare, compare_swap
from job.evaluation.baseline import Baseline, PromptChoice
from job.evaluation.conclusions import no_gain
from job.evaluation.dimensions import Dimensions
from job.evaluation.error_analysis import analyze_errors
from job.evaluation.hybrid import hybrid_search
from job.evaluation.metrics import METRICS, Scores
from job.evaluation.recommendation import choose
from job.evaluation.results import Both, Compared, TruncatedTexts, Truncation
from job.evaluation.significance import GroupedQueries
from job.model.device import Machine
from job.model.encoder import Prompts
from job.report.build import Results, build_report, job_cost
from job.report.document import NumberFormats, Report
from job.report.render import to_html, to_markdown
from job.report.write import write_report
from job.spec.schema import DataSpec, EvaluationSpec, JobSpec, ResolvedTraining
from job.training.hyperparameters import Hyperparameters
from job.training.train import Training
from launcher.cli import main

DIMENSIONS = Dimensions((64, 32, 16), 32)
BASE = {64: 0.60, 32: 0.55, 16: 0.40}
BETTER = {64: 0.90, 32: 0.88, 16: 0.70}
WORSE = {64: 0.50, 32: 0.45, 16: 0.30}
# Share of the float32 score that each precision keeps without rescoring.
KEEPS = {"int8": 0.97, "binary": 0.8}
HYPERPARAMETERS = Hyperparameters(
    ResolvedTraining(epochs=5, batch_size=32, mini_batch_size=16, learning_rate=1e-4),
    {"learning_rate": "22,713,216 parameters"},
)
FORMATS = NumberFormats(
    published="float16", weights="float32", activations="bfloat16", stored="float32"
)
CUT = TruncatedTexts(texts=400, cut=60, longest=70)


def scores_around(mean, count, seed):
    """Draw random metrics per query; the report uses no ranks or document ids."""
    values = np.clip(np.random.default_rng(seed).normal(mean, 0.05, size=count), 0, 1)
    metrics = {metric: values * (1 - 0.01 * number) for number, metric in enumerate(METRICS)}
    return Scores(metrics, np.ones(count, np.int64), np.tile(np.arange(10), (count, 1)))


def smaller(scores, keeps):
    """Make scores of other precisions: a share of each query's score, and more if rescored.

    The first query loses a little more than the others, so that intervals have a width.
    """
    found = {"float32": scores}
    uneven = 1 - 0.01 * (np.arange(len(scores.rank)) == 0)
    for precision, share in keeps.items():
        for name, kept in ((precision, share), (f"{precision}_rescored", (1 + share) / 2)):
            metrics = {metric: values * kept * uneven for metric, values in scores.metrics.items()}
            found[name] = Scores(metrics, scores.rank, scores.ranked)
    return found


@pytest.fixture(scope="module")
def dataset(pairs_file):
    return load_dataset(DataSpec(source=str(pairs_file)), {})


@pytest.fixture(scope="module")
def build(dataset):
    """Build the report of a run from its mean scores by dimension."""

    def make(after=BETTER, *, best_step=20, steps=30, keeps=KEEPS, early=None, **given):
        count = len(dataset.test)
        base = {d: {"float32": scores_around(BASE[d], count, seed=d)} for d in DIMENSIONS.all}
        tuned = {d: smaller(scores_around(after[d], count, seed=d + 1), keeps) for d in base}
        if best_step == 0:
            tuned = {d: smaller(scores["float32"], keeps) for d, scores in base.items()}
        evaluation = EvaluationSpec(
            retention=given.get("retention", 0.99),
            permutations=1000,
            precisions=["float32", *keeps],
        )
        choice = given.get("prompts") or PromptChoice(Prompts(), 0.5, 0.5)
        bm25 = scores_around(0.31, count, seed=0)
        by_group = GroupedQueries(dataset.test.groups, evaluation.permutations, 0)
        comparison = compare(base, tuned, bm25, by_group, DIMENSIONS)
        point = choose(comparison.points, evaluation)[0]
        swap = compare_swap(base, tuned, bm25, by_group, point)
        before, now = base[64]["float32"], tuned[point.dimension][point.precision]
        results = Results(
            machine=Machine("cpu", "float32", "as the spec says"),
            inputs=given.get("inputs", {"model": {"uri": "builtin:minilm"}}),
            dataset=dataset,
            base=Baseline(
                bm25=bm25,
                test=base,
                prompts=choice,
                tuned_prompts=choice.used,
                vectors=None,
                corpus_vectors=None,
                validation=None,
            ),
            training=Training(None, steps, 0, best_step, HYPERPARAMETERS, 0.5, 0.6, [], early),
            tuned_prompts=choice.used,
            formats=FORMATS,
            attention={"encoding": "sdpa", "training": "eager"},
            tuned=tuned,
            comparison=comparison,
            swap=swap,
            hybrid=hybrid_search(
                bm25, base, tuned, dataset.test, by_group, swap, 0.01, improved=comparison.improved
            ),
            error_analysis=analyze_errors(dataset.test, dataset.corpus, before, now, bm25),
            truncation=Truncation(max_tokens=64, queries=CUT, documents=CUT),
            sizes=None,
            auxiliary={},
        )
        if "fact" in given:
            facts = dataset.facts | {"fact": given["fact"]}
            results = replace(results, dataset=replace(dataset, facts=facts))
        spec = JobSpec(preset="quick", evaluation=evaluation.model_dump())
        seconds = {"data": 1.25, "train": 1798.75}
        return build_report(
            "my-run", spec, results, Both(base="01", tuned="fe"), seconds, job_cost(seconds, 2.0)
        )

    return make


@pytest.fixture(scope="module")
def report(build):
    return build()


# The document


def test_a_report_survives_a_round_trip():
    """Every key and value of report.json is kept."""
    report = Report.model_validate(reports.improved())
    assert json.loads(report.to_json()) == reports.improved()
    assert Report.read(report.to_json(), "report.json") == report


def test_a_report_of_the_version_before_is_shown():
    """Its verdict is about the main dimension, as its sentence says; what is new is left out."""
    report = Report.read((reports.GOLDEN / "before.json").read_text("utf-8"), "report.json")
    assert json.loads(report.to_json()) == reports.before()
    assert (report.swap, report.data.test_groups, report.main) == (None, None, "32")
    assert report.comparison["64"].float32.bounds == report.comparison["64"].float32.ci
    for view in (to_markdown(report), to_html(report)):
        assert report.recommendation.sentence in view
        assert "At least" not in view
        assert "None" not in view.partition("Error analysis")[0]


def test_fields_of_a_later_version_are_ignored():
    """Fields are added but never renamed, so any report of version 1 can be read."""
    later = reports.improved(verdict__certainty=1, news={"of": "tomorrow"})
    assert Report.model_validate(later) == Report.model_validate(reports.improved())


@pytest.mark.parametrize(
    ("text", "field"),
    [("{", "Invalid JSON"), ("{}", "version: "), ('{"version": 2}', "version: ")],
)
def test_the_error_for_a_damaged_report_names_the_first_invalid_field(text, field):
    with pytest.raises(StorageError, match=f"`s3://b/report.json` is damaged: {field}"):
        Report.read(text, "s3://b/report.json")


def test_a_fact_without_a_field_is_an_error(build):
    with pytest.raises(ValidationError, match=r"data\.fact"):
        build(fact=1)


def test_the_schema_describes_every_key():
    """`embedtune schema --report`, for programs that read reports."""
    done = CliRunner().invoke(main, ["schema", "--report"])
    assert json.loads(done.stdout) == json.loads(json.dumps(Report.model_json_schema()))
    # Of runs whose questions a language model wrote, and of those that store another model.
    some = {"generation", "synthetic", "stored"}
    assert json.loads(done.stdout)["properties"].keys() - some == reports.improved().keys()


def test_the_files_hold_the_report(report, tmp_path):
    """report.json is the document itself; the other files are rendered from it."""
    write_report(report, tmp_path / "report")
    assert {path.name: path.read_text("utf-8") for path in (tmp_path / "report").iterdir()} == {
        "report.json": report.to_json(),
        "report.md": to_markdown(report),
        "report.html": to_html(report),
    }


# The verdict


FULL = "nDCG@10 of 64 float32 dimensions: {full}."
SWAP = (
    "nDCG@10 from the base model (64 float32 dimensions) to the recommended vectors ({vectors}): "
    "{swap}; {worse} of the queries got worse."
)
OF_BASE = "nDCG@10 of the base model at 64 float32 dimensions: {base}."
KEPT = f"so `model/` holds the base model. {OF_BASE}"
NOT_BY_SWAP = "For the recommended vectors a gain over that base model is not shown."
LOSS_BY_SWAP = "The recommended vectors are worse than that base model."
AT_MAIN = "At 32 dimensions the tuned model is better than the base model truncated to 32: {main}."
# No gain at full width, but at the main dimension.
MAIN_ONLY = {64: 0.60, 32: 0.60, 16: 0.40}
CASES = [
    (
        {},
        (True, True),
        f"Improved. {SWAP} Down to 16 dimensions, float32 vectors beat the base model at 64.",
    ),
    ({"after": {64: 0.70, 32: 0.59, 16: 0.45}}, (True, True), f"Improved. {SWAP}"),
    (
        {"after": {64: 0.70, 32: 0.59, 16: 0.45}, "retention": 0.6},
        (True, False),
        f"Improved at full width. {FULL} {LOSS_BY_SWAP} {SWAP}",
    ),
    (
        {"after": {64: 0.70, 32: 0.66, 16: 0.45}, "retention": 0.6},
        (True, False),
        f"Improved at full width. {FULL} {NOT_BY_SWAP} {SWAP}",
    ),
    ({"after": BASE}, (False, False), f"Not improved: {{unknown}}. {FULL}"),
    (
        {"after": MAIN_ONLY},
        (False, False),
        f"Not improved: {{unknown}}. {FULL} {AT_MAIN}",
    ),
    (
        {"after": WORSE},
        (False, False),
        f"Not improved: the tuned model is worse than the base model. {FULL}",
    ),
    (
        {"best_step": 0},
        (False, False),
        f"Not improved: no checkpoint beat the base model on validation, {KEPT}",
    ),
    (
        {"best_step": 0, "early": "why"},
        (False, False),
        f"Not improved: training was stopped early (why), {KEPT}",
    ),
    (
        {"best_step": 0, "steps": 0},
        (False, False),
        f"Not improved: nothing was trained (`training.epochs` is 0). {OF_BASE}",
    ),
]


def numbers_of(before, after, lift):
    return (
        f"{before:.3f} → {after:.3f}, {lift.lift:+.3f} [{lift.ci[0]:+.3f}, {lift.ci[1]:+.3f}], "
        f"{format_p(lift.p_value)}"
    )


@pytest.mark.parametrize(("fields", "claims", "sentence"), CASES)
def test_the_verdict_follows_from_the_numbers(build, fields, claims, sentence):
    """First full width, then the recommended vectors; the lift is that of the second test."""
    report = build(**fields)
    verdict, swap, full = report.verdict, report.swap, report.comparison["64"].float32
    main = report.comparison["32"].float32
    assert (verdict.improved, verdict.deploy) == claims
    assert (verdict.lift, verdict.ci, verdict.p_value) == (swap.lift, swap.ci, swap.p_value)
    assert (verdict.dimension, verdict.precision) == (swap.dimension, swap.precision)
    assert (verdict.main_dimension, verdict.full_width.ci) == (32, full.ci)
    assert (swap.dimension, swap.precision) == (
        report.recommendation.dimension,
        report.recommendation.precision,
    )
    worse = swap.worse
    assert verdict.sentence == sentence.format(
        full=numbers_of(report.ndcg("base", "64"), report.ndcg("tuned", "64"), full),
        swap=numbers_of(swap.base, swap.tuned, swap),
        vectors=f"{swap.dimension} dimensions as {swap.precision.replace('_', ', ')}",
        worse=f"{worse.share:.1%} [{worse.ci[0]:.1%}, {worse.ci[1]:.1%}]",
        base=f"{report.ndcg('base', '64'):.3f}",
        unknown=no_gain(full, 0.01),
        main=f"{main.lift:+.3f} [{main.ci[0]:+.3f}, {main.ci[1]:+.3f}]",
    )


@pytest.mark.parametrize(
    ("fields", "opening"),
    [
        ({}, "Deploy"),
        ({"best_step": 0}, "Deploy"),
        (
            {"after": {64: 0.70, 32: 0.59, 16: 0.45}, "retention": 0.6},
            "The gain is shown at full width, not for these; if you need smaller vectors, use",
        ),
        ({"after": BASE}, "If you deploy this model, use"),
        ({"after": WORSE}, "Keep the base model; if you deploy this one, use"),
    ],
    ids=["improved", "the base model is kept", "not by small vectors", "not significant", "worse"],
)
def test_a_model_that_did_not_help_is_not_recommended(build, fields, opening):
    """Sizes are reported anyway; if `model/` holds the base model, they are for that model."""
    assert build(**fields).recommendation.sentence.startswith(f"{opening} ")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "p = 1.000"), (0.05, "p = 0.050"), (0.001, "p = 0.001"), (0.00099, "p < 0.001")],
)
def test_a_p_value_is_never_zero(value, text):
    """A permutation test has a resolution; smaller p-values are shown as `<`."""
    assert format_p(value) == text


# The numbers


def test_the_numbers_fit_together(report):
    """Lifts are tuned minus base, shares are of the score at full width, intervals contain them."""
    best = report.ndcg("tuned", "64")
    for dimension, precisions in report.comparison.items():
        assert set(report.scores.base[dimension]) == {"float32"}
        assert dict(precisions.items()).keys() == report.scores.tuned[dimension].keys()
        for name, found in precisions.items():
            score, kept = report.ndcg("tuned", dimension, name), found.retention
            assert kept.share == pytest.approx(score / best)
            assert kept.ci[0] <= kept.share <= kept.ci[1]
            assert found.score_ci[0] < score < found.score_ci[1]
            assert 0 < found.score_at_least < score
            assert 0 < kept.at_least <= kept.share
            assert set(report.scores.tuned[dimension][name]) == set(METRICS)
            # Lifts compare models, not precisions.
            assert isinstance(found, Compared) == (name == "float32")
        lift = precisions.float32
        assert lift.lift == pytest.approx(
            report.ndcg("tuned", dimension) - report.ndcg("base", dimension)
        )
        assert lift.ci[0] <= lift.lift <= lift.ci[1]
        assert lift.wins + lift.ties + lift.losses == report.data.queries["test"]


def test_only_requested_precisions_are_scored_and_recommended(build):
    """Without other precisions in the spec, the report has float32 only."""
    report = build({64: 0.90, 32: 0.90, 16: 0.70}, retention=0.95, keeps={})
    assert (report.recommendation.dimension, report.recommendation.precision) == (32, "float32")
    assert {name for by in report.scores.tuned.values() for name in by} == {"float32"}


# Hyperparameters, prompts, cost, machine


def test_the_report_has_resolved_values_inputs_and_environment(build):
    """The values of `auto` with reasons, input versions, the preset and the machine."""
    inputs = {
        "data": {"uri": "owner/pairs", "commit": "c0ffee", "subset": None, "split": "train"},
        "test": {"uri": "s3://b/t", "version": "7e57", "file": None, "files": 2, "bytes": 9},
        "model": {"uri": "/models/tiny"},
    }
    written = json.loads(build(inputs=inputs).to_json())
    assert written["inputs"] == inputs
    assert written["training"]["hyperparameters"] == {
        "learning_rate": {"value": 1e-4, "reason": "22,713,216 parameters"}
    }
    assert written["spec"]["preset"] == "quick"
    versions = written["environment"].pop("versions")
    assert written["environment"] == {
        "device": "cpu",
        "precision": "float32",
        "reason": "as the spec says",
        "formats": {
            "published": "float16",
            "weights": "float32",
            "activations": "bfloat16",
            "vectors": "float32",
            "stored": "float32",
        },
        "attention": {"encoding": "sdpa", "training": "eager"},
        "hosts": 1,
        "processes": 1,
    }
    assert versions["torch"] == torch.__version__
    assert {"python", "embedtune", "transformers", "datasets", "bm25s"} <= versions.keys()


@pytest.mark.parametrize("used", ["with", "without"])
def test_the_report_names_the_prompts_of_the_baseline(build, used):
    """The stronger variant is used; the validation scores of both are reported."""
    documented = Prompts("query: ", "passage: ")
    reached = (0.62, 0.58) if used == "with" else (0.58, 0.62)
    choice = PromptChoice(documented, *reached)
    prompts = build(prompts=choice).prompts
    assert prompts.sentence == (
        f"The base model is scored {used} its prompts, because that scores higher on "
        f"validation (ndcg@10 {reached[0]:.3f} with, {reached[1]:.3f} without)."
    )
    assert (prompts.base.query, prompts.base.document) == (choice.used.query, choice.used.document)


def test_the_cost_is_that_of_the_measured_seconds():
    """Hours times price, to a hundredth of a cent; without a price the cost is unknown."""
    cost = partial(job_cost, {"data": 600.0, "train": 3000.0})
    assert (cost(1.212).usd, cost(0.0).usd, cost(None).usd) == (1.212, 0.0, None)
    assert cost(1.212).basis == "3600 measured seconds of the job at $1.212 an hour"
    assert job_cost({"train": 1.0}, 1.0).usd == 0.0003
