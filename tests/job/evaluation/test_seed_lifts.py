"""The mean lift of several trainings, with an interval for other queries and other trainings."""

import numpy as np
import pytest
from scipy.stats import t

from job.evaluation.seed_lifts import combine_seeds


def combine(lifts, groups=None, base=0.3):
    """Combine trainings with these lifts of each query; the second is the best on validation."""
    tuned = {42 + n: base + np.asarray(values) for n, values in enumerate(lifts)}
    validation = {seed: 0.6 + 0.1 * (seed == 43) for seed in tuned}
    count = len(lifts[0])
    groups = np.arange(count) if groups is None else groups
    return combine_seeds(np.full(count, base), tuned, validation, groups)


def test_the_variances_over_queries_and_seeds_add_up():
    """Checked by hand: three seeds, forty single queries."""
    draw = np.random.default_rng(0)
    queries = draw.normal(0.1, 0.2, 40)
    found = combine([queries + shift for shift in (-0.03, 0.0, 0.06)])
    of_queries, of_seeds = queries.var(ddof=1) / 39, np.var([-0.03, 0, 0.06], ddof=1) / 3
    assert found.lift == pytest.approx(queries.mean() + 0.01)
    assert found.query_error**2 == pytest.approx(of_queries)
    assert found.seed_deviation**2 == pytest.approx(3 * of_seeds)
    freedom = (of_queries + of_seeds) ** 2 / (of_queries**2 / 39 + of_seeds**2 / 2)
    assert found.degrees_of_freedom == pytest.approx(freedom)
    half = t.ppf(0.975, freedom) * (of_queries + of_seeds) ** 0.5
    assert found.ci == pytest.approx((found.lift - half, found.lift + half))
    assert [(each.seed, each.validation) for each in found.seeds] == [
        (42, 0.6),
        (43, pytest.approx(0.7)),
        (44, 0.6),
    ]
    assert found.chosen == 43
    assert found.seeds[1].lift == pytest.approx(queries.mean())


def test_equal_trainings_have_the_interval_of_one():
    queries = np.random.default_rng(1).normal(0.1, 0.2, 40)
    found = combine([queries, queries])
    half = t.ppf(0.975, 39) * queries.std(ddof=1) / 39**0.5
    assert found.ci == pytest.approx((queries.mean() - half, queries.mean() + half))
    assert (found.seed_deviation, found.degrees_of_freedom) == (0.0, pytest.approx(39))


def test_few_changed_queries_give_a_wide_interval():
    """Two trainings change the same query of forty by the same: that proves no lift of others."""
    one = np.zeros(40)
    one[0] = 0.4
    low, high = combine([one, one]).ci
    fallen, risen = ([*one, sign * (1 - 1 / np.log2(3))] for sign in (-1, 1))

    def half(values):
        return t.ppf(0.975, 40) * np.std(values, ddof=1) / 40**0.5

    assert low == pytest.approx(np.mean(fallen) - half(fallen))
    assert high == pytest.approx(np.mean(risen) + half(risen))


def test_trainings_that_change_nothing_do_not_prove_a_lift_of_zero():
    low, high = combine([np.zeros(40), np.zeros(40)]).ci
    assert low < -0.02
    assert high > 0.02


def test_two_trainings_that_differ_much_prove_little():
    """With one degree of freedom Student's t is 12.7."""
    quiet = np.full(40, 0.1) + np.random.default_rng(2).normal(0, 0.001, 40)
    low, high = combine([quiet - 0.05, quiet + 0.05]).ci
    assert low < -0.3
    assert high > 0.5


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_covers_the_lift_of_the_recipe(seeds):
    """Simulated: seeds, groups of queries and their interaction vary; nominal 95 %."""
    draw = np.random.default_rng(3)
    groups = np.repeat(np.arange(40), np.resize([1, 2, 3], 40))
    covered, repetitions = 0, 400
    for _ in range(repetitions):
        queries = draw.normal(0, 0.2, 40)[groups]
        lifts = [
            queries + draw.normal(0, 0.03) + draw.normal(0, 0.15, 40)[groups] for _ in range(seeds)
        ]
        low, high = combine(lifts, groups, base=0.0).ci
        covered += low <= 0 <= high
    assert 0.93 <= covered / repetitions <= 0.995
