"""Read documents: text, Markdown, HTML, PDF and Word files, and rows that are chunks already."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from job.core.errors import DataError, first_line
from job.core.folders import files_below
from job.core.formatting import counted
from job.data.column_names import listed
from job.data.formats.values import TEXT_KEYS, encodable, first_id
from job.data.origin import origin_of
from job.data.readers import Record, explain_read_errors, file_format, read_records
from job.data.text_files import WrongEncoding, likely_encoding, read_lines
from job.runtime.counter import count_each
from job.spec.schema import DataSpec

IDS = ("id", "_id", "chunk_id", "docid", "doc_id", "document_id", "pid")
# Columns that name the document a chunk is a part of, unless `data.columns.document` does.
PARENTS = ("document", "document_id", "doc_id", "source", "url", "file", "filename", "path")
# Elements of a page that are not its text.
NO_TEXT = ("head", "script", "style", "nav", "footer", "noscript", "template", "svg", "form")
# Files that a message names, and skipped documents that a fact lists.
SHOWN = 5


@dataclass(frozen=True)
class Document:
    """A text in Markdown with its title; or a row, which is a chunk already."""

    id: str
    title: str
    text: str
    is_row: bool = False
    # The document that a row is a part of.
    parent: str | None = None
    # The other fields of a row.
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Documents:
    found: list[Document]
    # Reasons of skipped documents, by name.
    skipped: Mapping[str, str]
    # Number of files that are no documents, by suffix.
    others: Mapping[str, int] = field(default_factory=dict)

    def warning(self) -> str | None:
        """Return what was not read, in one line; None if everything was."""
        parts = []
        if self.skipped:
            first = "; ".join(f"`{name}`: {why}" for name, why in [*self.skipped.items()][:SHOWN])
            more = "; …" if len(self.skipped) > SHOWN else ""
            parts.append(f"{counted(len(self.skipped), 'document')} skipped: {first}{more}")
        if self.others:
            number = counted(sum(self.others.values()), "file")
            parts.append(f"{number} of other kinds not read: {_by_suffix(self.others)}")
        return ". ".join(parts) or None


def read_documents(path: Path, spec: DataSpec) -> Documents:
    """Read a file or a folder; raise `DataError` if it has no document with a text."""
    name = origin_of(path) or str(path)
    with explain_read_errors(name):
        if not path.exists():
            msg = f"`data.documents` is `{name}`, which does not exist. Check the path."
            raise DataError(msg)
        files = [path] if path.is_file() else _files_below(path)
    known = [file for file in files if kind_of(file)]
    others = Counter(file.suffix for file in files if not kind_of(file))
    if not known:
        msg = f"`{name}` contains no documents (found: {_by_suffix(others) or 'no files'}). "
        msg += f"Supported: {', '.join(CONVERTERS)}, and rows with `text` (JSONL, CSV, …)."
        raise DataError(msg)
    skipped: dict[str, str] = {}
    documents: list[Document] = []
    root = path if path.is_dir() else path.parent
    for file in count_each(known, "documents", "files", len(known)):
        # Names may have bytes that are not UTF-8.
        own = encodable(file.relative_to(root).as_posix())
        with explain_read_errors(file), _one_of(known):
            documents += map(_encodable, _read(file, own, spec, skipped))
    if not documents:
        why = "; ".join(f"`{file}`: {reason}" for file, reason in [*skipped.items()][:SHOWN])
        msg = f"`{name}` has no document with a text. {why}."
        raise DataError(msg)
    return Documents(documents, skipped, others)


@contextmanager
def _one_of(files: Sequence[Path]) -> Iterator[None]:
    """Add to an error of a file, such as a `package.json`, what to do if it is no document."""
    try:
        yield
    except DataError as error:
        if len(files) == 1:
            raise
        msg = f"{error} If that file is no document, move it out of the folder."
        raise DataError(msg) from error


def _by_suffix(counts: Mapping[str, int]) -> str:
    common = Counter(counts).most_common(SHOWN)
    found = ", ".join(f"{count} `{suffix or 'no suffix'}`" for suffix, count in common)
    return found + (", …" if len(counts) > SHOWN else "")


def _encodable(document: Document) -> Document:
    """Return a document that tokenizers and UTF-8 files take."""
    parent = None if document.parent is None else encodable(document.parent)
    own, title, text = map(encodable, (document.id, document.title, document.text))
    return replace(document, id=own, title=title, text=text, parent=parent)


def kind_of(file: Path) -> str | None:
    """Return `text` or `rows`; None for a file that is neither."""
    if file.suffix.lower() in CONVERTERS:
        return "text"
    return "rows" if file_format(file) else None


def _files_below(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in files_below(folder)
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _read(file: Path, name: str, spec: DataSpec, skipped: dict[str, str]) -> Iterator[Document]:
    if file.is_symlink() and not file.exists():
        skipped[name] = "it is a link to nothing"
        return
    if kind_of(file) == "rows":
        yield from _rows(file, name, spec, skipped)
        return
    try:
        title, text = CONVERTERS[file.suffix.lower()](file, spec.encoding)
    except _Unreadable as reason:
        skipped[name] = str(reason)
        return
    if text.strip():
        yield Document(name, title or _title_of(file, text), text)
    else:
        is_pdf = file.suffix.lower() == ".pdf"
        skipped[name] = "it has no text layer, only images" if is_pdf else "it has no text"


def _rows(file: Path, name: str, spec: DataSpec, skipped: dict[str, str]) -> Iterator[Document]:
    columns, empty = spec.columns, 0
    for number, record in enumerate(read_records(file, spec.encoding), start=1):
        fields = record.fields
        key = columns.corpus_text or next((key for key in TEXT_KEYS if key in fields), None)
        if key is None or key not in fields:
            raise DataError(_no_text(record, columns.corpus_text))
        text, title = fields[key], fields.get("title")
        if not isinstance(text, str) or not text.strip():
            empty += 1
            continue
        parents = (columns.document,) if columns.document else PARENTS
        own = first_id(fields, IDS) or f"{name}:{record.row or number}"
        used = {key, "title", *(k for k in IDS if first_id(fields, (k,)) == own)}
        kept = {k: value for k, value in fields.items() if k not in used}
        title = title if isinstance(title, str) else ""
        yield Document(own, title, text, True, first_id(fields, parents), kept)  # noqa: FBT003
    if empty:
        skipped[name] = f"{counted(empty, 'row')} without a text"


def _no_text(record: Record, wanted: str | None) -> str:
    msg = f"`{record.file}` row {record.row} has no column `{wanted or 'text'}`; its columns are "
    return f"{msg}{listed([*record.fields])}. Name the texts' column: `data.columns.corpus_text`."


def _title_of(file: Path, text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first.startswith("# "):
        return first[2:].strip()
    return file.stem.replace("_", " ").replace("-", " ").strip()


class _Unreadable(Exception):
    """A document cannot be read; the message says why."""


def _from_text(file: Path, encoding: str) -> tuple[str, str]:
    return "", _decoded(file, encoding)


def _from_html(file: Path, encoding: str) -> tuple[str, str]:
    return _markdown(_decoded(file, encoding))


def _decoded(file: Path, encoding: str) -> str:
    try:
        return "".join(read_lines(file, encoding))
    except DataError as error:
        cause = error.__cause__
        why = _wrong_encoding(cause) if isinstance(cause, WrongEncoding) else str(error)
        raise _Unreadable(why.replace(f"`{file}` is ", "it is ").rstrip(".")) from None


def _wrong_encoding(cause: WrongEncoding) -> str:
    """Return the reason; the command of a table's error, `check`, reads no documents."""
    likely = likely_encoding(cause.file)
    setting = f"; it looks like {likely}: `--set data.encoding={likely}`" if likely else ""
    return cause.reason.rstrip(".") + setting


