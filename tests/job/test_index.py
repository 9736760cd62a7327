"""`index` encodes a corpus with the model of a stored run, and continues after a kill."""

import json
import os
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import read_jsonl
from stored_runs import PROMPTS, RECOMMENDED, store_run

from job.__main__ import main
from job.core.errors import DataError, SpecError, StorageError
from job.index import Options, index_corpus


@pytest.fixture(scope="module")
def run(tmp_path_factory, pairs_file):
    return store_run(tmp_path_factory.mktemp("runs") / "Tiny-1", "dense layer", pairs_file)


@pytest.fixture
def corpus(run):
    return str(run / "data" / "corpus.jsonl")


def indexed(run, **options):
    lines = []
    index_corpus(run, Options(**({"device": "cpu"} | options)), lines.append)
    return lines


def test_the_index_has_the_recommended_vectors_of_the_run(run, corpus, tmp_path):
    """Those of the stored model with the document prompt, cut and normalized; and an example."""
    import numpy as np
    from sentence_transformers import SentenceTransformer

    lines = indexed(run, corpus=corpus, to=str(tmp_path / "index"), precision="float32")
    stamp = json.loads((tmp_path / "index" / "stamp.json").read_text())
    assert stamp["dimension"] == RECOMMENDED
    assert stamp["run"] == "Tiny-1"
    assert stamp["document_prompt"] == PROMPTS["model.document_prompt"]
    rows = pq.read_table(tmp_path / "index" / "shard-00000.parquet").to_pylist()
    texts = {row["id"]: row["text"] for row in read_jsonl(run / "data" / "corpus.jsonl")}
    assert [row["id"] for row in rows] == sorted(texts)
    model = SentenceTransformer(str(run / "model"), device="cpu", truncate_dim=RECOMMENDED)
    wanted = model.encode_document([texts[row["id"]] for row in rows], normalize_embeddings=True)
    np.testing.assert_allclose([row["vector"] for row in rows], wanted, atol=1e-5)
    assert lines[0].startswith(f"{len(rows)} documents at {RECOMMENDED} dimensions as float32")
    example = "\n".join(lines[lines.index("A query:") + 1 :])
    assert f"truncate_dim={RECOMMENDED}" in example
    names = {}
    exec(example.replace('"a question"', '"ask1"'), names)
    assert len(names["search"]("ask1 ask2")) == 10


def test_the_documents_of_a_file_are_counted_while_they_are_encoded(
    run, corpus, tmp_path, monkeypatch, caplog
):
    """Not only when the file is whole."""
    monkeypatch.setattr("job.runtime.counter.FIRST_SECONDS", 0)
    monkeypatch.setattr("job.runtime.counter.SHARE_OF_ELAPSED", 0)
    caplog.set_level("INFO")
    indexed(run, corpus=corpus, to=str(tmp_path / "index"), precision="float32", batch_size=16)
    lines = [line for line in caplog.messages if line.startswith("encode: texts done=16 ")]
    assert lines, caplog.messages


def test_a_finished_index_is_not_encoded_again(run, corpus, tmp_path, monkeypatch):
    given = {"corpus": corpus, "to": str(tmp_path / "index")}
    first = indexed(run, **given)
    monkeypatch.setattr("job.index.load_stored_model", None)
    assert indexed(run, **given) == first


def test_what_cannot_be_indexed_is_refused_before_anything_is_written(run, corpus, tmp_path):
    to = str(tmp_path / "index")
    with pytest.raises(SpecError, match="`--dimension` is 65; the report measured up to 64"):
        indexed(run, corpus=corpus, to=to, dimension=65)
    with pytest.raises(SpecError, match="no int8 vectors"):
        indexed(run, corpus=corpus, to="qdrant:q", precision="int8")
    with pytest.raises(DataError, match="does not exist"):
        indexed(run, corpus=str(tmp_path / "nowhere"), to=to)
    with pytest.raises(StorageError, match="has no report"):
        indexed(tmp_path, corpus=corpus, to=to)
    assert not list(tmp_path.iterdir())


def test_a_database_from_a_run_that_cannot_be_written_needs_another_folder(
    run, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr("os.access", lambda *_: False)
    to = {"corpus": corpus, "to": f"qdrant:{tmp_path / 'q'}", "precision": "float32"}
    with pytest.raises(StorageError, match=r"cannot be written.* `--shards`"):
        indexed(run, **to)
    assert not (tmp_path / "q").exists()
    indexed(run, **to, shards=str(tmp_path / "shards"))
    assert (tmp_path / "shards" / "manifest.json").is_file()


def test_a_dimension_without_a_score_is_indexed_with_a_note(run, corpus, tmp_path):
    lines = indexed(run, corpus=corpus, to=str(tmp_path / "index"), dimension=10)
    assert lines[0] == "Note: the report did not measure 10 dimensions."


@pytest.mark.parametrize("package", ["qdrant_client", "psycopg"])
def test_a_missing_package_is_one_error_with_the_command(run, corpus, monkeypatch, package):
    to = {"qdrant_client": "qdrant:folder", "psycopg": "postgresql://host/db"}[package]
    for name in [*sys.modules]:
        if name.partition(".")[0] == package or name in (
            "job.indexing.qdrant",
            "job.indexing.postgres",
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    arguments = ["index", str(run), "--corpus", corpus, "--to", to, "--precision", "float32"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 6, done.output
    assert f"`{package}` is missing: `pip install 'embedtune[train,index]'`" in done.output


@pytest.mark.exhaustive
def test_a_killed_command_of_the_launcher_is_continued(run, corpus, tmp_path):
    to = tmp_path / "index"
    command = [sys.executable, "-P", "-m", "launcher.cli", "index", run.name]
    command += ["--output", str(run.parent), "--corpus", corpus, "--to", str(to), "--device=cpu"]
    command += ["--precision", "int8", "--shard-size", "8", "--batch-size", "1", "--with-text"]
    started = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
    while len(list(to.glob(".float32/*.npy"))) < 3:
        assert started.poll() is None
    os.killpg(started.pid, signal.SIGKILL)
    started.communicate()
    assert not (to / "manifest.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in to.glob(".float32/[0-9]*.npy")}
    assert len(kept) >= 3
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "A query:" in done.stdout
    indexed(
        run,
        corpus=corpus,
        to=str(tmp_path / "whole"),
        precision="int8",
        shard_size=8,
        batch_size=1,
        with_text=True,
    )
    for path in (tmp_path / "whole").glob("*.parquet"):
        assert pq.read_table(path) == pq.read_table(to / path.name)
