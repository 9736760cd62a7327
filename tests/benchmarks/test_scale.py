"""The search benchmark, on a small corpus."""

import pytest
import scale


def test_both_evaluators_of_the_benchmark_agree():
    """So both sides of the timing do the same work."""
    ours = scale.evaluate(3_000, 50, ())()
    assert ours == pytest.approx(scale.evaluate_by_library(3_000, 50)(), abs=1e-9)
    assert ours[-1] < 1.0
