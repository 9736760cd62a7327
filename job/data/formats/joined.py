"""Read queries, a corpus and judgements that join them by ids, all in one JSON document.

LlamaIndex writes `relevant_docs`, its older versions `relevant_contexts`; others write `qrels`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from job.data.formats.beir import (
    DOCUMENT,
    DOCUMENT_IDS,
    QUERY,
    QUERY_IDS,
    QUERY_TEXTS,
    SCORE,
)
from job.data.formats.documents import Row
from job.data.formats.layout import Absent, Document
from job.data.formats.values import as_list, identifier, passage

QUERIES = ("queries", "questions")
CORPUS = ("corpus", "documents", "docs", "passages")
JUDGEMENTS = ("relevant_docs", "relevant_contexts", "qrels", "relevance_judgments", "judgments",
              "judgements", "relevance")  # fmt: skip


def is_joined(document: Any) -> bool:  # noqa: ANN401  what a file holds
    if not isinstance(document, dict):
        return False
    queries, corpus, judged = (_part(document, names) for names in (QUERIES, CORPUS, JUDGEMENTS))
    return all(map(_are_named, (queries, corpus))) and _are_judgements(judged)


def _part(document: Mapping[str, Any], names: Sequence[str]) -> Any:  # noqa: ANN401
    return next((document[name] for name in names if name in document), None)


def _are_named(part: object) -> bool:
    """Tell whether texts have ids: as the keys of an object, or in each object of a list."""
    is_list = isinstance(part, list) and bool(part) and all(isinstance(v, dict) for v in part)
    return isinstance(part, dict) or is_list


def _are_judgements(part: object) -> bool:
    values = part.values() if isinstance(part, dict) else part if isinstance(part, list) else [None]
    # The values of a column of relevance are numbers.
    kinds = list | dict | str if isinstance(part, dict) else list | dict
    return all(isinstance(value, kinds) for value in values)


def read_joined(document: Mapping[str, Any]) -> Iterator[Row]:
    """Yield a row for each judged query; grades other than 1 become its labels."""
    corpus = _texts(document, CORPUS, DOCUMENT_IDS)
    queries = _texts(document, QUERIES, QUERY_IDS)
    judged = _grades(_part(document, JUDGEMENTS))
    is_graded = any(grade not in (1, True) for found in judged.values() for grade in found.values())
    for number, (name, found) in enumerate(judged.items(), start=1):
        passages = [
            {"id": key, "text": passage(corpus[key])[0]}
            if key in corpus
            else Absent(f"document `{key}` is not in the corpus")
            for key in found
        ]
        query = queries.get(name, Absent(f"query `{name}` is not in the queries"))
        row = {"query_id": name, "query": _asked(query), "positive": passages}
        yield number, row | ({"label": [*found.values()]} if is_graded else {}), None


def _texts(document: Mapping[str, Any], names: Sequence[str], ids: Sequence[str]) -> dict[str, Any]:
    part = _part(document, names)
    if isinstance(part, dict):
        return part
    return {_named(entry, ids): entry for entry in part}


def _named(entry: Any, names: Sequence[str]) -> str:  # noqa: ANN401
    """Return the first of these fields; an entry may be the id itself."""
    given = _part(entry, names) if isinstance(entry, dict) else entry
    return "" if given is None else str(given)


def _asked(query: Any) -> Any:  # noqa: ANN401
    return _part(query, QUERY_TEXTS) if isinstance(query, dict) else query


def _grades(judgements: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    """Return grades by query and document, from any form of judgements."""
    if isinstance(judgements, dict):
        return {
            name: found
            if isinstance(found, dict)
            else {_named(entry, DOCUMENT_IDS): 1 for entry in as_list(found)}
            for name, found in judgements.items()
        }
    grades: dict[str, dict[str, Any]] = {}
    for entry in judgements:
        if isinstance(entry, dict):
            query, document = _named(entry, QUERY), _named(entry, DOCUMENT)
            score = _part(entry, SCORE)
        else:
            # As in TREC: query, (iteration,) document, grade.
            query, document = map(str, (entry[0], entry[-2 if len(entry) > 2 else -1]))
            score = entry[-1] if len(entry) > 2 else 1
        grades.setdefault(query, {})[document] = 1 if score is None else score
    return grades


def joined_documents(document: Mapping[str, Any]) -> Iterator[Document]:
    corpus = _texts(document, CORPUS, DOCUMENT_IDS)
    for number, (name, value) in enumerate(corpus.items(), start=1):
        title = value.get("title") if isinstance(value, dict) else None
        text = passage(value | {"title": None} if isinstance(value, dict) else value)[0]
        yield Document(identifier(name), title, text, row=number)
