"""What the report concludes about keeping an index of the base model's vectors."""

import numpy as np
import pytest
from situations import TestSet

from job.evaluation.keep_index import compare_kept, conclude
from job.evaluation.metrics import METRIC
from job.evaluation.significance import GroupedQueries

WORTH = 0.01


def concluded(first, *, improved=True, share_of_tuned=0.9):
    """Conclude from shares of queries whose answer is first: base, kept, and tuned."""
    test = TestSet(range(200))
    ranks = np.full(200, 5)
    kinds = {
        name: np.where(np.arange(200) < 200 * share, 1, ranks) for name, share in first.items()
    }
    base, kept = (test.scores(kinds[name]) for name in ("base", "kept"))
    tuned = test.scores(np.where(np.arange(200) < 200 * share_of_tuned, 1, ranks))
    by_group = GroupedQueries(test.queries.groups, 1000, 0)
    rows = compare_kept(base, tuned, {"adapter": kept}, by_group, improved=improved)
    return rows["adapter"], conclude(base.mean(METRIC), rows, WORTH, improved=improved)


def test_a_part_of_the_gain_is_stated_with_its_interval():
    row, sentence = concluded({"base": 0.1, "kept": 0.5})
    assert row.kept == pytest.approx(0.5)
    assert row.kept_ci[0] < 0.5 < row.kept_ci[1]
    assert "after a linear adapter score" in sentence
    assert "50.0% [" in sentence
    assert sentence.endswith("The rest of the gain needs the documents encoded again.")


def test_a_gain_that_remains_whole_is_not_said_to_need_new_vectors():
    sentence = concluded({"base": 0.1, "kept": 0.9})[1]
    assert sentence.endswith("That encoding the documents again gains more is not shown.")


@pytest.mark.parametrize("kept", [0.02, 0.1])
def test_nothing_that_remains_is_said_plainly(kept):
    """Also of queries that find less than the base model's own."""
    row, sentence = concluded({"base": 0.1, "kept": kept})
    assert sentence.endswith("remain without encoding the documents again: encode them again.")
    assert row.against_base.is_loss == (kept < 0.1)


def test_without_a_gain_there_is_no_share_of_it():
    row, sentence = concluded({"base": 0.1, "kept": 0.1}, improved=False, share_of_tuned=0.1)
    assert (row.kept, row.kept_ci) == (None, None)
    assert sentence.endswith("No gain is shown that an index could keep.")


def test_the_share_of_a_lift_is_the_ratio_of_the_sums():
    by_group = GroupedQueries(np.arange(40), 1000, 0)
    whole = np.tile([0.0, 0.2], 20)
    share, (low, high) = by_group.share_of_lift(whole / 4, whole)
    assert share == pytest.approx(0.25)
    assert (low, high) == pytest.approx((0.25, 0.25))
    assert by_group.share_of_lift(-whole, whole)[0] == pytest.approx(-1)
