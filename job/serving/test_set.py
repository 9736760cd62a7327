"""The test set of a stored run, as its folder `data/` has it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from job.core.errors import StorageError
from job.data.dataset import Corpus, Queries

FILES = ("test.jsonl", "corpus.jsonl", "qrels.tsv")


def read_test_set(folder: Path) -> tuple[Queries, Corpus]:
    """Return the test queries with their relevant documents, and the corpus.

    Raises `StorageError` if files are missing or damaged.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        msg = f"`{folder}` lacks {', '.join(f'`{name}`' for name in missing)}. Fetch the run again."
        raise StorageError(msg)
    try:
        return _read(folder)
    except (ValueError, LookupError) as error:
        msg = f"The test set in `{folder}` is damaged: {error}. Fetch the run again."
        raise StorageError(msg) from None


def _read(folder: Path) -> tuple[Queries, Corpus]:
    documents = list(_rows(folder / "corpus.jsonl"))
    corpus = Corpus(*(pa.array([d[name] for d in documents]) for name in ("id", "text")))
    position = {document["id"]: number for number, document in enumerate(documents)}
    texts = {row["id"]: row["anchor"] for row in _rows(folder / "test.jsonl")}
    relevant: dict[str, dict[int, float]] = {}
    # Not `splitlines`, which also divides at characters that ids may contain.
    lines = (folder / "qrels.tsv").read_text("utf-8").rstrip("\n").split("\n")[1:]
    for query, document, grade in (line.split("\t") for line in lines):
        if query in texts:
            relevant.setdefault(query, {})[position[document]] = float(grade)
    counts = [len(found) for found in relevant.values()]
    grades = np.array([grade for found in relevant.values() for grade in found.values()])
    queries = Queries(
        ids=pa.array(list(relevant)),
        texts=pa.array([texts[query] for query in relevant]),
        offsets=np.cumsum([0, *counts]),
        documents=np.array([n for found in relevant.values() for n in found], dtype=np.int64),
        groups=np.arange(len(relevant)),
        grades=None if (grades == 1).all() else grades,
    )
    return queries, corpus


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
