"""What is stored is what was scored, complete or not at all, and readable by others."""

import hashlib
import json
import stat
from dataclasses import dataclass

import pyarrow.parquet as pq
import pytest

from job import store
from job.baseline import Baseline, score_base
from job.data import Dataset, load_dataset, write_splits
from job.errors import SpecError, StorageError, TrainingError
from job.evaluate import Dimensions, score_vectors
from job.machine import Machine
from job.model import Prompts, load_model
from job.places import LocalPlace
from job.ranking import METRICS, Scores
from job.spec import JobSpec
from job.spec_document import build_spec
from job.workspace import Workspace

CPU = Machine("cpu", "float32", "as the spec says")
DIMENSIONS = Dimensions((64, 32), 32)


@dataclass(frozen=True)
class Scored:
    """A data set and the base model's scores on it; stored as if it were the tuned one."""

    spec: JobSpec
    dataset: Dataset
    base: Baseline
    tuned: dict[int, dict[str, Scores]]


@pytest.fixture(scope="module")
def scored(tiny_encoder, pairs_file):
    """Score the tiny encoder on its pairs."""
    spec = build_spec({}, {"data.source": str(pairs_file), "model.base": str(tiny_encoder)})
    dataset = load_dataset(spec.data, {})
    base = score_base(load_model(spec.model, CPU), dataset, DIMENSIONS, spec)
    tuned = score_vectors(base.vectors, dataset.test, DIMENSIONS.all, ["int8", "binary"])
    return Scored(spec, dataset, base, tuned)


@pytest.fixture
def model(scored):
    """Load the model anew: tests change it."""
    return load_model(scored.spec.model, CPU)


@pytest.fixture
def workspace(scored, model, tmp_path):
    """Fill a workspace with all that a run leaves, but for the manifest."""
    place = Workspace(tmp_path / "work")
    place.write_spec(scored.spec)
    write_splits(scored.dataset, place.splits)
    place.logs.mkdir()
    (place.logs / "job.log").write_text("a line\n", "utf-8")
    store.save_model(model, place.model, scored.dataset)
    every_query = {"bm25": {0: {"float32": scored.base.bm25}}, "tuned": scored.tuned}
    store.write_per_query(place.per_query, scored.dataset, every_query)
    return place


@pytest.fixture
def result(tmp_path):
    """Name the folder that receives the results."""
    return LocalPlace(tmp_path / "result")


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }


# The manifest


def test_the_manifest_lists_every_file_with_its_size_and_digest(workspace, result):
    """Whoever has the manifest can check that nothing is missing, added or changed."""
    store.write_manifest(workspace)
    store.publish(workspace, result)
    store.complete(workspace, result)

    files = files_of(result.folder)
    manifest = json.loads(files.pop("manifest.json").read_text("utf-8"))
    assert {"spec.json", "per_query.parquet", "data/qrels.tsv", "logs/job.log"} < files.keys()
    assert {"model/model.safetensors", "model/modules.json"} < files.keys()
    assert manifest == {
        name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for name, path in files.items()
    }


@pytest.mark.parametrize("name", ["spec.json", "per_query.parquet", "model/model.safetensors"])
def test_a_result_that_is_only_half_there_has_no_manifest(workspace, result, name):
    """Whichever file cannot be written, first or last: no manifest, no result."""
    in_the_way = result.folder / name
    in_the_way.mkdir(parents=True)
    store.write_manifest(workspace)

    with pytest.raises(StorageError) as caught:
        store.publish(workspace, result)

    assert str(caught.value) == f"`{in_the_way}` cannot be written: Is a directory."
    assert not store.is_complete(result)
    in_the_way.rmdir()
    store.publish(workspace, result)
    assert not store.is_complete(result)
    store.complete(workspace, result)
    assert store.is_complete(result)


def test_publishing_replaces_what_an_unfinished_run_left(workspace, result):
    """A second try overwrites the first one's files."""
    published = result.folder / "model" / "model.safetensors"
    published.parent.mkdir(parents=True)
    published.write_bytes(b"half a mod")
    store.write_manifest(workspace)

    store.publish(workspace, result)

    assert published.read_bytes() == (workspace.model / "model.safetensors").read_bytes()


