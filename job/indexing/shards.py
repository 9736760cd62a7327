"""An index as Parquet files: written one at a time, so that an interrupted run can be resumed.

A folder has `stamp.json` and `corpus.parquet` (ids and digests of the texts) from the start, then
`shard-00000.parquet` and so on, for int8 `calibration.parquet`, and at last `manifest.json`.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from job.core.errors import DataError, StorageError
from job.core.formatting import counted
from job.data.dataset import Corpus
from job.evaluation.exact_search import Transform
from job.evaluation.quantization import Quantizer
from job.indexing.documents import Documents
from job.indexing.stamp import Stamp, read_stamp
from job.runtime.counter import Counter
from job.storage.workspace import explained, manifest_entries, write_atomically

STAMP, CORPUS, CALIBRATION, MANIFEST = (
    *("stamp.json", "corpus.parquet", "calibration.parquet", "manifest.json"),
)
# Float32 vectors, until the calibration of int8 has seen all of them.
PARTS = ".float32"
METADATA = b"embedtune"
# Names of files before they are whole.
TEMPORARY = re.compile(r"\.((corpus|calibration|shard-\d+)\.parquet|(stamp|manifest)\.json)\.\d+")
# Ids to name in a message.
NAMED = 3
# Embed documents: (n, width), float32, normalized.
Embed = Callable[[list[str]], torch.Tensor]


@dataclass(frozen=True)
class Shards:
    """The Parquet files of an index in a folder."""

    folder: Path
    stamp: Stamp

    @property
    def numbers(self) -> range:
        return range(-(-self.stamp.documents // self.stamp.shard_size))

    @property
    def is_complete(self) -> bool:
        files = [self.folder / MANIFEST, *self._files()]
        return all(path.is_file() for path in files)

    def path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.parquet"

    def _files(self) -> list[Path]:
        """Return the files of a whole index, without its manifest."""
        ranges = [CALIBRATION] if self.stamp.precision == "int8" else []
        others = [self.folder / name for name in (CORPUS, STAMP, *ranges)]
        return sorted([*others, *map(self.path, self.numbers)])

    def read(self, first: int = 0) -> Iterator[tuple[int, pa.Table]]:
        """Yield the tables of all files, from document `first` on, each with its first document."""
        size = self.stamp.shard_size
        for number in self.numbers[first // size :]:
            with explained(self.path(number), "read"):
                table = pq.read_table(self.path(number))
            start = max(first, number * size)
            if len(part := table.slice(start - number * size)):
                yield start, part

    def open(self, documents: Documents) -> None:
        """Create the folder, or resume in it; refuse another index, and other documents."""
        place = self.folder / STAMP
        if place.is_file():
            with explained(place, "read"):
                found = read_stamp(place.read_bytes(), f"`{self.folder}`")
            self._require_same(found, documents)
            return
        if self._has_other_files():
            msg = f"The folder `{self.folder}` contains files that are no index. Name an empty or "
            raise StorageError(msg + "a new one.")
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        digests = pa.array(documents.digests(), pa.binary())
        table = pa.table({"id": documents.corpus.ids, "digest": digests})
        _write(self.folder / CORPUS, table)
        write_atomically(place, json.dumps(self.stamp.model_dump(), indent=2) + "\n")

    def _has_other_files(self) -> bool:
        """Tell whether there are files that a start, killed before it wrote its stamp, did not."""
        if not self.folder.is_dir():
            return False
        names = (path.name for path in self.folder.iterdir())
        return any(name != CORPUS and not _is_temporary(name) for name in names)

    def _require_same(self, found: Stamp, documents: Documents) -> None:
        if differences := self.stamp.differences(found, ignored=("corpus",)):
            msg = f"`{self.folder}` has another index; these differ: {'; '.join(differences)}. "
            raise StorageError(msg + "Name another folder, or delete that one.")
        if found.corpus != self.stamp.corpus:
            changes = _changes(self.folder / CORPUS, documents)
            msg = f"`{self.folder}` has an index of other documents: {changes}. Restore the corpus "
            raise DataError(msg + "to resume, or name another folder.")

    def write(self, corpus: Corpus, embed: Embed) -> None:
        """Write the missing files, each by a rename; the manifest last."""
        if self.is_complete:
            return
        if self.stamp.precision == "int8":
            self._write_int8(corpus, embed)
        else:
            for number, part in self._missing(corpus, self.path):
                units = self._embed(part, embed)
                bits = self.stamp.precision == "binary"
                _write(self.path(number), self._table(part, _binary(units) if bits else units))
        # Of starts that were killed while they wrote.
        for path in self.folder.glob(".*"):
            if _is_temporary(path.name):
                path.unlink(missing_ok=True)
        entries = manifest_entries((path.name, path) for path in self._files())
        write_atomically(self.folder / MANIFEST, json.dumps(entries, indent=2) + "\n")

    def _write_int8(self, corpus: Corpus, embed: Embed) -> None:
        """Embed all documents, then calibrate, then write their codes."""
        parts = self.folder / PARTS
        parts.mkdir(exist_ok=True)

        def part_path(number: int) -> Path:
            return parts / f"{number:05d}.npy"

        if not (self.folder / CALIBRATION).is_file():
            for number, part in self._missing(corpus, part_path):
                units = self._embed(part, embed)
                _atomically(part_path(number), partial(_save, units))
            _write(self.folder / CALIBRATION, _calibrate(map(part_path, self.numbers)))
        quantizer = Quantizer(
            dimension=self.stamp.dimension, precision="int8", ranges=self.calibration()
        )
        for number, part in self._missing(corpus, self.path):
            held = part_path(number)
            # A file that was deleted later is embedded again.
            units = np.load(held) if held.is_file() else self._embed(part, embed)
            codes = quantizer.codes(torch.from_numpy(units))
            _write(self.path(number), self._table(part, codes.to(torch.int8).numpy()))
        for path in parts.iterdir():
            path.unlink()
        parts.rmdir()

    def calibration(self) -> torch.Tensor:
        """Return the minimum and maximum of each component over all documents, (2, dimension)."""
        table = pq.read_table(self.folder / CALIBRATION)
        return torch.stack([torch.tensor(table[name].to_numpy()) for name in table.column_names])

    def _missing(
        self, corpus: Corpus, path_of: Callable[[int], Path]
    ) -> Iterator[tuple[int, Corpus]]:
        """Yield the number and the documents of each file that is not yet written."""
        size = self.stamp.shard_size
        missing = [number for number in self.numbers if not path_of(number).is_file()]
        done = min(len(corpus), (len(self.numbers) - len(missing)) * size)
        counter = Counter("index", "documents", len(corpus), done)
        for number in missing:
            rows = slice(number * size, (number + 1) * size)
            part = Corpus(corpus.ids[rows], corpus.texts[rows])
            yield number, part
            counter.add(len(part))

    def _embed(self, part: Corpus, embed: Embed) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return vectors that are cut and normalized again, (n, dimension)."""
        vectors = embed(part.texts.to_pylist())
        return Transform(self.stamp.dimension).apply(vectors).cpu().numpy()

    def _table(self, part: Corpus, vectors: np.ndarray[Any, Any]) -> pa.Table:
        """Return a table of one row per document; bytes become a column of packed bits."""
        if vectors.dtype == np.uint8:
            width, buffer = vectors.shape[1], pa.py_buffer(np.ascontiguousarray(vectors))
            kind = pa.binary(width)
            column = pa.Array.from_buffers(kind, len(vectors), [None, buffer])
        else:
            values = pa.array(np.ascontiguousarray(vectors).ravel())
            column = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
        columns = {"id": part.ids, "vector": column}
        if self.stamp.with_text:
            columns["text"] = part.texts
        table = pa.table(columns)
        return table.replace_schema_metadata({METADATA: self.stamp.to_json()})


