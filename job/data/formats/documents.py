"""Layouts that are one JSON document: rows, and in some layouts a corpus.

The readers yield (row number, fields, split). The registry has the layouts' names and order.
"""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from job.data.column_names import ANCHOR_NAMES, POSITIVE_NAMES, QUESTION_MARKS, plain_name
from job.data.formats.layout import Absent, Document
from job.data.formats.splits import split_of, splits_of
from job.data.words import count_words

# A list with one of these strings contains column names.
HEADINGS = {"question", "query", "anchor", "context", "positive", "document", "passage", "answer"}
ASKED = {name for tier in ANCHOR_NAMES for name in tier}
ANSWERING = {name for tier in POSITIVE_NAMES for name in tier}
# Keys of a mapping are questions if they have so many words, or question marks.
QUESTION_WORDS = 3
Row = tuple[int, Any, str | None]


class UnevenColumns(ValueError):
    """Columns have different numbers of values; the message says how many."""


def wrapped(document: Any) -> Any:  # noqa: ANN401  what a file holds
    """Return the only list or object in an object, as in `{"version": 1, "data": {…}}`."""
    if not isinstance(document, dict):
        return None
    inner = [value for value in document.values() if isinstance(value, list | dict)]
    if len(inner) != 1 or not inner[0]:
        return None
    found = inner[0]
    is_wrapper = isinstance(found, dict) or all(isinstance(v, list | dict) for v in found)
    return found if is_wrapper else None


def is_squad(document: Any) -> bool:  # noqa: ANN401
    articles = document.get("data") if isinstance(document, dict) else document
    return (
        isinstance(articles, list)
        and bool(articles)
        and isinstance(articles[0], dict)
        and isinstance(articles[0].get("paragraphs"), list)
    )


def read_squad(document: Any) -> Iterator[Row]:  # noqa: ANN401
    """Yield questions with their paragraph, or with the reason if it does not answer them."""
    number = 0
    for paragraph in _paragraphs(document):
        for asked in paragraph.get("qas") or []:
            number += 1
            if isinstance(asked, dict):
                row = {"query_id": asked.get("id"), "question": asked.get("question")}
                context = paragraph.get("context")
                if asked.get("is_impossible"):
                    context = Absent("the paragraph does not answer it (`is_impossible`)")
                yield number, row | {"context": context}, None


def squad_documents(document: Any) -> Iterator[Document]:  # noqa: ANN401
    """Yield every paragraph: those without questions belong to the corpus as well."""
    for number, paragraph in enumerate(_paragraphs(document), start=1):
        yield Document(f"p{number:08d}", None, paragraph.get("context"), row=number)