def _markdown(html: str) -> tuple[str, str]:
    """Return a page's title, and its main text as Markdown."""
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    page = BeautifulSoup(html, "html.parser")
    title = " ".join(page.title.get_text().split()) if page.title else ""
    for element in page.find_all(NO_TEXT):
        element.decompose()
    main = page.find_all("main")
    converter = MarkdownConverter(heading_style="ATX", strip=["a", "img"])
    return title, converter.convert_soup(main[0] if len(main) == 1 else page).strip()


def _from_word(file: Path, _: str) -> tuple[str, str]:
    import mammoth

    try:
        with file.open("rb") as opened:
            return _markdown(mammoth.convert_to_html(opened).value)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001  what its ZIP and XML parsers raise
        raise _Unreadable(f"it is no Word file ({first_line(error)})") from None  # noqa: EM102


def _from_pdf(file: Path, _: str) -> tuple[str, str]:
    from pypdf import PdfReader

    # Its warnings about each odd object would fill the log.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise _Unreadable("it is encrypted")  # noqa: EM101
        # The title in its metadata is often that of a template.
        return "", "\n\n".join(page.extract_text() for page in reader.pages)
    except (_Unreadable, ModuleNotFoundError):
        raise
    except Exception as error:  # noqa: BLE001  a broken file raises errors of many types
        raise _Unreadable(f"it is no readable PDF ({first_line(error)})") from None  # noqa: EM102


# By suffix: a function of a file and an encoding that returns a title, or none, and Markdown.
CONVERTERS: dict[str, Callable[[Path, str], tuple[str, str]]] = {
    ".txt": _from_text,
    ".md": _from_text,
    ".markdown": _from_text,
    ".rst": _from_text,
    ".html": _from_html,
    ".htm": _from_html,
    ".docx": _from_word,
    ".pdf": _from_pdf,
}
