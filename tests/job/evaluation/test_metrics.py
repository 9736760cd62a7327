"""Rankings equal a plain sort, and metrics equal those of sentence-transformers and trec_eval."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
import pytrec_eval
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lookup import lookup_encoder
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from job.data.dataset import Queries
from job.evaluation import metrics as ranking
from job.evaluation.exact_search import top_k
from job.evaluation.metrics import METRICS, compute_metrics
from job.evaluation.quantization import rank


def queries_of(relevant):
    """Make queries with the given relevant corpus positions, one list per query."""
    numbers = pa.array([str(number) for number in range(len(relevant))], pa.large_string())
    return Queries(
        ids=numbers,
        texts=numbers,
        offsets=np.cumsum([0, *map(len, relevant)]),
        documents=np.array([p for positions in relevant for p in positions], dtype=np.int64),
        groups=np.arange(len(relevant)),
    )


@dataclass(frozen=True)
class Search:
    """A retrieval task in vectors."""

    queries: np.ndarray
    corpus: np.ndarray
    relevant: list[list[int]]

    @property
    def document_ids(self):
        # Sorted as strings ("10" before "9"), like a corpus.
        return sorted(str(number) for number in range(len(self.corpus)))

    def relevant_ids(self, query):
        return {self.document_ids[position] for position in self.relevant[query]}

    def ranked_at(self, dimension):
        vectors = torch.from_numpy(self.queries), torch.from_numpy(self.corpus)
        return rank(*vectors, [dimension], [])[dimension]["float32"]

    def scores_at(self, dimension):
        return compute_metrics(self.ranked_at(dimension), queries_of(self.relevant))


def signs(random, rows, width):
    # At 64, 16 and 4 dimensions the norms are 8, 4 and 2, so cosines are computed without rounding
    # and equal scores are equal bit by bit.
    return random.choice([-1.0, 1.0], size=(rows, width))


def copies(random, rows, width):
    # Each vector occurs about four times.
    return random.normal(size=(1 + rows // 4, width))[random.integers(0, 1 + rows // 4, size=rows)]


def normals(random, rows, width):
    return random.normal(size=(rows, width))


def random_search(vectors, documents, *, queries=25, width=64, seed=0):
    """Draw a task with at least one relevant document per query."""
    random = np.random.default_rng([seed, documents])
    counts = random.integers(1, min(documents, 15) + 1, size=queries)
    return Search(
        queries=vectors(random, queries, width).astype(np.float32),
        corpus=vectors(random, documents, width).astype(np.float32),
        relevant=[sorted(random.choice(documents, count, replace=False)) for count in counts],
    )


def library_means(task, dimension, *, order=None):
    """Run sentence-transformers' evaluator with a real model that looks its vectors up."""
    table = torch.from_numpy(np.concatenate([task.corpus, task.queries]))
    named = list(zip(task.document_ids, map(str, range(len(task.corpus))), strict=True))
    count = len(task.queries)
    evaluator = InformationRetrievalEvaluator(
        queries={f"q{i}": str(len(task.corpus) + i) for i in range(count)},
        corpus=dict(named if order is None else [named[i] for i in order]),
        relevant_docs={f"q{i}": task.relevant_ids(i) for i in range(count)},
        precision_recall_at_k=list(ranking.RECALL_AT),
        truncate_dim=dimension,
        write_csv=False,
    )
    values = evaluator(lookup_encoder(table))
    return {metric: values[f"cosine_{metric}"] for metric in METRICS}


@pytest.mark.parametrize("documents", [1, 60, 101, 250])
@pytest.mark.parametrize("vectors", [signs, copies, normals])
@pytest.mark.parametrize("dimension", [64, 33, 4])
def test_metrics_equal_those_of_sentence_transformers(vectors, documents, dimension):
    """Every metric at every dimension equals the article's evaluator's for these vectors.

    Ties are broken by document id, not by the order in which the evaluator gets the documents.
    """
    task = random_search(vectors, documents)
    exact = vectors is signs and dimension != 33
    order = np.random.default_rng(1).permutation(documents) if exact else None

    expected = library_means(task, dimension, order=order)

    assert task.scores_at(dimension).means() == pytest.approx(expected, abs=1e-12)


