"""An index of Parquet files finds what the report's search finds, and can be resumed."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_indexes import (
    DIMENSION,
    DOCUMENTS,
    DOCUMENTS_OF_TEST,
    IDS,
    embed,
    expected,
    found_by,
    stamp_of,
    write_shards,
)

from job.core.errors import DataError, StorageError
from job.data.dataset import Corpus
from job.indexing.documents import Documents
from job.indexing.examples import folder_example
from job.indexing.shards import Shards
from job.indexing.stamp import read_stamp

PRECISIONS = ("float32", "int8", "int8_rescored", "binary", "binary_rescored")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_example_finds_what_the_report_scored(tmp_path, precision):
    """Exactly, in every precision, by vectors of a dimension below the model's width."""
    write_shards(tmp_path / "index", precision.partition("_")[0])
    example = folder_example("Encoder()", str(tmp_path / "index"), DIMENSION, precision)
    assert found_by(example) == expected(precision)


def test_a_folder_has_files_with_their_stamp_and_a_manifest(tmp_path):
    shards = write_shards(tmp_path / "index", "int8", with_text=True)
    names = sorted(path.name for path in shards.folder.iterdir())
    files = [f"shard-{number:05}.parquet" for number in range(5)]
    others = ["calibration.parquet", "corpus.parquet", "manifest.json"]
    assert names == [*others, *files, "stamp.json"]
    manifest = json.loads((shards.folder / "manifest.json").read_text())
    assert sorted([*manifest, "manifest.json"]) == names
    assert read_stamp((shards.folder / "stamp.json").read_bytes(), "") == shards.stamp
    tables = [pq.read_table(shards.folder / name) for name in files]
    assert [len(table) for table in tables] == [70, 70, 70, 70, 20]
    assert [name for table in tables for name in table["id"].to_pylist()] == IDS
    assert tables[4]["text"].to_pylist() == [str(number) for number in range(280, DOCUMENTS)]
    for table in tables:
        assert read_stamp(table.schema.metadata[b"embedtune"], "") == shards.stamp
        assert table.schema.field("vector").type == pa.list_(pa.int8(), DIMENSION)


class Killed(Exception):
    pass


def killed_after(texts_left):
    """Embed until so many texts are embedded, then fail; return the texts that were embedded."""
    seen = []

    def embed_some(texts):
        if len(seen) + len(texts) > texts_left:
            raise Killed
        seen.extend(texts)
        return embed(texts)

    return embed_some, seen


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_an_interrupted_index_is_continued(tmp_path, precision):
    """Nothing is embedded twice, and the files are those of an index never interrupted."""
    shards = Shards(tmp_path / "index", stamp_of(precision))
    embed_some, first = killed_after(150)
    shards.open(DOCUMENTS_OF_TEST)
    with pytest.raises(Killed):
        shards.write(DOCUMENTS_OF_TEST.corpus, embed_some)
    assert not shards.is_complete
    embed_rest, rest = killed_after(DOCUMENTS)
    shards.open(DOCUMENTS_OF_TEST)
    shards.write(DOCUMENTS_OF_TEST.corpus, embed_rest)
    assert shards.is_complete
    assert [int(text) for text in first + rest] == list(range(DOCUMENTS))
    whole = write_shards(tmp_path / "whole", precision)
    for path in whole.folder.glob("*.parquet"):
        assert pq.read_table(path) == pq.read_table(shards.folder / path.name)
    assert not list(shards.folder.glob(".*"))


def test_a_start_killed_before_its_stamp_is_continued(tmp_path):
    """Files that it had not yet renamed are deleted, and are not in the manifest."""
    whole = write_shards(tmp_path / "whole")
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "corpus.parquet").write_bytes(b"of a corpus of before")
    (folder / ".corpus.parquet.123").write_bytes(b"half")
    (folder / ".stamp.json.123").write_bytes(b"half")
    shards = write_shards(folder)
    manifests = [json.loads((s.folder / "manifest.json").read_text()) for s in (whole, shards)]
    assert manifests[0] == manifests[1]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in whole.folder.iterdir()
    )


def test_the_manifest_lists_the_files_of_the_index_only(tmp_path):
    """A file that somebody adds meanwhile is neither listed nor deleted."""
    shards = Shards(tmp_path / "index", stamp_of())
    shards.open(DOCUMENTS_OF_TEST)
    for name in ("notes.txt", ".shard-00001.parquet.99"):
        (shards.folder / name).write_text("x")
    shards.write(DOCUMENTS_OF_TEST.corpus, embed)
    assert (shards.folder / "notes.txt").is_file()
    assert not (shards.folder / ".shard-00001.parquet.99").exists()
    manifest = json.loads((shards.folder / "manifest.json").read_text())
    assert sorted([*manifest, "manifest.json", "notes.txt"]) == sorted(
        path.name for path in shards.folder.iterdir()
    )


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_deleted_file_of_a_finished_index_is_written_again(tmp_path, precision):
    shards = write_shards(tmp_path / "index", precision)
    before = pq.read_table(shards.path(2))
    shards.path(2).unlink()
    again, embedded = killed_after(70)
    shards.open(DOCUMENTS_OF_TEST)
    shards.write(DOCUMENTS_OF_TEST.corpus, again)
    assert pq.read_table(shards.path(2)) == before
    assert len(embedded) == 70


def test_other_documents_are_refused_with_the_difference(tmp_path):
    shards = write_shards(tmp_path / "index")
    before = (shards.folder / "manifest.json").read_bytes()
    ids = [*IDS[2:], "new"]
    texts = ["changed", *map(str, range(3, DOCUMENTS)), "x"]
    other = Documents(Corpus(pa.array(ids), pa.array(texts)), ())
    changed = Shards(shards.folder, stamp_of(corpus=other.digest(), documents=len(other)))
    message = (
        r"1 document new \(`new`\), 2 documents missing \(`doc 000`, `doc 001`\), "
        r"1 document changed \(`doc 002`\)"
    )
    with pytest.raises(DataError, match=message):
        changed.open(other)
    assert (shards.folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "other", "run": "b"}, "the model (`c0ffee` of the run `run` there, `other`"),
        ({"dimension": 8}, "the dimension (`12` there, `8` now)"),
        ({"precision": "binary"}, "the precision (`float32` there, `binary` now)"),
        ({"query_prompt": "q: "}, "the prompt of queries"),
        ({"shard_size": 10}, "the documents of a file"),
        ({"with_text": True}, "whether texts are stored"),
    ],
)
def test_another_index_in_the_folder_is_refused(tmp_path, changes, named):
    write_shards(tmp_path / "index")
    with pytest.raises(StorageError) as refused:
        Shards(tmp_path / "index", stamp_of(**changes)).open(DOCUMENTS_OF_TEST)
    assert named in str(refused.value)


def test_a_folder_with_other_files_and_a_damaged_stamp_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="files that are no index"):
        Shards(tmp_path, stamp_of()).open(DOCUMENTS_OF_TEST)
    (tmp_path / "stamp.json").write_text("{}")
    with pytest.raises(StorageError, match=r"stamp .* is damaged"):
        Shards(tmp_path, stamp_of()).open(DOCUMENTS_OF_TEST)
