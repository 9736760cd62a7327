"""The verdict is reliable: intervals cover the true lift, chance is not a gain, groups matter."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from job.data.query_groups import count_groups
from job.evaluation import jackknife
from job.evaluation.base_vs_tuned import METRIC, compare, compare_swap, compute_points
from job.evaluation.dimensions import Dimensions
from job.evaluation.jackknife import SECOND
from job.evaluation.metrics import Scores
from job.evaluation.results import ParetoPoint
from job.evaluation.significance import (
    GroupedQueries,
    detectable_lift,
    heterogeneity_p_value,
)

ONE = Dimensions((8,), 8)
FOUR = Dimensions((512, 256, 128, 64), 128)


def scores_of(values):
    values = np.asarray(values, dtype=float)
    nothing = np.zeros(len(values), dtype=np.int64)
    return Scores({METRIC: values}, nothing, nothing[:, None])


def compare_values(base, tuned, groups=None, *, dimensions=ONE, seed=0):
    """Compare nDCG values, one list per dimension; by default each query is its own group."""
    groups = np.arange(len(base[dimensions.full])) if groups is None else groups
    base, tuned = (
        {d: {"float32": scores_of(v)} for d, v in side.items()} for side in (base, tuned)
    )
    bm25 = base[dimensions.full]["float32"]
    return compare(base, tuned, bm25, GroupedQueries(groups, 1_000, seed), dimensions)


def random_values(queries=60, seed=0):
    return np.random.default_rng(seed).choice(GAINS, queries)


# nDCG@10 of a query with one relevant document, by its rank; entry 0: not in the top 10.
GAINS = np.array([0.0, *(1 / np.log2(np.arange(2, 12)))])


# --- Examples that can be checked by eye ---


def test_a_model_compared_with_itself_has_no_lift():
    """No change in 60 queries does not exclude a change of other queries: the interval has the
    width that one more query between rank 1 and rank 2 would give it."""
    values = random_values()

    result = compare_values({8: values}, {8: values.copy()})

    lift = result.lifts[8]
    assert (lift.lift, lift.p_value, lift.wins, lift.ties, lift.losses) == (0, 1, 0, 60, 0)
    assert lift.ci[1] == interval_of([*[0.0] * 60, 1 - SECOND])[1]
    assert lift.ci == lift.wide_ci == (-lift.ci[1], lift.ci[1])
    assert not result.lifts[8].is_gain
    assert not result.improved


def interval_of(values):
    """Student's t interval of independent values, with the standard error HC3."""
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values) - 1)
    return pytest.approx(np.mean(values) - half), pytest.approx(np.mean(values) + half)


@pytest.mark.parametrize(
    ("sizes", "ci", "p_value", "is_gain"),
    [
        ([1] * 40, (0.5, 0.5), 1 / 1_001, True),
        ([1, 3] * 20, (0.5, 0.5), 1 / 1_001, True),
        # Queries about one context give no evidence for other contexts.
        ([50], (-1.0, 1.0), 1.0, False),
        # Five signs are equal in one of sixteen flips, so five wins may be chance.
        ([10] * 2, None, pytest.approx(1 / 2, abs=0.06), False),
        ([10] * 5, None, pytest.approx(1 / 16, abs=0.03), False),
        ([10] * 6, (0.5, 0.5), pytest.approx(1 / 32, abs=0.018), True),
    ],
    ids=["alone", "uneven groups", "one group", "two", "five", "six"],
)
def test_winning_every_query_is_an_improvement_with_enough_groups(sizes, ci, p_value, is_gain):
    """Equal wins give an interval without width, unless so few groups changed (None)."""
    count = sum(sizes)
    groups = np.repeat(np.arange(len(sizes)), sizes)

    result = compare_values({8: [0.25] * count}, {8: [0.75] * count}, groups)

    lift = result.lifts[8]
    assert (lift.lift, lift.p_value, lift.wins, lift.losses) == (0.5, p_value, count, 0)
    assert lift.ci == (ci or lift.wide_ci)
    assert lift.wide_ci[0] < 0.5 < lift.wide_ci[1]
    assert result.improved == is_gain
    assert (result.minimum_detectable_effect >= 1) == (len(sizes) <= 5)


