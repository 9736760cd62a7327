"""Sources: files, BEIR folders and the built-in data all become the same rows."""

import gzip
import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job.errors import DataError
from job.fetch import hub_reference
from job.sources import Document, RawRow, is_beir, open_documents, open_source
from job.spec import DataSpec

CORPUS = [
    {"_id": "d1", "title": "Cats", "text": "They purr."},
    {"_id": "d2", "title": "", "text": "Dogs bark."},
    {"_id": "7", "text": "Nobody asks for this one."},
    {"_id": "d4", "title": "Only a title"},
]
QUERIES = [{"_id": "q1", "text": "What purrs?"}, {"_id": "q2", "text": "What barks?"}]
HEADER = "query-id\tcorpus-id\tscore\n"


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_beir(folder, qrels, suffix=".jsonl"):
    """Write a BEIR folder; `qrels` maps a split to the lines below the header."""
    write_jsonl(folder / f"corpus{suffix}", CORPUS)
    write_jsonl(folder / f"queries{suffix}", QUERIES)
    for split, lines in qrels.items():
        path = folder / "qrels" / f"{split}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEADER + lines)
    return folder


def rows_of(path, **spec):
    return list(open_source(str(path), DataSpec(**spec)).rows)


def columns(anchor, positive, negatives=(), group=None):
    return {
        "anchor": anchor,
        "positive": positive,
        "negatives": list(negatives),
        "group": group,
    }


def refusal(path, **spec):
    with pytest.raises(DataError) as caught:
        rows_of(path, **spec)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_file_becomes_rows_with_their_places(tmp_path):
    """Each row knows its file and line, and nothing is judged yet."""
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [{"question": "q1", "context": "c1", "page": 3}, {"question": None, "context": 5}],
    )
    source = open_source(str(path), DataSpec())
    assert source.name == str(path)
    assert source.columns == columns("question", "context")
    assert list(source.rows) == [
        RawRow(str(path), 1, "q1", ["c1"]),
        RawRow(str(path), 2, None, [5]),
    ]
    assert list(source.documents) == []


def test_lists_of_positives_and_negatives_are_unrolled(tmp_path):
    """A row may have several answers, and negatives in lists and in numbered columns at once."""
    rows = [
        {"query": "q", "pos": ["a", "b"], "neg": ["x", "y"], "negative_1": "z"},
        {"query": "r", "pos": "c", "neg": [], "negative_1": None},
        {"query": "s", "pos": []},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert rows_of(path) == [
        RawRow(str(path), 1, "q", ["a", "b"], ["x", "y", "z"]),
        RawRow(str(path), 2, "r", ["c"], [None]),
        RawRow(str(path), 3, "s", [], [None, None]),
    ]


def test_columns_named_in_the_spec_are_used_for_files(tmp_path):
    """`data.columns` reaches the file, and the report learns what was chosen."""
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "asked", "a": "answered", "w": "wrong"}])
    wanted = columns("q", "a", ["w"])
    source = open_source(str(path), DataSpec(columns=wanted))
    assert source.columns == wanted
    assert list(source.rows) == [RawRow(str(path), 1, "asked", ["answered"], ["wrong"])]


def test_a_csv_row_with_surplus_fields_is_marked(tmp_path):
    """A comma too many shifts no text into a wrong column unseen."""
    path = tmp_path / "a.csv"
    path.write_text("question,context\nq,c\nq,c,more\n")
    assert rows_of(path) == [
        RawRow(str(path), 2, "q", ["c"]),
        RawRow(str(path), 3, "q", ["c"], surplus=True),
    ]


def test_surplus_fields_of_the_first_row_are_no_column(tmp_path):
    """The message lists what the header names, and no inner name of ours."""
    path = tmp_path / "a.csv"
    path.write_text("question,body\nq,b,more\n")
    assert "is among `question`, `body`. Name it" in refusal(path)


