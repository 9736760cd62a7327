"""Error analysis: gained and lost queries, segments, suspected label errors, hubs."""

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from job.data.dataset import Corpus, Queries
from job.evaluation.error_analysis import (
    MAX_CHARACTERS,
    MAX_EXAMPLES,
    MAX_SEGMENTS,
    MIN_HUB_HITS,
    MIN_SEGMENT_QUERIES,
    analyze_errors,
)
from job.evaluation.metrics import METRIC, compute_metrics

# Twenty documents, each relevant to the query of its number.
COUNT = 20


@pytest.fixture
def corpus():
    texts = [f"document {i} tells of subject {i} in some words" for i in range(COUNT)]
    return Corpus(pa.array([f"{i:02}" for i in range(COUNT)]), pa.array(texts))


@pytest.fixture
def queries():
    return make_queries()


def make_queries(segments=None):
    words = ("What is", "How is", "Is there", "Name the")
    texts = [f"{words[i % 4]} subject {i}" for i in range(COUNT)]
    count = np.arange(COUNT)
    return Queries(
        pa.array([f"q{i}" for i in range(COUNT)]),
        pa.array(texts),
        np.arange(COUNT + 1),
        count,
        count,
        segments and pa.array(segments),
    )


def scores(queries, rank_of=None, others=()):
    """Score rankings with each relevant document at its rank in `rank_of`, by default 1."""
    ranked = []
    for query in range(COUNT):
        rank = (rank_of or {}).get(query, 1)
        rest = [*others, *(d for d in range(COUNT) if d not in others)]
        rest = [d for d in rest if d != query]
        if rank:
            rest.insert(rank - 1, query)
        ranked.append(rest[:10])
    return compute_metrics(np.array(ranked), queries)


def test_the_largest_gains_and_losses_come_first(queries, corpus):
    """With the texts, both ranks, and the irrelevant document that is ranked first."""
    base = scores(queries, {3: 4, 5: 2, 7: 1})
    tuned = scores(queries, {7: 3})
    where = analyze_errors(queries, corpus, base, tuned, base)
    assert [(e.query_id, e.rank_base, e.rank_tuned) for e in where.gained] == [
        ("q3", 4, 1),
        ("q5", 2, 1),
    ]
    (lost,) = where.lost
    assert (lost.query_id, lost.rank_base, lost.rank_tuned) == ("q7", 1, 3)
    assert lost.answer == "document 7 tells of subject 7 in some words"
    assert lost.instead == "document 0 tells of subject 0 in some words"
    assert where.gained[0].instead is None
    assert lost.ndcg_tuned == pytest.approx(0.5)


def test_lists_and_texts_are_shortened(queries, corpus):
    """A list has at most `MAX_EXAMPLES` entries, a text at most `MAX_CHARACTERS`."""
    every = dict.fromkeys(range(COUNT), 2)
    long = Corpus(corpus.ids, pa.array(["word " * 200] * COUNT))
    where = analyze_errors(queries, long, scores(queries, every), scores(queries), scores(queries))
    assert len(where.gained) == MAX_EXAMPLES < COUNT
    assert where.lost == []
    assert len(where.gained[0].answer) <= MAX_CHARACTERS
    assert where.gained[0].answer.endswith("…")


def test_a_query_that_no_system_answers_is_a_suspected_label_error(queries, corpus):
    """Neither base, tuned nor BM25 finds a relevant document."""
    not_found = scores(queries, {2: 0, 4: 0})
    where = analyze_errors(queries, corpus, not_found, not_found, scores(queries, {2: 0}))
    assert [example.query_id for example in where.suspected_label_errors] == ["q2"]
    assert (where.suspected_label_errors[0].rank_tuned, where.not_found) == (None, 1)


def test_queries_that_both_models_fail_are_counted(queries):
    """And those whose first result is a near-duplicate of the answer, which is not labeled."""
    texts = [f"document {i} tells of subject {i} in some words" for i in range(COUNT)]
    texts[1] = "document 0 tells of subject 0 in some words again"
    corpus = Corpus(pa.array([f"{i:02}" for i in range(COUNT)]), pa.array(texts))
    # For queries 0 and 5, document 1 is first: it repeats the answer of query 0 only.
    tuned = scores(queries, {0: 2, 5: 3}, others=(1,))
    base = scores(queries, {0: 2, 3: 4, 5: 2})

    def analyze(threshold):
        return analyze_errors(
            queries, corpus, base, tuned, base, near_duplicate_threshold=threshold
        )

    where = analyze(0.7)
    assert [int(i) for i in np.flatnonzero((base.rank != 1) & (tuned.rank != 1))] == [0, 5]
    assert (where.both_failed, where.near_duplicate_first) == (2, 1)
    assert analyze(1.0).near_duplicate_first == 0
    assert analyze(None).near_duplicate_first is None