class Watched(LocalPlace):
    """Writes down what was put into it, in order."""

    def __init__(self, folder):
        super().__init__(folder)
        self.parts = []

    def put(self, files):
        self.parts.append(set(files))
        super().put(files)

    def write(self, name, text):
        self.parts.append({name})
        super().write(name, text)


def test_the_report_is_published_first_and_the_model_last(workspace, tmp_path):
    """What is small and wanted is there while the weights still travel; the manifest ends it."""
    workspace.report.mkdir()
    for name in ("report.json", "report.md"):
        (workspace.report / name).write_text("{}", "utf-8")
    store.write_manifest(workspace)
    place = Watched(tmp_path / "result")

    store.publish(workspace, place)
    store.complete(workspace, place)

    listed = json.loads((workspace.results / "manifest.json").read_text("utf-8")).keys()
    model = {name for name in listed if name.startswith("model/")}
    assert "model/model.safetensors" in model
    report = {"report/report.json", "report/report.md"}
    assert place.parts == [report, listed - report - model, model, {"manifest.json"}]


def test_a_destination_is_claimed_by_the_jobs_spec(scored, tmp_path):
    """It proves that the place can be written and keeps other jobs away; again it does nothing."""
    place = Watched(tmp_path / "runs" / "name")

    store.claim(place, scored.spec)
    store.claim(place, scored.spec)

    assert place.parts == [{"spec.json"}]
    assert files_of(place.folder).keys() == {"spec.json"}
    assert place.read("spec.json") == scored.spec.to_json()
    assert not store.is_complete(place)


def test_a_destination_that_cannot_be_made_is_refused_at_once(scored, tmp_path):
    """Before hours of work, not after: a file stands where a folder should be."""
    (tmp_path / "runs").write_text("in the way", "utf-8")
    folder = tmp_path / "runs" / "name"

    with pytest.raises(StorageError) as caught:
        store.claim(LocalPlace(folder), scored.spec)

    assert str(caught.value) == f"`{folder / 'spec.json'}` cannot be written: Not a directory."


def test_a_destination_of_another_job_is_refused(scored, workspace, result):
    """Two jobs are not mixed in one folder; the fields that differ are named."""
    store.write_manifest(workspace)
    store.publish(workspace, result)
    store.complete(workspace, result)
    other = build_spec(scored.spec.model_dump(mode="json"), {"training.epochs": "9"})

    store.claim(result, scored.spec)
    with pytest.raises(SpecError) as caught:
        store.claim(result, other)

    assert str(caught.value) == (
        f"`{result.folder}` belongs to a run with another spec; these differ: `training.epochs`. "
        "Use another `--name`, or the same values."
    )


# The model


def test_a_saved_model_embeds_as_the_one_that_was_scored(workspace, scored, model):
    """Anybody who loads the folder gets the same vectors, prompts included."""
    import torch
    from sentence_transformers import SentenceTransformer

    prompted = model.with_prompts(Prompts("ask1 ", "tell1 tell2 "))
    store.save_model(prompted, workspace.model, scored.dataset)

    stored = SentenceTransformer(str(workspace.model), device="cpu")
    assert stored.prompts == {"query": "ask1 ", "document": "tell1 tell2 "}
    texts = scored.dataset.test.texts.to_pylist()[:8]
    for prompt, encode in (
        ("ask1 ", stored.encode_query),
        ("tell1 tell2 ", stored.encode_document),
    ):
        torch.testing.assert_close(
            encode(texts, convert_to_tensor=True),
            model.encoder.encode(texts, prompt=prompt, convert_to_tensor=True),
        )


def test_a_model_that_is_saved_again_leaves_nothing_of_the_first(workspace, scored, model):
    """Files of an earlier try do not end up in the manifest."""
    (workspace.model / "leftover.txt").write_text("old", "utf-8")

    store.save_model(model, workspace.model, scored.dataset)

    assert "leftover.txt" not in files_of(workspace.model)


