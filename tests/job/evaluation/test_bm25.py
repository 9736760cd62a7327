"""BM25 ranks by its formula, whatever the block sizes."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.evaluation import bm25


def rank_bm25(corpus, queries):
    return bm25.rank_bm25(pa.array(corpus), pa.array(queries))


def test_bm25_counts_the_documents_that_share_a_word():
    """At most 100. Documents without a match fill the ranking up and must not count as hits."""
    corpus = ["the cat sat", "a dog ran", "the cat and the dog", *["the end"] * 120]

    ranked, matches = rank_bm25(corpus, ["cat", "cat dog", "zebra", "", "the"])

    assert matches.tolist() == [2, 3, 0, 0, 100]
    assert ranked[0, :2].tolist() == [0, 2]
    assert rank_bm25(["?", "!"], ["cat"])[1].tolist() == [0]


def test_bm25_tokenizes_any_alphabet_and_ignores_case():
    """Umlauts, ß and Cyrillic are letters."""
    corpus = [
        "Der Bäcker wohnt in der Größenwahnstraße",
        "Die Katze schläft auf dem Sofa",
        "Собака бежит по улице",
        "Кошка спит на диване",
    ]

    queries = ["BÄCKER", "größenwahnstraße", "wo schläft die Katze", "КОШКА"]
    ranked = rank_bm25(corpus, queries)[0]

    assert ranked[:, 0].tolist() == [0, 0, 1, 3]


CATS = [
    "The cat sat on the mat and looked at the dog for a long while",
    "A dog ran",
    "Cat, cat and dog!",
    "Nothing of interest",
]


@pytest.mark.parametrize(
    ("corpus", "queries", "expected"),
    [
        (
            CATS,
            ["cat", "DOG", "dog ran", "interest"],
            [[2, 0, 1, 3], [1, 2, 0, 3], [1, 2, 0, 3], [3, 0, 1, 2]],
        ),
        ([f"text number{i}" for i in range(120)], ["zebra"], [list(range(100))]),
        (["a cat", "a dog"], ["dog", "?!", "…"], [[1, 0], [0, 1], [0, 1]]),
        (["…", "?!"], ["dog"], [[0, 1]]),
        (["only"], ["only", "other"], [[0], [0]]),
    ],
)
def test_bm25_orders_by_score_and_equal_scores_by_position(corpus, queries, expected):
    """More matching words, a shorter text and a rarer word each raise the score.

    For a query without any known word all documents have equal scores.
    """
    assert rank_bm25(corpus, queries)[0].tolist() == expected


def bm25_by_hand(corpus, question, k1=1.2, b=0.75):
    """Score documents, given as lists of words, as Lucene does (Kamphuis et al. 2020, table 1)."""
    average = sum(map(len, corpus)) / len(corpus)
    frequencies = Counter(word for document in corpus for word in set(document))

    def score(document):
        norm = k1 * (1 - b + b * len(document) / average)
        return sum(
            math.log(1 + (len(corpus) - frequencies[word] + 0.5) / (frequencies[word] + 0.5))
            * document.count(word)
            / (document.count(word) + norm)
            for word in question
        )

    return [score(document) for document in corpus]


WORDS = st.lists(st.sampled_from(["ant", "bee", "cow", "dog", "elk"]), min_size=1, max_size=12)


@given(st.lists(WORDS, min_size=1, max_size=12), st.lists(WORDS, min_size=1, max_size=3))
@settings(deadline=None)
def test_bm25_ranks_as_the_formula_does(corpus, questions):
    """Along our ranking the formula's scores never rise, and equal texts keep their order."""
    documents, queries = ([" ".join(words) for words in texts] for texts in (corpus, questions))
    ranked = rank_bm25(documents, queries)[0]

    for row, question in zip(ranked.tolist(), questions, strict=True):
        by_hand = bm25_by_hand(corpus, question)
        assert sorted(row) == list(range(len(corpus)))
        for better, worse in pairwise(row):
            # The library adds in float32.
            assert by_hand[better] > by_hand[worse] - 1e-5
            assert corpus[better] != corpus[worse] or better < worse


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.75), (1.5, 0.75), (1.2, 0.6), (1.2, 0.9)])
def test_bm25_uses_its_stated_constants(k1, b):
    """Nearby constants would give another ranking."""
    random = np.random.default_rng(0)
    words = ["ant", "bee", "cow", "dog", "elk"]
    corpus = [list(random.choice(words, random.integers(1, 30))) for _ in range(60)]
    question = ["ant", "bee", "cow"]

    ranked, _ = rank_bm25([" ".join(document) for document in corpus], [" ".join(question)])

    def order(scores):
        return sorted(range(60), key=lambda position: (-round(scores[position], 5), position))

    assert ranked.tolist() == [order(bm25_by_hand(corpus, question))]
    assert ranked.tolist() != [order(bm25_by_hand(corpus, question, k1, b))]


@pytest.mark.parametrize(("chunk", "texts"), [(1, 1), (999, 249), (10_000, 250)])
def test_block_sizes_do_not_change_a_ranking(monkeypatch, chunk, texts):
    """They limit memory only."""
    random = np.random.default_rng(0)
    words = ["ant", "bee", "cow", "dog", "elk", "fox", "…"]
    corpus = [" ".join(random.choice(words, random.integers(0, 9))) for _ in range(250)]
    questions = ["ant fox", "bee cow", "fox fox dog", "zebra", "", "elk"]
    whole = rank_bm25(corpus, questions)

    monkeypatch.setattr(bm25, "MAX_SCORES", chunk)
    monkeypatch.setattr(bm25, "TEXTS_PER_BLOCK", texts)
    found = rank_bm25(corpus, questions)

    for part, expected in zip(found, whole, strict=True):
        assert part.tolist() == expected.tolist()
