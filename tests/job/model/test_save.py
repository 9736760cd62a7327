"""The saved model and the table of all queries equal what was scored."""

import json
import stat
from dataclasses import dataclass, replace

import pyarrow.parquet as pq
import pytest
from tiny_models import build_model

from job.core.errors import TrainingError
from job.data.dataset import Dataset, load_dataset
from job.evaluation.baseline import Baseline, score_base
from job.evaluation.dimensions import Dimensions
from job.evaluation.evaluate import score_vectors
from job.evaluation.metrics import METRICS, Scores
from job.model.device import Machine
from job.model.dtypes import published_dtype, stored_dtype
from job.model.encode import embed_texts
from job.model.encoder import Prompts, load_model
from job.model.save import save_model, write_model
from job.report.write import write_per_query
from job.spec.parse import build_spec
from job.spec.schema import JobSpec, ModelSpec

CPU = Machine("cpu", "float32", "set in the spec")
DIMENSIONS = Dimensions((64, 32), 32)


OWN_MODULE = """
from sentence_transformers.base.modules.module import Module
from .own_helper import half

class Halve(Module):
    def forward(self, features, **_):
        features["sentence_embedding"] = half(features["sentence_embedding"])
        return features

    def save(self, *_, **__):
        pass

    @classmethod
    def load(cls, *_, **__):
        return cls()
"""


@dataclass(frozen=True)
class Scored:
    """A dataset and the base model's scores on it; the base model serves as the tuned model."""

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
    """Load the model for each test, as tests change it."""
    return load_model(scored.spec.model, CPU)


def test_a_saved_model_gives_the_same_embeddings_as_the_scored_one(scored, model, tmp_path):
    """All users may read the files; the prompts are ours, not those of the base model."""
    import torch
    from sentence_transformers import SentenceTransformer

    model.encoder.prompts = {"s2p_query": "ask1 "}
    model.encoder.default_prompt_name = "s2p_query"
    (tmp_path / "leftover.txt").write_text("of an earlier try", "utf-8")

    prompts = Prompts("ask1 ", "tell1 tell2 ")
    save_model(model.with_prompts(prompts), tmp_path, scored.dataset)

    assert not (tmp_path / "leftover.txt").exists()
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o644
    saved = SentenceTransformer(str(tmp_path), device="cpu")
    assert saved.prompts == {"query": prompts.query, "document": prompts.document}
    texts = scored.dataset.test.texts.to_pylist()[:8]
    for prompt, encode in (
        (prompts.query, saved.encode_query),
        (prompts.document, saved.encode_document),
    ):
        torch.testing.assert_close(
            encode(texts, convert_to_tensor=True),
            model.encoder.encode(texts, prompt=prompt, convert_to_tensor=True),
        )


@pytest.mark.parametrize("fault", ["lost on disk", "not a number"])
def test_a_saved_model_with_other_embeddings_is_an_error(scored, model, tmp_path, fault):
    """State that is not saved gets lost; NaN is not equal to itself."""
    import torch

    with torch.no_grad():
        if fault == "not a number":
            next(model.encoder.parameters()).fill_(float("nan"))
        else:
            # Reverse the positions, a buffer that transformers does not save, and that texts
            # without padding do not read.
            model = replace(model, packs=False)
            positions = model.encoder[0].model.embeddings.position_ids
            positions.copy_(torch.flip(positions, dims=[1]))

    cosine = "nan" if fault == "not a number" else r"0\.\d+"
    with pytest.raises(TrainingError, match=rf"query: cosine {cosine}"):
        save_model(model, tmp_path, scored.dataset)


