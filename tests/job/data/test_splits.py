"""Splitting: groups stay whole, shares are respected, decided rows keep their split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.data.splits import (
    TEST,
    TRAIN,
    UNDECIDED,
    VALIDATION,
    leaked_rows,
    random_split_share,
    shared_share,
    split_rows,
)

thorough = settings(max_examples=100, deadline=None)
fractions = st.floats(0.0, 0.5)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def grouped_rows(draw):
    """Draw groups with many rows in common, and for each row a given split or none."""
    groups = draw(st.lists(st.integers(0, 12), min_size=1, max_size=60))
    choices = draw(st.lists(st.sampled_from([UNDECIDED, VALIDATION, TEST]), max_size=3))
    decided = [draw(st.sampled_from([UNDECIDED, *choices])) for _ in groups]
    return np.array(groups), np.array(decided)


def undecided(groups):
    return np.full(len(groups), UNDECIDED)


@thorough
@given(grouped_rows(), fractions, fractions, seeds)
def test_groups_stay_whole_and_decided_rows_keep_their_split(rows, validation, test, seed):
    """A split gets at most its share of the undecided rows, and none if it was given."""
    groups, decided = rows
    before, free = decided.copy(), decided == UNDECIDED
    codes = split_rows(groups, decided, (validation, test), seed)
    assert decided.tolist() == before.tolist()
    assert set(codes.tolist()) <= {TRAIN, VALIDATION, TEST}
    assert codes[~free].tolist() == decided[~free].tolist()
    for group in np.unique(groups):
        assert len(np.unique(codes[(groups == group) & free])) <= 1
    trained = np.bincount(groups[free & np.isin(groups, groups[free & (codes == TRAIN)])])
    for code, fraction in ((VALIDATION, validation), (TEST, test)):
        given_already = (decided == code).any()
        share = 0 if given_already else round(fraction * int(free.sum()))
        left = share - int((codes[free] == code).sum())
        assert left >= 0
        # Each group in train is too large for the room that is left.
        assert given_already or all(size > left for size in trained[trained > 0])
    assert split_rows(groups, decided, (validation, test), seed).tolist() == codes.tolist()


@pytest.mark.parametrize(
    ("rows", "validation", "test", "sizes"),
    [
        (100, 0.1, 0.1, [80, 10, 10]),
        (100, 0.05, 0.3, [65, 5, 30]),
        (7, 0.1, 0.1, [5, 1, 1]),
        (4, 0.1, 0.1, [4, 0, 0]),
        (10, 0.0, 0.0, [10, 0, 0]),
        (10, 0.5, 0.5, [0, 5, 5]),
        # Both shares are rounded up; the test set is filled first.
        (3, 0.5, 0.5, [0, 1, 2]),
    ],
)
def test_groups_of_one_row_fill_the_splits_exactly(rows, validation, test, sizes):
    """Without larger groups, each split has exactly its rounded share."""
    groups = np.arange(rows)
    codes = split_rows(groups, undecided(groups), (validation, test), 42)
    assert np.bincount(codes, minlength=3).tolist() == sizes


def test_training_rows_whose_question_is_evaluated_are_leaked():
    """Later splits win: a question of test is removed from validation and train."""
    questions = np.array([1, 2, 3, 4, 1, 2, 5, 1, 5])
    codes = np.array([TRAIN] * 4 + [VALIDATION] * 3 + [TEST] * 2)
    leaked = leaked_rows(codes, questions)
    assert np.flatnonzero(leaked).tolist() == [0, 1, 4, 6]


def test_rows_that_are_left_out_leak_nothing():
    """A row without a split neither leaks nor makes another row leak."""
    codes = np.array([UNDECIDED, TRAIN, UNDECIDED, TEST])
    assert not leaked_rows(codes, np.array([1, 2, 2, 1])).any()


@pytest.mark.parametrize(
    ("train", "test", "share"),
    [
        ([1, 2, 3], [4, 5], 0.0),
        ([1, 2, 3], [1, 5], 0.5),
        ([1, 2, 3], [1, 1, 2, 9], 0.75),
        ([], [1], 0.0),
        ([1], [], 0.0),
    ],
)
def test_the_shared_share_is_that_of_test_rows_seen_in_training(train, test, share):
    """Each test row counts; validation rows do not count as seen."""
    keys = np.array([*train, *test, 4, 5, 9])
    codes = np.array([TRAIN] * len(train) + [TEST] * len(test) + [VALIDATION] * 3)
    assert shared_share(codes, keys) == share


@pytest.mark.parametrize(
    ("keys", "share"), [([5] * 40, 1.0), (list(range(40)), 0.0), ([1, 1, 2, 2], 0.0)]
)
def test_a_random_split_leaks_all_or_nothing_in_the_clear_cases(keys, share):
    """A context of all rows is always seen, a context of one row never; no test rows give 0."""
    assert random_split_share(np.array(keys), 0.1, 42) == share


def test_a_random_split_leaks_about_the_expected_share():
    """If a context has two rows and one is in test, the other is in train with probability 0.8."""
    keys = np.repeat(np.arange(2000), 2)
    assert random_split_share(keys, 0.2, 42) == pytest.approx(0.8, abs=0.05)
