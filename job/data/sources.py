"""Where pairs come from: files, folders, BEIR folders, `builtin:aws-docs`.

S3 and the Hub are no places to read from: `job.inputs` makes files of what lies there.
All of them become the same thing: rows of (anchor, positives, negatives) as they were found.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from job.core.errors import DataError
from job.data.builtin_aws_docs import mine_pairs
from job.data.columns import NO_LABEL, ColumnChoice, choose_columns, require_group
from job.data.formats.layout import Document, RawRow, Source, titled
from job.data.readers import SURPLUS, Record, explained, read_records
from job.spec.schema import Columns, DataSpec

# Rows that say which columns there are: JSON lines may leave out what they have no value for.
FIRST_ROWS = 100
BUILTIN_DOCS = "builtin:aws-docs"
BEIR_SPLITS = {"train": "train", "dev": "validation", "validation": "validation", "test": "test"}


def open_source(name: str, spec: DataSpec, role: str = "data") -> Source:
    """Open pairs by path or `builtin:` name; reading starts when the rows are asked for.

    `role` is that of a channel: where `data` lacks the group's column, that is an error; where a
    validation or test set does, its groups are null. Of another domain only questions and contexts
    are read, found by their names: `data.columns` describes the data.
    """
    group = None if role == "out_of_domain" else spec.columns.group
    required = group if role == "data" else None
    if name.startswith("builtin:"):
        if name != BUILTIN_DOCS:
            msg = f"There is no `{name}`; the built-in data is called `{BUILTIN_DOCS}`."
            raise DataError(msg)
        mined = (Record(name, n, dict(pair)) for n, pair in enumerate(mine_pairs(), start=1))
        return _from_records(name, mined, Columns(group=required), group)
    missing = "does not exist (as a path), nor does it look like a Hub id (`owner/name`)"
    path = _existing(name, f"`{name}` {missing}. Check the spelling.")
    if is_beir(path):
        return _from_beir(path, group, required)
    wanted = (
        None if role == "out_of_domain" else spec.columns.model_copy(update={"group": required})
    )
    return _from_records(name, read_records(path), wanted, group, role)


def open_documents(name: str) -> Iterator[Document]:
    """Read the documents of `data.corpus`: columns `text` and, if they have one, `id` or `_id`."""
    path = _existing(name, f"`data.corpus` is `{name}`, which does not exist; check the path.")
    for number, record in enumerate(read_records(path), start=1):
        if "text" not in record.fields:
            msg = f"`{record.file}` row {record.row} has no `text`; a corpus has `id` and `text`."
            raise DataError(msg)
        given = [record.fields[key] for key in ("id", "_id") if record.fields.get(key) is not None]
        name = identifier(given[0]) if given else f"c{number:08d}"
        yield _document(name, record)


def _existing(name: str, missing: str) -> Path:
    with explained(name):
        if not Path(name).exists():
            raise DataError(missing)
    return Path(name)


def identifier(given: object) -> str:
    """Make of a given id one that can stand in a table: no white space, and no formula."""
    name = re.sub(r"\s|[\x00-\x1f\x7f]", "_", str(given))
    return f"_{name}" if name[:1] in ("=", "+", "-", "@") else name


def is_beir(path: Path) -> bool:
    return bool(_beir_file(path, "corpus") and _beir_file(path, "queries"))


def _from_records(
    name: str,
    records: Iterator[Record],
    wanted: Columns | None,
    group: str | None,
    role: str = "data",
) -> Source:
    first = list(itertools.islice(records, FIRST_ROWS))
    if not first:
        msg = f"`{name}` holds no rows; each needs a question and the context that answers it."
        raise DataError(msg)
    fields = {key: value for record in reversed(first) for key, value in record.fields.items()}
    if wanted and role != "data" and wanted.label not in (*fields, NO_LABEL):
        # A validation or test set may hold nothing but answers.
        wanted = wanted.model_copy(update={"label": None})
    found = choose_columns(fields, wanted, name, [record.fields for record in first])
    choice = dataclasses.replace(found, group=group)
    rows = (_raw_row(record, choice) for record in itertools.chain(first, records))
    return Source(rows, choice.facts(), notes=choice.notes)


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
        label=record.fields.get(choice.label) if choice.label is not None else None,
        surplus=SURPLUS in record.fields,
        query_id=_own_id(record.fields.get(choice.query_id or "")),
        document_ids=_own_ids(record, choice),
    )


def _own_ids(record: Record, choice: ColumnChoice) -> list[str | None]:
    """Return the ids of a row's contexts, if its column holds one for each of them."""
    if choice.document_id is None:
        return []
    given, contexts = (record.fields.get(name) for name in (choice.document_id, choice.positive))
    ids = given if isinstance(given, list) else [given]
    count = len(contexts) if isinstance(contexts, list) else 1
    return [_own_id(value) for value in ids] if len(ids) == count else []


