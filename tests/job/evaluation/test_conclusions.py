"""What is said of a difference that is not significant follows from its bounds."""

import numpy as np
import pytest

from job.evaluation.conclusions import no_gain, no_loss, numbers
from job.evaluation.results import Lift
from job.evaluation.significance import GroupedQueries


def lift(low, high, wide=None, value=0.0):
    counts = {"wins": 20, "ties": 60, "losses": 20}
    return Lift(lift=value, ci=(low, high), p_value=0.5, wide_ci=wide or (low, high), **counts)


def test_if_no_query_changed_the_estimate_of_queries_holds():
    """So many unchanged queries exclude a gain worth having; by the square it would be 300."""
    forty, more = (
        GroupedQueries(np.arange(count), 100, 0).lift(np.zeros(count)) for count in (40, 110)
    )
    assert "about 110 test queries could tell" in no_gain(forty, 0.01)
    assert no_gain(more, 0.01).startswith("there is no gain worth having")


@pytest.mark.parametrize(
    ("found", "clause"),
    [
        (lift(-0.02, 0.0099), "there is no gain worth having (at most +0.010)"),
        (lift(-0.02, -0.001), "there is no gain worth having (at most +0.000)"),
        # Half of the width is twice the worth, so four times the 100 queries are needed.
        (
            lift(-0.015, 0.025),
            (
                "the test cannot tell (the difference is between -0.015 and +0.025; about 400 test "
                "queries could tell)"
            ),
        ),
        # The wider bounds decide: hardly any query may have changed.
        (
            lift(0.0, 0.005, wide=(-0.01, 0.03)),
            (
                "the test cannot tell (with one more changed query or group, the difference is "
                "between -0.010 and +0.030; about 400 test queries could tell)"
            ),
        ),
        (
            lift(0.0, 0.005, wide=(-0.001, 0.009)),
            "there is no gain worth having (with one more changed query or group, at most +0.009)",
        ),
        # As precise as needed, but the worth lies inside.
        (
            lift(-0.001, 0.012),
            "the test cannot tell (the difference is between -0.001 and +0.012)",
        ),
        (
            lift(-0.8, 0.9),
            (
                "the test cannot tell (the difference is between -0.800 and +0.900; far more test "
                "queries are needed)"
            ),
        ),
        # The interval excludes zero, but the p-value is not significant.
        (lift(0.001, 0.03), "a gain is not shown (at most +0.030)"),
    ],
)
def test_a_gain_is_excluded_only_by_its_upper_bound(found, clause):
    assert no_gain(found, 0.01) == clause


@pytest.mark.parametrize(
    ("found", "clause"),
    [
        (lift(-0.0099, 0.02), "it lost at most 0.010"),
        (lift(0.002, 0.02), "it lost at most 0.000"),
        (
            lift(-0.001, 0.02, wide=(-0.003, 0.03)),
            "with one more changed query or group, it lost at most 0.003",
        ),
        # The estimate is above zero, yet a loss is possible.
        (
            lift(-0.01, 0.03, value=0.02),
            (
                "the test cannot tell whether it forgot (the difference is between -0.010 and "
                "+0.030; about 400 test queries could tell)"
            ),
        ),
    ],
)
def test_a_loss_is_excluded_only_by_its_lower_bound(found, clause):
    assert no_loss(found, 0.01, "forgot") == clause


def test_the_smallest_lift_that_matters_is_the_users():
    assert no_gain(lift(-0.02, 0.02), 0.03) == "there is no gain worth having (at most +0.020)"
    assert no_gain(lift(-0.02, 0.02), 0.02).startswith("the test cannot tell")


def test_numbers_have_both_scores_and_the_interval():
    assert numbers(0.5, 0.6, lift(0.05, 0.15, value=0.1)) == (
        "0.500 → 0.600, +0.100 [+0.050, +0.150], p = 0.500"
    )