@pytest.mark.parametrize(
    ("gaining", "start"),
    [
        (range(0, COUNT, 2), r"The lift depends on: .*product \(p < 0\.001\); \d kinds of segm"),
        ((0, 1, 10, 11), r"It is not shown that the lift differs between segments \(\d kinds of "),
    ],
)
def test_the_sentence_says_whether_segments_differ(corpus, gaining, start):
    """It is corrected for the number of kinds; the caveat is always there."""
    names = ["even", "odd"] * (COUNT // 2)
    queries = replace(make_queries(names), texts=pa.array(["What is it", "Name it"] * 10))
    base = scores(queries, dict.fromkeys(gaining, 8))
    tuned = scores(queries)
    found = analyze_errors(queries, corpus, base, tuned, base, "product")
    assert re.match(start, found.sentence)
    assert found.sentence.endswith("is not corrected for the number of segments.")
    by_kind = {each.by: each for each in found.heterogeneity}
    assert by_kind["product"].segments == 2


def test_segments_of_few_groups_are_not_tested(corpus):
    """Two groups of queries say nothing about other groups."""
    queries = make_queries(["even", "odd"] * (COUNT // 2))
    queries = replace(queries, groups=np.repeat([0, 1], COUNT // 2))
    base = scores(queries, dict.fromkeys(range(0, COUNT, 2), 8))
    found = analyze_errors(queries, corpus, base, scores(queries), base, "product")
    assert (found.heterogeneity, found.sentence) == ([], None)
    assert {segment.by for segment in found.segments} >= {"product"}


def test_segments_report_the_scores_of_their_queries(queries, corpus):
    """Mean, lift and count are those of the segment's queries."""
    base, tuned = scores(queries, dict.fromkeys(range(0, COUNT, 4), 2)), scores(queries)
    where = analyze_errors(queries, corpus, base, tuned, base)
    assert all(s.queries >= MIN_SEGMENT_QUERIES for s in where.segments)
    # Five queries per question word are too few for a segment.
    assert {s.by for s in where.segments} == {
        "words of the query",
        "words of the answer",
        "the query's words in the answer",
    }
    # All answers have the same number of words, so there is one segment.
    (answers,) = [s for s in where.segments if s.by == "words of the answer"]
    assert (answers.queries, answers.name) == (COUNT, "9")
    assert answers.base == pytest.approx(base.metrics[METRIC].mean())
    assert answers.lift == pytest.approx(tuned.metrics[METRIC].mean() - answers.base)
    assert answers.ci[0] < answers.lift < answers.ci[1]


def test_a_document_that_is_often_wrongly_in_the_top_10_is_a_hub(queries, corpus):
    """The query that it answers does not count."""
    tuned = scores(queries, others=(0,))
    where = analyze_errors(queries, corpus, scores(queries, others=(1,)), tuned, tuned)
    first = where.hubs[0]
    assert (first.document_id, first.wrong_hits) == ("00", COUNT - 1)
    assert all(hub.wrong_hits >= MIN_HUB_HITS for hub in where.hubs)


def test_a_single_query_has_no_segments(corpus, queries):
    one = Queries(
        queries.ids[:1], queries.texts[:1], np.array([0, 1]), np.array([0]), np.array([0])
    )
    ranked = compute_metrics(np.array([[0, 1]]), one)
    where = analyze_errors(one, corpus, ranked, ranked, ranked)
    empty = {key: [] for key in ("gained", "lost", "suspected_label_errors", "segments", "hubs")}
    counts = {"not_found": 0, "both_failed": 0, "near_duplicate_first": None}
    assert where.model_dump() == empty | counts | {"heterogeneity": [], "sentence": None}


HOSTILE = "a|b <script>"


def segments_by(queries, corpus, column, base=None):
    base = base or scores(queries)
    where = analyze_errors(queries, corpus, base, scores(queries), base, column)
    return [s for s in where.segments if s.by == column]


def test_values_of_the_group_column_are_segments(corpus):
    """A null belongs to no segment, and values are not escaped."""
    queries = make_queries([HOSTILE] * MIN_SEGMENT_QUERIES + [None] * (COUNT - MIN_SEGMENT_QUERIES))
    base = scores(queries, {0: 2, 19: 3})
    (found,) = segments_by(queries, corpus, "product", base)
    gained = base.metrics[METRIC][:MIN_SEGMENT_QUERIES].mean()
    assert (found.name, found.queries, found.tuned) == (HOSTILE, MIN_SEGMENT_QUERIES, 1.0)
    assert found.base == pytest.approx(gained)
    assert found.lift == pytest.approx(1 - gained)
    assert found.ci[0] < found.lift < found.ci[1]


@pytest.mark.parametrize("column", [None, "product"])
def test_without_group_values_there_are_only_the_other_segments(queries, corpus, column):
    """Either no column is named, or no query has a value in it."""
    all_null = replace(queries, segments=pa.nulls(COUNT, pa.large_string()))
    plain = analyze_errors(queries, corpus, scores(queries), scores(queries), scores(queries))
    for given in (queries, all_null):
        where = analyze_errors(given, corpus, *[scores(queries)] * 3, column)
        assert where == plain


def test_the_group_column_may_have_the_name_of_another_segmentation(corpus):
    """Both are reported."""
    found = segments_by(make_queries(["x"] * COUNT), corpus, "words of the answer")
    assert [s.name for s in found] == ["9", "x"]


def test_only_the_largest_segments_of_the_group_column_are_reported():
    """They are sorted by size, then by name."""
    sizes = {f"kind {n:02}": MIN_SEGMENT_QUERIES + (n + 1) // 2 for n in range(MAX_SEGMENTS + 5)}
    kinds = [name for name, size in sizes.items() for _ in range(size)]
    count = np.arange(len(kinds))
    names = pa.array([f"{n:04}" for n in count])
    queries = Queries(names, names, np.arange(len(kinds) + 1), count, count, pa.array(kinds))
    ranked = compute_metrics(count[:, None], queries)
    found = analyze_errors(
        queries, Corpus(names, names), ranked, ranked, ranked, "product"
    ).segments
    expected = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:MAX_SEGMENTS]
    assert [(s.name, s.queries) for s in found if s.by == "product"] == expected
