"""What is saved is what was scored: the model, and the table of every query."""

import stat
from dataclasses import dataclass

import pyarrow.parquet as pq
import pytest

from job.core.errors import TrainingError
from job.data.dataset import Dataset, load_dataset
from job.evaluation.baseline import Baseline, score_base
from job.evaluation.evaluate import Dimensions, score_vectors
from job.evaluation.metrics import METRICS, Scores
from job.model.device import Machine
from job.model.encoder import Prompts, load_model
from job.model.save import save_model
from job.report.write import write_per_query
from job.spec.parse import build_spec
from job.spec.schema import JobSpec

CPU = Machine("cpu", "float32", "as the spec says")
DIMENSIONS = Dimensions((64, 32), 32)


@dataclass(frozen=True)
class Scored:
    """A data set and the base model's scores on it; saved as if it were the tuned one."""

    spec: JobSpec
    dataset: Dataset
    base: Baseline
    tuned: dict[int, dict[str, Scores]]


@pytest.fixture(scope="module")
def scored(tiny_encoder, pairs_file):
    spec = build_spec({}, {"data.source": str(pairs_file), "model.base": str(tiny_encoder)})
    dataset = load_dataset(spec.data, {})
    base = score_base(load_model(spec.model, CPU), dataset, DIMENSIONS, spec)
    tuned = score_vectors(base.vectors, dataset.test, DIMENSIONS.all, ["int8", "binary"])
    return Scored(spec, dataset, base, tuned)


@pytest.fixture(scope="module")
def table(scored, tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "new" / "per_query.parquet"
    every_query = {"bm25": {0: {"float32": scored.base.bm25}}, "tuned": scored.tuned}
    write_per_query(path, scored.dataset, every_query)
    return pq.read_table(path)


@pytest.fixture
def model(scored):
    """Load the model anew: tests change it."""
    return load_model(scored.spec.model, CPU)


def test_a_saved_model_embeds_as_the_one_that_was_scored(scored, model, tmp_path):
    """Anybody may read it and gets the same vectors, by our prompts and not by the base's own."""
    import torch
    from sentence_transformers import SentenceTransformer

    model.encoder.prompts = {"s2p_query": "ask1 "}
    model.encoder.default_prompt_name = "s2p_query"
    (tmp_path / "leftover.txt").write_text("of an earlier try", "utf-8")

    prompts = Prompts("ask1 ", "tell1 tell2 ")
    save_model(model.with_prompts(prompts), tmp_path, scored.dataset)

    assert not (tmp_path / "leftover.txt").exists()
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o644
    stored = SentenceTransformer(str(tmp_path), device="cpu")
    assert stored.prompts == {"query": prompts.query, "document": prompts.document}
    texts = scored.dataset.test.texts.to_pylist()[:8]
    for prompt, encode in (
        (prompts.query, stored.encode_query),
        (prompts.document, stored.encode_document),
    ):
        torch.testing.assert_close(
            encode(texts, convert_to_tensor=True),
            model.encoder.encode(texts, prompt=prompt, convert_to_tensor=True),
        )


@pytest.mark.parametrize("fault", ["lost on disk", "not a number"])
def test_a_model_that_loads_otherwise_than_it_was_scored_is_refused(scored, model, tmp_path, fault):
    """What a model keeps in memory only is lost; NaN equals nothing, not even itself."""
    import torch

    with torch.no_grad():
        if fault == "not a number":
            next(model.encoder.parameters()).fill_(float("nan"))
        else:
            # Positions counted backwards: a buffer that transformers does not save.
            positions = model.encoder[0].model.embeddings.position_ids
            positions.copy_(torch.flip(positions, dims=[1]))

    cosine = "nan" if fault == "not a number" else r"0\.\d+"
    with pytest.raises(TrainingError, match=rf"encode_query: cosine {cosine}"):
        save_model(model, tmp_path, scored.dataset)


def test_each_query_has_a_row_for_each_model_dimension_and_precision(table, scored):
    """BM25, which has no vectors, has dimension 0."""
    head = ["query_id", "model", "dimension", "precision", "rank"]
    assert table.column_names == [*head, *METRICS, "top_ids"]
    precisions = ["float32", "int8", "int8_rescored", "binary", "binary_rescored"]
    kinds = [("bm25", 0, "float32"), *(("tuned", d, p) for d in (64, 32) for p in precisions)]
    names = ("model", "dimension", "precision", "query_id")
    assert list(zip(*(table[name].to_pylist() for name in names), strict=True)) == [
        (*kind, query) for kind in kinds for query in scored.dataset.test.ids.to_pylist()
    ]


def test_the_tables_means_are_the_reported_scores(table, scored):
    """Whoever slices the table starts from the numbers that the report shows."""
    kinds = ["model", "dimension", "precision"]
    means = table.to_pandas().groupby(kinds)[list(METRICS)].mean()
    reported = {("bm25", 0, "float32"): scored.base.bm25.means()}
    for dimension, by_precision in scored.tuned.items():
        reported |= {("tuned", dimension, p): s.means() for p, s in by_precision.items()}
    assert {kind: dict(row) for kind, row in means.iterrows()} == {
        kind: pytest.approx(scores) for kind, scores in reported.items()
    }


def test_ranks_and_first_ten_tell_where_the_answer_was(table, scored):
    """A rank counts from 1 and is null beyond 100; up to ten it points into the first ten."""
    dataset = scored.dataset
    answers = {
        query: set(dataset.corpus.ids.take(dataset.test.relevant(number)).to_pylist())
        for number, query in enumerate(dataset.test.ids.to_pylist())
    }
    rows = table.to_pylist()
    assert {row["rank"] is None for row in rows} == {True, False}
    for row in rows:
        rank, top = row["rank"], row["top_ids"]
        hits = [place for place, found in enumerate(top, 1) if found in answers[row["query_id"]]]
        assert len(set(top)) == 10
        assert (hits[0] if hits else None) == (rank if rank and rank <= 10 else None)
        assert row["mrr@10"] == pytest.approx(1 / hits[0] if hits else 0.0)
        assert row["recall@100"] == (1.0 if rank else 0.0)
        assert rank is None or 1 <= rank <= 100
