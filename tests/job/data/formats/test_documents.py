"""JSON documents of other tools: each gives the rows, ids and documents that it holds."""

import json

import pytest
from conftest import write_jsonl

from job.core.errors import DataError
from job.data.dataset import inspect_dataset
from job.data.formats.layout import Absent, Document
from job.data.sources import open_source
from job.spec.schema import DataSpec

PAIRS = [("What opens it?", "A lever opens it."), ("How warm is it?", "It is kept warm.")]
ROWS = [{"question": question, "context": context} for question, context in PAIRS]


def opened(path, content, **spec):
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return open_source(str(path), DataSpec(**spec))


def pairs(source):
    return [(row.anchor, *row.positives) for row in source.rows]


QUERIES = {f"q{n}": question for n, (question, _) in enumerate(PAIRS)}
CORPUS = {f"d{n}": context for n, (_, context) in enumerate(PAIRS)} | {"d9": "Nobody asks."}


@pytest.mark.parametrize(
    ("queries", "relevant"),
    [("queries", "relevant_docs"), ("questions", "relevant_contexts")],
)
def test_llamaindex_joins_queries_and_corpus_by_ids(tmp_path, queries, relevant):
    """Ids are kept, and documents that nobody asks for are searched as well."""
    document = {queries: QUERIES, "corpus": CORPUS, relevant: {"q0": ["d0"], "q1": ["d1", "d7"]}}
    source = opened(tmp_path / "a.json", document | {"mode": "text"})
    rows = list(source.rows)
    assert source.format == "llamaindex"
    assert [(row.query_id, row.anchor) for row in rows] == [*QUERIES.items()]
    missing = Absent("document `d7` is not in the corpus")
    assert [row.positives for row in rows] == [[PAIRS[0][1]], [PAIRS[1][1], missing]]
    assert rows[0].document_ids == ["d0"]
    assert list(source.documents) == [Document(key, None, text) for key, text in CORPUS.items()]


def test_grades_in_llamaindex_are_labels(tmp_path):
    """Judgements may be grades, as in qrels."""
    document = {"queries": QUERIES, "corpus": CORPUS, "relevant_docs": {"q0": {"d0": 2, "d1": 0}}}
    rows = list(opened(tmp_path / "a.json", document).rows)
    assert [row.positives for row in rows] == [[PAIRS[0][1], PAIRS[1][1]]]
    assert [row.label for row in rows] == [[2, 0]]


def test_a_row_that_is_null_is_told_in_words(tmp_path):
    """Not with a name of Python's."""
    with pytest.raises(DataError, match="row 2 is null, not an object"):
        list(opened(tmp_path / "a.jsonl", json.dumps(ROWS[0]) + "\nnull\n").rows)


def test_squad_gives_the_questions_that_a_paragraph_answers(tmp_path):
    """Unanswerable ones are no pairs, and counted; every paragraph is searched."""
    asked = {"id": "7", "question": PAIRS[0][0], "answers": [{"text": "A lever"}]}
    impossible = {"id": "8", "question": "Who?", "answers": [], "is_impossible": True}
    paragraphs = [
        {"context": PAIRS[0][1], "qas": [asked, impossible]},
        {"context": "Nobody asks.", "qas": []},
    ]
    source = opened(
        tmp_path / "a.json",
        {"version": "v2.0", "data": [{"title": "T", "paragraphs": paragraphs}]},
    )
    rows = list(source.rows)
    assert source.format == "squad"
    absent = Absent("the paragraph does not answer it (`is_impossible`)")
    assert [(r.query_id, r.anchor, r.positives) for r in rows] == [
        ("7", PAIRS[0][0], [PAIRS[0][1]]),
        ("8", "Who?", [absent]),
    ]
    assert [d.text for d in source.documents] == [PAIRS[0][1], "Nobody asks."]


