"""How alike models rank, on rankings that are known."""

import numpy as np
import pytest

from job.evaluation.agreement import compare_rankings, is_plausible


def test_the_first_documents_of_two_models_are_compared():
    """Of two queries, one has the same first document; 10 and 5 of the first ten are shared."""
    tested = np.stack([np.arange(100), np.arange(100)])
    other = np.stack([np.r_[0, np.arange(9, 0, -1), 10:100], np.r_[5:100, :5]])
    base = np.stack([np.arange(100)[::-1], np.arange(100)])
    found = compare_rankings(tested, other, base)
    assert (found.queries, found.same_first, found.shared_of_ten) == (2, 0.5, 0.75)
    assert found.base_shared_of_ten == 0.5


@pytest.mark.parametrize(("shared", "plausible"), [(0.3, True), (0.25, True), (0.02, False)])
def test_a_model_that_is_less_alike_than_the_base_model_is_not_plausible(shared, plausible):
    ranking = np.arange(10)[None]
    found = compare_rankings(ranking, ranking, ranking)
    found = found.model_copy(update={"shared_of_ten": shared, "base_shared_of_ten": 0.5})
    assert is_plausible(found) == plausible
