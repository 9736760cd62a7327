"""Texts are divided into the passes that cost least."""

from itertools import combinations, pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from job.model.device import PASS_COSTS
from job.model.passes import MIN_ROWS, Cut, PassCost, cut

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=9)


def descending(lengths):
    return np.array(sorted(lengths, reverse=True))


def cost_of(cuts, cost):
    return sum(each.positions + cost.overhead for each in cuts)


def all_divisions(lengths, step):
    """Yield every way to divide sorted texts."""
    places = range(1, len(lengths))
    for count in range(len(lengths)):
        for chosen in combinations(places, count):
            ends = [0, *chosen, len(lengths)]
            yield [
                Cut(start, stop, -(-int(lengths[start]) // step) * step)
                for start, stop in pairwise(ends)
            ]


@given(LENGTHS, st.integers(0, 60), st.sampled_from([1, 4, 16]))
@settings(deadline=None)
def test_no_other_division_costs_less(lengths, overhead, step):
    """Compared with every division of a few texts."""
    lengths, cost = descending(lengths), PassCost(overhead, step)
    best = min(cost_of(each, cost) for each in all_divisions(lengths, step))
    assert cost_of(cut(lengths, cost), cost) == best


@given(
    st.lists(st.integers(1, 600), min_size=1, max_size=300),
    st.integers(0, 2_000),
    st.sampled_from([1, 8, 16]),
    st.none() | st.integers(1, 4_096),
    st.none() | st.integers(1, 64),
)
@settings(deadline=None)
def test_every_text_is_in_one_pass_that_is_wide_enough_and_within_the_limits(
    lengths, overhead, step, max_tokens, max_rows
):
    lengths = descending(lengths)
    cuts = cut(lengths, PassCost(overhead, step, max_tokens), max_rows)

    assert [each.start for each in cuts] == [0, *(each.stop for each in cuts[:-1])]
    assert cuts[-1].stop == len(lengths)
    for each in cuts:
        rows = each.stop - each.start
        assert each.width >= lengths[each.start]
        assert rows <= (max_rows or rows)
        assert rows <= MIN_ROWS or each.positions <= (max_tokens or each.positions)


def test_short_texts_are_embedded_apart_from_long_ones_if_that_saves_more_than_a_pass():
    lengths = np.array([42] * 10 + [7] * 30)
    assert cut(lengths, PassCost(100, 16)) == [Cut(0, 10, 48), Cut(10, 40, 16)]
    assert cut(lengths, PassCost(1_000, 16)) == [Cut(0, 40, 48)]
    assert cut(lengths, PassCost(100, 16, 16 * 20)) == [
        Cut(0, 8, 48),
        Cut(8, 10, 48),
        Cut(10, 30, 16),
        Cut(30, 40, 16),
    ]


def test_a_gpu_computes_a_batch_of_usual_lengths_in_few_passes_with_little_padding():
    """128 questions and answers with the lengths of financial data, 21 and 46 tokens on average."""
    draw = np.random.default_rng(0)
    passes, positions, tokens = [], 0, 0
    for _ in range(50):
        questions = draw.lognormal(np.log(20), 0.3, 128)
        answers = draw.lognormal(np.log(38), 0.6, 128)
        lengths = descending(np.concatenate([questions, answers]).clip(5, 512).astype(int))
        cuts = cut(lengths, PASS_COSTS["cuda"])
        passes.append(len(cuts))
        positions += sum(each.positions for each in cuts)
        tokens += lengths.sum()
    assert max(passes) <= 8
    assert positions / tokens <= 1.3