COLUMNS = {key: [row[key] for row in ROWS] for key in ROWS[0]}
BY_COLUMN = {key: dict(zip("01", values, strict=True)) for key, values in COLUMNS.items()}
ORIENTATIONS = {
    "columns": BY_COLUMN,
    "index": dict(zip("01", ROWS, strict=True)),
    "named index": {"a": ROWS[0], "b": ROWS[1], "c": ROWS[0]},
    "split": {"columns": [*ROWS[0]], "index": [0, 1], "data": [list(p) for p in PAIRS]},
    "records": ROWS,
    "table": {"schema": {"fields": []}, "data": ROWS},
    "values": [list(pair) for pair in PAIRS],
    "to_dict": COLUMNS,
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_orientation_of_pandas_gives_the_same_pairs(tmp_path, name):
    source = opened(tmp_path / "a.json", ORIENTATIONS[name])
    assert pairs(source)[:2] == PAIRS


def test_keys_that_name_splits_decide_them(tmp_path):
    """What the owner holds out is not trained on."""
    document = {"info": "x", "train": ROWS[:1], "dev": [], "test": ROWS[1:]}
    source = opened(tmp_path / "a.json", document)
    assert source.format == "splits"
    assert [(row.anchor, row.split) for row in source.rows] == [
        (PAIRS[0][0], "train"),
        (PAIRS[1][0], "test"),
    ]


@pytest.mark.parametrize(
    "document",
    [
        {"data": {"train": ROWS[:1], "test": ROWS[1:]}},
        {"train": {k: [v] for k, v in ROWS[0].items()}, "test": ROWS[1:]},
        {"train": {k: {"0": v} for k, v in ROWS[0].items()}, "test": ROWS[1:]},
    ],
    ids=["below data", "columns", "pandas"],
)
def test_splits_may_lie_deeper_or_hold_columns(tmp_path, document):
    source = opened(tmp_path / "a.json", document)
    assert [(row.anchor, row.split) for row in source.rows] == [
        (PAIRS[0][0], "train"),
        (PAIRS[1][0], "test"),
    ]


def test_titles_of_a_llamaindex_corpus_belong_to_its_texts(tmp_path):
    corpus = {"d0": {"title": "T", "text": PAIRS[0][1]}}
    document = {"queries": QUERIES, "corpus": corpus, "relevant_docs": {"q0": ["d0"]}}
    source = opened(tmp_path / "a.json", document)
    assert list(source.documents) == [Document("d0", "T", PAIRS[0][1])]
    assert [row.positives for row in source.rows] == [[f"T {PAIRS[0][1]}"]]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_an_array_is_read_under_either_name(tmp_path, name, indent):
    (tmp_path / name).write_text(json.dumps(ROWS, indent=indent))
    source = open_source(str(tmp_path / name), DataSpec())
    assert pairs(source) == PAIRS
    assert source.format == "rows"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_objects_over_several_lines_are_read_one_by_one(tmp_path, name):
    """As `jq` prints them."""
    source = opened(tmp_path / name, "".join(json.dumps(row, indent=2) + "\n" for row in ROWS))
    assert pairs(source) == PAIRS


def test_each_file_may_hold_one_row(tmp_path):
    for number, row in enumerate(ROWS):
        (tmp_path / f"{number}.json").write_text(json.dumps(row, indent=1))
    assert pairs(open_source(str(tmp_path), DataSpec())) == PAIRS
    (tmp_path / "9.json").write_text('{"name": "pairs", "version": "1"}')
    with pytest.raises(DataError, match=r"9\.json` must contain exactly one list"):
        pairs(open_source(str(tmp_path), DataSpec()))


@pytest.mark.parametrize("lines", [False, True])
def test_rows_may_be_lists(tmp_path, lines):
    """A question, its context, and whatever negatives follow."""
    rows = [[*PAIRS[0], "n1", "n2"], [*PAIRS[1]]]
    text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows)
    source = opened(tmp_path / "a.jsonl", text)
    assert source.format == "lists"
    assert [(r.anchor, r.positives, r.negatives) for r in source.rows] == [
        (PAIRS[0][0], [PAIRS[0][1]], ["n1", "n2"]),
        (PAIRS[1][0], [PAIRS[1][1]], [None]),
    ]


def test_the_first_of_rows_that_are_lists_may_name_the_others(tmp_path):
    rows = [["context", "question"], *([context, question] for question, context in PAIRS)]
    assert pairs(opened(tmp_path / "a.json", rows)) == PAIRS


