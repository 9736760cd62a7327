"""One data set in every layout: the same splits and negatives, whoever's files it lies in."""

import json
import re
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from fuzz.ugly_files import as_lines, as_table
from hub_server import Hub
from remote import files_of, in_client, served_s3
from workbook_files import write_workbook

from job.data.dataset import inspect_dataset
from job.data.formats.registry import LAYOUTS
from job.draft import draft_job_file
from job.spec.parse import build_spec, parse_document
from job.spec.schema import DataFormat, DataSpec
from launcher.commands.check import check

COUNT = 300
PLAIN = [
    {
        "question": f"Which shelf holds part {n} of kind k{n * 7 % 31}?",
        "context": f"Part {n} lies on shelf s{n * 13 % 97} of row r{n}.",
        "negative": f"Tool {n} hangs on the wall w{n * 11 % 89} by door {n}.",
    }
    for n in range(COUNT)
]
PAIRS = [(row["question"], row["context"]) for row in PLAIN]
ROWS = [{"question": question, "context": context} for question, context in PAIRS]
TRIPLES = [tuple(row.values()) for row in PLAIN]


def by_ids(texts, stem):
    return {f"{stem}{number}": text for number, text in enumerate(texts)}


QUERIES = by_ids((question for question, _ in PAIRS), "q")
CORPUS = by_ids((context for _, context in PAIRS), "d")
WRONG = by_ids((negative for *_, negative in TRIPLES), "n")


def document(name, content):
    def write(folder):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, "utf-8")
        return folder / name

    return write


def lines(*rows):
    return document("a.jsonl", as_lines(rows))


def each(make):
    return lines(*(make(*triple) for triple in TRIPLES))


def passages(*texts, **more):
    return [{"text": text} | more for text in texts]


def said(text):
    return [{"role": "user", "content": text}]


def parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_parquet(folder):
    parquet(folder / "a.parquet", PLAIN)
    return folder / "a.parquet"


def write_saved(folder):
    from datasets import Dataset

    Dataset.from_list(PLAIN).save_to_disk(folder / "saved")
    return folder / "saved"


def write_excel(folder):
    rows = [[*PLAIN[0]], *map(list, TRIPLES)]
    return write_workbook(folder / "a.xlsx", {"Pairs": rows})


def write_utf16(folder):
    (folder / "a.csv").write_bytes(as_table(PLAIN).encode("utf-16"))
    return folder / "a.csv"


def write_beir(folder):
    write_jsonl(folder / "corpus.jsonl", [{"_id": k, "text": text} for k, text in CORPUS.items()])
    write_jsonl(folder / "queries.jsonl", [{"_id": k, "text": text} for k, text in QUERIES.items()])
    qrels = [f"q{n}\td{n}\t1\n" for n in range(COUNT)]
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("".join(["query-id\tcorpus-id\tscore\n", *qrels]))
    return folder


def write_beir_otherwise(folder):
    parquet(folder / "corpus" / "0.parquet", [{"id": k, "text": t} for k, t in CORPUS.items()])
    parquet(folder / "queries" / "0.parquet", [{"qid": k, "text": t} for k, t in QUERIES.items()])
    rows = [{"query_id": f"q{n}", "doc_id": f"d{n}", "relevance": 1} for n in range(COUNT)]
    write_jsonl(folder / "qrels" / "dev.jsonl", rows)
    return folder


def write_autorag(folder):
    parquet(folder / "corpus.parquet", [{"doc_id": k, "contents": t} for k, t in CORPUS.items()])
    rows = [{"qid": k, "query": t, "retrieval_gt": [[f"d{n}"]]}
            for n, (k, t) in enumerate(QUERIES.items())]  # fmt: skip
    parquet(folder / "qa.parquet", rows)
    return folder


