"""Cache intermediate results next to the checkpoints, so a resumed run computes nothing twice.

A damaged file counts as missing: its content is computed again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from job.evaluation.metrics import METRICS, Scores
from job.runtime.logs import warn
from job.storage.arrow_tables import IntArray
from job.storage.workspace import write_atomically

Content = TypeVar("Content")
Facts = dict[str, Any]


def save_scores(path: Path, scores: Mapping[str, Scores], facts: Facts) -> None:
    """Save scores by name, one row per query, and JSON-serializable facts."""
    tables = [
        pa.table(
            {
                "name": pa.repeat(name, len(found.rank)),
                **{metric: found.metrics[metric] for metric in METRICS},
                "rank": found.rank,
                "ranked": list(found.ranked),
                "found": pa.array(
                    [None] * len(found.rank) if found.found is None else found.found, pa.int64()
                ),
            }
        )
        for name, found in scores.items()
    ]
    _write(path, pa.concat_tables(tables).replace_schema_metadata({"facts": json.dumps(facts)}))


def load_scores(path: Path) -> tuple[dict[str, Scores], Facts] | None:
    return _load(path, _scores)


def _scores(path: Path) -> tuple[dict[str, Scores], Facts]:
    table = _read(path)
    scores = {}
    for name in table["name"].unique().to_pylist():
        part = table.filter(pc.field("name") == name)
        scores[name] = Scores(
            {metric: part[metric].to_numpy() for metric in METRICS},
            part["rank"].to_numpy(),
            np.stack(part["ranked"].to_numpy()),
            None if part["found"].null_count else part["found"].to_numpy(),
        )
    return scores, json.loads(table.schema.metadata[b"facts"])


def save_neighbors(path: Path, rows: Sequence[IntArray]) -> None:
    """Save each row's nearest neighbors: a list of row numbers per row."""
    _write(path, pa.table({"rows": pa.array(list(rows), pa.list_(pa.int64()))}))


def load_neighbors(path: Path) -> list[IntArray] | None:
    return _load(path, lambda path: list(_read(path)["rows"].to_numpy()))


def save_seconds(path: Path, seconds: Mapping[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(seconds) + "\n")


def load_seconds(path: Path) -> dict[str, float]:
    return _load(path, lambda path: dict(json.loads(path.read_text("utf-8")))) or {}


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    pq.write_table(table, temporary, write_page_checksum=True)
    temporary.replace(path)


def _read(path: Path) -> pa.Table:
    return pq.read_table(path, page_checksum_verification=True)


def _load(path: Path, read: Callable[[Path], Content]) -> Content | None:
    if not path.is_file():
        return None
    try:
        return read(path)
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        warn("cache", f"`{path.name}` is damaged; computing it again", reason=str(error))
        return None
