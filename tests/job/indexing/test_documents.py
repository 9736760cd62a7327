"""The documents of an index: found columns, ids as they are, one clear error for each fault."""

import csv
import json
import os
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl

from job.core.errors import DataError
from job.indexing.documents import Columns, read_documents

ROWS = [{"id": "b", "text": "two "}, {"id": "a", "text": "one"}, {"id": "-c", "text": "three"}]


def found(path, **columns):
    documents = read_documents(str(path), Columns(**columns))
    corpus = documents.corpus
    return dict(zip(corpus.ids.to_pylist(), corpus.texts.to_pylist(), strict=True)), documents.notes


def saved(folder, rows, suffix):
    path = folder / f"corpus{suffix}"
    if suffix == ".jsonl":
        return write_jsonl(path, rows)
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_documents_are_read_from_every_format_sorted_by_id(tmp_path, suffix, is_folder):
    """Ids are not changed: the application looks them up."""
    path = saved(tmp_path, ROWS, suffix)
    texts, notes = found(tmp_path if is_folder else path)
    assert list(texts.items()) == [("-c", "three"), ("a", "one"), ("b", "two")]
    assert notes == ()


def test_a_file_whose_name_is_not_utf8_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS).rename(tmp_path / os.fsdecode(b"gr\xfc.jsonl"))
    with pytest.raises(DataError, match=r"gr\\xfc.jsonl` is not UTF-8. Rename"):
        read_documents(str(path), Columns())


def test_columns_are_found_by_usual_names_or_named(tmp_path):
    usual = write_jsonl(tmp_path / "u.jsonl", [{"doc_id": 7, "title": "T", "contents": "one"}])
    named = write_jsonl(tmp_path / "n.jsonl", [{"key": "x", "body": "one", "id": "other"}])
    assert found(usual)[0] == {"7": "T one"}
    assert found(named, id="key", text="body")[0] == {"x": "one"}


def test_without_a_column_of_ids_documents_are_numbered(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", [{"text": "one"}, {"text": "two"}])
    texts, notes = found(path)
    assert texts == {"c00000001": "one", "c00000002": "two"}
    assert notes == ("no column of ids: documents are numbered by row",)


def test_documents_without_text_and_repetitions_are_left_out_and_counted(tmp_path):
    rows = [{"id": "a", "text": "one"}, {"id": "b", "text": " "}, {"id": "a", "text": "one"}]
    path = write_jsonl(tmp_path / "c.jsonl", [*rows, {"id": "c", "text": None}])
    texts, notes = found(path)
    assert texts == {"a": "one"}
    assert notes == (
        f"2 documents without text left out (first: {path}:2)",
        "1 row left out: id and text of another row",
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], "have the id `a`: .*row 1 .*row 2"),
        ([{"id": "a", "text": "x"}, {"text": "y"}], "row 2 has no id in `id`"),
        ([{"id": "a", "text": "x"}, {"id": True, "text": "y"}], r"row 2 .*\(found True\)"),
        ([{"id": "a\0", "text": "x"}], "row 1 has no id in `id`"),
        ([{"id": "a", "text": ["x"]}], r"row 1: the text is no text \(`\['x'\]`\)"),
        ([{"id": "a", "text": "\ud800"}], "row 1: the text is no text"),
        ([{"id": "a", "body": "a long text"}], "has no column `text`, .*`--text-column body`"),
        ([{"id": "a", "text": ""}], "no document with text .1 document without text left out"),
        ([], "has no rows"),
    ],
)
def test_a_fault_is_one_error_with_file_and_row(tmp_path, rows, message):
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=message):
        read_documents(str(path), Columns())


def test_a_missing_path_and_a_missing_column_are_errors(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_documents(str(tmp_path / "nowhere"), Columns())
    path = write_jsonl(tmp_path / "c.jsonl", ROWS)
    with pytest.raises(DataError, match="has no column `body`"):
        read_documents(str(path), Columns(text="body"))
    with pytest.raises(DataError, match=r"no column `key`, but `id`, `text`.* column of ids"):
        read_documents(str(path), Columns(id="key"))


def test_the_digest_depends_on_ids_and_texts_but_not_on_the_order(tmp_path):
    def digest(rows):
        return read_documents(str(write_jsonl(tmp_path / "c.jsonl", rows)), Columns()).digest()

    whole = digest(ROWS)
    assert digest(ROWS[::-1]) == whole
    assert digest(ROWS[1:]) != whole
    assert digest([*ROWS[:2], {"id": "-c", "text": "other"}]) != whole
    assert digest([*ROWS[:2], {"id": "d", "text": "three"}]) != whole


def test_a_named_column_of_texts_is_the_only_one_read(tmp_path):
    """Another usual name does not stand in for an empty text, nor is a title put before itself."""
    rows = [{"id": "a", "title": "One", "body": None, "content": "x"}]
    rows += [{"id": "b", "title": "Two", "body": "two", "content": "y"}]
    path = write_jsonl(tmp_path / "c.jsonl", rows)
    assert found(path, text="body")[0] == {"b": "Two two"}
    assert found(path, text="title")[0] == {"a": "One", "b": "Two"}


def test_another_encoding_is_refused_with_a_command_that_works(tmp_path):
    path = tmp_path / "my corpus.csv"
    path.write_text("id,text\n1,café\n", "cp1252")
    with pytest.raises(DataError, match="Save it as UTF-8: `iconv") as raised:
        read_documents(str(path), Columns())
    command = str(raised.value).split("`")[-2]
    subprocess.run(command, shell=True, check=True)
    assert found(tmp_path / "my corpus-utf8.csv")[0] == {"1": "café"}


@pytest.mark.parametrize("source", ["s3://bucket/corpus.jsonl", "hf://datasets/a/b"])
def test_a_corpus_elsewhere_is_refused(source):
    """`Path` would drop a slash of the address."""
    with pytest.raises(DataError, match=f"`{source}`; it must be a file or folder on this machine"):
        read_documents(source, Columns())
