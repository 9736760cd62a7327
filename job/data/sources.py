"""Open the sources of pairs: files and folders in any known layout, and `builtin:aws-docs`.

Every source yields rows of (anchor, positives, negatives) with unchecked values. Data from S3 and
the Hub is downloaded first, by `job.inputs`.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from job.core.errors import DataError, SpecError
from job.data.builtin_aws_docs import mine_pairs
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
from job.data.formats.rows import open_rows
from job.data.formats.values import TEXT_KEYS, first_id
from job.data.origin import named_by_origin, origin_of
from job.data.readers import (
    ROWS,
    Record,
    RecordFiles,
    explain_read_errors,
    list_files,
    read_records,
)
from job.spec.schema import Columns, DataSpec
from job.storage.hub import parse_reference

BUILTIN_DOCS = "builtin:aws-docs"
Found = TypeVar("Found", RawRow, Document)
CORPUS_IDS = ("id", *beir.DOCUMENT_IDS)
ABOUT = {f"{name}.json" for name in ("metadata", "dataset_info", "dataset_infos", "info", "config",
                                     "stats", "statistics", "state", "schema")}  # fmt: skip
# Columns that only the role `data` must have.
OPTIONAL = ("group", "document")
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
    corpus = _corpus_beside(path)
    about = _about_the_data(path)
    files = RecordFiles.at(
        path, request.encoding, whole, named, leave_out=[*corpus, *about], pooled=request.pooled
    )
    files.notes += [f"`{file}` is left out: it is about the data" for file in about]
    documents = itertools.chain(
        files.documents(), *(_documents(f, request.encoding) for f in corpus)
    )
    return open_rows(request, files, rows, documents)


def _corpus_beside(path: Path) -> list[Path]:
    """Return the files of a folder that contain documents, not rows."""
    if not path.is_dir():
        return []
    files = list_files(path)
    found = [file for file in files if file.name.partition(".")[0].lower() == "corpus"]
    return found if len(found) < len(files) else []


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


def open_documents(name: str, encoding: str = "utf-8") -> Iterator[Document]:
    """Yield the documents of `data.corpus`: column `text`; optional `title` and `id` or `_id`."""
    path = _existing(name, f"`data.corpus` is `{name}`, which does not exist. Check the path.")
    uri = origin_of(path)
    # Of a BEIR folder, the queries and qrels are no documents.
    found = _documents(beir.corpus_of(path) if beir.is_beir(path) else path, encoding)
    yield from found if uri is None else _renamed(found, path, uri)


def _documents(path: Path, encoding: str) -> Iterator[Document]:
    for number, record in enumerate(read_records(path, encoding), start=1):
        if not any(key in record.fields for key in TEXT_KEYS):
            msg = f"`{record.file}` row {record.row} has no `text`. "
            raise DataError(msg + "The columns of `data.corpus` are `text` and, optionally, `id`.")
        yield beir.document(first_id(record.fields, CORPUS_IDS) or f"c{number:08d}", record)


def _existing(name: str, missing: str) -> Path:
    with explain_read_errors(name):
        if not Path(name).exists():
            raise DataError(missing)
    return Path(name)
