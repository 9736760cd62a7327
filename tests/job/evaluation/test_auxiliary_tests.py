"""Auxiliary tests of both models: their scores, and the conclusions drawn from them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import distinct_rows as rows_of
from conftest import write_jsonl

from job.data.dataset import load_dataset
from job.evaluation.auxiliary_tests import (
    ARTICLE_VERDICTS,
    OUT_OF_DOMAIN_VERDICTS,
    article_test,
    auxiliary_tests,
)
from job.evaluation.dimensions import Dimensions
from job.evaluation.metrics import METRIC, METRICS, compute_metrics
from job.model.device import Machine
from job.model.encoder import Prompts, load_model
from job.spec.parse import build_spec
from job.spec.schema import DataSpec, ModelSpec

DIMENSIONS = Dimensions((64, 16), 16)
PROMPTS = Prompts("ask1 ask2 ", "tell3 tell4 ")


@pytest.fixture
def load(tmp_path):
    """Load the auxiliary tests of a job with sixty rows and the given out-of-domain rows."""
    data = str(write_jsonl(tmp_path / "data.jsonl", rows_of(60, "own")))

    def make(out_of_domain=None, **fields):
        settings = {"data.source": data, "data.min_test_queries": "3"}
        settings |= {key.replace("__", "."): value for key, value in fields.items()}
        if out_of_domain is not None:
            settings["evaluation.out_of_domain"] = str(
                write_jsonl(tmp_path / "probe.jsonl", out_of_domain)
            )
        spec = build_spec({}, settings)
        return auxiliary_tests(spec, {}, load_dataset(spec.data, {})), spec

    return make


# Scoring.


def expected_ndcg(encoder, rows, prompts, dimension):
    """Rank by cosines of sentence-transformers' own embeddings; one relevant document each."""
    queries, documents = (
        encoder.encode([row[key] for row in rows], prompt=prompt)[:, :dimension]
        for key, prompt in (("question", prompts.query), ("context", prompts.document))
    )
    queries, documents = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (queries, documents)
    )
    similarities = queries @ documents.T
    ranks = 1 + (similarities > np.diag(similarities)[:, None]).sum(axis=1)
    return [1 / math.log2(1 + rank) if rank <= 10 else 0.0 for rank in ranks.tolist()]


@pytest.mark.parametrize("prompts", [Prompts(), PROMPTS], ids=["without", "with"])
def test_a_model_is_scored_with_its_own_prompts(load, tiny_encoder, pairs_file, prompts):
    """The scores equal sentence-transformers' at each dimension."""
    rows = [json.loads(line) for line in pairs_file.read_text("utf-8").splitlines()[:60]]
    out_of_domain = load(rows)[0]["out_of_domain"]
    machine = Machine("cpu", "float32", "")
    model = load_model(ModelSpec(base=str(tiny_encoder)), machine).with_prompts(prompts)
    found = out_of_domain.score(model, DIMENSIONS, 16)
    assert list(found) == [64, 16]
    for dimension, scores in found.items():
        expected = expected_ndcg(model.encoder, rows, prompts, dimension)
        np.testing.assert_allclose(scores.metrics[METRIC], expected, atol=1e-9)


# Conclusions.

SIZE = 60


@pytest.fixture
def conclude(load):
    """Compare rankings of sixty queries whose relevant documents have the given ranks."""
    tests, spec = load(rows_of(SIZE, "other"), evaluation__permutations="1000")
    out_of_domain = tests["out_of_domain"]

    def scores(ranks):
        ranked = []
        for query in range(SIZE):
            relevant = int(out_of_domain.queries.relevant(query)[0])
            others = [d for d in range(SIZE) if d != relevant][:9]
            ranked.append([*others[: ranks[query] - 1], relevant, *others[ranks[query] - 1 :]])
        return compute_metrics(np.array(ranked), out_of_domain.queries)

    def make(before, after, test=out_of_domain, worth=0.01):
        """Use these ranks at 16 dimensions; at 64 nothing changes."""
        evaluation = spec.evaluation.model_copy(update={"worth": worth})
        spec_with_worth = spec.model_copy(update={"evaluation": evaluation})
        best = scores([1] * SIZE)
        base, tuned = scores(before), scores(after)
        return test.compare({64: best, 16: base}, {64: best, 16: tuned}, 16, spec_with_worth)

    make.out_of_domain = out_of_domain
    return make