def test_rows_are_read_only_when_they_are_asked_for(tmp_path):
    """Opening reads the first 100 rows for their columns; a later fault is met on the way."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "context": "c"}\n' * 100 + "oops\n")
    rows = open_source(str(path), DataSpec()).rows
    assert next(rows) == RawRow(str(path), 1, "q", ["c"])
    with pytest.raises(DataError, match="line 101 is not valid JSON"):
        list(rows)


def test_a_column_that_the_first_row_lacks_is_found(tmp_path):
    """JSON lines may leave out what they have no value for; later rows still say what there is."""
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"question": "q", "context": "c"}\n{"question": "r", "context": "d", "negative": "n"}\n'
    )
    source = open_source(str(path), DataSpec())
    assert source.columns["negatives"] == ["negative"]
    assert [row.negatives for row in source.rows] == [[None], ["n"]]


def test_a_source_that_does_not_exist_is_an_error(tmp_path):
    """The message repeats what was typed and says what it could have been."""
    path = tmp_path / "nothing.jsonl"
    assert refusal(path) == (
        f"`{path}` does not exist (as a path), nor does it look like a Hub id (`owner/name`). "
        "Check the spelling."
    )


@pytest.mark.parametrize(
    "name",
    ["data/pairs.jsonl", "data/pairs.parquet", "pairs.csv", "data/pairs.jsonl.gz", "./pairs",
     "../pairs"],
)  # fmt: skip
def test_a_missing_file_is_not_looked_for_on_the_hub(name):
    """What ends like a data file or starts with a dot is a path, though it may look like an id."""
    assert hub_reference(name) is None
    assert refusal(name).startswith(f"`{name}` does not exist (as a path)")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("a.csv", "question,context\n"), ("a.json", "[]"), ("a.tsv", "")],
)
def test_a_file_without_rows_is_an_error(tmp_path, name, content):
    """An empty file, or a header alone, is named as what it is."""
    (tmp_path / name).write_text(content)
    assert refusal(tmp_path / name) == (
        f"`{tmp_path / name}` holds no rows; each needs a question and the context that answers it."
    )


def test_the_built_in_data_is_numbered_and_named():
    """Built-in rows carry the built-in's name, and need no columns from the spec."""
    source = open_source("builtin:aws-docs", DataSpec(columns={"anchor": "body"}))
    rows = list(itertools.islice(source.rows, 3))
    assert source.columns == columns("question", "context")
    assert [(row.file, row.row) for row in rows] == [("builtin:aws-docs", n) for n in (1, 2, 3)]
    assert all(row.anchor and len(row.positives[0].split()) >= 20 for row in rows)