def write_nemo(folder):
    texts = {
        k: t
        for n in range(COUNT)
        for k, t in ((f"d{n}", CORPUS[f"d{n}"]), (f"n{n}", WRONG[f"n{n}"]))
    }
    write_jsonl(folder / "wiki" / "a.jsonl", [{"id": k, "text": t} for k, t in texts.items()])
    data = [
        {"question_id": k, "question": t, "pos_doc": [{"id": f"d{n}"}], "neg_doc": [f"n{n}"]}
        for n, (k, t) in enumerate(QUERIES.items())
    ]
    return document("a.json", {"corpus": [{"path": "wiki"}], "data": data})(folder)


SQUAD = [
    {"context": context, "qas": [{"id": str(n), "question": question}]}
    for n, (question, context) in enumerate(PAIRS)
]
TABLE = {key: {str(n): row[key] for n, row in enumerate(PLAIN)} for key in PLAIN[0]}

# Layout → what writes it; those without negatives stand below.
WRITERS = {
    "rows": lines(*PLAIN),
    "rows of a JSON array": document("a.json", PLAIN),
    "rows of an array in .jsonl": document("a.jsonl", json.dumps(PLAIN, indent=1)),
    "rows in an object": document("a.json", {"version": 1, "data": PLAIN}),
    "rows by commas": document("a.csv", as_table(PLAIN)),
    "rows by semicolons": document("a.csv", as_table(PLAIN, ";")),
    "rows by tabs": document("a.csv", as_table(PLAIN, "\t")),
    "rows by pipes": document("a.tsv", as_table(PLAIN, "|")),
    "rows in UTF-16": write_utf16,
    "rows in Parquet": write_parquet,
    "rows in a workbook": write_excel,
    "rows of objects": each(
        lambda q, c, n: {"query": q, "positive": {"text": c}, "negatives": [{"text": n}]}
    ),
    "rows with labels": lines(
        *(
            {"question": q, "context": text, "label": label}
            for q, c, n in TRIPLES
            for text, label in ((n, 0), (c, 1))
        )
    ),
    "rows of lists of labels": each(
        lambda q, c, n: {"question": q, "contexts": [c, n], "relevance": [True, False]}
    ),
    "lists": lines(*map(list, TRIPLES)),
    "lists in an array": document("a.json", [list(triple) for triple in TRIPLES]),
    "pandas": document("a.json", TABLE),
    "pandas by index": document("a.json", {str(n): row for n, row in enumerate(PLAIN)}),
    "pandas by split": document("a.json", {"columns": [*PLAIN[0]], "data": [*map(list, TRIPLES)]}),
    "columns": document("a.json", {key: [*values.values()] for key, values in TABLE.items()}),
    "saved": write_saved,
    "flagembedding": each(lambda q, c, n: {"query": q, "pos": [c], "neg": [n], "prompt": ""}),
    "sentence-transformers": each(lambda q, c, n: {"set": {"query": q, "pos": [c], "neg": [n]}}),
    "instructions": each(
        lambda q, c, n: {"query": ["Find", q], "pos": ["This", c], "neg": ["This", n]}
    ),
    "tevatron": each(
        lambda q, c, n: {
            "query": q,
            "positive_passages": passages(c),
            "negative_passages": passages(n),
        }
    ),
    "dpr": each(
        lambda q, c, n: {
            "question": q,
            "answers": ["x"],
            "positive_ctxs": passages(c, title=""),
            "hard_negative_ctxs": passages(n, title=""),
        }
    ),
    "nemo": each(lambda q, c, n: {"query": q, "pos_doc": c, "neg_doc": [n]}),
    "nemo by ids": write_nemo,
    "msmarco": each(
        lambda q, c, n: {
            "query": q,
            "answers": ["x"],
            "passages": {"is_selected": [0, 1], "passage_text": [n, c]},
        }
    ),
    "swift": each(
        lambda q, c, n: {
            "messages": said(q),
            "positive_messages": [said(c)],
            "negative_messages": [said(n)],
        }
    ),
}
WITHOUT_NEGATIVES = {
    "llamaindex": document(
        "a.json",
        {
            "queries": QUERIES,
            "corpus": CORPUS,
            "relevant_docs": {f"q{n}": [f"d{n}"] for n in range(COUNT)},
        },
    ),
    "llamaindex by questions": document(
        "a.json",
        {
            "questions": QUERIES,
            "corpus": CORPUS,
            "relevant_contexts": {f"q{n}": [f"d{n}"] for n in range(COUNT)},
        },
    ),
    "mapping": document("a.json", dict(PAIRS)),
    "llamaindex with qrels": document(
        "a.json",
        {
            "queries": [{"_id": key, "text": text} for key, text in QUERIES.items()],
            "corpus": [{"_id": key, "text": text} for key, text in CORPUS.items()],
            "qrels": [
                {"query-id": f"q{n}", "corpus-id": f"d{n}", "score": 1} for n in range(COUNT)
            ],
        },
    ),
    "squad": document("a.json", {"data": [{"title": "T", "paragraphs": SQUAD}]}),
    "questions": lines(*({"context": c, "questions": [q]} for q, c in PAIRS)),
    "ragas": lines(
        *({"user_input": q, "reference": "x", "reference_contexts": [c]} for q, c in PAIRS)
    ),
    "ragas in CSV": document(
        "a.csv",
        as_table([{"question": q, "answer": "x", "contexts": str([c])} for q, c in PAIRS]),
    ),
    "beir": write_beir,
    "beir by other names": write_beir_otherwise,
    "autorag": write_autorag,
}


