"""Folders: names that say splits, a corpus beside, BEIR by other names, saved data sets."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl

from job.core.errors import DataError
from job.data.formats.layout import Absent, Document
from job.data.sources import open_documents, open_source
from job.spec.schema import DataSpec

ROWS = [{"question": f"Where is {n}?", "context": f"It is on shelf {n}."} for n in range(4)]


def opened(folder, **spec):
    return open_source(str(folder), DataSpec(**spec))


def splits(folder, **spec):
    return [row.split for row in opened(folder, **spec).rows]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "validation", "test"], ["train", "validation", "test"]),
        (["pairs_train", "pairs-dev"], ["train", "validation"]),
        (["train-00000-of-00002", "train-00001-of-00002", "val"], ["train", "train", "validation"]),
        (["train/a", "test/a"], ["train", "test"]),
        (["train_dataset", "more"], [None, None]),
        (["train"], [None]),
        (["latest", "trains"], [None, None]),
        (["test", "corpus_test"], [None, None]),
    ],
)
def test_names_of_files_decide_splits_if_they_name_several(tmp_path, names, expected):
    """As on the Hub: what the owner holds out is not trained on."""
    for number, name in enumerate(names):
        write_jsonl(tmp_path / f"{name}.jsonl", [ROWS[number]])
    found = {row.file.removeprefix(f"{tmp_path}/"): row.split for row in opened(tmp_path).rows}
    assert found == dict(zip((f"{name}.jsonl" for name in names), expected, strict=True))


def test_splits_can_be_joined(tmp_path):
    """As two splits of the Hub are, by the same setting."""
    for name in ("train", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", ROWS[:1])
    assert sorted(splits(tmp_path)) == ["test", "train"]
    assert splits(tmp_path, split="train+test") == [None, None]
    assert splits(tmp_path, source="hf://datasets/me/x:train+test") == [None, None]


def test_files_about_the_data_are_no_rows(tmp_path):
    """They are told; one that holds rows is read."""
    write_table(tmp_path / "a.jsonl", [{"question": "Where is a?", "context": "It is here."}])
    (tmp_path / "metadata.json").write_text('{"name": "mine", "splits": {"train": 1}}')
    (tmp_path / "info.json").write_text('[{"question": "Where is b?", "context": "It is there."}]')
    source = opened(tmp_path)
    assert [row.anchor for row in source.rows] == ["Where is a?", "Where is b?"]
    assert any("metadata.json" in note for note in source.notes)


def test_a_corpus_beside_the_rows_is_searched_and_not_trained_on(tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", ROWS[:1])
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": "a", "title": "T", "text": "Nobody asks."}])
    source = opened(tmp_path)
    assert list(source.documents) == [Document("a", "T", "Nobody asks.")]
    assert [row.anchor for row in source.rows] == [ROWS[0]["question"]]


# BEIR by other names.

CORPUS = {"d0": "It is here.", "d1": "It is there."}
QUERIES = {"q0": "Where is a?", "q1": "Where is b?"}
JUDGED = [("q0", "d0", 2), ("q1", "d1", 1), ("q1", "d0", 0)]


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".tsv":
        lines = ["\t".join(map(str, row.values())) for row in rows]
        path.write_text("\n".join(["\t".join(rows[0]), *lines]))
    else:
        write_jsonl(path, rows)


QRELS = "query-id corpus-id score"
VARIANTS = [
    ("_id", "_id", "corpus.jsonl", "queries.jsonl", "qrels/test.jsonl", QRELS),
    ("id", "id", "corpus.parquet", "queries.parquet", "qrels.tsv", "query_id doc_id relevance"),
    ("qid", "docid", "corpus/a.parquet", "queries/a.jsonl", "data/test-0.parquet", QRELS),
    ("query_id", "doc_id", "corpus.jsonl", "queries.tsv", "qrels/dev.tsv", "qid docid"),
]


@pytest.mark.parametrize(
    ("query_id", "document_id", "files", "judged"),
    [(ids[0], ids[1], ids[2:5], ids[5]) for ids in VARIANTS],
)
def test_beir_is_read_by_the_names_that_others_give_it(
    tmp_path, query_id, document_id, files, judged
):
    """Ids, formats and folders differ; the pairs, ids and grades are the same."""
    names = judged.split()
    qrels = [dict(zip(names, row[: len(names)], strict=True)) for row in JUDGED]
    if len(names) == 2:
        qrels = qrels[:2]
    contents = [
        [{document_id: key, "text": text} for key, text in CORPUS.items()],
        [{query_id: key, "text": text} for key, text in QUERIES.items()],
        qrels,
    ]
    for name, rows in zip(files, contents, strict=True):
        write_table(tmp_path / name, rows)
    source = opened(tmp_path)
    assert source.format == "beir"
    assert [d.id for d in source.documents] == [*CORPUS]
    assert [(r.query_id, r.anchor, r.positives, r.document_ids) for r in source.rows] == [
        ("q0", "Where is a?", ["It is here."], ["d0"]),
        ("q1", "Where is b?", ["It is there."], ["d1"]),
    ]
    assert next(r.grades for r in opened(tmp_path).rows) == [1.0 if len(names) == 2 else 2.0]


@pytest.mark.parametrize("separator", ["\t", " "])
@pytest.mark.parametrize("line", ["{} {} {}", "{} 0 {} {}", "{} 2 {} {}", "\n{} {} {}"])
def test_judgements_of_trec_have_no_header(tmp_path, line, separator):
    """The first line is a judgement like the others."""
    write_table(tmp_path / "corpus.jsonl", [{"_id": k, "text": v} for k, v in CORPUS.items()])
    write_table(tmp_path / "queries.jsonl", [{"_id": k, "text": v} for k, v in QUERIES.items()])
    text = "".join(line.format(*row).replace(" ", separator) + "\n" for row in JUDGED)
    (tmp_path / "qrels.tsv").write_text(text)
    assert [(r.query_id, r.document_ids, r.grades) for r in opened(tmp_path).rows] == [
        ("q0", ["d0"], [2.0]),
        ("q1", ["d1"], [1.0]),
    ]


def test_of_a_beir_folder_as_a_corpus_only_the_documents_are_read(tmp_path):
    """Its queries have a `text` as well."""
    write_table(tmp_path / "corpus.jsonl", [{"_id": k, "text": v} for k, v in CORPUS.items()])
    write_table(tmp_path / "queries.jsonl", [{"_id": k, "text": v} for k, v in QUERIES.items()])
    write_table(
        tmp_path / "qrels" / "test.tsv", [{"query-id": "q0", "corpus-id": "d0", "score": 1}]
    )
    assert [(d.id, d.text) for d in open_documents(str(tmp_path))] == [*CORPUS.items()]


def test_documents_that_judgements_name_and_the_corpus_lacks_are_said(tmp_path):
    """The first by name; a note counts them."""
    write_table(tmp_path / "corpus.jsonl", [{"_id": "d0", "text": "It is here."}])
    write_table(tmp_path / "queries.jsonl", [{"_id": "q0", "text": "Where is a?"}])
    qrels = [{"query-id": "q0", "corpus-id": f"gone{n}", "score": 1} for n in range(8)]
    write_table(tmp_path / "qrels" / "test.tsv", qrels)
    source = opened(tmp_path)
    reasons = [row.positives[0].reason for row in source.rows]
    assert reasons[:5] == [f"document `gone{n}` is not in the corpus" for n in range(5)]
    assert set(reasons[5:]) == {"the document is not in the corpus"}
    told = "The judged document `gone0` is not in the corpus, nor are 7 others."
    assert source.notes == [told]


# Saved data sets.


def test_a_saved_data_set_is_read_as_it_was_saved(tmp_path):
    """By its own list of files; other files of the folder are no rows."""
    from datasets import Dataset, DatasetDict

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    source = opened(tmp_path / "one")
    assert source.format == "saved"
    assert [row.anchor for row in source.rows] == [row["question"] for row in ROWS]
    parts = {"train": Dataset.from_list(ROWS[:3]), "test": Dataset.from_list(ROWS[3:])}
    DatasetDict(parts).save_to_disk(tmp_path / "several")
    assert splits(tmp_path / "several") == ["train"] * 3 + ["test"]


def test_a_damaged_saved_data_set_is_told_as_one(tmp_path):
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="and lacks `data-00000"):
        opened(tmp_path)
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(DataError, match=r"not a readable Arrow file.*`datasets"):
        opened(tmp_path)
    (tmp_path / "state.json").write_text("oops")
    with pytest.raises(DataError, match="save_to_disk` and cannot be read"):
        opened(tmp_path)


def test_autorag_joins_questions_and_corpus_by_ids(tmp_path):
    """Any of its lists of ids answers."""
    qa = [{"qid": "q0", "query": "Where is a?", "retrieval_gt": [["d0"], ["d9"]],
           "generation_gt": ["Here."]}]  # fmt: skip
    corpus = [
        {"doc_id": key, "contents": text, "metadata": {"n": 1}} for key, text in CORPUS.items()
    ]
    write_table(tmp_path / "qa.parquet", qa)
    write_table(tmp_path / "corpus.parquet", corpus)
    source = opened(tmp_path)
    assert source.format == "autorag"
    assert [d.text for d in source.documents] == [*CORPUS.values()]
    (row,) = source.rows
    assert (row.query_id, row.anchor, row.document_ids) == ("q0", "Where is a?", ["d0", "d9"])
    assert row.positives == ["It is here.", Absent("document `d9` is not in the corpus")]
