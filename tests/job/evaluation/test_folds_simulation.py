"""Pooled folds: a small version of `tests/benchmarks/folds_simulation.py`."""

import folds_simulation
import pytest


@pytest.mark.parametrize("layout", ["single", "uneven"])
def test_pooled_folds_give_a_third_of_the_width_and_cover_as_often(layout):
    """Of 300 data sets; a rate of 5 % has a standard error of 1.3 %."""
    found = folds_simulation.simulate(600, layout, 0.0, 300)
    single, folds = found["one split"], found["folds"]
    assert folds[0] == pytest.approx(single[0] / 10**0.5, rel=0.12)
    assert folds[1] <= 0.09
    assert single[1] <= 0.12


def test_an_interval_over_queries_does_not_cover_other_trainings():
    """Five trainings of folds are better than one, and still too few for the narrow interval."""
    found = folds_simulation.simulate(6_000, "single", 0.01, 100)["folds"]
    assert found[1] <= 0.12
    assert found[2] > found[1] + 0.05