def test_more_relevant_documents_than_ranks_count_as_in_sentence_transformers():
    """At most 100 of 150 relevant documents can be found."""
    task = random_search(signs, 250, queries=2)
    task = replace(task, relevant=[list(range(150)), list(range(100, 250))])

    assert task.scores_at(16).means() == pytest.approx(library_means(task, 16), abs=1e-12)


@pytest.mark.parametrize("documents", [1, 60, 250])
def test_metrics_equal_those_of_trec_eval(documents):
    """They are equal for each query, given our ranking."""
    task = random_search(signs, documents, queries=60, seed=2)
    scores = task.scores_at(16)
    qrels = {str(i): dict.fromkeys(task.relevant_ids(i), 1) for i in range(60)}
    names = {"ndcg@10": "ndcg_cut_10", "map@100": "map_cut_100", "mrr@10": "recip_rank"}
    names |= {f"recall@{k}": f"recall_{k}" for k in ranking.RECALL_AT}
    names |= {f"accuracy@{k}": f"success_{k}" for k in ranking.ACCURACY_AT}
    assert names.keys() == set(METRICS)
    for metric, name in names.items():
        # trec_eval has no cut-off for reciprocal ranks, and its own rule for ties: ranks as scores
        # have no ties.
        ranked = scores.top if metric == "mrr@10" else scores.ranked
        run = {
            str(i): {task.document_ids[p]: -float(rank) for rank, p in enumerate(row)}
            for i, row in enumerate(ranked.tolist())
        }
        theirs = pytrec_eval.RelevanceEvaluator(qrels, {name}).evaluate(run)
        expected = [theirs[str(i)][name] for i in range(60)]
        assert scores.metrics[metric].tolist() == pytest.approx(expected, abs=1e-12)


@st.composite
def graded_searches(draw):
    """Draw rankings, (n_queries, depth), and each query's grades by corpus position."""
    documents = draw(st.integers(1, 40))
    positions = st.integers(0, documents - 1)
    grades = draw(
        st.lists(st.dictionaries(positions, st.integers(1, 9), min_size=1), min_size=1, max_size=5)
    )
    depth = draw(st.integers(1, documents))
    ranked = [draw(st.permutations(range(documents)))[:depth] for _ in grades]
    return np.array(ranked), grades


def graded(grades):
    """Make queries of grades by position, in any order of positions."""
    values = np.array([float(grade) for found in grades for grade in found.values()])
    return replace(queries_of(list(map(list, grades))), grades=values)


@given(graded_searches())
@settings(deadline=None)
def test_graded_ndcg_equals_that_of_trec_eval(search):
    """The gain of a document is its grade, and the other metrics ignore how large it is."""
    ranked, grades = search
    scores = compute_metrics(ranked, graded(grades))
    qrels = {
        f"q{i}": {str(position): grade for position, grade in found.items()}
        for i, found in enumerate(grades)
    }
    run = {
        f"q{i}": {str(position): -float(rank) for rank, position in enumerate(row)}
        for i, row in enumerate(ranked.tolist())
    }
    names = {"ndcg@10": "ndcg_cut_10", "map@100": "map_cut_100"}
    names |= {f"recall@{k}": f"recall_{k}" for k in ranking.RECALL_AT}
    names |= {f"accuracy@{k}": f"success_{k}" for k in ranking.ACCURACY_AT}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {*names.values()}).evaluate(run)
    for metric, name in names.items():
        expected = [theirs[f"q{i}"][name] for i in range(len(grades))]
        assert scores.metrics[metric].tolist() == pytest.approx(expected, abs=1e-9)
    binary = compute_metrics(ranked, queries_of(list(map(list, grades))))
    for metric in {*METRICS} - {"ndcg@10"}:
        assert scores.metrics[metric].tobytes() == binary.metrics[metric].tobytes()
    assert scores.rank.tolist() == binary.rank.tolist()


