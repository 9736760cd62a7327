"""Advice follows the numbers: each finding where its number crosses a line, and only there."""

import pytest
from reports import improved

from job.advice import advise
from job.report_document import Report


def lift(value, low, high, p=0.5):
    return {"lift": value, "ci": [low, high], "p_value": p, "wins": 9, "ties": 0, "losses": 9}


def ndcg(value):
    return {"32": {"float32": {"ndcg@10": value}}}


# A run that did not help, and in which nothing else is wrong.
PLAIN = {
    "verdict__improved": False,
    "verdict__lift": -0.001,
    "verdict__minimum_detectable_effect": 0.02,
    "scores__bm25": {"ndcg@10": 0.5},
    "scores__base": ndcg(0.7),
    "scores__tuned": ndcg(0.699),
    "comparison__32__float32__against_bm25": lift(0.199, 0.15, 0.25, 0.0),
    "fusion__scores__tuned": {"32": {"ndcg@10": 0.71}},
    "fusion__comparison__32__against_alone": lift(0.011, -0.01, 0.03),
    "training__steps": 50,
    "training__best_step": 40,
    "training__base_validation": 0.7,
    "training__best_validation": 0.7,
    "data__splits": {"train": 1600},
    "data__queries": {"test": 200},
    "data__used": 2000,
    "data__dropped": {},
    "data__truncation__max_tokens": 256,
    "data__truncation__documents": {"texts": 1000, "cut": 0, "longest": 200},
    "where__unfound": 0,
}


def advice(changes):
    return advise(Report.model_validate(improved(**PLAIN | changes)))


def findings(**changes):
    return [found.finding for found in advice(changes)]


def test_where_nothing_is_wrong_nothing_is_said():
    assert findings() == []


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"training__steps": 0}, "Nothing was trained: `training.epochs` is 0."),
        (
            {"training__best_step": 0},
            "No checkpoint came above the base model's 0.700 on validation.",
        ),
        ({"data__splits": {"train": 799}}, "Only 799 pairs were trained on."),
        (
            {"verdict__lift": 0.0191},
            (
                "The test set is small: 200 queries show a lift of 0.020 or more, and 0.019 was "
                "measured."
            ),
        ),
        (
            {"scores__base": ndcg(0.95)},
            "The base model already reaches 0.950; little is left to gain.",
        ),
        (
            {"training__best_validation": 0.75},
            "On validation the model gained 0.050, on the test set -0.001.",
        ),
        (
            {"scores__bm25": {"ndcg@10": 0.7}},
            (
                "The questions repeat their answers' words: BM25, without any model, reaches "
                "0.700, the base model 0.700."
            ),
        ),
        (
            {
                "scores__bm25": {"ndcg@10": 0.8},
                "comparison__32__float32__against_bm25": lift(-0.101, -0.15, -0.05, 0.0),
            },
            ("BM25 is better than the tuned model: 0.800 against 0.699, -0.101 [-0.150, -0.050]."),
        ),
        (
            {"where__unfound": 10},
            (
                "The answers of 10 of 200 test queries (5.0%) are found by nothing: neither model, "
                "nor BM25, has them among the first hundred."
            ),
        ),
        (
            {"data__truncation__documents": {"texts": 1000, "cut": 100, "longest": 700}},
            (
                "10.0% of the documents are longer than the 256 tokens that the model reads (the "
                "longest: 700); the rest of them is not searched."
            ),
        ),
        (
            {
                "data__dropped": {
                    "empty context": {"rows": 100, "first": ["a.csv:3"]},
                    "exact duplicate": {"rows": 400, "first": ["a.csv:7", "a.csv:9"]},
                }
            },
            "500 of 2500 pairs were dropped, most of them (400) for: exact duplicate.",
        ),
        (
            {"fusion__comparison__32__against_alone": lift(0.011, 0.002, 0.02, 0.01)},
            "Fused with BM25 the tuned model gains +0.011 [+0.002, +0.020] more, to 0.710.",
        ),
    ],
)
def test_each_line_that_is_crossed_is_told_with_its_number(changes, finding):
    assert findings(**changes) == [finding]
    assert all(found.do.endswith(".") for found in advice(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"data__splits": {"train": 800}},
        {"verdict__lift": 0.02},
        {"scores__base": ndcg(0.949)},
        {"scores__bm25": {"ndcg@10": 0.699}},
        {"where__unfound": 9},
        {"data__truncation__documents": {"texts": 1000, "cut": 99, "longest": 700}},
        {"data__dropped": {"empty context": {"rows": 499, "first": []}}},
        {"fusion__comparison__32__against_alone": lift(0.011, 0.0, 0.02, 0.06)},
    ],
)
def test_just_before_a_line_nothing_is_said(changes):
    assert findings(**changes) == []


def test_what_helped_is_not_asked_why_it_did_not():
    """Few pairs and a small test set do not matter where the gain is proven; labels still do."""
    changes = {
        "verdict__improved": True,
        "verdict__lift": 0.1,
        "data__splits": {"train": 100},
        "scores__bm25": {"ndcg@10": 0.71},
        "where__unfound": 20,
    }
    (finding,) = findings(**changes)
    assert finding.startswith("The answers of 20 of 200 test queries (10.0%) are found by nothing")
