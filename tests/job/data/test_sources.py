"""Sources: files, BEIR folders and the built-in data all yield the same type of rows."""

import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl

from job.core.errors import DataError
from job.data.formats.beir import is_beir
from job.data.formats.layout import Absent, Document, RawRow
from job.data.sources import open_documents, open_source
from job.spec.schema import DataSpec

CORPUS = [
    {"_id": "d1", "title": "Cats", "text": "They purr."},
    {"_id": "d2", "title": "", "text": "Dogs bark."},
    {"_id": "7", "text": "Nobody asks for this one."},
    {"_id": "d4", "title": "Only a title"},
]
QUERIES = [{"_id": "q1", "text": "What purrs?"}, {"_id": "q2", "text": "What barks?"}]
HEADER = "query-id\tcorpus-id\tscore\n"


def write_beir(folder, qrels, suffix=".jsonl"):
    """Write a BEIR folder; `qrels` maps a split to the lines below the header."""
    write_jsonl(folder / f"corpus{suffix}", CORPUS)
    write_jsonl(folder / f"queries{suffix}", QUERIES)
    for split, lines in qrels.items():
        path = folder / "qrels" / f"{split}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEADER + lines)
    return folder


def rows_of(path, role="data", **columns):
    return list(open_source(str(path), DataSpec(columns=columns), role).rows)


def columns(anchor, positive, negatives=(), group=None):
    return {"anchor": anchor, "positive": positive, "negatives": [*negatives], "group": group}


def refusal(read, *parts):
    """Check that `read` raises a `DataError` whose message has all the parts."""
    with pytest.raises(DataError) as caught:
        read()
    assert [part for part in parts if part not in str(caught.value)] == []


