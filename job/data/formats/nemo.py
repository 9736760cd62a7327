"""Read the layout of NVIDIA NeMo Retriever: questions, and ids of documents in other files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from job.core.errors import DataError
from job.data.formats.beir import DOCUMENT_IDS, document_text
from job.data.formats.layout import Absent, Document
from job.data.formats.values import as_list, first_id, identifier
from job.data.readers import RecordFiles

METADATA = "merlin_metadata.json"


def is_nemo(document: Any) -> bool:  # noqa: ANN401  what a file holds
    return (
        isinstance(document, dict)
        and isinstance(document.get("data"), list)
        and bool(_paths(document.get("corpus")))
    )


def _paths(corpus: Any) -> list[str]:  # noqa: ANN401  as above
    entries = [entry.get("path") for entry in as_list(corpus) if isinstance(entry, dict)]
    return [path for path in entries if isinstance(path, str)]


def with_corpora(document: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Load the corpora that the document names: texts by (corpus, id) and by (None, id)."""
    texts: dict[tuple[str | None, str], Any] = {}
    for path in _paths(document["corpus"]):
        place = next((p for p in (file.parent / path, Path(path)) if p.exists()), None)
        if place is None:
            msg = f"`{file}` names the corpus `{path}`, which does not exist; "
            raise DataError(msg + "correct its `path`, which may be relative to this file.")
        metadata = place / METADATA
        name = (
            json.loads(metadata.read_text("utf-8")).get("corpus_id") if metadata.exists() else None
        )
        for record in RecordFiles.at(place, leave_out=[metadata]).records():
            if (key := first_id(record.fields, DOCUMENT_IDS)) is not None:
                text = document_text(record.fields)
                texts[name, key] = text
                texts.setdefault((None, key), text)
    return {"data": document["data"], "texts": texts}


def read_nemo(document: Mapping[str, Any]) -> Iterator[tuple[int, Any, None]]:
    for number, row in enumerate(document["data"], start=1):
        if isinstance(row, dict):
            named = {"query_id": row.get("question_id"), "question": row.get("question")}
            for key, ids in (("positive", "pos_doc"), ("negatives", "neg_doc")):
                named[key] = _passages(row.get(ids), row.get("corpus_id"), document["texts"])
            yield number, named, None
        else:
            yield number, row, None


def _passages(
    ids: object, corpus: str | None, texts: Mapping[tuple[str | None, str], Any]
) -> Sequence[Any]:
    found = []
    for entry in as_list(ids):
        name = identifier(entry.get("id") if isinstance(entry, dict) else entry)
        text = texts.get((corpus, name), texts.get((None, name)))
        absent = Absent(f"document `{name}` is not in the corpus")
        found.append(absent if text is None else {"id": name, "text": text})
    return found


def nemo_documents(document: Mapping[str, Any]) -> Iterator[Document]:
    by_id = (item for item in document["texts"].items() if item[0][0] is None)
    for number, ((_, name), text) in enumerate(by_id, start=1):
        yield Document(name, None, text, row=number)