def test_losing_most_queries_is_no_improvement():
    """A clear loss has an interval below zero; it is significant, but no gain."""
    base = random_values()
    tuned = np.where(np.arange(60) % 3, base * 0.5, base)

    lift = compare_values({8: base}, {8: tuned}).lifts[8]

    assert lift.lift == pytest.approx((tuned - base).mean())
    assert lift.ci[0] < lift.lift < lift.ci[1] < 0
    assert lift.p_value == 1 / 1_001
    assert not lift.is_gain
    counts = (0, int((tuned == base).sum()), int((tuned < base).sum()))
    assert (lift.wins, lift.ties, lift.losses) == counts


def test_the_full_width_decides_whether_the_model_improved():
    """The base model is not truncated for the comparison; gains below do not compensate."""
    base = dict.fromkeys(FOUR.all, np.full(40, 0.5))
    worse, better = dict.fromkeys(FOUR.all, [0.4] * 40), dict.fromkeys(FOUR.all, [0.6] * 40)

    assert not compare_values(base, better | {512: [0.4] * 40}, dimensions=FOUR).improved
    assert compare_values(base, worse | {512: [0.6] * 40}, dimensions=FOUR).improved


@pytest.mark.parametrize(
    ("tuned", "smallest"),
    [
        ((0.8, 0.7, 0.6, 0.55), 64),
        ((0.8, 0.7, 0.6, 0.5), 128),
        # 128 fails, so 64 is not tested.
        ((0.8, 0.7, 0.4, 0.6), 256),
        ((0.4, 0.7, 0.6, 0.6), 512),
    ],
)
def test_dimensions_that_beat_the_base_are_tested_downwards_until_one_fails(tuned, smallest):
    base = dict.fromkeys(FOUR.all, np.full(40, 0.5))
    scores = {d: np.full(40, score) for d, score in zip(FOUR.all, tuned, strict=True)}

    assert compare_values(base, scores, dimensions=FOUR).smallest_that_beats_base == smallest


def test_the_swap_compares_recommended_vectors_with_the_full_base_model():
    """Also with BM25; and it counts the queries that get worse."""
    base = {16: {"float32": scores_of([0.5] * 40)}, 8: {"float32": scores_of([0.1] * 40)}}
    codes = scores_of([0.4] * 10 + [0.8] * 30)
    tuned = {16: base[16], 8: {"float32": base[8]["float32"], "int8": codes}}
    point = ParetoPoint(
        dimension=8,
        precision="int8",
        bytes_per_vector=8,
        ndcg=0,
        retention={"share": 1, "ci": (0, 1)},
    )

    by_group = GroupedQueries(np.arange(40), 1_000, 0)
    swap = compare_swap(base, tuned, scores_of([0.3] * 40), by_group, point)

    assert (swap.dimension, swap.precision, swap.full_dimension) == (8, "int8", 16)
    assert (swap.base, swap.tuned) == (pytest.approx(0.5), pytest.approx(0.7))
    assert swap.lift == pytest.approx(0.2)
    assert swap.against_bm25.lift == pytest.approx(0.4)
    assert (swap.worse.queries, swap.worse.share) == (10, 0.25)
    assert swap.worse.ci[0] < 0.25 < swap.worse.ci[1]
    assert swap.worse.ci == by_group.mean_interval(np.array([1.0] * 10 + [0.0] * 30))


def test_each_dimension_is_also_compared_with_the_full_base_model():
    """A short tuned vector may replace a long base vector, so that lift is reported too."""
    dimensions = Dimensions((16, 8), 8)
    base = {16: random_values(seed=1), 8: random_values(seed=2)}
    tuned = {16: random_values(seed=3), 8: random_values(seed=4)}

    result = compare_values(base, tuned, dimensions=dimensions)

    swapped = compare_values({8: base[16]}, {8: tuned[8]})
    assert result.against_full_base == {16: result.lifts[16], 8: swapped.lifts[8]}


