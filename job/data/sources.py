"""Open the sources of pairs: files and folders in any known layout, and `builtin:aws-docs`.

Every source yields rows of (anchor, positives, negatives) with unchecked values. Data from S3 and
the Hub is downloaded first, by `job.inputs`.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from job.core.errors import DataError, SpecError
from job.data.builtin_aws_docs import mine_pairs
from job.data.column_advice import longest_column
from job.data.column_names import ANCHOR_NAMES, column_names, plain_name
from job.data.formats import beir
from job.data.formats.documents import is_list
from job.data.formats.layout import (
    Document,
    DocumentLayout,
    FolderLayout,
    RawRow,
    Request,
    RowLayout,
    Source,
)
from job.data.formats.registry import layouts_for, not_in
from job.data.formats.row_reader import FIRST_ROWS
from job.data.formats.rows import open_rows
from job.data.formats.splits import split_of
from job.data.formats.values import TEXT_KEYS, fill_template, first_id, is_template
from job.data.origin import named_by_origin, origin_of
from job.data.readers import (
    ROWS,
    Record,
    RecordFiles,
    explain_read_errors,
    list_files,
    read_records,
)
from job.spec.commands import check_command
from job.spec.schema import Columns, DataSpec
from job.storage.hub import parse_reference

BUILTIN_DOCS = "builtin:aws-docs"
Found = TypeVar("Found", RawRow, Document)
CORPUS_IDS = ("id", *beir.DOCUMENT_IDS)
ABOUT = {f"{name}.json" for name in ("metadata", "dataset_info", "dataset_infos", "info", "config",
                                     "stats", "statistics", "state", "schema")}  # fmt: skip
# Columns that only the role `data` must have.
OPTIONAL = ("group", "document")
# Names of files of documents, if their rows have no questions.
DOCUMENTS = ("docs", "documents", "passages", "collection", "chunks", "articles", "kb",
             "knowledge_base", "knowledge-base")  # fmt: skip
# A command about a test set checks that alone.
OTHERS = {"validation": None, "test": None, "corpus": None}


def open_source(name: str, spec: DataSpec, role: str = "data") -> Source:
    """Open pairs by path or `builtin:` name; rows are read lazily.

    `role` is a channel's name. The role `data` requires the columns `data.columns.group` and
    `data.columns.document`; in validation and test sets without them, their values are null. For
    `out_of_domain`, `data.columns` and `data.format` do not apply: only questions and contexts are
    read, from columns with usual names.
    """
    other = role == "out_of_domain"
    group = None if other else spec.columns.group
    parent = None if other else spec.columns.document
    is_main = role == "data"
    required = {"group": group, "document": parent} if is_main else dict.fromkeys(OPTIONAL)
    if name.startswith("builtin:"):
        if name != BUILTIN_DOCS:
            msg = f"There is no built-in data `{name}`. Use `{BUILTIN_DOCS}`."
            raise DataError(msg)
        return open_rows(Request(name, Path(), Columns(**required), group, parent), _Mined())
    missing = "is neither an existing path nor a Hub id (`owner/name`)"
    path = _existing(name, f"`{name}` {missing}. Check the spelling.")
    _require_encoding(spec.encoding)
    uri = origin_of(path)
    request = Request(
        uri or name,
        path,
        None if other else spec.columns.model_copy(update=required),
        group,
        parent,
        spec.encoding,
        "auto" if other else spec.format,
        label_is_optional=not is_main,
        pooled=_is_pooled(spec),
        spec=None if other else spec if is_main else spec.model_copy(update=OTHERS),
    )
    if uri is None:
        return _open(request)
    with named_by_origin(path, uri):
        source = _open(request)
    rows, documents = _renamed(source.rows, path, uri), _renamed(source.documents, path, uri)
    return dataclasses.replace(source, rows=rows, documents=documents)


def _require_encoding(name: str) -> None:
    try:
        # Python also has encodings of bytes as bytes, such as `hex`.
        "".encode(name)
    except (LookupError, ValueError):
        msg = (
            f"`data.encoding`: there is no encoding `{name}`. Examples: `utf-8`, `cp1252`, `cp932`."
        )
        raise SpecError(msg) from None


def _renamed(found: Iterable[Found], path: Path, uri: str) -> Iterator[Found]:
    with named_by_origin(path, uri):
        for entry in found:
            yield dataclasses.replace(entry, file=entry.file.replace(str(path), uri))


def _open(request: Request) -> Source:
    path, layouts = request.path, layouts_for(request.format)
    folders = [layout for layout in layouts if isinstance(layout, FolderLayout)]
    folder = next((known for known in folders if path.is_dir() and known.recognizes(path)), None)
    if folder is not None and folder.open is not None:
        return folder.open(request)
    if folder is None and len(folders) == len(layouts):
        raise not_in(request.name, layouts[0])
    # The files of a saved data set have plain rows.
    whole = [layout for layout in layouts if isinstance(layout, DocumentLayout)] or [ROWS]
    rows = [layout for layout in layouts if isinstance(layout, RowLayout)]
    columns = request.columns
    named = [name for name in (columns.anchor, columns.positive) if name] if columns else []
    if folder is not None and folder.files is not None:
        files = RecordFiles(folder.files(path), request.encoding, whole, named)
        files.layouts[folder.name] = None
        return open_rows(request, files, rows)
    corpus = _corpus_beside(path, request.encoding)
    named_elsewhere = _named_elsewhere(request)
    about = _about_the_data(path)
    files = RecordFiles.at(
        path,
        request.encoding,
        whole,
        named,
        leave_out=[*corpus, *about, *named_elsewhere],
        pooled=request.pooled,
    )
    files.notes += _without_split(files.files)
    files.notes += [f"`{file}` is left out: it is about the data" for file in about]
    documents = itertools.chain(
        files.documents(), *(_documents(file, request.encoding) for file in corpus)
    )
    return open_rows(request, files, rows, documents)


def _corpus_beside(path: Path, encoding: str) -> list[Path]:
    """Return the files of a folder that contain documents, not rows."""
    files = list_files(path) if path.is_dir() else []
    found = []
    for file in files:
        stem = file.name.partition(".")[0].lower()
        if stem == "corpus" or (stem in DOCUMENTS and _is_without_question(file, encoding)):
            found.append(file)
    return found if len(found) < len(files) else []


def _is_without_question(file: Path, encoding: str) -> bool:
    first = next(read_records(file, encoding), None)
    names = {plain_name(name) for name in column_names(first.fields)} if first else set()
    return bool(names & {*TEXT_KEYS}) and not names & {*ANCHOR_NAMES[0]}


def _named_elsewhere(request: Request) -> list[Path]:
    """Return the files of the folder that are the corpus or another set by the spec."""
    spec, path = request.spec, request.path
    if spec is None or not path.is_dir():
        return []
    given = {str(name) for name in (spec.corpus, spec.validation, spec.test) if name}
    places = {Path(name).resolve() for name in given}
    return [
        file
        for file in (list_files(path) if given else ())
        # Data that was downloaded is named by its URI.
        if file.resolve() in places
        or f"{request.name.rstrip('/')}/{file.relative_to(path).as_posix()}" in given
    ]


def _without_split(files: Mapping[Path, str | None]) -> list[str]:
    """Say which files are split as we split, although the names of others are splits."""
    unnamed = [file for file, split in files.items() if not split and not split_of(file.name)]
    if not unnamed or len(unnamed) == len(files):
        return []
    shown = ", ".join(f"`{file}`" for file in unnamed[:3]) + (", …" if len(unnamed) > 3 else "")
    note = f"{shown}: the name is no split, so its rows are trained on and tested on; "
    return [note + "`data.test` names a test set"]


def _about_the_data(path: Path) -> list[Path]:
    """Return the JSON files of a folder that describe the others: by their names, and no list."""
    files = list_files(path) if path.is_dir() else []
    found = [file for file in files if file.name.lower() in ABOUT and _is_object(file)]
    return found if len(found) < len(files) else []


def _is_object(file: Path) -> bool:
    try:
        document = json.loads(file.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and not is_list(document)


def _is_pooled(spec: DataSpec) -> bool:
    """Tell whether all rows are to be pooled, as `train+test` does on the Hub."""
    reference = parse_reference(spec.source) if spec.source else None
    return "+" in ((reference and reference.split) or spec.split)


class _Mined(RecordFiles):
    """The built-in pairs, read like files."""

    def __init__(self) -> None:
        super().__init__({})

    def records(self) -> Iterator[Record]:
        for number, pair in enumerate(mine_pairs(), start=1):
            yield Record(BUILTIN_DOCS, number, dict(pair))


def open_documents(
    name: str, spec: DataSpec | None = None, source: str | None = None
) -> Iterator[Document]:
    """Yield the documents of `data.corpus`: column `text`; optional `title` and `id` or `_id`.

    `data.columns.corpus_text` names another column of texts; `source` is the data to check with it.
    """
    given = spec or DataSpec()
    path = _existing(name, f"`data.corpus` is `{name}`, which does not exist. Check the path.")
    uri = origin_of(path)
    # Of a BEIR folder, the queries and qrels are no documents.
    place = beir.corpus_of(path) if beir.is_beir(path) else path
    found = _documents(place, given.encoding, given, source)
    yield from found if uri is None else _renamed(found, path, uri)


def _documents(
    path: Path, encoding: str, spec: DataSpec | None = None, source: str | None = None
) -> Iterator[Document]:
    column = spec.columns.corpus_text if spec else None
    records = read_records(path, encoding)
    first = list(itertools.islice(records, FIRST_ROWS))
    for number, record in enumerate(itertools.chain(first, records), start=1):
        fields = record.fields
        if column is not None and (column in fields or is_template(column)):
            text = fill_template(column, fields) if is_template(column) else fields[column]
            fields = fields | {TEXT_KEYS[0]: text}
        elif column is not None or not any(key in fields for key in TEXT_KEYS):
            raise DataError(_no_text(record, column, first, spec, source))
        name = first_id(fields, CORPUS_IDS) or f"c{number:08d}"
        yield beir.document(name, record._replace(fields=fields))


def _no_text(
    record: Record,
    column: str | None,
    first: Sequence[Record],
    spec: DataSpec | None,
    source: str | None,
) -> str:
    """Say that a document has no text, with the command that names the likeliest column."""
    msg = f"`{record.file}` row {record.row} has no `{column or TEXT_KEYS[0]}`. "
    if not source or not (likely := longest_column([known.fields for known in first])):
        return msg + "The columns of `data.corpus` are `text` and, optionally, `id`."
    command = check_command(source, spec, **{"columns.corpus_text": likely})
    return f"{msg}Name the column of texts: `{command}`."


def _existing(name: str, missing: str) -> Path:
    with explain_read_errors(name):
        if not Path(name).exists():
            raise DataError(missing)
    return Path(name)
