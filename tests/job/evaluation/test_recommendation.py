"""The smallest vectors whose simultaneous lower bound meets the target are recommended."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.evaluation.base_vs_tuned import METRIC, Point, compare, compute_points
from job.evaluation.dimensions import Dimensions
from job.evaluation.metrics import Scores
from job.evaluation.quantization import bytes_per_vector
from job.evaluation.recommendation import frontier, recommend
from job.evaluation.results import Retention
from job.evaluation.significance import GroupedQueries
from job.spec.schema import EvaluationSpec

FOUR = Dimensions((512, 256, 128, 64), 128)
FLOAT_ONLY = EvaluationSpec(precisions=("float32",))
# nDCG@10 of a query with one relevant document, by its rank; entry 0: not in the top 10.
GAINS = np.array([0.0, *(1 / np.log2(np.arange(2, 12)))])


def point(dimension, precision="float32", ndcg=0.8, *, low=None, kept=None):
    """Make a point; `low` and `kept` are the lower bounds of its nDCG@10 and its retention.

    Its own intervals are wider upwards: they must not decide.
    """
    share = ndcg / 0.8
    lows = ndcg - 0.03 if low is None else low, share - 0.005 if kept is None else kept
    return Point(
        dimension=dimension,
        precision=precision,
        bytes_per_vector=bytes_per_vector(dimension, precision),
        ndcg=ndcg,
        ci=(ndcg - 0.001, ndcg + 0.001),
        at_least=lows[0],
        retention=Retention(share=share, ci=(share - 0.001, share + 0.001), at_least=lows[1]),
    )


BEST = point(256, kept=1.0)
# The best point is not at full dimension; int8 is nearly as good, binary is not.
POINTS = (
    point(512, ndcg=0.796),
    point(512, "int8", 0.78),
    point(512, "int8_rescored", 0.799),
    point(512, "binary", 0.74),
    point(512, "binary_rescored", 0.77),
    BEST,
    point(256, "int8", 0.775),
    point(256, "int8_rescored", 0.7988),
    point(256, "binary", 0.70),
    point(256, "binary_rescored", 0.73),
    point(128, ndcg=0.78),
    point(128, "int8", 0.765),
    point(128, "int8_rescored", 0.779),
    point(128, "binary", 0.60),
    point(128, "binary_rescored", 0.65),
)


INT8_IN_600 = {"max_bytes_per_vector": 600, "precisions": ["int8"]}


def advise(points=POINTS, **fields):
    return recommend(points, BEST, EvaluationSpec(**fields))


# By retention


def test_the_smallest_vectors_whose_bound_keeps_the_share_are_recommended():
    """float32 and int8 both do at 256 dimensions, and int8 takes a quarter of the space."""
    reason = (
        "they keep at least 99.3% (simultaneous 95 % bound; measured: 99.8%) of the nDCG@10 of 256 "
        "float32 dimensions, 0.800, in 256 bytes instead of 1024; no smaller vectors are shown to "
        "keep 99%."
    )
    assert advise().model_dump() == {
        "dimension": 256,
        "precision": "int8_rescored",
        "stored_as": "int8",
        "bytes_per_vector": 256,
        "index_bytes": {"1000000": 256e6, "10000000": 2.56e9, "100000000": 25.6e9},
        "rule": "retention",
        "reason": reason,
        "sentence": f"Deploy 256 dimensions as int8, rescored: {reason}",
    }


TIE = [
    BEST,
    point(256, "int8_rescored", kept=0.995),
    point(256, "int8", kept=0.995),
    point(64, kept=0.995),
]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([*POINTS, point(64, ndcg=0.7995)], "64 float32"),
        # The bound decides between equal sizes, not the score of this test set.
        ([*POINTS, point(64, ndcg=0.79, kept=0.9945)], "64 float32"),
        ([*POINTS, point(64, ndcg=0.81, kept=0.9925)], "256 int8_rescored"),
        # Fewer components are faster to compare, and rescoring without a gain is wasted work.
        (TIE, "64 float32"),
        (TIE[:3], "256 int8"),
    ],
)
def test_of_equal_sizes_the_better_is_recommended_and_of_equals_the_simpler(points, expected):
    """256 dimensions as int8 and 64 as float32 take the same space."""
    found = advise(points)
    assert f"{found.dimension} {found.precision} {found.rule}" == f"{expected} retention"


@pytest.mark.parametrize(
    ("fields", "expected", "reason"),
    [
        # By retention: the interval's lower bound decides, not the estimate.
        ({"retention": 1.0}, "256 float32 retention", "are shown to keep 100% "),
        ({"retention": 0.995}, "256 float32 retention", "are shown to keep 99.5% "),
        ({"retention": 0.99}, "256 int8_rescored retention", "are shown to keep 99%."),
        ({"retention": 0.965}, "128 int8_rescored retention", "at least 96.9% "),
        ({"retention": 0.95}, "512 binary_rescored retention", "at least 95.8% "),
        ({"retention": 0.9}, "256 binary_rescored retention", "at least 90.8% "),
        # The smallest point: the reason makes no claim about smaller vectors.
        ({"retention": 0.5}, "128 binary_rescored retention", "in 16 bytes instead of 1024."),
        # Other precisions are excluded; the reference stays.
        ({"precisions": ["float32"]}, "256 float32 retention", ""),
        ({"precisions": ["float32"], "retention": 0.95}, "128 float32 retention", ""),
        ({"precisions": ["binary"], "retention": 0.9}, "256 binary_rescored retention", ""),
        # A budget limits the candidates; if none meets the target, the best one is recommended.
        ({"max_bytes_per_vector": 256}, "256 int8_rescored retention", ""),
        ({"max_bytes_per_vector": 128}, "128 int8_rescored best", "within 128 bytes"),
        ({"max_bytes_per_vector": 64}, "512 binary_rescored best", "at least 95.8% "),
        # `min_ndcg` replaces retention.
        (
            {"min_ndcg": 0.74},
            "512 binary_rescored min_ndcg",
            "is at least 0.740 (simultaneous 95 % bound; measured: 0.770); no",
        ),
        (
            {"min_ndcg": 0.1},
            "128 binary_rescored min_ndcg",
            "is at least 0.620 (simultaneous 95 % bound; measured: 0.650).",
        ),
        # The estimate reaches 0.8, but the interval's lower bound does not.
        (
            {"min_ndcg": 0.8},
            "256 float32 best",
            "0.8; these come closest: their nDCG@10 is at least 0.770 ",
        ),
        ({"min_ndcg": 0.745} | INT8_IN_600, "128 int8_rescored min_ndcg", ""),
        ({"min_ndcg": 0.9} | INT8_IN_600, "512 int8_rescored best", "as int8 within 600 bytes"),
    ],
)
def test_the_specs_limits_are_respected_and_explained(fields, expected, reason):
    """If no allowed point meets the target, the best allowed one is recommended."""
    found = advise(**fields)
    assert f"{found.dimension} {found.precision} {found.rule}" == expected
    assert reason in found.reason


def test_the_only_allowed_point_is_recommended():
    """The reason makes no claim about smaller vectors."""
    assert advise([BEST], precisions=["float32"]).reason == (
        "the job file allows no smaller vectors; their nDCG@10 is 0.800."
    )


# From scores


def scores_of(values):
    values = np.asarray(values, dtype=float)
    nothing = np.zeros(len(values), dtype=np.int64)
    return Scores({METRIC: values}, nothing, nothing[:, None])


def from_scores(by_dimension, spec=FLOAT_ONLY, groups=None, dimensions=FOUR):
    """Recommend from nDCG@10 values, one list per dimension, or per dimension and precision."""
    tuned = {
        d: {p: scores_of(v) for p, v in (by if isinstance(by, dict) else {"float32": by}).items()}
        for d, by in by_dimension.items()
    }
    count = len(tuned[dimensions.full]["float32"].rank)
    groups = np.arange(count) if groups is None else groups
    result = compare(
        tuned,
        tuned,
        tuned[dimensions.full]["float32"],
        GroupedQueries(groups, spec.permutations, 0),
        dimensions,
    )
    return result, recommend(result.points, result.reference, spec)


@pytest.mark.parametrize("queries", [1, 5], ids=["a single query", "a single group"])
def test_with_one_group_of_queries_the_reference_is_recommended(queries):
    """One group proves nothing about other queries, even if smaller vectors score the same."""
    values = {
        d: {"float32": np.full(queries, 0.5), "int8": np.full(queries, 0.5)} for d in FOUR.all
    }

    result, found = from_scores(values, EvaluationSpec(), np.zeros(queries, dtype=int))

    assert (found.dimension, found.precision, found.rule) == (512, "float32", "retention")
    assert result.reference.ci == (0.0, 1.0)


def test_a_tiny_test_set_does_not_show_that_smaller_vectors_lose_nothing():
    """Six queries without a change are compatible with a loss; 99 % needs many more."""
    codes = EvaluationSpec(precisions=("float32", "int8"))

    def recommended(queries):
        full = np.full(queries, 0.8)
        values = {512: {"float32": full, "int8": full}}
        return from_scores(values, codes, dimensions=Dimensions((512,), 512))[1].precision

    assert recommended(6) == "float32"
    assert recommended(60) == "float32"
    assert recommended(150) == "int8"


@pytest.mark.parametrize("ndcg", [0, 1])
def test_an_ndcg_of_zero_shows_nothing(ndcg):
    """Nothing is divided by zero if no query, or only one left out by the jackknife, scores."""
    result, advice = from_scores(dict.fromkeys(FOUR.all, np.eye(30)[0] * ndcg))

    assert {p.retention.share for p in result.points} == {1.0}
    assert advice.dimension == 512


def test_the_reference_is_fixed_in_advance():
    """Smaller vectors that score higher on this test set do not become the reference."""
    values = np.random.default_rng(3).choice(GAINS, 150)
    better = np.where(np.arange(150) < 20, 1.0, values)
    result, advice = from_scores({512: values, 256: better, 128: values * 0.5, 64: values * 0.5})

    assert result.reference.dimension == 512
    assert advice.dimension == 256
    assert "512 float32 dimensions" in advice.reason


def random_points(seed, precisions=("float32", "int8", "int8_rescored", "binary")):
    random = np.random.default_rng(seed)
    full = random.choice(GAINS, 30)
    values = {
        d: {
            p: scores_of(
                np.where(
                    random.random(30) < random.choice([0, 0.05]), random.choice(GAINS, 30), full
                )
            )
            for p in precisions
        }
        for d in FOUR.all
    }
    return compute_points(values, FOUR, GroupedQueries(np.arange(30), 100, 0))


@given(
    st.integers(0, 1_000),
    st.sampled_from([0.8, 0.95, 1.0]),
    st.sampled_from([None, 0.1, 0.5, 0.99]),
    st.sampled_from([None, 8, 64, 300]),
)
@settings(deadline=None, max_examples=60)
def test_the_recommendation_follows_from_the_bounds(seed, retention, minimum, budget):
    """No smaller allowed point meets the target; if none does, no allowed bound is higher."""
    points, best = random_points(seed)
    spec = EvaluationSpec(
        retention=0.99 if minimum else retention, min_ndcg=minimum, max_bytes_per_vector=budget
    )

    found = recommend(points, best, spec)

    allowed = [p for p in points if p.bytes_per_vector <= (budget or 10**9)]
    bounds = {p: p.at_least if minimum else p.retention.at_least for p in allowed}
    sufficient = [p for p in allowed if bounds[p] >= (minimum or spec.retention)]
    (point,) = (
        p for p in allowed if (p.dimension, p.precision) == (found.dimension, found.precision)
    )
    if sufficient:
        assert point in sufficient
        assert point.bytes_per_vector == min(p.bytes_per_vector for p in sufficient)
    else:
        assert found.rule == "best"
        assert bounds[point] == max(bounds.values())


# The frontier


def test_the_frontier_rises_in_bytes_and_quality():
    """Points that are larger without being better are left out."""
    assert [(p.dimension, p.precision) for p in frontier(POINTS)] == [
        (128, "binary_rescored"),
        (256, "binary_rescored"),
        (512, "binary_rescored"),
        (128, "int8_rescored"),
        (256, "int8_rescored"),
        (512, "int8_rescored"),
        (256, "float32"),
    ]


@given(st.integers(0, 1_000))
@settings(deadline=None, max_examples=40)
def test_points_off_the_frontier_are_dominated_and_points_on_it_are_not(seed):
    """A point dominates another if it takes no more bytes and scores no lower."""
    points, _ = random_points(seed)

    optimal = frontier(points)

    def dominates(one, other):
        return one.bytes_per_vector <= other.bytes_per_vector and one.ndcg >= other.ndcg

    for other in set(points) - set(optimal):
        assert any(dominates(one, other) for one in optimal)
    for one in optimal:
        assert not any(dominates(other, one) for other in optimal if other != one)
