"""Queries that gained and lost, kinds of queries, labels to doubt, documents in the way."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from job.data.dataset import Corpus, Queries
from job.evaluation.error_analysis import (
    HUB_HITS,
    KINDS_SHOWN,
    SHOWN,
    SLICE_AT_LEAST,
    TEXT_CHARACTERS,
    analyze_errors,
)
from job.evaluation.metrics import METRIC, compute_metrics

# Twenty documents, each the answer to the question of its number.
COUNT = 20


@pytest.fixture
def corpus():
    texts = [f"document {i} tells of subject {i} in some words" for i in range(COUNT)]
    return Corpus(pa.array([f"{i:02}" for i in range(COUNT)]), pa.array(texts))


@pytest.fixture
def queries():
    return make_queries()


def make_queries(kinds=None):
    words = ("What is", "How is", "Is there", "Name the")
    texts = [f"{words[i % 4]} subject {i}" for i in range(COUNT)]
    count = np.arange(COUNT)
    return Queries(
        pa.array([f"q{i}" for i in range(COUNT)]),
        pa.array(texts),
        np.arange(COUNT + 1),
        count,
        count,
        kinds and pa.array(kinds),
    )


def scores(queries, rank_of=None, others=()):
    """Judge rankings that put each answer at its rank, 1 unless `rank_of` says otherwise."""
    ranked = []
    for query in range(COUNT):
        rank = (rank_of or {}).get(query, 1)
        rest = [*others, *(d for d in range(COUNT) if d not in others)]
        rest = [d for d in rest if d != query]
        if rank:
            rest.insert(rank - 1, query)
        ranked.append(rest[:10])
    return compute_metrics(np.array(ranked), queries)


def test_what_gained_and_lost_most_comes_first(queries, corpus):
    """With the texts, both ranks, and what stands where the answer should."""
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


def test_no_more_than_a_page_of_each(queries, corpus):
    """And of a long text no more than its beginning."""
    every = dict.fromkeys(range(COUNT), 2)
    long = Corpus(corpus.ids, pa.array(["word " * 200] * COUNT))
    where = analyze_errors(queries, long, scores(queries, every), scores(queries), scores(queries))
    assert len(where.gained) == SHOWN < COUNT
    assert where.lost == []
    assert len(where.gained[0].answer) <= TEXT_CHARACTERS
    assert where.gained[0].answer.endswith("…")


def test_what_nobody_finds_is_a_label_to_doubt(queries, corpus):
    """Not base, not tuned, not BM25; one of them finding it is enough to trust it."""
    not_found = scores(queries, {2: 0, 4: 0})
    where = analyze_errors(queries, corpus, not_found, not_found, scores(queries, {2: 0}))
    assert [example.query_id for example in where.suspected_label_errors] == ["q2"]
    assert (where.suspected_label_errors[0].rank_tuned, where.not_found) == (None, 1)


def test_segments_hold_each_query_once_a_kind_and_give_their_means(queries, corpus):
    """Means, lift and number are those of the slice's own queries."""
    base, tuned = scores(queries, dict.fromkeys(range(0, COUNT, 4), 2)), scores(queries)
    where = analyze_errors(queries, corpus, base, tuned, base)
    assert all(s.queries >= SLICE_AT_LEAST for s in where.segments)
    # Five of each question word: too few for a slice of their own.
    assert {s.by for s in where.segments} == {
        "words of the query",
        "words of the answer",
        "the query's words in the answer",
    }
    # All answers have as many words: one slice, of all.
    (answers,) = [s for s in where.segments if s.by == "words of the answer"]
    assert (answers.queries, answers.name) == (COUNT, "9")
    assert answers.base == pytest.approx(base.metrics[METRIC].mean())
    assert answers.lift == pytest.approx(tuned.metrics[METRIC].mean() - answers.base)
    assert answers.ci[0] < answers.lift < answers.ci[1]


def test_a_document_that_is_often_in_the_way_is_a_hub(queries, corpus):
    """Counted where it does not answer; its own question does not count."""
    tuned = scores(queries, others=(0,))
    where = analyze_errors(queries, corpus, scores(queries, others=(1,)), tuned, tuned)
    first = where.hubs[0]
    assert (first.document_id, first.wrong_hits) == ("00", COUNT - 1)
    assert all(hub.wrong_hits >= HUB_HITS for hub in where.hubs)


def test_a_single_query_has_no_segments(corpus, queries):
    one = Queries(
        queries.ids[:1], queries.texts[:1], np.array([0, 1]), np.array([0]), np.array([0])
    )
    ranked = compute_metrics(np.array([[0, 1]]), one)
    where = analyze_errors(one, corpus, ranked, ranked, ranked)
    empty = {key: [] for key in ("gained", "lost", "suspected_label_errors", "segments", "hubs")}
    assert where.model_dump() == empty | {"not_found": 0}


HOSTILE = "a|b <script>"


def segments_by(queries, corpus, column, base=None):
    base = base or scores(queries)
    where = analyze_errors(queries, corpus, base, scores(queries), base, column)
    return [s for s in where.segments if s.by == column]


def test_the_datas_own_kinds_are_segments_named_by_their_column(corpus):
    """What is null is of no kind, and a name stays as it is."""
    queries = make_queries([HOSTILE] * SLICE_AT_LEAST + [None] * (COUNT - SLICE_AT_LEAST))
    base = scores(queries, {0: 2, 19: 3})
    (found,) = segments_by(queries, corpus, "product", base)
    gained = base.metrics[METRIC][:SLICE_AT_LEAST].mean()
    assert (found.name, found.queries, found.tuned) == (HOSTILE, SLICE_AT_LEAST, 1.0)
    assert found.base == pytest.approx(gained)
    assert found.lift == pytest.approx(1 - gained)
    assert found.ci[0] < found.lift < found.ci[1]


@pytest.mark.parametrize("column", [None, "product"])
def test_data_that_names_no_kinds_has_the_other_segments_only(queries, corpus, column):
    """Neither where no column is named, nor where no query has a value in it."""
    nameless = replace(queries, segments=pa.nulls(COUNT, pa.large_string()))
    plain = analyze_errors(queries, corpus, scores(queries), scores(queries), scores(queries))
    for asked in (queries, nameless):
        where = analyze_errors(asked, corpus, *[scores(queries)] * 3, column)
        assert where == plain


def test_a_column_may_bear_the_name_of_another_kind(corpus):
    """Both are there."""
    found = segments_by(make_queries(["x"] * COUNT), corpus, "words of the answer")
    assert [s.name for s in found] == ["9", "x"]


def test_of_many_kinds_the_largest_are_shown_first():
    """Ties by name; the smaller ones are left out."""
    sizes = {f"kind {n:02}": SLICE_AT_LEAST + (n + 1) // 2 for n in range(KINDS_SHOWN + 5)}
    kinds = [name for name, size in sizes.items() for _ in range(size)]
    count = np.arange(len(kinds))
    names = pa.array([f"{n:04}" for n in count])
    queries = Queries(names, names, np.arange(len(kinds) + 1), count, count, pa.array(kinds))
    ranked = compute_metrics(count[:, None], queries)
    found = analyze_errors(
        queries, Corpus(names, names), ranked, ranked, ranked, "product"
    ).segments
    expected = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:KINDS_SHOWN]
    assert [(s.name, s.queries) for s in found if s.by == "product"] == expected