ALL_FIRST = [1] * SIZE
# nDCG@10 is 0.5 if the relevant document has rank 3.
SOME_THIRD = [3] * 20 + [1] * 40
ONE_THIRD = [3] + [1] * 59
FIVE_THIRD = [3] * 5 + [1] * 55
FIVE_NINTH, SIX_TENTH = [1] + [9] * 5 + [1] * 54, [10] * 6 + [1] * 54
GAINED, FORGOT = OUT_OF_DOMAIN_VERDICTS
UNKNOWN = (
    "the test cannot tell whether it forgot (the difference is between {}; about {} could tell)"
)


def test_a_loss_on_out_of_domain_data_is_reported(conclude):
    """The report has all metrics by dimension; its sentence is about the main dimension."""
    facts = conclude(ALL_FIRST, SOME_THIRD)
    assert facts.source.endswith("/probe.jsonl")
    assert facts.sentence == (
        f"On out-of-domain data ({facts.source}), nDCG@10 at 16 dimensions: 1.000 → 0.833, "
        f"-0.167 [-0.229, -0.105], p < 0.001: {FORGOT}."
    )
    assert (facts.queries, facts.corpus, facts.left_out) == (SIZE, SIZE, 0)
    assert list(facts.scores.base) == list(facts.scores.tuned) == ["64", "16"]
    assert set(facts.scores.tuned["16"]) == set(METRICS)
    assert facts.scores.tuned["16"][METRIC] == pytest.approx(5 / 6)
    assert facts.scores.base["16"][METRIC] == facts.scores.tuned["64"][METRIC] == 1.0
    unchanged = facts.comparison["64"]
    assert (unchanged.lift, unchanged.p_value, unchanged.ties) == (0.0, 1.0, SIZE)
    # As if one more query had moved between rank 1 and rank 2: no change proves no equality.
    assert unchanged.ci == pytest.approx((-0.018, 0.018), abs=0.001)
    found = facts.comparison["16"]
    assert found.lift == pytest.approx(-1 / 6)
    assert (found.wins, found.ties, found.losses) == (0, 40, 20)


@pytest.mark.parametrize(
    ("before", "after", "numbers", "verdict"),
    [
        (SOME_THIRD, ALL_FIRST, "0.833 → 1.000, +0.167 [+0.105, +0.229], p < 0.001", GAINED),
        (
            ALL_FIRST,
            ONE_THIRD,
            "1.000 → 0.992, -0.008 [-0.035, +0.019], p = 1.000",
            UNKNOWN.format("-0.035 and +0.019", "420 test queries"),
        ),
        # Five equal losses may be chance: 2 of 32 sign flips are as extreme.
        (
            ALL_FIRST,
            FIVE_THIRD,
            "1.000 → 0.958, -0.042 [-0.084, +0.003], p = 0.063",
            UNKNOWN.format("-0.084 and +0.003", "1,200 test queries"),
        ),
        # One of six is nearly the whole loss: the p-value is significant, the interval is not.
        (
            FIVE_NINTH,
            SIX_TENTH,
            "0.942 → 0.929, -0.013 [-0.037, +0.011], p = 0.026",
            UNKNOWN.format("-0.045 and +0.020", "630 test queries").replace(
                "(the", "(with one more changed query or group, the"
            ),
        ),
    ],
    ids=["gain", "one query less", "too few", "too uneven"],
)
def test_a_verdict_needs_a_significant_difference(conclude, before, after, numbers, verdict):
    """Otherwise the test cannot tell; it does not say that nothing was lost."""
    sentence = conclude(before, after).sentence
    assert sentence.endswith(f"nDCG@10 at 16 dimensions: {numbers}: {verdict}.")


