"""Runs are compared query by query; the intervals of all differences hold together."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import t

from job.core.errors import StorageError
from job.report.paired_runs import PerQuery, differences_from, read_per_query


def run_of(values, groups=None):
    values = np.asarray(values, dtype=float)
    return PerQuery(values, groups if groups is None else np.asarray(groups))


def test_one_difference_has_the_interval_of_a_paired_t_test():
    """With one other run and single queries, max-t is at least Student's t, and close to it."""
    draw = np.random.default_rng(1)
    first, gains = draw.random(80) / 2, draw.normal(0.05, 0.2, 80)
    (found,) = differences_from("a", {"a": run_of(first), "b": run_of(first + gains)})
    half = t.ppf(0.975, 79) * gains.std(ddof=1) / 79**0.5
    assert (found.run, found.lift) == ("b", pytest.approx(gains.mean()))
    low, high = found.ci
    assert high - found.lift == pytest.approx(found.lift - low)
    assert half <= high - found.lift < 1.05 * half


def test_more_runs_have_wider_intervals():
    draw = np.random.default_rng(2)
    first = draw.random(60)
    runs = {"a": run_of(first)} | {n: run_of(first + draw.normal(0, 0.2, 60)) for n in "bcdefgh"}
    alone = differences_from("a", {name: runs[name] for name in "ab"})[0]
    together = differences_from("a", runs)[0]
    assert together.run == alone.run == "b"
    assert together.ci[1] - together.ci[0] > 1.15 * (alone.ci[1] - alone.ci[0])


@pytest.mark.parametrize("others", [1, 6])
def test_the_intervals_cover_all_true_differences_in_nineteen_of_twenty_cases(others):
    """Simulated: correlated runs, groups of one to three queries. Nominal 95 %."""
    draw = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), np.resize([1, 2, 3], 30))
    covered, repetitions = 0, 150
    for _ in range(repetitions):
        shared = draw.normal(0, 0.2, 30)[groups]
        runs = {"a": run_of(np.zeros(len(groups)), groups)}
        for number in range(others):
            own = draw.normal(0, 0.2, 30)[groups] + draw.normal(0, 0.1, len(groups))
            runs[str(number)] = run_of(shared + own, groups)
        found = differences_from("a", runs)
        covered += all(each.ci[0] <= 0 <= each.ci[1] for each in found)
    assert covered / repetitions >= 0.9


def test_queries_of_one_group_count_as_one():
    """Ten copies of each query do not make the interval narrower."""
    draw = np.random.default_rng(4)
    gains = draw.normal(0.05, 0.2, 20)
    alone = {"a": run_of(np.zeros(20)), "b": run_of(gains)}
    groups = np.repeat(np.arange(20), 10)
    copied = {"a": run_of(np.zeros(200), groups), "b": run_of(np.repeat(gains, 10), groups)}
    assert differences_from("a", copied)[0].ci == pytest.approx(differences_from("a", alone)[0].ci)


def test_equal_runs_may_differ_on_other_queries_and_one_group_excludes_nothing():
    """Of equal runs: as if one more query had moved between rank 1 and rank 2."""
    values = np.random.default_rng(5).random(30)
    (equal,) = differences_from("a", {"a": run_of(values), "b": run_of(values)})
    more = np.array([*[0.0] * 30, 1 - 1 / np.log2(3)])
    high = more.mean() + t.ppf(0.975, 29) * more.std(ddof=1) / 30**0.5
    assert (equal.lift, equal.ci) == (0.0, pytest.approx((-high, high)))
    one = np.zeros(30, dtype=int)
    (single,) = differences_from("a", {"a": run_of(values, one), "b": run_of(values / 2, one)})
    assert single.ci == (-1.0, 1.0)


def test_the_scores_of_one_dimension_are_read(tmp_path):
    """Groups are None in files of older versions; a dimension that is missing gives nothing."""
    rows = {
        "model": ["base", "tuned", "tuned", "tuned"],
        "dimension": [64, 64, 64, 32],
        "precision": ["float32", "float32", "int8", "float32"],
        "ndcg@10": [0.1, 0.5, 0.4, 0.3],
    }
    path = tmp_path / "per_query.parquet"
    pq.write_table(pa.table(rows), path)
    assert read_per_query(path, 64).values.tolist() == [0.5]
    assert read_per_query(path, 64).groups is None
    assert read_per_query(path, 16) is None
    pq.write_table(pa.table(rows | {"group": [7, 7, 7, 7]}), path)
    assert read_per_query(path, 32).groups.tolist() == [7]
    path.write_bytes(b"PAR1")
    with pytest.raises(StorageError, match=r"per_query\.parquet"):
        read_per_query(path, 64)
