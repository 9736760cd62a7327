"""Read folders that `datasets.save_to_disk` and AutoRAG write."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from job.core.errors import DataError
from job.data.formats.beir import document_text
from job.data.formats.layout import Absent, Document, RawRow, Request, Source
from job.data.formats.splits import splits_of
from job.data.formats.values import as_list, identifier
from job.data.readers import read_records

STATE, SPLITS = "state.json", "dataset_dict.json"


def is_saved(path: Path) -> bool:
    return (path / STATE).is_file() or (path / SPLITS).is_file()


def saved_files(path: Path) -> dict[Path, str | None]:
    """Return the files of a saved data set, or of each split of a saved `DatasetDict`."""
    if not (path / SPLITS).is_file():
        return dict.fromkeys(_files(path))
    names = _settings(path / SPLITS).get("splits") or []
    parts = {name: _files(path / str(name)) for name in names}
    split = dict(zip(parts, splits_of(map(str, parts)), strict=True))
    several = len({*split.values()}) > 1
    return {
        file: split[name] if several else None for name, files in parts.items() for file in files
    }


def _files(folder: Path) -> list[Path]:
    entries = _settings(folder / STATE).get("_data_files") or []
    files = [folder / str(entry.get("filename")) for entry in entries if isinstance(entry, dict)]
    if missing := [file for file in files if not file.is_file()]:
        msg = f"`{folder}` was saved by `datasets.save_to_disk` and lacks `{missing[0].name}`, "
        raise DataError(msg + "which its `state.json` names. Save it again.")
    return files


def _settings(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not valid JSON"
        msg = f"`{file}` belongs to a data set of `datasets.save_to_disk` and cannot be read: "
        raise DataError(msg + f"{reason}. Save the data set again.") from None
    return found if isinstance(found, dict) else {}


def is_autorag(path: Path) -> bool:
    return (path / "qa.parquet").is_file() and (path / "corpus.parquet").is_file()


def open_autorag(request: Request) -> Source:
    """Join `qa.parquet` and `corpus.parquet` by the ids in `retrieval_gt`, a list of lists."""
    corpus, questions = (request.path / f"{stem}.parquet" for stem in ("corpus", "qa"))
    columns: dict[str, Any] = {
        "anchor": "query",
        "positive": "retrieval_gt",
        "negatives": [],
        "group": None,
    }
    documents = (
        Document(identifier(_id(record.fields)), None, document_text(record.fields), *record[:2])
        for record in read_records(corpus)
    )
    return Source(_autorag_rows(corpus, questions), columns, documents, "autorag")


def _autorag_rows(corpus: Path, questions: Path) -> Iterator[RawRow]:
    texts = {_id(record.fields): document_text(record.fields) for record in read_records(corpus)}
    for file, row, fields, _ in read_records(questions):
        groups = as_list(fields.get("retrieval_gt"))
        ids = [str(name) for group in groups for name in as_list(group) if name is not None]
        found = [texts.get(name, Absent(f"document `{name}` is not in the corpus")) for name in ids]
        query_id = None if fields.get("qid") is None else identifier(fields["qid"])
        names = [identifier(name) for name in ids]
        yield RawRow(
            file, row, fields.get("query"), found, query_id=query_id, document_ids=[*names]
        )


def _id(fields: dict[str, Any]) -> str:
    return str(fields.get("doc_id"))
