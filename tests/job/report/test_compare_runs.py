"""compare.html shows the numbers of the reports, grouped by test set."""

import re
from html import unescape

import pytest
from reports import improved

from job.report.compare_runs import Evidence, Group, base_curves, to_compare_html
from job.report.document import Report
from job.report.paired_runs import Difference

SPEC = {
    "version": 1,
    "preset": "balanced",
    "model": {"base": "builtin:minilm"},
    "training": {"epochs": 2, "batch_size": 64},
    "output": {"uri": "runs"},
}


RESCORED = "int8_rescored"
RUN_COLUMNS = (
    *("run", "validation", "improved", "base model", "preset", "deploy", "bytes per vector"),
    *("seconds", "cost"),
)


def page_of(groups):
    return to_compare_html([Group(name, reports) for name, reports in groups.items()])


def made_run(
    lifts,
    spec=None,
    hyperparameters=None,
    cost=None,
    base=0.5,
    validation=0.6,
    validated_on="v1",
    **recommendation,
):
    """Make a report with the fields that are compared; the base model scores 0.5 everywhere."""
    report = improved(spec=SPEC | (spec or {}), seconds={"train": 60.4, "score base": 10.0})
    report["verdict"]["main_dimension"] = max(lifts)
    report["recommendation"] |= {"dimension": 64, "bytes_per_vector": 64, **recommendation}
    report["training"]["hyperparameters"] = hyperparameters or {}
    report["training"]["best_validation"] = validation
    report["data"]["fingerprint"]["validation"] = validated_on
    report["cost"]["usd"] = cost
    report["data"] |= {"queries": {"test": 60}, "corpus": 3000}
    of = {"base": dict.fromkeys(lifts, base), "tuned": {d: 0.5 + x for d, x in lifts.items()}}
    for model, scores in of.items():
        report["scores"][model] = {
            str(d): {"float32": {"ndcg@10": score}} for d, score in scores.items()
        }
    report["comparison"] = {
        str(d): {
            "float32": report["comparison"]["64"]["float32"]
            | {"lift": lift, "ci": [lift - 0.05, lift + 0.05], "p_value": 0.0001}
            | {"score_ci": [0.45 + lift, 0.55 + lift]}
        }
        for d, lift in lifts.items()
    }
    return Report.model_validate(report)


def headings_of(html):
    return [text_of(found[2]) for found in re.finditer(r"(?s)<(h[12])[^>]*>(.*?)</\1>", html)]


def tables_of(html):
    """Return the rows of each table by its caption, headings first."""
    tables = {}
    for table in re.findall(r"(?s)<table.*?</table>", html):
        caption = text_of(re.search(r"(?s)<caption>(.*?)</caption>", table)[1])
        rows = re.findall(r"(?s)<tr.*?</tr>", table)
        tables[caption] = [
            " | ".join(text_of(cell) for cell in re.findall(r"(?s)<t[hd][^>]*>(.*?)</t[hd]>", row))
            for row in rows
        ]
    return tables


def text_of(html):
    return " ".join(unescape(re.sub(r"<[^>]+>", "", html)).split())


@pytest.mark.parametrize(
    ("validation", "sentence"),
    [
        # The run that is best on the test set comes second.
        ({"a": 0.61, "b": 0.6}, "Best on validation: a, nDCG@10 0.610; next b, 0.600."),
        ({"a": 0.6, "b": 0.7}, "Best on validation: b, nDCG@10 0.700; next a, 0.600."),
        ({"a": 0.6, "b": 0.6}, "Tied on validation: a and b, nDCG@10 0.600."),
        ({"a": 0.6}, "nDCG@10 at 64 dimensions: a, 0.600 (+0.100 [+0.050, +0.150])."),
    ],
)
def test_the_headline_names_the_run_that_is_best_on_validation(validation, sentence):
    lifts = {"a": 0.1, "b": 0.2}
    runs = {run: made_run({64: lifts[run]}, validation=value) for run, value in validation.items()}
    assert headings_of(page_of({"f1": runs}))[0] == sentence


def test_runs_with_other_validation_queries_are_not_ranked():
    """Their validation scores do not compare, and the test set must not choose."""
    runs = {"a": made_run({64: 0.1}), "b": made_run({64: 0.2}, validated_on="v2", validation=0.9)}
    group = Group("f1", runs)
    assert [name for name, _ in group.ranked] == ["a", "b"]
    assert headings_of(page_of({"f1": runs}))[0] == (
        "Not ranked: the validation queries of these runs differ."
    )
    (sentence,) = group.sentences
    assert sentence.startswith("The runs are not ranked, as their validation queries differ;")