@pytest.mark.parametrize("name", ["static embeddings", "model2vec"])
def test_static_embeddings_are_stored_as_float32_whatever_is_asked(tmp_path, name):
    """The library would compute them in bfloat16, and so change the vectors that were scored."""
    from sentence_transformers import SentenceTransformer

    model = load_model(ModelSpec(base=str(build_model(name, tmp_path / "base"))), CPU)
    texts = ["ask1 ask2", "tell3 the tell4 of tell5"]

    dtype = stored_dtype("bfloat16", model)
    write_model(model, tmp_path / "stored", dtype)

    assert dtype == published_dtype(tmp_path / "stored") == "float32"
    found = SentenceTransformer(str(tmp_path / "stored"), device="cpu").encode_document(
        texts, convert_to_tensor=True, normalize_embeddings=True
    )
    assert found.equal(embed_texts(model, texts, "document", 2))


def test_each_query_has_a_row_for_each_model_dimension_and_precision(table, scored):
    """BM25 has no vectors, so its dimension is 0."""
    head = ["query_id", "group", "model", "dimension", "precision", "rank"]
    assert table.column_names == [*head, *METRICS, "top_ids"]
    precisions = ["float32", "int8", "int8_rescored", "binary", "binary_rescored"]
    variants = [("bm25", 0, "float32"), *(("tuned", d, p) for d in (64, 32) for p in precisions)]
    names = ("model", "dimension", "precision", "query_id")
    assert list(zip(*(table[name].to_pylist() for name in names), strict=True)) == [
        (*variant, query) for variant in variants for query in scored.dataset.test.ids.to_pylist()
    ]


def test_the_tables_means_are_the_reported_scores(table, scored):
    """The table's rows average to the numbers of the report."""
    columns = ["model", "dimension", "precision"]
    means = table.to_pandas().groupby(columns)[list(METRICS)].mean()
    reported = {("bm25", 0, "float32"): scored.base.bm25.means()}
    for dimension, by_precision in scored.tuned.items():
        reported |= {("tuned", dimension, p): s.means() for p, s in by_precision.items()}
    assert {variant: dict(row) for variant, row in means.iterrows()} == {
        variant: pytest.approx(scores) for variant, scores in reported.items()
    }


def test_rank_and_top_ids_agree(table, scored):
    """A rank starts at 1 and is null beyond 100; up to 10 it is a position in `top_ids`."""
    dataset = scored.dataset
    answers = {
        query: set(dataset.corpus.ids.take(dataset.test.relevant(number)).to_pylist())
        for number, query in enumerate(dataset.test.ids.to_pylist())
    }
    rows = table.to_pylist()
    assert {row["rank"] is None for row in rows} == {True, False}
    for row in rows:
        rank, top = row["rank"], row["top_ids"]
        hits = [
            position for position, found in enumerate(top, 1) if found in answers[row["query_id"]]
        ]
        assert len(set(top)) == 10
        assert (hits[0] if hits else None) == (rank if rank and rank <= 10 else None)
        assert row["mrr@10"] == pytest.approx(1 / hits[0] if hits else 0.0)
        assert row["recall@100"] == (1.0 if rank else 0.0)
        assert rank is None or 1 <= rank <= 100


def test_own_code_is_stored_with_the_model(tmp_path):
    """The library stores the code of transformers, but not that of modules."""
    folder = build_model("bert", tmp_path / "base")
    (folder / "own_module.py").write_text(OWN_MODULE, "utf-8")
    (folder / "own_helper.py").write_text("def half(vectors):\n    return vectors / 2\n", "utf-8")
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    modules.append({"idx": 2, "name": "2", "path": "2_Halve", "type": "own_module.Halve"})
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    model = load_model(ModelSpec(base=str(folder), trust_remote_code=True), CPU)

    write_model(model, tmp_path / "stored", "float32")

    assert {path.name for path in (tmp_path / "stored").glob("*.py")} == {
        "own_module.py",
        "own_helper.py",
    }
    stored = load_model(ModelSpec(base=str(tmp_path / "stored"), trust_remote_code=True), CPU)
    found, expected = (each.encoder.encode("ask1 the") for each in (stored, model))
    assert found.tolist() == expected.tolist()
