"""compare.html shows the numbers of the reports, grouped by test set."""

import re
from html import unescape

import pytest
from reports import improved

from job.report.compare_runs import Group, base_curves, to_compare_html
from job.report.document import Report

SPEC = {
    "version": 1,
    "preset": "balanced",
    "model": {"base": "builtin:minilm"},
    "training": {"epochs": 2, "batch_size": 64},
    "output": {"uri": "runs"},
}


def made_run(lifts, spec=None, hyperparameters=None, cost=None, base=0.5, **recommendation):
    """Make a report with the fields that are compared; the base model scores 0.5 everywhere."""
    report = improved(spec=SPEC | (spec or {}), seconds={"train": 60.4, "score base": 10.0})
    report["verdict"]["main_dimension"] = max(lifts)
    report["recommendation"] |= {"dimension": 64, "bytes_per_vector": 64, **recommendation}
    report["training"]["hyperparameters"] = hyperparameters or {}
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
    ("lifts", "sentence"),
    [
        (
            {"a": 0.1, "b": 0.2},
            (
                "Highest nDCG@10 at 64 dimensions: b, 0.700 (+0.200 [+0.150, +0.250]); "
                "next a, 0.600 (+0.100 [+0.050, +0.150])."
            ),
        ),
        (
            {"a": 0.1, "b": 0.1},
            (
                "nDCG@10 at 64 dimensions, tied: a, 0.600 (+0.100 [+0.050, +0.150]); "
                "b, 0.600 (+0.100 [+0.050, +0.150])."
            ),
        ),
        ({"a": 0.1}, "nDCG@10 at 64 dimensions: a, 0.600 (+0.100 [+0.050, +0.150])."),
    ],
)
def test_the_headline_names_the_highest_run(lifts, sentence):
    runs = {run: made_run({64: lift}) for run, lift in lifts.items()}
    assert headings_of(to_compare_html({"f1": runs}))[0] == sentence


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
    new = made_run({64: 0.125, 32: 0.0}, precision="int8_rescored")
    assert tables_of(to_compare_html({"f1": {"other": other, "new": new}})) == {
        "The runs": [
            "run | improved | base model | preset | deploy | bytes per vector | seconds | cost",
            "other | yes | builtin:minilm | quick | 64 × float32 | 64 | 70.4 | $0.0766",
            "new | yes | builtin:minilm | balanced | 64 × int8, rescored | 64 | 70.4 | unknown",
        ],
        "nDCG@10 by dimension": [
            "dimension | run | base | tuned | 95 % interval | lift | 95 % interval | p",
            "64 | other | 0.500 | 0.375 | [0.325, 0.425] | -0.125 | [-0.175, -0.075] | p < 0.001",
            "64 | new | 0.500 | 0.625 | [0.575, 0.675] | +0.125 | [+0.075, +0.175] | p < 0.001",
            "32 | new | 0.500 | 0.500 | [0.450, 0.550] | +0.000 | [-0.050, +0.050] | p < 0.001",
        ],
        "Different settings": ["setting | other | new", "preset | quick | balanced"],
    }


def test_each_test_set_has_its_own_section():
    groups = {
        "f1": {"a": made_run({64: 0.1}), "b": made_run({64: 0.2})},
        "f2": {"c": made_run({64: 0.3})},
    }
    html = to_compare_html(groups)
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