def test_differences_on_the_test_set_are_shown_with_the_number_of_tested_runs():
    """Five runs without a gain: one of them is called improved in 1 - 0.975^5 = 12 %."""
    runs = {name: made_run({64: 0.1}, validation=v) for name, v in (("a", 0.5), ("b", 0.6))}
    runs["c"] = made_run({64: 0.1}, validation=0.4)
    worse, equal = Difference("a", -0.1, (-0.15, -0.05)), Difference("c", 0.01, (-0.02, 0.04))
    tested = ("a", "b", "c", "d", "e")
    evidence = Evidence((worse, equal), 64, tested=tested, output="runs")
    group = Group("f1", runs, evidence)
    *sentences, tested_runs = group.sentences
    assert sentences == [
        "Best on validation: b, nDCG@10 0.600; the test set does not rank.",
        "On the test set, a is worse than b at 64 dimensions.",
    ]
    assert tested_runs == (
        "5 runs in `runs` were tested on this test set. Of 5 runs without any gain, at least one "
        "is called improved with a probability of up to about 12%: confirm the run you choose on "
        "new queries (`data.test`)."
    )
    tables = tables_of(to_compare_html([group]))
    assert tables["Tuned models on the test set at 64 dimensions, minus that of b"] == [
        "run | difference | 95 % interval",
        "a | -0.100 | [-0.150, -0.050]",
        "c | +0.010 | [-0.020, +0.040]",
    ]
    alike = Group("f1", runs, Evidence((equal,), 64, tested=("a",), output="runs"))
    assert alike.sentences[1:] == [
        "On the test set, no run is shown to differ from b at 64 dimensions."
    ]


def test_runs_are_compared_at_their_own_main_dimension():
    """It is that of the selection of checkpoints, not the dimension that the verdict is about."""
    runs = {name: made_run({64: 0.1, 32: 0.1}) for name in "ab"}
    assert Group("f1", runs).common_dimension == "64"
    at_32 = {}
    for name, report in runs.items():
        verdict = report.verdict.model_copy(update={"main_dimension": 32, "dimension": 64})
        at_32[name] = report.model_copy(update={"verdict": verdict})
    group = Group("f1", at_32)
    assert (group.main, group.common_dimension) == ("32", "32")
    assert group.shares_validation
    # Validation scores at different main dimensions do not rank runs.
    assert not Group("f1", {"a": runs["a"], "b": at_32["b"]}).shares_validation


def test_only_different_settings_are_shown_with_auto_resolved():
    """The output location is not a difference."""
    auto = {"training": {"epochs": 2, "batch_size": "auto"}, "output": {"uri": "s3://box/runs"}}
    reports = {
        "a": made_run({64: 0.1}),
        "b": made_run({64: 0.1}, auto, {"batch_size": {"value": 32, "reason": "few pairs"}}),
        "c": made_run({64: 0.1}, {"preset": "quick", "model": {"base": "me/other"}}),
    }
    assert Group("f1", reports).differences == {
        "preset": ["balanced", "balanced", "quick"],
        "model.base": ["builtin:minilm", "builtin:minilm", "me/other"],
        "training.batch_size": ["64", "auto: 32", "64"],
    }


def test_the_tables_have_every_number():
    """Also if runs differ in dimensions and settings, and one has no price."""
    other = made_run({64: -0.125}, {"preset": "quick"}, cost=0.0766, precision="float32")
    new = made_run({64: 0.125, 32: 0.0}, {"model": {"base": "some/model"}}, precision=RESCORED)
    assert tables_of(page_of({"f1": {"other": other, "new": new}})) == {
        "The runs": [
            " | ".join(RUN_COLUMNS),
            "other | 0.600 | yes | builtin:minilm | quick | 64 × float32 | 64 | 70.4 | $0.0766",
            "new | 0.600 | yes | some/model | balanced | 64 × int8, rescored | 64 | 70.4 | unknown",
        ],
        "nDCG@10 by dimension": [
            "dimension | run | base | tuned | 95 % interval | lift | 95 % interval | p",
            "64 | other | 0.500 | 0.375 | [0.325, 0.425] | -0.125 | [-0.175, -0.075] | p < 0.001",
            "64 | new | 0.500 | 0.625 | [0.575, 0.675] | +0.125 | [+0.075, +0.175] | p < 0.001",
            "32 | new | 0.500 | 0.500 | [0.450, 0.550] | +0.000 | [-0.050, +0.050] | p < 0.001",
        ],
        "Different settings": [
            "setting | other | new",
            "preset | quick | balanced",
            "model.base | builtin:minilm | some/model",
        ],
    }


def test_each_test_set_has_its_own_section():
    groups = {
        "f1": {"a": made_run({64: 0.1}), "b": made_run({64: 0.2})},
        "f2": {"c": made_run({64: 0.3})},
    }
    html = page_of(groups)
    assert headings_of(html) == [
        "2 different test sets: only runs with the same test set can be compared.",
        "Test set f1",
        "Test set f2",
    ]
    assert list(tables_of(html)) == [
        "The runs, test set f1",
        "nDCG@10 by dimension, test set f1",
        "The runs, test set f2",
        "nDCG@10 by dimension, test set f2",
    ]
    assert "All settings of these runs are equal." in text_of(html)


def test_equal_base_models_are_one_curve():
    """A missing dimension makes no other model; a different score does."""
    runs = {"a": made_run({64: 0.1}), "b": made_run({64: 0.1, 32: 0.1})}
    assert base_curves(Group("f1", runs)) == {"base": {"64": 0.5, "32": 0.5}}
    other = made_run({64: 0.1}, base=0.7)
    assert base_curves(Group("f1", {**runs, "c": other})) == {
        "base of a": {"64": 0.5, "32": 0.5},
        "base of c": {"64": 0.7},
    }