def _paragraphs(document: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    for article in document["data"] if isinstance(document, dict) else document:
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        yield from (entry for entry in paragraphs or [] if isinstance(entry, dict))


def is_splits(document: Any) -> bool:  # noqa: ANN401
    parts = _parts(document)
    return len(parts) > 1 and all(_part_rows(part) is not None for part in parts.values())


def read_splits(document: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of each split of `{"train": […], "test": […]}`."""
    parts = _parts(document)
    for split, part in zip(splits_of(parts), parts.values(), strict=True):
        yield from ((number, row, split) for number, row, _ in _part_rows(part) or ())


def _parts(document: Any) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(document, dict):
        return {}
    found = {key: rows for key, rows in document.items() if split_of(key)}
    # Often below a key such as `data` or `dataset`.
    inner = [value for value in document.values() if isinstance(value, dict)]
    return found or (_parts(inner[0]) if len(inner) == 1 else {})


def _part_rows(part: Any) -> Iterator[Row] | None:  # noqa: ANN401
    """Return the rows of one split: a list, or a layout of columns."""
    if isinstance(part, list):
        return ((number, row, None) for number, row in enumerate(part, start=1))
    readers = ((is_columns, read_columns), (is_pandas, read_pandas))
    return next((read(part) for recognizes, read in readers if recognizes(part)), None)


def is_pandas(document: Any) -> bool:  # noqa: ANN401
    """Recognize `to_json` with the orientations columns, index and split."""
    if not isinstance(document, dict) or not document:
        return False
    if isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):
        return all(isinstance(row, list) for row in document["data"])
    parts = [*document.values()]
    if not (all(isinstance(part, dict) and part for part in parts) and len(parts) > 1):
        return False
    return _is_by_index(document) or all(part.keys() == parts[0].keys() for part in parts)


def _is_by_index(document: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell whether the outer keys are rows: numbers, or more than the inner keys."""
    inner = dict.fromkeys(key for part in document.values() for key in part)
    numbered = [all(key.isdigit() for key in keys) for keys in (document, inner)]
    return numbered[0] if numbered[0] != numbered[1] else len(document) > len(inner)


def read_pandas(document: Mapping[str, Any]) -> Iterator[Row]:
    if isinstance(document.get("columns"), list):
        names = document["columns"]
        rows: Any = (dict(zip(names, row, strict=False)) for row in document["data"])
    elif _is_by_index(document):
        rows = (({} if key.isdigit() else {"id": key}) | row for key, row in document.items())
    else:
        columns: Mapping[str, Mapping[str, Any]] = document
        index = dict.fromkeys(key for column in columns.values() for key in column)
        rows = ({name: column.get(key) for name, column in columns.items()} for key in index)
    yield from ((number, row, None) for number, row in enumerate(rows, start=1))


def is_columns(document: Any) -> bool:  # noqa: ANN401
    """Recognize column → list of values, as in `to_dict("list")` and slices of `datasets`."""
    if not isinstance(document, dict):
        return False
    columns = _columns(document)
    if len(columns) < 2 or not any(columns.values()):
        return False
    names = {plain_name(name) for name in columns}
    if len(columns) < len(document):
        # A row has texts beside its lists; columns have a version or a name beside them.
        return bool(names & ASKED and names & ANSWERING)
    objects = [name for name, values in columns.items() if values and isinstance(values[0], dict)]
    if not objects:
        return True
    even = len({*map(len, columns.values())}) == 1
    return even and len(objects) < len(columns) and bool(names & ASKED)


def _columns(document: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: values for name, values in document.items() if isinstance(values, list)}


def read_columns(document: Mapping[str, Any]) -> Iterator[Row]:
    columns = _columns(document)
    sizes = {name: len(values) for name, values in columns.items()}
    if len({*sizes.values()}) > 1:
        counts = ", ".join(f"`{name}` {size}" for name, size in sizes.items())
        msg = f"columns with different numbers of values: {counts}"
        raise UnevenColumns(msg)
    for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
        yield number, dict(zip(columns, values, strict=True)), None


def is_mapping(document: Any) -> bool:  # noqa: ANN401
    """Recognize an object from questions to their contexts: a text, or a list of texts."""
    if not isinstance(document, dict) or len(document) < 2:
        return False
    values = [*document.values()]
    lists = [value for value in values if isinstance(value, list)]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    if not all(isinstance(text, str) for text in texts) or not all(lists):
        return False
    if {plain_name(key) for key in document} & (ASKED | ANSWERING | HEADINGS):
        return False
    asked = sum(key.rstrip().endswith(QUESTION_MARKS) for key in document) / len(document)
    # Columns have longer lists than there are columns.
    few = len(document) > max(map(len, lists), default=0)
    return few and (asked > 0.5 or median(map(count_words, document)) >= QUESTION_WORDS)


def read_mapping(document: Mapping[str, Any]) -> Iterator[Row]:
    for number, (question, context) in enumerate(document.items(), start=1):
        yield number, {"question": question, "context": context}, None


def is_list(document: Any) -> bool:  # noqa: ANN401
    return _rows_of(document) is not None


def read_list(document: Any) -> Iterator[Row]:  # noqa: ANN401
    """Yield the rows of a list, or of the only list of objects in an object."""
    rows = _rows_of(document) or []
    yield from ((number, row, None) for number, row in enumerate(rows, start=1))


def _rows_of(document: Any) -> list[Any] | None:  # noqa: ANN401
    if isinstance(document, list):
        return document
    inner = document.values() if isinstance(document, dict) else ()
    lists = [v for v in inner if isinstance(v, list) and v and isinstance(v[0], dict)]
    if len(lists) > 1:
        # Others may list the documents or the authors.
        lists = [rows for rows in lists if {plain_name(key) for key in rows[0]} & ASKED]
    if not lists and isinstance(document, dict) and {*map(str.lower, document)} & HEADINGS:
        # Some tools write a file for each row.
        return [document]
    return lists[0] if len(lists) == 1 else None


def named_row(values: list[Any]) -> dict[str, Any] | None:
    """Name the values of a row that is a list, `[question, context, negative …]`."""
    if len(values) < 2 or not isinstance(values[0], str) or isinstance(values[1], int | float):
        return None
    if not isinstance(values[1], str | list | dict):
        return None
    row = {"question": values[0], "context": values[1]}
    return row | ({"negative": values[2:]} if len(values) > 2 else {})


def header_row(value: Any) -> list[str] | None:  # noqa: ANN401  what a file holds
    """Return the first of rows that are lists, if it contains column names."""
    if not (isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) for v in value)):
        return None
    return value if {name.strip().lower() for name in value} & HEADINGS else None