def _own_id(given: object) -> str | None:
    named = isinstance(given, str | int) and not isinstance(given, bool) and str(given).strip()
    return identifier(given) if named else None


def _from_beir(folder: Path, group: str | None, required: str | None) -> Source:
    columns: dict[str, Any] = {"anchor": "queries.text", "positive": "corpus.text"}
    columns |= {"negatives": [], "group": group}
    if required is not None:
        file = _beir_file(folder, "queries") or folder
        first = itertools.islice(read_records(file), FIRST_ROWS)
        names = dict.fromkeys(key for record in first for key in _with_metadata(record))
        require_group(names, required, str(file))
    documents = (
        _document(identifier(_given_id(record)), record)
        for record in _beir_records(folder, "corpus")
    )
    return Source(_beir_rows(folder, group), columns, documents)


def _with_metadata(record: Record) -> dict[str, Any]:
    """Return a query's fields, with those of its `metadata` beside them."""
    metadata = record.fields.get("metadata")
    return (metadata if isinstance(metadata, dict) else {}) | record.fields


def _beir_rows(folder: Path, group: str | None) -> Iterator[RawRow]:
    def text_and_group(record: Record) -> tuple[Any, Any]:
        kind = _with_metadata(record).get(group) if group is not None else None
        return record.fields.get("text"), kind

    texts = _by_id(folder, "corpus", lambda record: _joined(record.fields))
    queries = _by_id(folder, "queries", text_and_group)
    qrels = sorted((folder / "qrels").glob("*.tsv"))
    if not qrels:
        msg = f"The BEIR folder `{folder}` has no `qrels/*.tsv`; add its judgements."
        raise DataError(msg)
    for file in qrels:
        # One file of judgements is split by us; several are the authors' own splits.
        if len(qrels) > 1 and file.stem not in BEIR_SPLITS:
            msg = f"`{file}` names no split; expected `train.tsv`, `dev.tsv` or `test.tsv`."
            raise DataError(msg)
        split = BEIR_SPLITS[file.stem] if len(qrels) > 1 else None
        for record in read_records(file):
            query, document = _judgement(record)
            if query is not None:
                text, kind = queries.get(query, (None, None))
                name, answers = identifier(query), [texts.get(document)]
                where = (record.file, record.row)
                yield RawRow(*where, text, answers, group=kind, query_id=name, split=split)


def _by_id(folder: Path, stem: str, content: Callable[[Record], Any]) -> dict[str, Any]:
    """Look up contents by the ids of the file: made fit for a table, two might become one."""
    found: dict[str, Any] = {}
    for record in _beir_records(folder, stem):
        name = _given_id(record)
        if found.setdefault(name, content(record)) != content(record):
            msg = f"`{record.file}` row {record.row} says something else of the id {name!r} than a "
            raise DataError(msg + "row above; judgements mean either. Give each an id of its own.")
    return found


def _given_id(record: Record) -> str:
    if (given := record.fields.get("_id")) is None:
        msg = f"`{record.file}` row {record.row} has no `_id`, which judgements go by; give it one."
        raise DataError(msg)
    return str(given)


def _judgement(record: Record) -> tuple[str | None, str]:
    """Return (query id, document id) of a qrels line; no query where it says "not relevant"."""
    try:
        query, document, score = (record.fields[key] for key in ("query-id", "corpus-id", "score"))
        if not math.isfinite(float(score)):
            raise ValueError
        return (query if float(score) > 0 else None), document
    except (KeyError, TypeError, ValueError):
        msg = f"`{record.file}` line {record.row} is no judgement; expected the columns "
        raise DataError(msg + "`query-id`, `corpus-id` and a numeric `score`, by tabs.") from None


def _beir_records(folder: Path, stem: str) -> Iterator[Record]:
    return read_records(_beir_file(folder, stem) or folder)


def _beir_file(folder: Path, stem: str) -> Path | None:
    files = (folder / f"{stem}{suffix}" for suffix in (".jsonl", ".jsonl.gz"))
    return next((file for file in files if file.is_file()), None)


def _document(name: str, record: Record) -> Document:
    fields = record.fields
    return Document(name, fields.get("title"), fields.get("text"), record.file, record.row)


def _joined(fields: dict[str, Any]) -> Any:  # noqa: ANN401  what a file holds is judged later
    return titled(fields.get("title"), fields.get("text"))
