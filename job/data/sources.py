"""Open the sources of pairs: files, folders, BEIR folders, `builtin:aws-docs`.

Every source yields rows of (anchor, positives, negatives) with unchecked values. Data from S3 and
the Hub is downloaded first, by `job.inputs`.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from job.core.errors import DataError
from job.data.builtin_aws_docs import mine_pairs
from job.data.columns import ColumnChoice, choose_columns, require_group
from job.data.readers import SURPLUS, Record, explain_read_errors, read_records
from job.spec.schema import Columns, DataSpec

# Rows to read to find all columns: JSON lines may omit fields without a value.
FIRST_ROWS = 100
BUILTIN_DOCS = "builtin:aws-docs"
BEIR_SPLITS = {"train": "train", "dev": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class RawRow:
    """One row before cleaning: values may have any type that the file format allows."""

    file: str
    row: int
    anchor: Any
    positives: list[Any]
    negatives: list[Any] = field(default_factory=list)
    # Value of the column `data.columns.group`.
    group: Any = None
    surplus: bool = False
    # Only BEIR has these: the query's id, and the split that the authors chose.
    query_id: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Document:
    id: str
    text: Any
    # The location does not matter for equality.
    file: str = field(default="", compare=False)
    row: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Source:
    """Rows, to be read once, and additional documents that belong to no row."""

    rows: Iterator[RawRow]
    columns: dict[str, Any]
    documents: Iterable[Document] = ()


def open_source(name: str, spec: DataSpec, role: str = "data") -> Source:
    """Open pairs by path or `builtin:` name; rows are read lazily.

    `role` is a channel's name. The role `data` requires the column `data.columns.group`; in
    validation and test sets without it, groups are null. For `out_of_domain`, `data.columns` does
    not apply: only questions and contexts are read, from columns with usual names.
    """
    group = None if role == "out_of_domain" else spec.columns.group
    required = group if role == "data" else None
    if name.startswith("builtin:"):
        if name != BUILTIN_DOCS:
            msg = f"There is no built-in data `{name}`. Use `{BUILTIN_DOCS}`."
            raise DataError(msg)
        mined = (Record(name, n, dict(pair)) for n, pair in enumerate(mine_pairs(), start=1))
        return _from_records(name, mined, Columns(group=required), group)
    missing = "is neither an existing path nor a Hub id (`owner/name`)"
    path = _existing(name, f"`{name}` {missing}. Check the spelling.")
    if is_beir(path):
        return _from_beir(path, group, required)
    wanted = (
        None if role == "out_of_domain" else spec.columns.model_copy(update={"group": required})
    )
    return _from_records(name, read_records(path), wanted, group)


def open_documents(name: str) -> Iterator[Document]:
    """Yield the documents of `data.corpus`: column `text`; optional `title` and `id` or `_id`."""
    path = _existing(name, f"`data.corpus` is `{name}`, which does not exist. Check the path.")
    for number, record in enumerate(read_records(path), start=1):
        if "text" not in record.fields:
            msg = f"`{record.file}` row {record.row} has no `text`. "
            raise DataError(msg + "The columns of `data.corpus` are `text` and, optionally, `id`.")
        given = [record.fields[key] for key in ("id", "_id") if record.fields.get(key) is not None]
        name = identifier(given[0]) if given else f"c{number:08d}"
        yield Document(name, _title_and_text(record.fields), record.file, record.row)


def _existing(name: str, missing: str) -> Path:
    with explain_read_errors(name):
        if not Path(name).exists():
            raise DataError(missing)
    return Path(name)


def identifier(given: object) -> str:
    """Make an id safe for tables: without white space, and not a spreadsheet formula."""
    name = re.sub(r"\s|[\x00-\x1f\x7f]", "_", str(given))
    return f"_{name}" if name[:1] in ("=", "+", "-", "@") else name


def is_beir(path: Path) -> bool:
    return bool(_beir_file(path, "corpus") and _beir_file(path, "queries"))


def _from_records(
    name: str, records: Iterator[Record], wanted: Columns | None, group: str | None
) -> Source:
    first = list(itertools.islice(records, FIRST_ROWS))
    if not first:
        msg = f"`{name}` has no rows. Each row needs a question and the context that answers it."
        raise DataError(msg)
    fields = {key: value for record in reversed(first) for key, value in record.fields.items()}
    choice = dataclasses.replace(choose_columns(fields, wanted, name), group=group)
    rows = (_raw_row(record, choice) for record in itertools.chain(first, records))
    return Source(rows, vars(choice) | {"negatives": list(choice.negatives)})


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
        group=record.fields.get(choice.group) if choice.group is not None else None,
        surplus=SURPLUS in record.fields,
    )


def _from_beir(folder: Path, group: str | None, required: str | None) -> Source:
    columns: dict[str, Any] = {"anchor": "queries.text", "positive": "corpus.text"}
    columns |= {"negatives": [], "group": group}
    if required is not None:
        file = _beir_file(folder, "queries") or folder
        first = itertools.islice(read_records(file), FIRST_ROWS)
        names = dict.fromkeys(key for record in first for key in _with_metadata(record))
        require_group(names, required, str(file))
    documents = (
        Document(
            identifier(_given_id(record)), _title_and_text(record.fields), record.file, record.row
        )
        for record in _beir_records(folder, "corpus")
    )
    return Source(_beir_rows(folder, group), columns, documents)


def _with_metadata(record: Record) -> dict[str, Any]:
    """Return a query's fields and the fields of its `metadata`; the query's fields win."""
    metadata = record.fields.get("metadata")
    return (metadata if isinstance(metadata, dict) else {}) | record.fields


def _beir_rows(folder: Path, group: str | None) -> Iterator[RawRow]:
    def text_and_group(record: Record) -> tuple[Any, Any]:
        value = _with_metadata(record).get(group) if group is not None else None
        return record.fields.get("text"), value

    texts = _by_id(folder, "corpus", lambda record: _title_and_text(record.fields))
    queries = _by_id(folder, "queries", text_and_group)
    qrels = sorted((folder / "qrels").glob("*.tsv"))
    if not qrels:
        msg = f"The BEIR folder `{folder}` has no `qrels/*.tsv`. Add the relevance judgements."
        raise DataError(msg)
    for file in qrels:
        # We split a single qrels file; several files are the splits of the data set's authors.
        if len(qrels) > 1 and file.stem not in BEIR_SPLITS:
            msg = f"`{file}` is not a known split. Name it `train.tsv`, `dev.tsv` or `test.tsv`."
            raise DataError(msg)
        split = BEIR_SPLITS[file.stem] if len(qrels) > 1 else None
        for record in read_records(file):
            query, document = _parse_qrel(record)
            if query is not None:
                text, value = queries.get(query, (None, None))
                name, answers = identifier(query), [texts.get(document)]
                location = (record.file, record.row)
                yield RawRow(*location, text, answers, group=value, query_id=name, split=split)


def _by_id(folder: Path, stem: str, content: Callable[[Record], Any]) -> dict[str, Any]:
    """Return contents by the ids in the file: `identifier` could make two ids equal."""
    found: dict[str, Any] = {}
    for record in _beir_records(folder, stem):
        name = _given_id(record)
        if found.setdefault(name, content(record)) != content(record):
            msg = f"`{record.file}` row {record.row} has the id {name!r} of an earlier row, but "
            raise DataError(msg + "other content. Give each document and query a unique `_id`.")
    return found


def _given_id(record: Record) -> str:
    if (given := record.fields.get("_id")) is None:
        msg = f"`{record.file}` row {record.row} has no `_id`. Add the id that the qrels use."
        raise DataError(msg)
    return str(given)


def _parse_qrel(record: Record) -> tuple[str | None, str]:
    """Return (query id, document id) of a qrels line; the query id is None if not relevant."""
    try:
        query, document, score = (record.fields[key] for key in ("query-id", "corpus-id", "score"))
        if not math.isfinite(float(score)):
            raise ValueError
        return (query if float(score) > 0 else None), document
    except (KeyError, TypeError, ValueError):
        msg = f"`{record.file}` line {record.row} is not a valid qrels line. Expected three "
        msg += "columns, separated by tabs: `query-id`, `corpus-id` and a numeric `score`."
        raise DataError(msg) from None


def _beir_records(folder: Path, stem: str) -> Iterator[Record]:
    return read_records(_beir_file(folder, stem) or folder)


def _beir_file(folder: Path, stem: str) -> Path | None:
    files = (folder / f"{stem}{suffix}" for suffix in (".jsonl", ".jsonl.gz"))
    return next((file for file in files if file.is_file()), None)


def _title_and_text(fields: dict[str, Any]) -> Any:  # noqa: ANN401  `cleaning` checks the type
    title, text = fields.get("title"), fields.get("text")
    return f"{title} {text}" if title and isinstance(text, str) else text
