"""Each finding is reported if its number crosses a threshold, and only then."""

import pytest
from reports import improved

from job.report.advice import advise
from job.report.document import Report


def lift(value, low, high, p=0.5):
    return {"lift": value, "ci": [low, high], "p_value": p, "wins": 9, "ties": 0, "losses": 9}


def ndcg(value):
    return {"32": {"float32": {"ndcg@10": value}}}


# A run that did not help, without any other problem.
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
    "error_analysis__not_found": 0,
}


def advice(changes):
    return advise(Report.model_validate(improved(**PLAIN | changes)))


def cut(documents):
    return {"texts": 1000, "cut": documents, "longest": 700}


def dropped(rows):
    return {"empty context": {"rows": 100, "first": []}, "too short": {"rows": rows, "first": []}}


def test_a_run_without_problems_has_no_findings():
    assert advice({}) == []


AGAINST_BM25 = "comparison__32__float32__against_bm25"
AGAINST_ALONE = "fusion__comparison__32__against_alone"


@pytest.mark.parametrize(
    ("field", "beyond", "numbers", "before"),
    [
        ("training__steps", 0, "Nothing was trained", 1),
        ("training__best_step", 0, "the base model's 0.700 on validation", 1),
        ("data__splits", {"train": 799}, "trained on 799 pairs", {"train": 800}),
        ("verdict__lift", 0.0191, "lift of 0.020 or more; the measured lift is 0.019", 0.02),
        ("scores__base", ndcg(0.95), "already reaches 0.950", ndcg(0.949)),
        ("training__best_validation", 0.75, "gained +0.050 on validation, but -0.001", 0.7),
        ("scores__bm25", {"ndcg@10": 0.7}, "0.700, the base model 0.700", {"ndcg@10": 0.699}),
        (
            AGAINST_BM25,
            lift(-0.1, -0.15, -0.05),
            "0.699, tuned minus BM25 -0.100 [-0.150",
            lift(-0.1, -0.2, 0.0),
        ),
        ("error_analysis__not_found", 10, "10 of 200 test queries (5.0%)", 9),
        ("data__truncation__documents", cut(100), "10.0% of the documents", cut(99)),
        ("data__dropped", dropped(400), "500 of 2500 pairs", dropped(399)),
        (
            AGAINST_ALONE,
            lift(0.01, 0.002, 0.02, 0.01),
            "+0.010 [+0.002, +0.020], to 0.710",
            lift(0.01, 0.0, 0.02),
        ),
    ],
)
def test_a_crossed_threshold_is_reported_with_its_number(field, beyond, numbers, before):
    """Just below the threshold there is no finding."""
    (found,) = advice({field: beyond})
    assert numbers in found.finding
    assert found.do.endswith(".")
    assert advice({field: before}) == []


def test_an_improved_run_gets_no_reasons_for_failure():
    """Few pairs and a small test set do not matter if the gain is significant; labels do."""
    changes = {
        "verdict__improved": True,
        "verdict__lift": 0.1,
        "data__splits": {"train": 100},
        "scores__bm25": {"ndcg@10": 0.71},
        "error_analysis__not_found": 20,
    }
    (found,) = advice(changes)
    assert "20 of 200 test queries (10.0%)" in found.finding