@given(st.lists(st.sampled_from([-0.5, -1e-8, -1e-12, 0.0, 1e-12, 1e-8, 0.5]), min_size=2))
@settings(deadline=None, max_examples=50)
def test_every_query_is_a_win_a_tie_or_a_loss(differences):
    """The three counts add up to the number of queries; floating-point noise is a tie."""
    lift = GroupedQueries(np.arange(len(differences)), 100, 0).lift(np.array(differences))

    assert lift.wins == sum(d >= 1e-8 for d in differences)
    assert lift.losses == sum(d <= -1e-8 for d in differences)
    assert lift.wins + lift.ties + lift.losses == len(differences)


def test_the_same_seed_gives_the_same_numbers():
    """A comparison is reproducible bit by bit; another seed gives other numbers."""
    values = {d: random_values(seed=d) for d in FOUR.all}, {d: random_values() for d in FOUR.all}

    first, again, other = (compare_values(*values, dimensions=FOUR, seed=s) for s in (3, 3, 4))

    assert first == again
    assert first.lifts[128] != other.lifts[128]


@pytest.mark.parametrize("block", [1, 7, 10_000])
def test_blocks_do_not_change_a_result(monkeypatch, block):
    """The number of permutations per block limits memory only."""
    differences = random_values(seed=1) - random_values(seed=2)
    whole = GroupedQueries(np.arange(60), 2_500, 0).lift(differences)

    monkeypatch.setattr(jackknife, "FLIPS_PER_BLOCK", block)

    lift = GroupedQueries(np.arange(60), 2_500, 0).lift(differences)
    assert lift.ci == pytest.approx(whole.ci, abs=1e-12)
    assert lift.p_value == whole.p_value


def test_retention_is_relative_to_float32_at_full_width():
    """Base and tuned are compared as float32; int8 is measured by its retention."""
    values = random_values(150)
    tuned = {
        16: {"float32": scores_of(values), "int8": scores_of(values * 0.9)},
        8: {"float32": scores_of(values * 0.8), "int8": scores_of(values * 0.7)},
    }

    by_group = GroupedQueries(np.arange(150), 100, 0)

    bm25 = scores_of(values * 0.5)
    result = compare(tuned, tuned, bm25, by_group, Dimensions((16, 8), 8))

    assert [(p.dimension, p.precision, p.bytes_per_vector) for p in result.points] == [
        (16, "float32", 64),
        (16, "int8", 16),
        (8, "float32", 32),
        (8, "int8", 8),
    ]
    assert result.reference == result.points[0]
    # A smaller dimension that is better on this test set is not the reference.
    swapped = {16: tuned[8], 8: tuned[16]}
    assert compute_points(swapped, Dimensions((16, 8), 8), by_group)[1].dimension == 16
    assert result.against_bm25[8].lift == pytest.approx(values.mean() * 0.3)
    assert [p.retention.share for p in result.points] == pytest.approx([1, 0.9, 0.8, 0.7])
    assert [p.ndcg for p in result.points] == pytest.approx(
        [values.mean() * share for share in (1, 0.9, 0.8, 0.7)]
    )
    assert all(p.ci[0] < p.ndcg < p.ci[1] and p.at_least < p.ndcg for p in result.points)
    assert result.reference.retention.at_least == 1.0
    assert all(0 < p.retention.at_least < p.retention.share for p in result.points[1:])


# --- Bounds ---


@pytest.mark.parametrize("count", [30, 150])
def test_the_interval_of_a_score_is_computed_with_one_more_miss(count):
    """If all queries score 1, the true mean may be lower."""
    found = GroupedQueries(np.arange(count), 100, 0).mean_interval(np.ones(count))

    assert found == (interval_of([*[1.0] * count, 0.0])[0], 1.0)