@given(graded_searches())
@settings(deadline=None)
def test_grades_of_1_change_no_bit(search):
    """Whether they are given or left out."""
    ranked, grades = search
    ones = [dict.fromkeys(found, 1) for found in grades]
    with_grades = compute_metrics(ranked, graded(ones))
    without = compute_metrics(ranked, queries_of(list(map(list, ones))))
    for metric in METRICS:
        assert with_grades.metrics[metric].tobytes() == without.metrics[metric].tobytes()


def test_fractions_are_gains_as_they_are():
    """Unlike trec_eval, which reads whole grades only."""
    scores = compute_metrics(np.array([[1, 0, 2]]), graded([{0: 2.5, 1: 0.5}]))

    found = 0.5 + 2.5 / math.log2(3)
    assert scores.mean("ndcg@10") == pytest.approx(found / (2.5 + 0.5 / math.log2(3)))


def test_the_sign_vectors_tie_at_every_cut_off():
    """So the comparison above covers ties: scores at ranks 1, 10 and 100 equal those after them."""
    task = random_search(signs, 250)
    scores = torch.from_numpy(task.queries[:, :4] @ task.corpus[:, :4].T).sort(descending=True)

    for cut_off in (1, 10, 100):
        assert (scores.values[:, cut_off - 1] == scores.values[:, cut_off]).any()


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 250)),
        elements=st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0]),
    )
)
@settings(deadline=None)
def test_ranking_is_a_plain_sort_by_score_and_position(scores):
    """The fast top-k equals sorting for any number and position of equal scores."""
    expected = [
        sorted(range(len(row)), key=lambda position: (-row[position], position))[:100]
        for row in scores.tolist()
    ]

    assert top_k(torch.from_numpy(scores), 100).positions.tolist() == expected


@pytest.mark.parametrize("documents", [1, 9, 11, 99, 101])
def test_a_ranking_is_as_deep_as_the_corpus_and_at_most_100(documents):
    """A corpus smaller than the cut-offs is ranked completely; `top` holds the top 10."""
    task = random_search(normals, documents)

    ranked, scores = task.ranked_at(64), task.scores_at(64)

    assert ranked.shape == (25, min(documents, 100))
    assert all(len(set(row)) == len(row) for row in ranked.tolist())
    assert scores.top.tolist() == ranked[:, :10].tolist()
    assert {name: len(values) for name, values in scores.metrics.items()} == dict.fromkeys(
        METRICS, 25
    )


def test_ranks_and_metrics_equal_those_computed_by_hand():
    """Ranks count from 1, and 0 means that no relevant document is found."""
    ranked = np.stack([np.arange(100), np.arange(100), np.arange(100)])

    scores = compute_metrics(ranked, queries_of([[2, 11], [10], [150]]))

    assert scores.rank.tolist() == [3, 11, 0]
    assert scores.top.tolist() == [list(range(10))] * 3
    assert {name: values.tolist() for name, values in scores.metrics.items()} == {
        "ndcg@10": pytest.approx([0.5 / (1 + 1 / math.log2(3)), 0, 0]),
        "mrr@10": pytest.approx([1 / 3, 0, 0]),
        "map@100": pytest.approx([(1 / 3 + 2 / 12) / 2, 1 / 11, 0]),
        "recall@1": [0, 0, 0],
        "recall@5": [0.5, 0, 0],
        "recall@10": [0.5, 0, 0],
        "recall@100": [1, 1, 0],
        "accuracy@1": [0, 0, 0],
        "accuracy@3": [1, 0, 0],
        "accuracy@5": [1, 0, 0],
        "accuracy@10": [1, 0, 0],
    }
    assert scores.mean("mrr@10") == pytest.approx(1 / 9)
