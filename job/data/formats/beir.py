"""Read BEIR folders: a corpus, queries, and relevance judgements (qrels) that refer to their ids.

Variants of the Hub, TREC and ir_datasets are read as well: other names of ids, other file formats,
folders of files instead of files.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from job.core.errors import DataError
from job.core.formatting import counted
from job.data.columns import require_group
from job.data.formats.layout import Absent, Document, RawRow, Request, Source, titled
from job.data.formats.splits import split_of
from job.data.formats.values import TEXT_KEYS, identifier
from job.data.readers import Record, file_format, list_files, read_records
from job.data.text_files import read_lines

QUERY_IDS = ("_id", "id", "qid", "query_id", "query-id", "question_id")
DOCUMENT_IDS = ("_id", "id", "docid", "doc_id", "document_id", "corpus_id", "corpus-id", "pid")
QUERY_TEXTS = ("text", "query", "question")
# Columns of judgements.
QUERY = ("query-id", "query_id", "qid", "query", "question_id")
DOCUMENT = ("corpus-id", "corpus_id", "doc_id", "docid", "document_id", "document-id", "pid")
SCORE = ("score", "relevance", "rel", "grade", "label")
# Names of the judgements' file or folder: BEIR's own, and those in clones of Hub data sets.
QRELS = ("qrels", "default", "data")
FIRST_ROWS = 100
# Missing documents to name in reasons; the others are only counted.
NAMED = 5
NUMBER = re.compile(r"-?\d+(\.\d+)?")


def is_beir(path: Path) -> bool:
    return bool(_place(path, "corpus") and _place(path, "queries"))


def corpus_of(path: Path) -> Path:
    """Return the file or folder of documents in a BEIR folder."""
    return _place(path, "corpus") or path


def open_beir(request: Request) -> Source:
    folder, group = request.path, request.group
    columns: dict[str, Any] = {"anchor": "queries.text", "positive": "corpus.text"}
    columns |= {"negatives": [], "group": group}
    if request.columns is not None and request.columns.group is not None:
        first = itertools.islice(_records(folder, "queries", request), FIRST_ROWS)
        names = dict.fromkeys(key for record in first for key in _with_metadata(record))
        require_group(names, request.columns.group, str(_place(folder, "queries")))
    documents = (
        document(identifier(_given_id(record, DOCUMENT_IDS)), record)
        for record in _records(folder, "corpus", request)
    )
    notes: list[str] = []
    return Source(_rows(request, notes), columns, documents, format="beir", notes=notes)


def document(name: str, record: Record) -> Document:
    fields = record.fields
    return Document(name, fields.get("title"), document_text(fields), record.file, record.row)


def document_text(fields: dict[str, Any]) -> Any:  # noqa: ANN401  what a file holds
    """Return the text of a document, under any of its usual names."""
    return next((fields[key] for key in TEXT_KEYS if fields.get(key) is not None), None)


def _with_metadata(record: Record) -> dict[str, Any]:
    """Return a query's fields and the fields of its `metadata`; the query's fields win."""
    metadata = record.fields.get("metadata")
    return (metadata if isinstance(metadata, dict) else {}) | record.fields


def _rows(request: Request, notes: list[str]) -> Iterator[RawRow]:
    group = request.group

    def text_and_group(record: Record) -> tuple[Any, Any]:
        kind = _with_metadata(record).get(group) if group is not None else None
        texts = (record.fields[key] for key in QUERY_TEXTS if record.fields.get(key) is not None)
        return next(texts, None), kind

    def joined(record: Record) -> Any:  # noqa: ANN401  what a file holds
        return titled(record.fields.get("title"), document_text(record.fields))

    texts = _by_id(request, "corpus", DOCUMENT_IDS, joined)
    queries = _by_id(request, "queries", QUERY_IDS, text_and_group)
    missing: dict[str, None] = {}
    zeros = 0
    for file, split in _judged_splits(request.path, pooled=request.pooled).items():
        for record in _judgement_records(file, request.encoding):
            for query, name, grade in _judgements(record):
                if grade <= 0:
                    zeros += 1
                    continue
                absent = Absent(f"query `{query}` is not in the queries")
                text, kind = queries.get(query, (absent, None))
                answer = texts[name] if name in texts else _missing(name, missing, notes)
                yield RawRow(
                    record.file,
                    record.row,
                    text,
                    [answer],
                    group=kind,
                    query_id=identifier(query),
                    document_ids=[identifier(name)],
                    grades=[grade],
                    split=split,
                )
    if zeros:
        notes.append(f"{counted(zeros, 'judgement')} of grade 0 or below: no answers, not used.")


def _missing(name: str, missing: dict[str, None], notes: list[str]) -> Absent:
    missing[name] = None
    first = next(iter(missing))
    others = f", nor are {len(missing) - 1} others" if len(missing) > 1 else ""
    # One note, with the count so far.
    notes[:] = [f"The judged document `{first}` is not in the corpus{others}."]
    named = len(missing) <= NAMED
    return Absent(
        f"document `{name}` is not in the corpus" if named else "the document is not in the corpus"
    )


def _judged_splits(folder: Path, *, pooled: bool) -> dict[Path, str | None]:
    """Return the files of judgements, and the authors' split of each if there are several."""
    places = [place for stem in QRELS if (place := _place(folder, stem))]
    if not places:
        msg = f"The BEIR folder `{folder}` has no `qrels/*.tsv`. Add the relevance judgements."
        raise DataError(msg)
    files = list_files(places[0])
    splits = {file: _split(file, places[0]) for file in files}
    if len(files) > 1 and (unknown := [file for file in files if splits[file] is None]):
        msg = f"`{unknown[0]}` is not a known split. Name it `train.tsv`, `dev.tsv` or `test.tsv`."
        raise DataError(msg)
    # We split the judgements of one split; several splits are those of the data set's authors.
    is_ours = pooled or len({*splits.values()}) < 2
    return dict.fromkeys(files) if is_ours else splits