def test_bounds_of_several_vectors_are_lower_than_the_bound_of_one():
    """The more vectors compete, the likelier one of them looks good by chance."""
    random, count = np.random.default_rng(0), 2_000
    reference = random.choice(GAINS, count)
    values = np.stack([np.where(random.random(count) < 0.2, 0.5, reference) for _ in range(20)])
    by_group = GroupedQueries(np.arange(count), 1_000, 0)

    alone = by_group.retention_bounds(values[:1], reference)[0]
    together = by_group.retention_bounds(values, reference)[0]

    share = values[0].mean() / reference.mean()
    assert together < alone < share
    # Student's t for one; for twenty that are nearly independent, about Bonferroni's.
    deviations = values[0] - share * reference
    error = np.std(deviations, ddof=1) / np.sqrt(count) / reference.mean()
    assert (share - alone) / error == pytest.approx(t.ppf(0.95, count), rel=0.1)
    assert (share - together) / error == pytest.approx(t.ppf(1 - 0.05 / 20, count), rel=0.1)


def test_a_bound_allows_for_losses_that_few_queries_have():
    """Three of 60 queries lose everything: without the skewness, Student's t with the standard
    error HC3 would give a bound that other test sets with no such query would show to be chance."""
    reference, values = np.ones(60), np.ones(60)
    values[:3] = 0.0
    by_group = GroupedQueries(np.arange(60), 1_000, 0)

    (bound,) = by_group.retention_bounds(values[None], reference)

    error = np.std(values) / np.sqrt(59) * np.sqrt(60 / 59)
    factor = t.ppf(0.95, 59)
    skewness = np.mean((values - values.mean()) ** 3) / np.std(values) ** 3
    wider = factor - skewness * (2 * factor**2 + 1) / (6 * np.sqrt(60))
    assert bound == pytest.approx(0.95 - wider * error, abs=0.01)
    assert bound < 0.95 - 1.4 * factor * error


def test_skewness_to_the_other_side_narrows_no_bound():
    """Twelve of 60 queries gain, or lose: only losses raise the factor of the standard error."""
    gained = np.repeat([[2.0], [1.0]], [12, 48])[None]
    sizes = np.ones(60)

    assert jackknife.allow_for_skewness(2.0, jackknife.jackknife(gained, sizes), sizes) == 2.0
    lost = jackknife.jackknife(-gained, sizes)
    assert jackknife.allow_for_skewness(2.0, lost, sizes) == pytest.approx(
        2 + 1.5 * 9 / 6 / 60**0.5
    )


def test_vectors_that_changed_nothing_do_not_keep_everything():
    """The bound is computed with one more query that falls from rank 1 to rank 2."""
    reference = np.full(60, 0.8)
    by_group = GroupedQueries(np.arange(60), 100, 0)

    (bound,) = by_group.retention_bounds(reference[None], reference)

    assert 0.97 < bound < 0.99
    found = by_group.retention(reference, reference)
    assert found.share == 1.0
    assert 0.96 < found.ci[0] < bound
    assert 1.01 < found.ci[1] < 1.04


def test_a_large_group_leaves_few_degrees_of_freedom():
    """88 queries alone and one group of 62 count as 5.7 equal groups, not as 89."""
    groups = np.maximum(0, np.arange(150) - 61)
    by_group = GroupedQueries(groups, 100, 0)

    assert count_groups(groups) == {"groups": 89, "effective": 5.7, "largest": 62}
    random = np.random.default_rng(0)
    differences = random.choice(GAINS, 150) - random.choice(GAINS, 150)
    sums, sizes = np.bincount(groups, differences), np.bincount(groups)
    without = (sums.sum() - sums) / (150 - sizes)
    error = np.sqrt(((without - without.mean()) ** 2).sum())
    low, high = by_group.lift(differences).ci
    freedom = 150**2 / (62**2 + 88) - 1
    assert (high - low) / 2 == pytest.approx(t.ppf(0.975, freedom) * error)


# --- Segments ---


