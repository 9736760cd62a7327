"""Where pairs come from: files, folders, BEIR folders, `builtin:aws-docs`.

S3 and the Hub are no places to read from: `job.fetch` makes files of what lies there.
All of them become the same thing: rows of (anchor, positives, negatives) as they were found.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from job.aws_docs import mine_pairs
from job.columns import ColumnChoice, choose_columns
from job.errors import DataError
from job.records import SURPLUS, Record, read_records
from job.spec import Columns, DataSpec

# Rows that say which columns there are: JSON lines may leave out what they have no value for.
FIRST_ROWS = 100
BUILTIN_DOCS = "builtin:aws-docs"


@dataclass(frozen=True)
class RawRow:
    """One row as found; the values may still be anything that the file could hold."""

    file: str
    row: int
    anchor: Any
    positives: list[Any]
    negatives: list[Any] = field(default_factory=list)
    surplus: bool = False
    # BEIR brings these along: its own ids, and the split that its authors chose.
    query_id: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Document:
    id: str
    text: Any


@dataclass(frozen=True)
class Source:
    """Rows to be read once, front to back, and the documents that belong to no row."""

    name: str
    rows: Iterator[RawRow]
    columns: dict[str, Any]
    documents: Iterable[Document] = ()


def open_source(name: str, spec: DataSpec) -> Source:
    """Open pairs by path or `builtin:` name; reading starts when the rows are asked for."""
    if name.startswith("builtin:"):
        return _from_records(name, _builtin_records(name), Columns())
    path = Path(name)
    if path.exists():
        if is_beir(path):
            return _from_beir(name, path)
        return _from_records(name, read_records(path), spec.columns)
    msg = f"`{name}` does not exist (as a path), nor does it look like a Hub id (`owner/name`)."
    raise DataError(msg)


def open_documents(name: str) -> Iterator[Document]:
    """Read the documents of `data.corpus`: columns `text` and, if they have one, `id` or `_id`."""
    path = Path(name)
    if not path.exists():
        msg = f"`data.corpus` is `{name}`, which does not exist."
        raise DataError(msg)
    for number, record in enumerate(read_records(path), start=1):
        if "text" not in record.fields:
            msg = f"`{record.file}` row {record.row} has no `text`; a corpus has `id` and `text`."
            raise DataError(msg)
        given = [record.fields[key] for key in ("id", "_id") if record.fields.get(key) is not None]
        yield Document(str(given[0]) if given else f"c{number:08d}", _joined(record.fields))


def is_beir(path: Path) -> bool:
    return bool(_beir_file(path, "corpus") and _beir_file(path, "queries"))


def _builtin_records(name: str) -> Iterator[Record]:
    if name != BUILTIN_DOCS:
        msg = f"There is no `{name}`; the built-in data is called `{BUILTIN_DOCS}`."
        raise DataError(msg)
    for number, pair in enumerate(mine_pairs(), start=1):
        yield Record(name, number, dict(pair))


def _from_records(name: str, records: Iterator[Record], wanted: Columns) -> Source:
    first = list(itertools.islice(records, FIRST_ROWS))
    if not first:
        msg = f"`{name}` holds no rows."
        raise DataError(msg)
    fields = {key: value for record in reversed(first) for key, value in record.fields.items()}
    choice = choose_columns(fields, wanted, name)
    rows = (_raw_row(record, choice) for record in itertools.chain(first, records))
    found = {
        "anchor": choice.anchor,
        "positive": choice.positive,
        "negatives": list(choice.negatives),
    }
    return Source(name, rows, found)


def _raw_row(record: Record, choice: ColumnChoice) -> RawRow:
    positive = record.fields.get(choice.positive)
    negatives: list[Any] = []
    for column in choice.negatives:
        value = record.fields.get(column)
        negatives += value if isinstance(value, list) else [value]
    return RawRow(
        record.file,
        record.row,
        record.fields.get(choice.anchor),
        positive if isinstance(positive, list) else [positive],
        negatives,
        surplus=SURPLUS in record.fields,
    )


def _from_beir(name: str, folder: Path) -> Source:
    columns = {"anchor": "queries.text", "positive": "corpus.text", "negatives": []}
    return Source(name, _beir_rows(folder), columns, _beir_documents(folder))


def _beir_rows(folder: Path) -> Iterator[RawRow]:
    texts = {document.id: document.text for document in _beir_documents(folder)}
    queries = {
        str(record.fields.get("_id")): record.fields.get("text")
        for record in read_records(_beir_file(folder, "queries") or folder)
    }
    qrels = sorted((folder / "qrels").glob("*.tsv"))
    if not qrels:
        msg = f"The BEIR folder `{folder}` has no `qrels/*.tsv`."
        raise DataError(msg)
    for file in qrels:
        # One file of judgements is split by us; several are the authors' own splits.
        split = _beir_split(file) if len(qrels) > 1 else None
        for record in read_records(file):
            query, document = _judgement(record)
            if query is not None:
                yield RawRow(
                    record.file,
                    record.row,
                    queries.get(query),
                    [texts.get(document)],
                    query_id=query,
                    split=split,
                )


def _judgement(record: Record) -> tuple[str | None, str]:
    """Return (query id, document id) of a qrels line; no query where it says "not relevant"."""
    try:
        query, document, score = (record.fields[key] for key in ("query-id", "corpus-id", "score"))
        return (query if float(score) > 0 else None), document
    except (KeyError, TypeError, ValueError):
        msg = (
            f"`{record.file}` line {record.row} is no judgement; expected the columns "
            "`query-id`, `corpus-id` and a numeric `score`, separated by tabs."
        )
        raise DataError(msg) from None


def _beir_split(file: Path) -> str:
    splits = {"train": "train", "dev": "validation", "validation": "validation", "test": "test"}
    if file.stem not in splits:
        msg = f"`{file}` names no split; expected `train.tsv`, `dev.tsv` or `test.tsv`."
        raise DataError(msg)
    return splits[file.stem]


def _beir_documents(folder: Path) -> Iterator[Document]:
    for record in read_records(_beir_file(folder, "corpus") or folder):
        yield Document(str(record.fields.get("_id")), _joined(record.fields))


def _beir_file(folder: Path, stem: str) -> Path | None:
    for suffix in (".jsonl", ".jsonl.gz"):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    return None


def _joined(fields: dict[str, Any]) -> Any:  # noqa: ANN401  what a file holds is judged later
    title, text = fields.get("title"), fields.get("text")
    return f"{title} {text}" if title and isinstance(text, str) else text