def test_a_model_that_loads_otherwise_than_it_was_scored_is_not_stored(workspace, scored, model):
    """Whatever a model keeps only in memory is lost on disk, and then it is another model."""
    import torch

    # Positions counted backwards: a buffer that transformers does not save.
    positions = model.encoder[0].model.embeddings.position_ids
    positions.copy_(torch.flip(positions, dims=[1]))

    with pytest.raises(TrainingError) as caught:
        store.save_model(model, workspace.model, scored.dataset)

    message = str(caught.value)
    assert message.startswith("The saved model embeds a text differently (encode_query: cosine ")
    assert message.endswith(
        "; it was not published. Report this as "
        "a fault of embedtune, with the name of the base model."
    )


def test_a_model_whose_vectors_are_no_numbers_is_not_stored(workspace, scored, model):
    """NaN equals nothing, not even itself: such a model does not pass for the same."""
    import torch

    with torch.no_grad():
        next(model.encoder.parameters()).fill_(float("nan"))

    with pytest.raises(TrainingError, match="cosine nan"):
        store.save_model(model, workspace.model, scored.dataset)


def test_a_model_with_a_default_prompt_of_its_own_can_be_stored(workspace, scored, model):
    """A base model may name a prompt to use by default; ours are `query` and `document`."""
    from sentence_transformers import SentenceTransformer

    model.encoder.prompts = {"s2p_query": "ask1 "}
    model.encoder.default_prompt_name = "s2p_query"

    store.save_model(model, workspace.model, scored.dataset)

    stored = SentenceTransformer(str(workspace.model), device="cpu")
    assert stored.prompts == {"query": "", "document": ""}


def test_the_weights_can_be_read_by_others(workspace):
    """The library writes weights for their owner only; in a container that is not who reads."""
    modes = [stat.S_IMODE(path.stat().st_mode) for path in workspace.model.rglob("*.safetensors")]

    assert modes == [0o644]


# Per query


def test_each_query_has_a_row_for_each_model_dimension_and_precision(workspace, scored):
    """The table has these columns; BM25, which has no vectors, has dimension 0."""
    table = pq.read_table(workspace.per_query)

    assert table.column_names == [
        "query_id",
        "model",
        "dimension",
        "precision",
        "rank",
        *METRICS,
        "top_ids",
    ]
    precisions = ["float32", "int8", "int8_rescored", "binary", "binary_rescored"]
    kinds = [("bm25", 0, "float32"), *(("tuned", d, p) for d in (64, 32) for p in precisions)]
    names = ("model", "dimension", "precision", "query_id")
    assert list(zip(*(table[name].to_pylist() for name in names), strict=True)) == [
        (*kind, query) for kind in kinds for query in scored.dataset.test.ids.to_pylist()
    ]


def test_the_tables_means_are_the_reported_scores(workspace, scored):
    """Whoever slices the table starts from the numbers that the report shows."""
    table = pq.read_table(workspace.per_query).to_pandas()

    means = table.groupby(["model", "dimension", "precision"])[list(METRICS)].mean()

    reported = {("bm25", 0, "float32"): scored.base.bm25.means()}
    for dimension, by_precision in scored.tuned.items():
        reported |= {("tuned", dimension, p): s.means() for p, s in by_precision.items()}
    assert {kind: dict(row) for kind, row in means.iterrows()} == {
        kind: pytest.approx(scores) for kind, scores in reported.items()
    }


def test_ranks_and_first_ten_tell_where_the_answer_was(workspace, scored):
    """A rank counts from 1 and is null beyond 100; up to ten it points into the first ten."""
    dataset = scored.dataset
    answers = {
        query: set(dataset.corpus.ids.take(dataset.test.relevant(number)).to_pylist())
        for number, query in enumerate(dataset.test.ids.to_pylist())
    }
    rows = pq.read_table(workspace.per_query).to_pylist()

    assert {row["rank"] is None for row in rows} == {True, False}
    for row in rows:
        top = row["top_ids"]
        hits = [place for place, found in enumerate(top, 1) if found in answers[row["query_id"]]]
        assert len(top) == len(set(top)) == 10
        assert (hits[0] if hits else None) == (
            row["rank"] if row["rank"] and row["rank"] <= 10 else None
        )
        assert row["mrr@10"] == pytest.approx(1 / hits[0] if hits else 0.0)
        assert row["recall@100"] == (1.0 if row["rank"] else 0.0)
        assert row["rank"] is None or 1 <= row["rank"] <= 100
