"""Qdrant finds what the report's search finds; an alias switches to another index.

Against the client's own embedded mode: no server runs here.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.qdrant_remote import QdrantRemote
from small_indexes import DOCUMENTS, expected, found_by, stamp_of, write_shards

from job.core.errors import StorageError
from job.indexing.examples import qdrant_example
from job.indexing.qdrant import Qdrant

pytestmark = pytest.mark.exhaustive


@pytest.fixture
def place(tmp_path):
    """A folder in memory where there is one: each point is a transaction of SQLite."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield f"qdrant:{folder}/db"


def opened(place):
    return QdrantClient(path=place.partition(":")[2])


@pytest.mark.parametrize("precision", ["float32", "binary", "binary_rescored"])
def test_the_example_finds_what_the_report_scored(tmp_path, place, precision):
    shards = write_shards(tmp_path / "index", precision.partition("_")[0])
    lines = list(Qdrant(place, "docs").load(shards))
    assert lines == [f"The alias `docs` points to the collection `docs_{shards.stamp.digest}`."]
    assert found_by(qdrant_example("Encoder()", "docs", place, precision)) == expected(precision)


def test_texts_and_the_stamp_are_stored(tmp_path, place):
    shards = write_shards(tmp_path / "index", with_text=True)
    list(Qdrant(place, "docs").load(shards))
    client = opened(place)
    (point,) = client.retrieve("docs", [299])
    assert point.payload == {"id": "doc 299", "text": "299"}
    found = client.get_collection("docs").config.metadata["embedtune"]
    client.close()
    assert found == shards.stamp.model_dump()


def test_loading_continues_after_the_last_point(tmp_path, place):
    """As after a kill: some points are there, and no alias."""
    shards = write_shards(tmp_path / "index")
    target = Qdrant(place, "docs")
    list(target.load(shards))
    physical = f"docs_{shards.stamp.digest}"
    client = opened(place)
    client.delete(physical, models.PointIdsList(points=list(range(130, DOCUMENTS))))
    deletion = models.DeleteAlias(alias_name="docs")
    client.update_collection_aliases([models.DeleteAliasOperation(delete_alias=deletion)])
    client.close()
    target.require_free(shards.stamp, alias=False)
    list(target.load(shards))
    assert found_by(qdrant_example("Encoder()", "docs", place, "float32")) == expected("float32")


def test_an_index_of_another_model_is_refused_and_built_beside_it_with_alias(tmp_path, place):
    target = Qdrant(place, "docs")
    old = write_shards(tmp_path / "old", "binary", model="old")
    list(target.load(old))
    new = write_shards(tmp_path / "new")
    with pytest.raises(StorageError, match=f"`docs_{old.stamp.digest}` in Qdrant .*the model"):
        target.require_free(new.stamp, alias=False)
    target.require_free(new.stamp, alias=True)
    lines = list(target.load(new))
    assert f"`docs_{old.stamp.digest}` may be deleted" in lines[-1]
    assert found_by(qdrant_example("Encoder()", "docs", place, "float32")) == expected("float32")
    client = opened(place)
    assert client.count(f"docs_{old.stamp.digest}").count == DOCUMENTS
    client.close()


def test_a_collection_of_others_is_refused(tmp_path, place):
    client = opened(place)
    vectors = models.VectorParams(size=2, distance=models.Distance.DOT)
    client.create_collection("docs", vectors_config=vectors)
    client.close()
    with pytest.raises(StorageError, match=r"`docs` in Qdrant .* was not made by this command"):
        Qdrant(place, "docs").require_free(stamp_of(), alias=True)


def test_a_damaged_stamp_is_named_and_not_taken_for_a_server_that_refuses(tmp_path, place):
    list(Qdrant(place, "docs").load(write_shards(tmp_path / "index")))
    client = opened(place)
    physical = client.get_aliases().aliases[0].collection_name
    client.close()
    with (
        patch.object(QdrantClient, "get_collection", return_value=damaged()),
        pytest.raises(StorageError, match=f"stamp of the index in the collection `{physical}`"),
    ):
        Qdrant(place, "docs").require_free(stamp_of(), alias=True)


def damaged():
    return SimpleNamespace(config=SimpleNamespace(metadata={"embedtune": {"run": "x"}}))


def test_a_server_that_does_not_answer_is_one_error(unused_tcp_url, monkeypatch):
    """Without the client's check of versions, which warns from a thread."""
    checked = []
    monkeypatch.setattr(QdrantRemote, "_check_compatibility", lambda *given: checked.append(given))
    with pytest.raises(StorageError, match="does not answer, or refuses"):
        Qdrant(unused_tcp_url, "docs").require_free(stamp_of(), alias=False)
    assert checked == []


@pytest.fixture
def unused_tcp_url():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
