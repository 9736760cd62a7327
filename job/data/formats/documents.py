"""Layouts that are one JSON document: rows, and in some layouts a corpus.

The readers yield (row number, fields, split). The registry has the layouts' names and order.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from job.data.formats.layout import Absent, Document
from job.data.formats.splits import split_of
from job.data.formats.values import identifier, passage

# A list with one of these strings contains column names.
HEADINGS = {"question", "query", "anchor", "context", "positive", "document", "passage", "answer"}
Row = tuple[int, Any, str | None]


def is_llamaindex(document: Any) -> bool:  # noqa: ANN401  what a file holds
    return isinstance(document, dict) and all(
        isinstance(document.get(key), dict)
        for key in (_queries(document), "corpus", _judgements(document))
    )


def read_llamaindex(document: Mapping[str, Any]) -> Iterator[Row]:
    """Join `queries` and `corpus` by `relevant_docs`, or `questions` by `relevant_contexts`."""
    corpus, queries = document["corpus"], document[_queries(document)]
    for number, (name, found) in enumerate(document[_judgements(document)].items(), start=1):
        ids = found if isinstance(found, list) else [found]
        if isinstance(found, dict):
            # Grades, as in qrels: 0 is no answer.
            ids = [key for key, grade in found.items() if grade not in (0, False)]
        passages = [
            {"id": key, "text": _node_text(corpus[key])}
            if key in corpus
            else Absent(f"document `{key}` is not in the corpus")
            for key in map(str, ids)
        ]
        query = queries.get(name, Absent(f"query `{name}` is not in the queries"))
        yield number, {"query_id": name, "query": query, "positive": passages}, None


def llamaindex_documents(document: Mapping[str, Any]) -> Iterator[Document]:
    for number, (name, value) in enumerate(document["corpus"].items(), start=1):
        title = value.get("title") if isinstance(value, dict) else None
        text = _node_text(value | {"title": None} if isinstance(value, dict) else value)
        yield Document(identifier(name), title, text, row=number)


def _queries(document: Mapping[str, Any]) -> str:
    return "queries" if "queries" in document else "questions"


def _judgements(document: Mapping[str, Any]) -> str:
    return "relevant_docs" if "relevant_docs" in document else "relevant_contexts"


def _node_text(value: Any) -> Any:  # noqa: ANN401
    return passage(value)[0]


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
    for key, part in _parts(document).items():
        split = split_of(key, whole=True)
        yield from ((number, row, split) for number, row, _ in _part_rows(part) or ())


def _parts(document: Any) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(document, dict):
        return {}
    found = {key: rows for key, rows in document.items() if split_of(key, whole=True)}
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
    if not isinstance(document, dict) or len(document) < 2:
        return False
    columns = [*document.values()]
    return all(
        isinstance(column, list)
        and len(column) == len(columns[0]) > 0
        and not isinstance(column[0], dict)
        for column in columns
    )


def read_columns(document: Mapping[str, list[Any]]) -> Iterator[Row]:
    rows = zip(*document.values(), strict=True)
    for number, values in enumerate(rows, start=1):
        yield number, dict(zip(document, values, strict=True)), None


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