def contents(source, **spec):
    """Return the texts of each split in their order, all searched texts, and the fingerprints."""
    given = {"source": str(source), "near_duplicate_threshold": None} | spec
    dataset = inspect_dataset(DataSpec(**given), {})
    splits = [
        table.select(["anchor", "positive", "negatives"]).to_pylist() for table in dataset.tables
    ]
    return splits, sorted(dataset.corpus.texts.to_pylist()), dataset.facts["fingerprint"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Plain rows, with negatives and without."""
    folder = tmp_path_factory.mktemp("plain")
    rows = write_jsonl(folder / "rows.jsonl", PLAIN)
    pairs = write_jsonl(folder / "pairs.jsonl", ROWS)
    return {True: contents(rows), False: contents(pairs)}


@pytest.mark.parametrize("name", [*WRITERS, *WITHOUT_NEGATIVES])
def test_every_layout_gives_the_same_data_set(tmp_path, plain, name):
    """Splits, their order, negatives, fingerprints and what is searched are those of plain rows."""
    has_negatives = name in WRITERS
    path = (WRITERS | WITHOUT_NEGATIVES)[name](tmp_path)
    assert contents(path) == plain[has_negatives]


# Layouts that are fetched too: rows, one JSON document, a folder of several parts.
REMOTE = ("tevatron", "llamaindex", "beir")
# On the Hub, the card names the parts of a retrieval data set.
CARD = """\
---
configs:
- {config_name: corpus, data_files: [{split: corpus, path: corpus.jsonl}]}
- {config_name: queries, data_files: [{split: queries, path: queries.jsonl}]}
- {config_name: default, data_files: [{split: test, path: qrels/test.tsv}]}
---
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folders with the remote layouts, by name."""
    folders = {name: tmp_path_factory.mktemp(name) for name in REMOTE}
    for name, folder in folders.items():
        (WRITERS | WITHOUT_NEGATIVES)[name](folder)
    (folders["beir"] / "README.md").write_text(CARD)
    return folders


@pytest.fixture(scope="module")
def s3(written):
    with served_s3("box") as server:
        for name, folder in written.items():
            for file, data in files_of(folder).items():
                server.put("box", f"{name}/{file}", data)
        yield server


@pytest.fixture(scope="module")
def hub_environment(written, tmp_path_factory):
    with Hub() as hub:
        for name, folder in written.items():
            hub.add("dataset", f"me/{name}", folder)
        yield hub.environment(tmp_path_factory.mktemp("cache"))


def fetched_contents(source, folder):
    """Fetch the source into the folder; return what `contents` does."""
    from pathlib import Path

    from job.data.dataset import inspect_dataset
    from job.inputs import fetch_data
    from job.spec.parse import build_spec
    from job.storage.workspace import Workspace

    spec = build_spec({"data": {"source": source, "near_duplicate_threshold": None}})
    fetched = fetch_data(spec, Workspace(Path(folder)), {})
    dataset = inspect_dataset(spec.data, {role: found.path for role, found in fetched.items()})
    columns = ["anchor", "positive", "negatives"]
    splits = [table.select(columns).to_pylist() for table in dataset.tables]
    return splits, sorted(dataset.corpus.texts.to_pylist()), dataset.facts["fingerprint"]


@pytest.mark.slow
@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.usefixtures("s3")
def test_a_layout_in_s3_gives_the_same_data_set(tmp_path, plain, name):
    """Splits, negatives and fingerprints are those of plain rows on the disk."""
    assert fetched_contents(f"s3://box/{name}/", tmp_path) == plain[name in WRITERS]


@pytest.mark.slow
@pytest.mark.parametrize("name", REMOTE)
def test_a_layout_on_the_hub_gives_the_same_data_set(tmp_path, plain, hub_environment, name):
    """Splits, negatives and fingerprints are those of plain rows on the disk."""
    found = in_client(hub_environment, fetched_contents, f"me/{name}", str(tmp_path))
    assert tuple(found) == plain[name in WRITERS]


@pytest.mark.parametrize("name", [*WRITERS, *WITHOUT_NEGATIVES])
def test_a_drafted_job_file_reads_every_layout(tmp_path, plain, tiny_encoder, name):
    """The format and columns that `init` writes give the same data as those recognized."""
    source = str((WRITERS | WITHOUT_NEGATIVES)[name](tmp_path))
    wanted = {"data.source": source, "data.near_duplicate_threshold": "null"}
    settings = wanted | {"model.base": str(tiny_encoder)}
    drafted = build_spec(parse_document(draft_job_file(build_spec({}, settings)), "job.yaml"))
    assert contents(**drafted.data.model_dump(exclude_unset=True)) == plain[name in WRITERS]
    assert drafted.data.format != "auto"
    assert drafted.evaluation.dimensions == (64,)


def test_layouts_with_splits_give_those_of_given_sets(tmp_path):
    """A key or a file that says test is what `data.test` would be."""
    test, train = PLAIN[:60], PLAIN[60:]
    data, held = write_jsonl(tmp_path / "d.jsonl", train), write_jsonl(tmp_path / "t.jsonl", test)
    expected = contents(data, test=str(held))
    document("a.json", {"train": train, "test": test})(tmp_path)
    folder = Path(tmp_path, "folder")
    for name, rows in (("test", test), ("train", train)):
        write_jsonl(folder / f"{name}.jsonl", rows)
    found = [contents(path) for path in (tmp_path / "a.json", folder)]
    as_sets = [sorted(map(str, split)) for split in expected[0]]
    for splits, corpus, _ in found:
        assert corpus == expected[1]
        assert [len(split) for split in splits] == [len(split) for split in expected[0]]
        assert sorted(map(str, splits[2])) == as_sets[2]


def test_every_layout_is_written_here():
    """And `data.format` names those of the registry."""
    names = {layout.name for layout in LAYOUTS}
    assert {*get_args(DataFormat)} == names | {"auto", "lists"}
    written = {name.partition(" ")[0] for name in (*WRITERS, *WITHOUT_NEGATIVES)} | {"splits"}
    assert written == names | {"lists"}


def test_the_table_of_layouts_names_them_all():
    """In the README of the job, in any order."""
    text = (Path(__file__).parents[4] / "job" / "README.md").read_text("utf-8")
    table = text.partition("| `data.format` | layout |")[2].partition("\n\n")[0]
    named = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    assert named == {*get_args(DataFormat)} - {"auto"}


def test_the_help_of_the_check_names_every_layout():
    """As `data.format` takes them."""
    words = re.findall(r"[\w-]+", check.help.partition("Recognized layouts")[2])
    assert {*get_args(DataFormat)} - {"auto"} <= {*words}