def test_a_loss_is_excluded_if_the_lower_bound_is_small(conclude):
    """The sentence has the bound, and `evaluation.worth` decides what is small."""
    test = replace(conclude.out_of_domain, verdicts=ARTICLE_VERDICTS)
    assert conclude(ALL_FIRST, ALL_FIRST, test, worth=0.02).sentence.endswith(
        "nDCG@10 at 16 dimensions: 1.000 → 1.000, +0.000 [-0.018, +0.018], p = 1.000: it lost at "
        "most 0.018."
    )
    assert "cannot tell" in conclude(ALL_FIRST, ALL_FIRST, test, worth=0.01).sentence


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (SOME_THIRD, ALL_FIRST, ARTICLE_VERDICTS[0]),
        (ALL_FIRST, SOME_THIRD, ARTICLE_VERDICTS[1]),
    ],
)
def test_the_articles_protocol_has_its_own_verdicts(conclude, before, after, verdict):
    """A loss there is not called forgetting: the rows are the job's own test rows."""
    test = replace(conclude.out_of_domain, verdicts=ARTICLE_VERDICTS)
    assert conclude(before, after, test).sentence.endswith(f": {verdict}.")


# Selection.


def test_there_is_no_auxiliary_test_by_default(load):
    assert load()[0] == {}


def test_protocol_both_adds_the_articles_protocol(load, tiny_encoder):
    """It uses no prompts, even if the model has some."""
    tests, spec = load(evaluation__protocol="both")
    assert list(tests) == ["article"]
    article = tests["article"]
    assert (len(article.queries), len(article.corpus)) == (6, 60)
    model = load_model(ModelSpec(base=str(tiny_encoder)), Machine("cpu", "float32", ""))
    plain = article.score(model, DIMENSIONS, 16)
    prompted = article.score(model.with_prompts(PROMPTS), DIMENSIONS, 16)
    for dimension, scores in plain.items():
        assert scores.metrics[METRIC].tolist() == prompted[dimension].metrics[METRIC].tolist()
    sentence = article.compare(plain, plain, 16, spec).sentence
    assert sentence.startswith(
        "By the article's protocol (one document per row, no prompts), nDCG@10 at 16 dimensions: "
    )


# The article's protocol.


@pytest.fixture
def article_data(tmp_path):
    rows = [{"question": f"what is {i}?", "context": f"context {i // 2} of all"} for i in range(60)]
    rows += [{"question": f"What is {i}?", "context": f"other {i}"} for i in range(4)]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    return load_dataset(DataSpec(source=str(path), min_test_queries=2, test_fraction=0.3), {})


def test_each_row_is_one_query_with_one_document(article_data):
    """A context in two rows makes two documents; only the row's own copy is relevant."""
    queries, corpus = article_test(article_data)

    assert len(corpus) == 64
    assert len(article_data.corpus) == 34
    assert queries.texts.to_pylist() == article_data.test_pairs["anchor"].to_pylist()
    assert np.diff(queries.offsets).tolist() == [1] * len(queries)
    relevant = corpus.texts.take(queries.documents).to_pylist()
    assert relevant == article_data.test_pairs["positive"].to_pylist()
    assert len(set(queries.documents.tolist())) == len(queries)


def test_the_corpus_is_sorted_by_row_id_not_by_split(article_data):
    """Duplicates have equal scores: if training rows came first, they would always win."""
    _, corpus = article_test(article_data)

    splits = (article_data.train.table, article_data.validation_pairs, article_data.test_pairs)
    rows = [row for part in splits for row in part.select(["id", "positive"]).to_pylist()]
    by_id = sorted(rows, key=lambda row: row["id"])
    assert corpus.texts.to_pylist() == [row["positive"] for row in by_id]
    assert corpus.ids.to_pylist() == sorted(corpus.ids.to_pylist())


def test_rows_with_the_same_question_share_a_group(article_data):
    """Confidence intervals are computed by group, as for the main test."""
    queries, _ = article_test(article_data)

    by_text = {}
    for text, group in zip(queries.texts.to_pylist(), queries.groups.tolist(), strict=True):
        by_text.setdefault(text.lower(), set()).add(group)
    assert all(len(groups) == 1 for groups in by_text.values())
    assert set(queries.groups.tolist()) == set(article_data.test.groups.tolist())