def vectors_of(table: pa.Table, stamp: Stamp) -> np.ndarray[Any, Any]:
    """Return the vectors of a file: (n, dimension) float32 or int8, or bits as 0 and 1."""
    column = table["vector"].combine_chunks()
    if stamp.precision == "binary":
        width = -(-stamp.dimension // 8)
        packed = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, width)
        return np.unpackbits(packed[: len(column)], axis=1, count=stamp.dimension)
    found: np.ndarray[Any, Any] = column.flatten().to_numpy().reshape(-1, stamp.dimension)
    return found


def _binary(units: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pack signs into bits, the first component into the highest bit of the first byte."""
    return np.packbits(units > 0, axis=1)


def _calibrate(parts: Iterator[Path]) -> pa.Table:
    ends = [np.stack([units.min(axis=0), units.max(axis=0)]) for units in map(np.load, parts)]
    found = np.stack(ends)
    return pa.table({"minimum": found[:, 0].min(axis=0), "maximum": found[:, 1].max(axis=0)})


def _changes(path: Path, documents: Documents) -> str:
    """Say which documents were added, removed or changed since the index was started."""
    with explained(path, "read"):
        table = pq.read_table(path)
    before = dict(zip(table["id"].to_pylist(), table["digest"].to_pylist(), strict=True))
    now = dict(zip(documents.corpus.ids.to_pylist(), documents.digests(), strict=True))
    changes = {
        "new": [name for name in now if name not in before],
        "missing": [name for name in before if name not in now],
        "changed": [name for name in now if before.get(name, now[name]) != now[name]],
    }
    return ", ".join(
        f"{counted(len(names), 'document')} {what} ({', '.join(f'`{n}`' for n in names[:NAMED])}"
        + (", …)" if len(names) > NAMED else ")")
        for what, names in changes.items()
        if names
    )


def _write(path: Path, table: pa.Table) -> None:
    _atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def _save(units: np.ndarray[Any, Any], path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, units)


def _is_temporary(name: str) -> bool:
    """Tell whether a file with this name is one that `_atomically` has not yet renamed."""
    return bool(TEMPORARY.fullmatch(name))


def _atomically(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with explained(path):
            write(temporary)
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()