def _split(file: Path, place: Path) -> str | None:
    return split_of(file.name) or (split_of(file.parent.name) if file.parent != place else None)


def _by_id(
    request: Request, stem: str, keys: Sequence[str], content: Callable[[Record], Any]
) -> dict[str, Any]:
    """Return contents by the ids in the file: `identifier` could make two ids equal."""
    found: dict[str, Any] = {}
    for record in _records(request.path, stem, request):
        name = _given_id(record, keys)
        if found.setdefault(name, content(record)) != content(record):
            msg = f"`{record.file}` row {record.row} has the id {name!r} of an earlier row, but "
            raise DataError(msg + "other content. Give each document and query a unique `_id`.")
    return found


def _given_id(record: Record, keys: Sequence[str]) -> str:
    given = next((record.fields[key] for key in keys if record.fields.get(key) is not None), None)
    if given is None:
        msg = f"`{record.file}` row {record.row} has no `_id`. Add the id that the qrels use."
        raise DataError(msg)
    return str(given)


def _judgements(record: Record) -> list[tuple[str, str, float]]:
    """Return (query id, document id, grade) of a qrels line.

    TREC files have no header: their first line was taken for column names.
    """
    fields = record.fields
    names = [_first(fields, keys) for keys in (QUERY, DOCUMENT, SCORE)]
    if not (names[0] or names[1]) and len(fields) in (3, 4):
        lines = [list(fields)] if record.row == 2 else []
        lines.append([*fields.values()])
        return [_judged(record, line[0], line[-2], line[-1]) for line in lines]
    values = [fields.get(name) if name is not None else None for name in names]
    # Files without a score list relevant documents only.
    grade = 1 if names[2] is None and names[0] and names[1] else values[2]
    return [_judged(record, values[0], values[1], grade)]


def _judgement_records(file: Path, encoding: str) -> Iterator[Record]:
    """Yield the lines of a TREC file, which has no header and may have spaces; others as tables."""
    is_table = file_format(file) in (".tsv", ".csv")
    lines = read_lines(file, encoding) if is_table else iter(())
    # Blank lines before the first judgement make it no header.
    first = next((line for line in lines if line.strip()), "")
    count = len(parts := _cells(first))
    if count not in (3, 4) or not NUMBER.fullmatch(parts[-1]):
        yield from read_records(file, encoding)
        return
    for number, line in enumerate(read_lines(file, encoding), start=1):
        if line.strip():
            parts = _cells(line)
            whole = len(parts) == count
            named = (parts[0], parts[-2], parts[-1]) if whole else (None, None, None)
            names = ("query-id", "corpus-id", "score")
            yield Record(str(file), number, dict(zip(names, named, strict=True)))


def _cells(line: str) -> list[str]:
    """Split at tabs, between which an id may be missing, else at spaces."""
    cells = [cell.strip() for cell in line.split("\t")]
    return cells if len(cells) in (3, 4) else line.split()


def _first(fields: dict[str, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in fields), None)


def _judged(record: Record, query: Any, name: Any, grade: Any) -> tuple[str, str, float]:  # noqa: ANN401
    try:
        if not math.isfinite(float(grade)) or query is None or name is None:
            raise ValueError
        return str(query), str(name), float(grade)
    except (TypeError, ValueError):
        msg = f"`{record.file}` line {record.row} is not a valid qrels line. Expected three "
        msg += "columns, separated by tabs: `query-id`, `corpus-id` and a numeric `score`."
        raise DataError(msg) from None


def _records(folder: Path, stem: str, request: Request) -> Iterator[Record]:
    return read_records(_place(folder, stem) or folder, request.encoding)


def _place(folder: Path, stem: str) -> Path | None:
    """Find the data file or folder with this name."""
    if not folder.is_dir():
        return None
    files = (f for f in sorted(folder.iterdir()) if f.name.partition(".")[0] == stem)
    return next((f for f in files if (f.is_dir() and any(f.iterdir())) or file_format(f)), None)