def test_nemo_names_documents_of_other_files_by_ids(tmp_path):
    """The corpora lie beside the file, or wherever it says."""
    corpus = tmp_path / "wiki"
    write_jsonl(corpus / "train.jsonl", [{"id": key, "text": text} for key, text in CORPUS.items()])
    (corpus / "merlin_metadata.json").write_text('{"class": "TextQADataset", "corpus_id": "wiki"}')
    row = {"question_id": "q0", "question": PAIRS[0][0], "corpus_id": "wiki"}
    row |= {"pos_doc": [{"id": "d0"}], "neg_doc": [{"id": "d1"}, "d9", "gone"]}
    source = opened(tmp_path / "a.json", {"corpus": [{"path": "wiki"}], "data": [row]})
    (found,) = source.rows
    assert source.format == "nemo"
    assert (found.query_id, found.anchor, found.positives) == ("q0", PAIRS[0][0], [PAIRS[0][1]])
    missing = Absent("document `gone` is not in the corpus")
    assert found.negatives == [PAIRS[1][1], "Nobody asks.", missing]
    assert [document.id for document in source.documents] == [*CORPUS]
    with pytest.raises(DataError, match="names the corpus `nowhere`, which does not exist"):
        opened(tmp_path / "b.json", {"corpus": {"path": "nowhere"}, "data": [row]})


@pytest.mark.parametrize(
    ("lost", "noted"),
    [
        ([], []),
        (["x"], ["1 hard negative is dropped: document `x` is not in the corpus"]),
        (
            ["x", "x", "y"],
            ["3 hard negatives are dropped; the first: document `x` is not in the corpus"],
        ),
    ],
)
def test_negatives_that_the_corpus_lacks_are_counted(tmp_path, lost, noted):
    """The other negatives of the question are used."""
    write_jsonl(tmp_path / "w" / "a.jsonl", [{"id": k, "text": text} for k, text in CORPUS.items()])
    row = {"question": PAIRS[0][0], "pos_doc": ["d0"], "neg_doc": ["d1", *lost]}
    (tmp_path / "a.json").write_text(json.dumps({"corpus": [{"path": "w"}], "data": [row]}))
    facts = inspect_dataset(DataSpec(source=str(tmp_path / "a.json")), {}).facts
    assert (facts["negatives"], facts["notes"]) == (1, noted)


def test_lists_and_objects_do_not_mix(tmp_path):
    """The first row says what the others must be."""
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(PAIRS[1]) + "\n")
    with pytest.raises(DataError, match="row 2 is a list, not an object"):
        list(open_source(str(path), DataSpec()).rows)
    path.write_text(json.dumps(PAIRS[1]) + "\n" + json.dumps(ROWS[0]) + "\n")
    with pytest.raises(DataError, match="row 2 is an object, not a list"):
        list(open_source(str(path), DataSpec()).rows)


def test_a_format_that_is_named_is_the_only_one_tried(tmp_path):
    """Rows by index may look like columns; whoever knows better can say so."""
    document = {"queries": QUERIES, "corpus": CORPUS, "relevant_docs": {"q0": ["d0"]}}
    path = tmp_path / "a.json"
    assert opened(path, document, format="llamaindex").format == "llamaindex"
    for name, told in [
        ("squad", "is not in the layout that `data.format` names: articles"),
        ("beir", "is not in the layout `data.format=beir`"),
        ("tevatron", "holds no list of rows|has no rows of `data.format=tevatron`"),
    ]:
        with pytest.raises(DataError, match=told):
            opened(path, document, format=name)
    rows = write_jsonl(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(DataError, match=r"no rows of `data\.format=tevatron`"):
        open_source(str(rows), DataSpec(format="tevatron"))


@pytest.mark.parametrize("key", ["data", "dataset", "pairs"])
def test_splits_may_be_below_a_key(tmp_path, key):
    """Whatever it is called."""
    document = {key: {"train": ROWS[:1], "test": ROWS[1:]}, "version": 1}
    rows = list(opened(tmp_path / "a.json", document).rows)
    assert [row.split for row in rows] == ["train", "test"]