def test_an_unknown_builtin_is_named_with_the_known_one():
    """A mistyped builtin is an error of data, and says the right name."""
    assert refusal("builtin:aws") == (
        "There is no `builtin:aws`; the built-in data is called `builtin:aws-docs`."
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_beir_folder_becomes_rows_with_their_own_ids(tmp_path, suffix):
    """Each positive judgement is a row; a query may have several, and ids are the folder's own."""
    lines = "q1\td1\t1\nq2\td2\t2\nq1\t7\t0.5\nq2\td1\t0\nq2\t7\t-1\n"
    folder = write_beir(tmp_path / "beir", {"test": lines}, suffix)
    source = open_source(str(folder), DataSpec())
    qrels = str(folder / "qrels" / "test.tsv")
    assert source.columns == columns("queries.text", "corpus.text")
    assert list(source.rows) == [
        RawRow(qrels, 2, "What purrs?", ["Cats They purr."], query_id="q1"),
        RawRow(qrels, 3, "What barks?", ["Dogs bark."], query_id="q2"),
        RawRow(qrels, 4, "What purrs?", ["Nobody asks for this one."], query_id="q1"),
    ]
    assert list(source.documents) == [
        Document("d1", "Cats They purr."),
        Document("d2", "Dogs bark."),
        Document("7", "Nobody asks for this one."),
        Document("d4", None),
    ]


@pytest.mark.parametrize("dev", ["dev", "validation"])
def test_several_beir_judgements_are_the_authors_splits(tmp_path, dev):
    """Files called train, dev or validation, and test decide where their rows go."""
    qrels = {"train": "q1\td1\t1\n", dev: "q2\td2\t1\n", "test": "q1\t7\t1\n"}
    folder = write_beir(tmp_path, qrels)
    found = {(row.file, row.split) for row in rows_of(folder)}
    assert found == {
        (str(folder / "qrels" / "train.tsv"), "train"),
        (str(folder / "qrels" / f"{dev}.tsv"), "validation"),
        (str(folder / "qrels" / "test.tsv"), "test"),
    }


def test_a_single_beir_judgement_file_is_left_to_us_whatever_its_name(tmp_path):
    """One file is no split: its rows are divided by us, and its name is free."""
    folder = write_beir(tmp_path, {"judged-by-hand": "q1\td1\t1\n"})
    assert [row.split for row in rows_of(folder)] == [None]


def test_judgements_of_unknown_texts_become_rows_without_them(tmp_path):
    """What the folder lacks is left to the judge of rows, who says so with the row's place."""
    folder = write_beir(tmp_path, {"test": "q1\tlost\t1\nlost\td2\t1\n"})
    qrels = str(folder / "qrels" / "test.tsv")
    assert rows_of(folder) == [
        RawRow(qrels, 2, "What purrs?", [None], query_id="q1"),
        RawRow(qrels, 3, None, ["Dogs bark."], query_id="lost"),
    ]


def test_a_beir_folder_without_judgements_is_an_error(tmp_path):
    """Without qrels nobody knows which document answers which query."""
    folder = write_beir(tmp_path, {})
    assert (
        refusal(folder) == f"The BEIR folder `{folder}` has no `qrels/*.tsv`; add its judgements."
    )


def test_one_of_several_judgement_files_that_names_no_split_is_an_error(tmp_path):
    """A third kind of split would otherwise be trained on in silence."""
    folder = write_beir(tmp_path, {"extra": "q1\td1\t1\n", "test": "q1\td1\t1\n"})
    path = folder / "qrels" / "extra.tsv"
    assert refusal(folder) == (
        f"`{path}` names no split; expected `train.tsv`, `dev.tsv` or `test.tsv`."
    )


@pytest.mark.parametrize(
    "line",
    ["q1\td1\thigh", "q1\td1", "q1", "q1\td1\t", "q1 d1 1"],
    ids=["word as score", "no score", "one field", "empty score", "spaces"],
)
def test_a_broken_judgement_is_named_with_its_line(tmp_path, line):
    """A line that judges nothing is an error and not a judgement less."""
    folder = write_beir(tmp_path, {"test": f"q1\td1\t1\n{line}\n"})
    assert refusal(folder) == (
        f"`{folder / 'qrels' / 'test.tsv'}` line 3 is no judgement; expected the columns "
        "`query-id`, `corpus-id` and a numeric `score`, separated by tabs."
    )


def test_judgements_without_a_header_are_an_error(tmp_path):
    """TREC's own format has no header; its first line would otherwise be lost."""
    folder = write_beir(tmp_path, {"test": ""})
    path = folder / "qrels" / "test.tsv"
    path.write_text("q1\t0\td1\t1\nq2\t0\td2\t1\n")
    assert refusal(folder).startswith(f"`{path}` line 2 is no judgement;")


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl"])
def test_half_a_beir_folder_is_none(tmp_path, missing):
    """A folder is BEIR's by its corpus and its queries together."""
    folder = write_beir(tmp_path, {"test": "q1\td1\t1\n"})
    assert is_beir(folder)
    (folder / missing).unlink()
    assert not is_beir(folder)


def test_a_corpus_keeps_its_ids_titles_and_texts(tmp_path):
    """`id` or `_id` name a document, its number does otherwise; a title belongs to its text."""
    path = write_jsonl(
        tmp_path / "corpus.jsonl",
        [
            {"id": 12, "text": "a"},
            {"_id": "b", "title": "B", "text": "b"},
            {"text": "c"},
            {"id": "d", "_id": "other", "title": None, "text": None},
        ],
    )
    assert list(open_documents(str(path))) == [
        Document("12", "a"),
        Document("b", "B b"),
        Document("c00000003", "c"),
        Document("d", None),
    ]


def test_a_corpus_that_does_not_exist_is_an_error(tmp_path):
    """The message names the field of the spec and the path."""
    with pytest.raises(DataError) as caught:
        list(open_documents(str(tmp_path / "no")))
    assert (
        str(caught.value)
        == f"`data.corpus` is `{tmp_path / 'no'}`, which does not exist; check the path."
    )


def test_a_corpus_row_without_text_is_an_error(tmp_path):
    """A corpus of other columns is named with its first wrong row and the right columns."""
    path = write_jsonl(tmp_path / "c.jsonl", [{"id": 1, "text": "a"}, {"id": 2, "body": "b"}])
    with pytest.raises(DataError) as caught:
        list(open_documents(str(path)))
    assert str(caught.value) == f"`{path}` row 2 has no `text`; a corpus has `id` and `text`."


def test_a_null_id_is_no_id(tmp_path):
    """Columns of a table are there in every row; an empty one names nothing."""
    path = write_jsonl(tmp_path / "c.jsonl", [{"id": None, "text": "a"}, {"id": "b", "text": "b"}])
    assert [document.id for document in open_documents(str(path))] == ["c00000001", "b"]


GROUPED = [
    {"question": "q1", "context": "c1", "product": "a", "year": 2024},
    {"question": "q2", "context": "c2", "product": None, "year": 2025},
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_group_comes_from_any_format_as_the_file_holds_it(tmp_path, name):
    """Only where the spec names its column, which the report then names."""
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
    kinds = [row.group for row in rows_of(path, columns={"group": "product"})]
    assert kinds == ["a", "" if path.suffix == ".csv" else None]


def test_data_without_the_column_of_the_group_is_an_error(tmp_path):
    """The message lists what there is; the built-in data has columns, too."""
    path = write_jsonl(tmp_path / "a.jsonl", GROUPED)
    assert refusal(path, columns={"group": "kind"}) == (
        f"`{path}` has no column `kind` (`data.columns.group`); "
        "it has `question`, `context`, `product`, `year`."
    )
    assert refusal("builtin:aws-docs", columns={"group": "kind"}) == (
        "`builtin:aws-docs` has no column `kind` (`data.columns.group`); "
        "it has `question`, `context`, `source`."
    )


@pytest.mark.parametrize("role", ["validation", "test"])
def test_a_given_set_without_the_column_of_the_group_has_null_there(tmp_path, role):
    """A column of the data is none that its test set must have."""
    path = write_jsonl(tmp_path / "a.jsonl", [GROUPED[0], {"question": "q", "context": "c"}])
    wanted = [(DataSpec(columns={"group": group})) for group in ("product", "kind")]
    groups = [[row.group for row in open_source(str(path), spec, role).rows] for spec in wanted]
    assert groups == [["a", None], [None, None]]


def test_a_group_of_a_beir_folder_is_a_field_of_its_queries(tmp_path):
    """Beside the text or in `metadata`, which gives way to a field of the same name."""
    folder = write_beir(tmp_path, {"test": "q1\td1\t1\nq2\td2\t1\nq1\t7\t1\nlost\td1\t1\n"})
    queries = [
        {"_id": "q1", "text": "What purrs?", "metadata": {"lang": "en", "kind": "inner"}},
        {"_id": "q2", "text": "What barks?", "kind": "outer", "metadata": {"kind": "no"}},
    ]
    write_jsonl(folder / "queries.jsonl", queries)
    found = {
        name: [row.group for row in rows_of(folder, columns={"group": name})]
        for name in ("lang", "kind")
    }
    assert found == {
        "lang": ["en", None, "en", None],
        "kind": ["inner", "outer", "inner", None],
    }
    assert open_source(str(folder), DataSpec(columns={"group": "lang"})).columns == columns(
        "queries.text", "corpus.text", group="lang"
    )


def test_a_beir_folder_without_the_field_of_the_group_is_an_error(tmp_path):
    """It names the file that it looked in; a test set may lack it."""
    folder = write_beir(tmp_path, {"test": "q1\td1\t1\n"})
    assert refusal(folder, columns={"group": "kind"}) == (
        f"`{folder / 'queries.jsonl'}` has no column `kind` (`data.columns.group`); "
        "it has `_id`, `text`."
    )
    rows = open_source(str(folder), DataSpec(columns={"group": "kind"}), "test").rows
    assert [row.group for row in rows] == [None]


def test_of_a_probe_only_questions_and_contexts_are_read(tmp_path):
    """By the names people use: the columns that the spec names are those of other data."""
    path = write_jsonl(
        tmp_path / "a.jsonl", [{"query": "q", "answer": "a", "negative": "n", "body": "b"}]
    )
    spec = DataSpec(columns={"anchor": "body", "positive": "page", "group": "product"})
    source = open_source(str(path), spec, "probe")
    assert source.columns == columns("query", "answer")
    assert list(source.rows) == [RawRow(str(path), 1, "q", ["a"])]
    folder = write_beir(tmp_path / "beir", {"test": "q1\td1\t1\n"})
    assert [row.anchor for row in open_source(str(folder), spec, "probe").rows] == ["What purrs?"]


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("corpus", {"_id": "d1", "text": "Something else."}),
        ("queries", {"_id": "q1", "text": "Something else?"}),
    ],
)
def test_an_id_of_two_texts_is_refused(tmp_path, file, row):
    """Nobody knows which of them was judged; the same text twice is no harm."""
    folder = write_beir(tmp_path, {"test": "q1\td1\t1\n"})
    path = folder / f"{file}.jsonl"
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([*lines, lines[0]]) + "\n", "utf-8")
    assert len(rows_of(folder)) == 1
    path.write_text("\n".join([*lines, json.dumps(row)]) + "\n", "utf-8")
    assert refusal(folder) == (
        f"`{path}` row {len(lines) + 1} says something else of the id {row['_id']!r} than a row "
        "above; judgements would mean either. Give each text an id of its own."
    )


