"""Each finding is reported if its number crosses a threshold, and only then."""

import pytest
from reports import improved

from job.report.advice import advise
from job.report.document import Report


def lift(value, low, high, p=0.5):
    return {"lift": value, "ci": [low, high], "p_value": p, "wins": 9, "ties": 0, "losses": 9}


def ndcg(value):
    return {d: {"float32": {"ndcg@10": value}} for d in ("64", "32")}


def compared(value, low, high, p=0.5):
    """A comparison of float32 vectors at one dimension."""
    found = lift(value, low, high, p) | {"wide_ci": [low, high]}
    others = {"against_full_base": lift(0, 0, 0), "against_bm25": lift(0, 0, 0)}
    return found | others | {"retention": KEPT, "score_ci": [0, 1], "bytes_per_vector": 4}


KEPT = {"share": 1.0, "ci": [1.0, 1.0]}


# A run that did not help, without any other problem.
PLAIN = {
    "verdict__improved": False,
    "scores__bm25": {"ndcg@10": 0.5},
    "scores__base": ndcg(0.7),
    "scores__tuned": ndcg(0.699),
    # No gain worth having at full width.
    "comparison": {
        "64": {"float32": compared(-0.001, -0.009, 0.009)},
        "32": {"float32": compared(-0.001, -0.009, 0.009)},
    },
    "swap__base": 0.7,
    "swap__tuned": 0.699,
    "swap__against_bm25": lift(0.199, 0.15, 0.25, 0.0),
    "fusion__swap_scores__tuned": 0.71,
    "fusion__swap__against_alone": lift(0.011, -0.01, 0.03),
    "data__test_groups": {"groups": 181, "effective": 95.2, "largest": 20},
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


AGAINST_BM25 = "swap__against_bm25"
AGAINST_ALONE = "fusion__swap__against_alone"
AT_FULL_WIDTH = "comparison__64__float32"


@pytest.mark.parametrize(
    ("field", "beyond", "numbers", "before"),
    [
        ("training__steps", 0, "Nothing was trained", 1),
        ("training__best_step", 0, "the base model's 0.700 on validation", 1),
        ("data__splits", {"train": 799}, "trained on 799 pairs", {"train": 800}),
        (
            AT_FULL_WIDTH,
            compared(0.005, -0.01, 0.02),
            "200 test queries cannot tell if tuning helped: the true difference at full width",
            compared(0.004, -0.001, 0.0099),
        ),
        # With an upper bound of exactly the smallest lift that matters, a gain is not excluded.
        (AT_FULL_WIDTH, compared(0, -0.01, 0.01), "cannot tell", compared(-0.1, -0.2, -0.01, 0.01)),
        (
            "data__test_groups",
            {"groups": 180, "effective": 91.3, "largest": 21},
            "21 of 200 test queries (10.5%); the 180 groups count as 91.3 of equal size",
            {"groups": 181, "effective": 95.2, "largest": 20},
        ),
        ("scores__base", ndcg(0.95), "already reaches 0.950", ndcg(0.949)),
        ("training__best_validation", 0.75, "gained +0.050 on validation, but -0.001", 0.7),
        ("scores__bm25", {"ndcg@10": 0.7}, "0.700, the base model 0.700", {"ndcg@10": 0.699}),
        (
            AGAINST_BM25,
            lift(-0.1, -0.15, -0.05, 0.01),
            "0.699, tuned minus BM25 -0.100 [-0.150",
            # An interval below zero is not enough: the p-value must be significant too.
            lift(-0.1, -0.15, -0.05, 0.06),
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
    """Few pairs do not matter if the gain is significant; labels do."""
    changes = {
        "verdict__improved": True,
        "data__splits": {"train": 100},
        "scores__bm25": {"ndcg@10": 0.71},
        "error_analysis__not_found": 20,
    }
    (found,) = advice(changes)
    assert "20 of 200 test queries (10.0%)" in found.finding