def test_lists_of_positives_and_negatives_are_unrolled(tmp_path):
    """A row may have several answers, and negatives both in lists and in numbered columns."""
    rows = [
        {"query": "q", "pos": ["a", "b"], "neg": ["x", "y"], "negative_1": "z"},
        {"query": None, "pos": 5, "neg": [], "negative_1": None},
        {"query": "s", "pos": []},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    source = open_source(str(path), DataSpec())
    assert list(source.documents) == []
    assert source.columns == columns("query", "pos", ["neg", "negative_1"])
    assert list(source.rows) == [
        RawRow(str(path), 1, "q", ["a", "b"], ["x", "y", "z"]),
        RawRow(str(path), 2, None, [5], [None]),
        RawRow(str(path), 3, "s", [], [None, None]),
    ]


def test_a_csv_row_with_surplus_fields_is_marked(tmp_path):
    """An additional comma does not silently shift texts; our internal key is not listed."""
    path = tmp_path / "a.csv"
    path.write_text("question,context\nq,c\nq,c,more\n")
    assert rows_of(path) == [
        RawRow(str(path), 2, "q", ["c"]),
        RawRow(str(path), 3, "q", ["c"], surplus=True),
    ]
    path.write_text("question,body\nq,b,more\n")
    refusal(lambda: rows_of(path), "Its columns: `question`, `body`.")


def test_rows_are_read_lazily(tmp_path):
    """Opening reads the first 100 rows to find the columns; later errors occur while reading."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "context": "c"}\n' * 100 + "oops\n")
    rows = open_source(str(path), DataSpec()).rows
    assert next(rows) == RawRow(str(path), 1, "q", ["c"])
    refusal(lambda: list(rows), "line 101 is not valid JSON")


def test_a_column_that_the_first_row_lacks_is_found(tmp_path):
    """JSON lines may omit fields without a value, so later rows are read for columns, too."""
    good = {"question": "q", "context": "c"}
    source = open_source(
        str(write_jsonl(tmp_path / "a.jsonl", [good, good | {"negative": "n"}])), DataSpec()
    )
    assert source.columns["negatives"] == ["negative"]
    assert [row.negatives for row in source.rows] == [[None], ["n"]]


def test_the_built_in_data_is_numbered_and_named():
    """The file of built-in rows is the source's name; `data.columns` does not apply to them."""
    source = open_source("builtin:aws-docs", DataSpec(columns={"anchor": "body"}))
    rows = list(itertools.islice(source.rows, 3))
    assert source.columns == columns("question", "context")
    assert [(row.file, row.row) for row in rows] == [("builtin:aws-docs", n) for n in (1, 2, 3)]
    assert all(row.anchor and len(row.positives[0].split()) >= 20 for row in rows)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_beir_folder_becomes_rows_with_query_ids(tmp_path, suffix):
    """Each relevant pair is a row; missing queries and documents are left to cleaning."""
    lines = "q1\td1\t1\nq2\td2\t2\nq1\t7\t0.5\nq2\td1\t0\nq2\t7\t-1\nq1\tlost\t1\nlost\td2\t1\n"
    folder = write_beir(tmp_path / "beir", {"test": lines}, suffix)
    source = open_source(str(folder), DataSpec())
    qrels = str(folder / "qrels" / "test.tsv")
    assert source.columns == columns("queries.text", "corpus.text")
    purrs, barks = "What purrs?", "What barks?"
    lost = Absent("document `lost` is not in the corpus")
    asked = Absent("query `lost` is not in the queries")
    expected = [
        (2, purrs, "Cats They purr.", "q1", "d1", 1.0),
        (3, barks, "Dogs bark.", "q2", "d2", 2.0),
        (4, purrs, "Nobody asks for this one.", "q1", "7", 0.5),
        (7, purrs, lost, "q1", "lost", 1.0),
        (8, asked, "Dogs bark.", "lost", "d2", 1.0),
    ]
    assert list(source.rows) == [
        RawRow(qrels, row, query, [text], query_id=name, document_ids=[document], grades=[grade])
        for row, query, text, name, document, grade in expected
    ]
    assert source.notes == [
        "The judged document `lost` is not in the corpus.",
        "2 judgements of grade 0 or below: no answers, not used.",
    ]
    assert list(source.documents) == [
        Document("d1", "Cats", "They purr."),
        Document("d2", "", "Dogs bark."),
        Document("7", None, "Nobody asks for this one."),
        Document("d4", "Only a title", None),
    ]


@pytest.mark.parametrize(
    "splits",
    [
        {"train": "train", "dev": "validation", "test": "test"},
        {"train": "train", "validation": "validation"},
        # A single file is not a split: we split its rows, and it may have any name.
        {"judged-by-hand": None},
    ],
)
def test_several_qrels_files_are_splits(tmp_path, splits):
    """The file names train, dev or validation, and test decide the splits of their rows."""
    folder = write_beir(tmp_path, dict.fromkeys(splits, "q1\td1\t1\n"))
    found = {Path(row.file).stem: row.split for row in rows_of(folder)}
    assert found == splits


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl"])
def test_a_beir_folder_needs_a_corpus_and_queries(tmp_path, missing):
    """Without one of them, the folder is not treated as BEIR."""
    folder = write_beir(tmp_path, {"test": "q1\td1\t1\n"})
    assert is_beir(folder)
    (folder / missing).unlink()
    assert not is_beir(folder)


def test_a_corpus_keeps_its_ids_titles_and_texts(tmp_path):
    """A document's id is its `id`, `_id` or row number; a title is put before the text."""
    path = write_jsonl(
        tmp_path / "corpus.jsonl",
        [
            {"id": 12, "text": "a"},
            {"_id": "b", "title": "B", "text": "b"},
            {"id": None, "text": "c"},
            {"id": "d", "_id": "other", "title": None, "text": None},
        ],
    )
    assert list(open_documents(str(path))) == [
        Document("12", None, "a"),
        Document("b", "B", "b"),
        Document("c00000003", None, "c"),
        Document("d", None, None),
    ]


def test_an_invalid_corpus_is_an_error(tmp_path):
    """The message names the field and the path, or the first row without a text."""
    missing = str(tmp_path / "no")
    refusal(lambda: list(open_documents(missing)), "`data.corpus`", f"`{missing}`")
    path = write_jsonl(tmp_path / "c.jsonl", [{"id": 1, "text": "a"}, {"id": 2, "body": "b"}])
    refusal(lambda: list(open_documents(str(path))), f"`{path}` row 2 has no `text`")


GROUPED = [
    {"question": "q1", "context": "c1", "product": "a", "year": 2024},
    {"question": "q2", "context": "c2", "product": None, "year": 2025},
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_groups_are_read_from_every_format(tmp_path, name):
    """They are read only if the spec names their column; values are not converted."""
    path, csv = tmp_path / name, "question,context,product,year\nq1,c1,a,2024\nq2,c2,,2025\n"
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(GROUPED), path)
    elif path.suffix == ".csv":
        path.write_text(csv)
    else:
        write_jsonl(path, GROUPED)
    assert [row.group for row in rows_of(path)] == [None, None]
    source = open_source(str(path), DataSpec(columns={"group": "year"}))
    assert source.columns == columns("question", "context", group="year")
    assert [str(row.group) for row in source.rows] == ["2024", "2025"]
    groups = [row.group for row in rows_of(path, group="product")]
    assert groups == ["a", "" if path.suffix == ".csv" else None]


def test_only_data_must_have_the_group_column(tmp_path):
    """This includes built-in data and BEIR's queries; a given test set may lack the column."""
    file = write_jsonl(tmp_path / "a.jsonl", [GROUPED[0], {"question": "q", "context": "c"}])
    beir = write_beir(tmp_path / "beir", {"test": "q1\td1\t1\n"})
    for path, part in [
        (file, ": `question`, `context`, `product`, `year`."),
        ("builtin:aws-docs", ": `question`, `context`, `source`."),
        (beir, f"`{beir / 'queries.jsonl'}` has no column"),
    ]:
        refusal(lambda p=path: rows_of(p, group="kind"), "`data.columns.group`", "`kind`", part)
    for role in ("validation", "test"):
        assert [row.group for row in rows_of(file, role, group="product")] == ["a", None]
        assert [row.group for row in rows_of(file, role, group="kind")] == [None, None]
        assert [row.group for row in rows_of(beir, role, group="kind")] == [None]


def test_the_groups_of_a_beir_folder_are_fields_of_its_queries(tmp_path):
    """The field may be in `metadata`; a field of the query itself wins."""
    folder = write_beir(tmp_path, {"test": "q1\td1\t1\nq2\td2\t1\nq1\t7\t1\nlost\td1\t1\n"})
    queries = [
        {"_id": "q1", "text": "What purrs?", "metadata": {"lang": "en", "kind": "inner"}},
        {"_id": "q2", "text": "What barks?", "kind": "outer", "metadata": {"kind": "no"}},
    ]
    write_jsonl(folder / "queries.jsonl", queries)
    found = {name: [row.group for row in rows_of(folder, group=name)] for name in ("lang", "kind")}
    assert found == {"lang": ["en", None, "en", None], "kind": ["inner", "outer", "inner", None]}
    source = open_source(str(folder), DataSpec(columns={"group": "lang"}))
    assert source.columns == columns("queries.text", "corpus.text", group="lang")


def test_of_out_of_domain_data_only_questions_and_contexts_are_read(tmp_path):
    """Columns are found by their usual names, as `data.columns` describes other data."""
    path = write_jsonl(
        tmp_path / "a.jsonl", [{"query": "q", "answer": "a", "negative": "n", "body": "b"}]
    )
    spec = DataSpec(columns={"anchor": "body", "positive": "page", "group": "product"})
    source = open_source(str(path), spec, "out_of_domain")
    assert source.columns == columns("query", "answer")
    assert list(source.rows) == [RawRow(str(path), 1, "q", ["a"])]
    folder = write_beir(tmp_path / "beir", {"test": "q1\td1\t1\n"})
    assert [row.anchor for row in open_source(str(folder), spec, "out_of_domain").rows] == [
        "What purrs?"
    ]


def test_a_path_that_cannot_be_reached_is_a_data_error(monkeypatch):
    """A folder without access permission is the user's error, not a bug."""

    def denied(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)
    refusal(lambda: rows_of("their/pairs.jsonl"), "`their/pairs.jsonl`", "Permission denied")
    refusal(lambda: list(open_documents("their/c.jsonl")), "`their/c.jsonl`", "Permission denied")