@pytest.mark.parametrize("file", ["corpus", "queries"])
def test_a_text_without_an_id_is_refused(tmp_path, file):
    """Judgements go by ids; none of it would be found."""
    folder = write_beir(tmp_path, {"test": "q1\td1\t1\n"})
    path = folder / f"{file}.jsonl"
    path.write_text('{"text": "nameless"}\n', "utf-8")
    assert refusal(folder) == f"`{path}` row 1 has no `_id`, which judgements go by; give it one."


def test_ids_that_look_alike_in_a_table_are_two(tmp_path):
    """`d 1` and `d_1` are written alike, and judged apart."""
    folder = write_beir(tmp_path, {"test": "q1\td 1\t1\nq1\td_1\t1\n"})
    documents = [{"_id": "d 1", "text": "with a space"}, {"_id": "d_1", "text": "without"}]
    write_jsonl(folder / "corpus.jsonl", documents)
    assert [row.positives for row in rows_of(folder)] == [["with a space"], ["without"]]


@pytest.mark.parametrize("score", ["nan", "inf", "-inf"])
def test_a_score_that_is_no_number_is_refused(tmp_path, score):
    """Not a number is not "not relevant"."""
    folder = write_beir(tmp_path, {"test": f"q1\td1\t{score}\n"})
    assert "line 2 is no judgement" in refusal(folder)


def test_a_path_that_cannot_be_reached_is_a_data_error(tmp_path, monkeypatch):
    """A folder that may not be entered is no bug of ours."""

    def denied(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)
    assert (
        refusal("their/pairs.jsonl")
        == "`their/pairs.jsonl` cannot be read: Permission denied. Make it readable, or remove it."
    )
