"""What a run has found out so far, kept beside its checkpoints: nothing is computed twice.

Plain arrays, no pickles. A file that is damaged is as good as none: what it held is found out anew.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from job.progress import log
from job.ranking import METRICS, IntArray, Scores

Facts = dict[str, Any]
# Names of arrays within a file.
FACTS = "facts"


def keep_scores(path: Path, scores: Mapping[str, Scores], facts: Facts) -> None:
    """Keep scores by their names, and facts that JSON can hold."""
    arrays: dict[str, Any] = {FACTS: np.array(json.dumps(facts))}
    for name, found in scores.items():
        arrays |= {f"{name}:{metric}": found.metrics[metric] for metric in METRICS}
        arrays |= {f"{name}:rank": found.rank, f"{name}:ranked": found.ranked}
        if found.found is not None:
            arrays[f"{name}:found"] = found.found
    _write(path, arrays)


def kept_scores(path: Path) -> tuple[dict[str, Scores], Facts] | None:
    arrays = _read(path)
    if arrays is None:
        return None
    names = [name.removesuffix(":rank") for name in arrays if name.endswith(":rank")]
    scores = {
        name: Scores(
            {metric: arrays[f"{name}:{metric}"] for metric in METRICS},
            arrays[f"{name}:rank"],
            arrays[f"{name}:ranked"],
            arrays.get(f"{name}:found"),
        )
        for name in names
    }
    return scores, json.loads(str(arrays[FACTS]))


def keep_rows(path: Path, rows: Sequence[IntArray]) -> None:
    """Keep lists of row numbers, one for each row."""
    ends = np.cumsum([len(row) for row in rows])
    _write(path, {"rows": np.concatenate([*rows, np.empty(0, np.int64)]), "ends": ends})


def kept_rows(path: Path) -> list[IntArray] | None:
    arrays = _read(path)
    return None if arrays is None else np.split(arrays["rows"], arrays["ends"][:-1])


def keep_seconds(path: Path, seconds: Mapping[str, float]) -> None:
    _write(path, {stage: np.array(value) for stage, value in seconds.items()})


def kept_seconds(path: Path) -> dict[str, float]:
    return {stage: float(value) for stage, value in (_read(path) or {}).items()}


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.stem}.part.npz")
    np.savez_compressed(beside, allow_pickle=False, **arrays)
    beside.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        # Each member has a checksum, which reading it proves.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("kept: `%s` is damaged (%s), so it is found out anew", path.name, error)
        return None
