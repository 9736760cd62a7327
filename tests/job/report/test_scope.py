"""The report says for which questions, documents and trainings its results hold."""

import numpy as np
import pyarrow as pa
import pytest
from reports import improved

from job.data.dataset import Queries
from job.evaluation.metrics import METRIC, Scores
from job.evaluation.scope import AtSize, CorpusSizes, OneSeed, Scope, SeedLifts
from job.report.document import Report
from job.report.render import to_html, to_markdown
from job.report.scope import corpus_sentence, lifts_by_source


def sizes(*measured, precision="int8", dimension=64, slope=None, ci=None):
    found = [AtSize(documents=n, ndcg=s / 2, full_ndcg=0.5, share=s) for n, s in measured]
    return CorpusSizes(
        dimension=dimension,
        precision=precision,
        full_dimension=384,
        measured=found,
        per_doubling=slope,
        ci=ci,
    )


FAR = (
    " An index of 10,000,000 documents is 13 doublings larger, where nothing was measured: expect "
    "lower scores, and smaller vectors to keep less. Your own documents as `data.corpus` make the "
    "measurement hold for your index."
)
THREE = ((371, 0.98), (743, 0.96), (1486, 0.94))


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            sizes(*THREE, slope=-0.02, ci=(-0.03, -0.01)),
            "64 dimensions as int8 keep 94.0% among 1,486 documents, 96.0% among 743 and 98.0% "
            "among 371: -2.0 points [-3.0, -1.0] with each doubling of the corpus." + FAR,
        ),
        (
            sizes(*THREE[1:], slope=-0.02, ci=(-0.05, 0.01)),
            "64 dimensions as int8 keep 94.0% among 1,486 documents, 96.0% among 743 (-2.0 points "
            "[-5.0, +1.0] with each doubling of the corpus: no loss is shown)." + FAR,
        ),
        (
            sizes((1486, 0.94), precision="binary_rescored"),
            "64 dimensions as binary, rescored, keep 94.0% among 1,486 documents."
            + FAR
            + " Rescoring ranks the best 200 documents again, 13% of this corpus; in a larger one "
            "that is a smaller part, and it corrects less.",
        ),
        # In a corpus of a million documents neither is worth a word.
        (
            sizes((1_200_000, 0.94), precision="binary_rescored"),
            "64 dimensions as binary, rescored, keep 94.0% among 1,200,000 documents.",
        ),
        (
            sizes((1486, 1.0), precision="float32", dimension=384),
            "All scores are measured among 1,486 documents." + FAR,
        ),
    ],
)
def test_what_small_vectors_keep_is_said_with_the_size_of_the_corpus(found, sentence):
    assert corpus_sentence(found) == sentence


def queries_of(seen):
    numbers = np.arange(len(seen))
    texts = pa.array([str(n) for n in numbers])
    offsets = np.arange(len(seen) + 1)
    return Queries(texts, texts, offsets, numbers, numbers, seen=np.array(seen))


def scores_of(values):
    nothing = np.zeros(len(values), dtype=np.int64)
    return Scores({METRIC: np.array(values, dtype=float)}, nothing, nothing[:, None])


def test_lifts_are_told_apart_by_sources_seen_in_training():
    """Seen sources gain 0.5, the others 0.1; with too few of one kind nothing is said."""
    queries = queries_of([True] * 12 + [False] * 20)
    base, tuned = scores_of([0.2] * 32), scores_of([0.7] * 12 + [0.3] * 20)
    seen, others = lifts_by_source(queries, base, tuned)
    assert (seen.name, seen.queries, seen.lift) == ("seen in training", 12, pytest.approx(0.5))
    assert (others.name, others.queries) == ("not seen in training", 20)
    assert others.lift == pytest.approx(0.1)
    few = queries_of([True] * 9 + [False] * 23)
    assert lifts_by_source(few, base, tuned) == []


def test_both_views_show_the_scope_and_older_reports_have_none():
    report = Report.model_validate(improved(scope=None))
    assert "What the results hold for" not in to_html(report) + to_markdown(report)
    seen, others = lifts_by_source(
        queries_of([True] * 12 + [False] * 20), scores_of([0.2] * 32), scores_of([0.7] * 32)
    )
    scope = Scope(
        estimand="The scores are of new questions.",
        dimension=64,
        by_source=[seen, others],
        corpus=sizes(*THREE),
        corpus_sentence="They keep 94.0%.",
        training="Not another training.",
    )
    seeds = SeedLifts(
        seeds=[
            OneSeed(seed=42, validation=0.6, ndcg=0.7, lift=0.11),
            OneSeed(seed=43, validation=0.61, ndcg=0.69, lift=0.123),
        ],
        chosen=43,
        lift=0.115,
        ci=(0.05, 0.18),
        query_error=0.03,
        seed_deviation=0.01,
        degrees_of_freedom=9.0,
    )
    scope = scope.model_copy(update={"seeds": seeds})
    told = report.model_copy(update={"scope": scope})
    for view in (to_html(told), to_markdown(told)):
        for text in (
            scope.estimand,
            "They keep 94.0%.",
            scope.training,
            "not seen in training",
            "+0.123",
        ):
            assert text in view
    assert 'href="#scope"' in to_html(told)
    assert "743" in to_html(told)
    assert "Lift of each training" in to_html(told)
    assert "| 43 (stored) | 0.610 | 0.690 | +0.123 |" in to_markdown(told)