def test_segments_with_the_same_lift_rarely_seem_to_differ():
    """At 5 %, in about 5 % of the test sets, with unequal variances and grouped queries."""
    random, groups = np.random.default_rng(0), np.repeat(np.arange(60), 2)
    segments = [np.arange(0, 20), np.arange(20, 60), np.arange(60, 120)]
    scales = np.repeat([0.5, 0.3, 0.1], [20, 40, 60])
    p_values = []
    for _ in range(300):
        noise = np.repeat(random.normal(size=60), 2) * scales
        p_values.append(heterogeneity_p_value(segments, groups, noise))

    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.1


def test_segments_with_different_lifts_differ():
    differences = np.random.default_rng(0).normal(size=120) * 0.3
    differences[:20] += 0.5
    segments = [np.arange(0, 20), np.arange(20, 60), np.arange(60, 120)]

    assert heterogeneity_p_value(segments, np.arange(120), differences) < 0.01


# --- The p-value ---


@pytest.mark.parametrize("seed", range(6))
def test_the_p_value_estimates_the_exact_permutation_test(seed):
    """Random sign flips estimate the share of all 2^9 flips that are as extreme as the data."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(9), [1, 1, 1, 2, 2, 3, 3, 4, 5])
    differences = random.choice(GAINS, len(groups)) - random.choice(GAINS, len(groups)) * 0.5
    sums = np.bincount(groups, differences)
    flips = np.array(list(itertools.product([-1, 1], repeat=9))) @ sums
    exact = (np.abs(flips) >= abs(sums.sum()) - 1e-9).mean()

    drawn = GroupedQueries(groups, 20_000, seed).lift(differences).p_value

    # Four standard errors of 20,000 draws.
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000) + 1 / 20_001)


@given(st.lists(st.sampled_from([-0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_the_p_value_counts_the_observed_data_as_one_flip(differences):
    """A p-value is (1 + k) / (1 + n): never zero, at most one."""
    p_value = (
        GroupedQueries(np.arange(len(differences)), 150, 0).lift(np.array(differences)).p_value
    )

    extreme = p_value * 151 - 1
    assert extreme == pytest.approx(round(extreme))
    assert 0 <= round(extreme) <= 150


# --- Simulated test sets with a known true lift ---

RUNS = 600
# Before tuning the document is missed for 25 % of the queries, and first for 35 %.
BEFORE = np.array([0.25, 0.35, *[0.4 / 9] * 9])
AFTER = np.array([0.10, 0.50, *[0.4 / 9] * 9])
# The probability that a query changes in the same way as its group.
TOGETHER = 0.6
# 100 queries each.
ALONE = np.arange(100)
GROUPED = np.repeat(np.arange(40), [1, 2, 3, 4] * 10)


class World:
    """Queries of which a share changes: most differences are zero, the others are skewed."""

    def __init__(self, changed):
        self.changed = changed
        self.lift = changed * float(AFTER @ GAINS - BEFORE @ GAINS)
        squares = float(AFTER @ GAINS**2 + BEFORE @ GAINS**2)
        product = float(AFTER @ GAINS) * float(BEFORE @ GAINS)
        self.variance = changed * (squares - 2 * product) - self.lift**2

    def standard_error(self, groups):
        sizes = np.bincount(groups)
        pairs = (sizes * (sizes - 1)).sum()
        return np.sqrt(self.variance * (len(groups) + TOGETHER**2 * pairs)) / len(groups)

    def test_sets(self, groups, seed):
        """Draw (RUNS, n_queries) differences of nDCG@10."""
        random = np.random.default_rng(seed)
        single = self._draw(random, len(groups))
        shared = self._draw(random, groups.max() + 1)[:, groups]
        return np.where(random.random(single.shape) < TOGETHER, shared, single)

    def _draw(self, random, count):
        before = random.choice(GAINS, p=BEFORE, size=(RUNS, count))
        after = random.choice(GAINS, p=AFTER, size=(RUNS, count))
        return np.where(random.random((RUNS, count)) < self.changed, after - before, 0.0)


def lifts_of(test_sets, groups):
    # One seed per run: equal sign flips would correlate the runs' errors.
    return [GroupedQueries(groups, 500, run).lift(row) for run, row in enumerate(test_sets)]


def coverage(lifts, truth):
    return np.mean([lift.ci[0] <= truth <= lift.ci[1] for lift in lifts])


def gains(lifts):
    return np.mean([lift.is_gain for lift in lifts])


@pytest.mark.parametrize("groups", [ALONE, GROUPED], ids=["alone", "grouped"])
@pytest.mark.parametrize("changed", [0.35, 0.6])
def test_intervals_cover_the_true_lift_at_their_rate(changed, groups):
    """95 % intervals of 100 queries contain the true lift in about 95 % of the test sets."""
    world = World(changed)

    lifts = lifts_of(world.test_sets(groups, seed=0), groups)

    assert 0.92 <= coverage(lifts, world.lift) <= 0.98


def test_intervals_that_ignore_groups_would_be_too_narrow():
    """Queries of one group are not independent, so their information counts less."""
    world = World(0.35)
    test_sets = world.test_sets(GROUPED, seed=0)

    by_group, by_query = lifts_of(test_sets, GROUPED), lifts_of(test_sets, ALONE)

    assert coverage(by_query, world.lift) < 0.89
    assert coverage(by_group, world.lift) >= 0.92


@pytest.mark.parametrize("groups", [ALONE, GROUPED], ids=["alone", "grouped"])
def test_chance_is_rarely_called_a_gain(groups):
    """If base and tuned are swapped at random, less than 5 % of the verdicts are "improved"."""
    swaps = np.random.default_rng(1).choice([-1, 1], size=(RUNS, groups.max() + 1))[:, groups]

    lifts = lifts_of(World(0.35).test_sets(groups, seed=1) * swaps, groups)

    assert gains(lifts) < 0.05
    # The test is two-sided, so only half of the false positives are gains; four standard errors.
    assert np.mean([lift.p_value < 0.05 for lift in lifts]) < 0.05 + 4 * np.sqrt(0.0475 / RUNS)


def test_the_minimum_detectable_effect_has_the_standard_error_of_the_interval():
    groups = np.repeat(np.arange(8), [1, 2, 3, 4] * 2)
    differences = np.random.default_rng(0).normal(0.01, 0.1, 20)
    queries = GroupedQueries(groups, 100, 0)

    low, high = queries.lift(differences).ci

    half, more = (t.ppf(quantile, 400 / 60 - 1) for quantile in (0.975, 0.8))
    expected = (high - low) / 2 * (half + more) / half
    assert queries.minimum_detectable_effect(differences) == pytest.approx(expected)


def test_no_vectors_keep_more_than_a_perfect_score():
    """One large group leaves hardly a degree of freedom, and an interval without an end."""
    groups = np.repeat([0, 1], [39, 1])
    reference = np.linspace(0.4, 0.6, 40)

    kept = GroupedQueries(groups, 100, 0).retention(reference * 0.9, reference)

    assert kept.ci == (0, pytest.approx(1 / reference.mean()))


@pytest.mark.parametrize("unit", [ALONE[:10], GROUPED[:10]], ids=["alone", "grouped"])
def test_the_minimum_detectable_effect_is_detected_with_80_percent_power(unit):
    """Test sets just large enough for the true lift detect it in about 80 % of the cases."""
    world = World(0.35)
    # The standard error falls with the square root of the number of units.
    units = round((detectable_lift(world.standard_error(unit), 1000) / world.lift) ** 2)
    groups = np.concatenate([unit + number * (unit.max() + 1) for number in range(units)])
    assert detectable_lift(world.standard_error(groups), groups.max() + 1) == pytest.approx(
        world.lift, rel=0.05
    )

    test_sets = world.test_sets(groups, seed=2)

    assert 0.7 <= gains(lifts_of(test_sets, groups)) <= 0.9
    estimates = [GroupedQueries(groups, 100, 0).minimum_detectable_effect(row) for row in test_sets]
    assert np.mean(estimates) == pytest.approx(world.lift, rel=0.05)
