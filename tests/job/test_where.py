"""Queries that gained and lost, kinds of queries, labels to doubt, documents in the way."""

import numpy as np
import pyarrow as pa
import pytest

from job.data import Corpus, Queries
from job.ranking import METRIC, judge
from job.where import HUB_HITS, SHOWN, SLICE_AT_LEAST, TEXT_CHARACTERS, look_where

# Twenty documents, each the answer to the question of its number.
COUNT = 20


@pytest.fixture
def corpus():
    texts = [f"document {i} tells of subject {i} in some words" for i in range(COUNT)]
    return Corpus(pa.array([f"{i:02}" for i in range(COUNT)]), pa.array(texts))


@pytest.fixture
def queries():
    words = ("What is", "How is", "Is there", "Name the")
    texts = [f"{words[i % 4]} subject {i}" for i in range(COUNT)]
    count = np.arange(COUNT)
    return Queries(
        pa.array([f"q{i}" for i in range(COUNT)]),
        pa.array(texts),
        np.arange(COUNT + 1),
        count,
        count,
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
    return judge(np.array(ranked), queries)


def test_what_gained_and_lost_most_comes_first(queries, corpus):
    """With the texts, both ranks, and what stands where the answer should."""
    base = scores(queries, {3: 4, 5: 2, 7: 1})
    tuned = scores(queries, {7: 3})
    where = look_where(queries, corpus, base, tuned, base)
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
    every = dict.fromkeys(range(COUNT), 2)
    where = look_where(queries, corpus, scores(queries, every), scores(queries), scores(queries))
    assert len(where.gained) == SHOWN < COUNT
    assert where.lost == []


def test_what_nobody_finds_is_a_label_to_doubt(queries, corpus):
    """Not base, not tuned, not BM25; one of them finding it is enough to trust it."""
    unfound = scores(queries, {2: 0, 4: 0})
    where = look_where(queries, corpus, unfound, unfound, scores(queries, {2: 0}))
    assert [example.query_id for example in where.suspects] == ["q2"]
    assert where.suspects[0].rank_tuned is None


def test_slices_hold_each_query_once_a_kind_and_give_their_means(queries, corpus):
    """Means, lift and number are those of the slice's own queries."""
    base, tuned = scores(queries, dict.fromkeys(range(0, COUNT, 4), 2)), scores(queries)
    where = look_where(queries, corpus, base, tuned, base)
    assert all(s.queries >= SLICE_AT_LEAST for s in where.slices)
    assert {s.by for s in where.slices} <= {
        "words of the query",
        "words of the answer",
        "the query's words in the answer",
        "question word",
    }
    # All answers have as many words: one slice, of all.
    (answers,) = [s for s in where.slices if s.by == "words of the answer"]
    assert (answers.queries, answers.name) == (COUNT, "9")
    assert answers.base == pytest.approx(base.metrics[METRIC].mean())
    assert answers.lift == pytest.approx(tuned.metrics[METRIC].mean() - answers.base)
    assert answers.ci[0] < answers.lift < answers.ci[1]


def test_kinds_of_questions_are_told_by_their_words(queries, corpus):
    """Five of each here: too few for a slice of their own, so none is shown."""
    where = look_where(queries, corpus, scores(queries), scores(queries), scores(queries))
    assert not [s for s in where.slices if s.by == "question word"]


def test_a_document_that_is_often_in_the_way_is_a_hub(queries, corpus):
    """Counted where it does not answer; its own question does not count."""
    tuned = scores(queries, others=(0,))
    where = look_where(queries, corpus, scores(queries, others=(1,)), tuned, tuned)
    first = where.hubs[0]
    assert (first.document_id, first.wrong_hits) == ("00", COUNT - 1)
    assert all(hub.wrong_hits >= HUB_HITS for hub in where.hubs)


def test_long_texts_are_cut(queries, corpus):
    long = Corpus(corpus.ids, pa.array(["word " * 200] * COUNT))
    where = look_where(queries, long, scores(queries, {3: 2}), scores(queries), scores(queries))
    (example,) = where.gained
    assert len(example.answer) <= TEXT_CHARACTERS
    assert example.answer.endswith("…")


def test_a_single_query_has_no_slices(corpus, queries):
    one = Queries(
        queries.ids[:1], queries.texts[:1], np.array([0, 1]), np.array([0]), np.array([0])
    )
    ranked = judge(np.array([[0, 1]]), one)
    where = look_where(one, corpus, ranked, ranked, ranked)
    assert where.to_dict() == {
        "gained": [],
        "lost": [],
        "suspects": [],
        "slices": [],
        "hubs": [],
    }
