"""Load an index into Qdrant: a collection for each index, and an alias by its name.

The stamp is in the collection's metadata. Points are numbered in the order of documents, so loading
resumes after the last one. Binary vectors are points of 0 and 1, compared by Manhattan distance,
which is then the Hamming distance; Qdrant's own binary quantization keeps their bits in memory.
"""

import json
import os
import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from job.core.errors import StorageError, first_line
from job.indexing.existing import Existing, require_replaceable
from job.indexing.shards import Shards, vectors_of
from job.indexing.stamp import Stamp, read_stamp
from job.indexing.targets import QDRANT_FOLDER, without_password
from job.runtime.counter import Counter

KEY_VARIABLE = "QDRANT_API_KEY"
# Points of a request.
BATCH = 512
SECONDS = 60
STAMP = "embedtune"


class Qdrant:
    kind = "qdrant"

    def __init__(self, to: str, name: str) -> None:
        self._to, self._name = to, name

    def require_free(self, stamp: Stamp, *, alias: bool) -> None:
        with _Client(self._to) as client:
            found = self._existing(client)
        require_replaceable(found, stamp, f"Qdrant at `{without_password(self._to)}`", alias=alias)

    def _existing(self, client: QdrantClient) -> Existing | None:
        """Return what has the name of the collection."""
        aliases = {
            found.alias_name: found.collection_name for found in client.get_aliases().aliases
        }
        if self._name in aliases:
            physical = aliases[self._name]
            return Existing(physical, _stamp(client, physical))
        return Existing(self._name, None) if client.collection_exists(self._name) else None

    def load(self, shards: Shards) -> Iterator[str]:
        physical = f"{self._name}_{shards.stamp.digest}"
        with _Client(self._to) as client:
            before = self._existing(client)
            _create(client, physical, shards.stamp, self._to)
            done = client.count(physical, exact=True).count
            counter = Counter("load", "documents", shards.stamp.documents, done)
            for first, rows in shards.read(done):
                _upsert(client, physical, first, rows, shards.stamp)
                counter.add(len(rows))
            operations: list[models.AliasOperations] = []
            if before:
                delete = models.DeleteAlias(alias_name=self._name)
                operations.append(models.DeleteAliasOperation(delete_alias=delete))
            create = models.CreateAlias(collection_name=physical, alias_name=self._name)
            operations.append(models.CreateAliasOperation(create_alias=create))
            # All in one request: searches find the old or the new collection.
            client.update_collection_aliases(operations)
        yield f"The alias `{self._name}` points to the collection `{physical}`."
        if before and before.physical != physical:
            yield f"The earlier collection is kept: `{before.physical}` may be deleted."


class _Client:
    """Opens a client; turns its errors into one line."""

    def __init__(self, to: str) -> None:
        self._to = to

    def __enter__(self) -> QdrantClient:
        with warnings.catch_warnings():
            # Of a key that is sent without encryption.
            warnings.simplefilter("ignore")
            try:
                if self._to.startswith(QDRANT_FOLDER):
                    self._client = QdrantClient(path=self._to.removeprefix(QDRANT_FOLDER))
                else:
                    key = os.environ.get(KEY_VARIABLE)
                    # The check of versions would ask in a thread of its own, and only warn.
                    self._client = QdrantClient(
                        url=self._to, api_key=key, timeout=SECONDS, check_compatibility=False
                    )
            except Exception as error:  # noqa: BLE001  the library's own classes are many
                raise self._refused(error) from None
        return self._client

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        self._client.close()
        if isinstance(error, ApiException | OSError | ValueError):
            raise self._refused(error) from None

    def _refused(self, error: BaseException) -> StorageError:
        msg = f"Qdrant at `{without_password(self._to)}` does not answer, or refuses: "
        msg += f"{first_line(error)}. Check the address and the key ({KEY_VARIABLE}). What was "
        return StorageError(msg + "loaded is kept: the same command continues.")


def _create(client: QdrantClient, name: str, stamp: Stamp, to: str) -> None:
    """Create the collection unless it exists."""
    if client.collection_exists(name):
        return
    quantization: models.BinaryQuantization | None = None
    vectors = models.VectorParams(size=stamp.dimension, distance=models.Distance.DOT)
    if stamp.precision == "binary":
        vectors = models.VectorParams(
            size=stamp.dimension,
            distance=models.Distance.MANHATTAN,
            datatype=models.Datatype.UINT8,
            on_disk=True,
        )
        binary = models.BinaryQuantizationConfig(always_ram=True)
        quantization = models.BinaryQuantization(binary=binary)
    client.create_collection(
        name,
        vectors_config=vectors,
        quantization_config=quantization,
        metadata={STAMP: stamp.model_dump()},
    )
    if _stamp(client, name) is None:
        client.delete_collection(name)
        msg = f"Qdrant at `{without_password(to)}` stores no metadata of collections. Update it to "
        raise StorageError(msg + "1.16 or newer.")


def _stamp(client: QdrantClient, name: str) -> Stamp | None:
    metadata: dict[str, Any] = client.get_collection(name).config.metadata or {}
    found = metadata.get(STAMP)
    if not isinstance(found, dict):
        return None
    return read_stamp(json.dumps(found), f"the collection `{name}`")


def _upsert(client: QdrantClient, name: str, first: int, rows: pa.Table, stamp: Stamp) -> None:
    """Write the documents from number `first` on."""
    vectors = vectors_of(rows, stamp)
    payloads = rows.select(["id", *(["text"] if stamp.with_text else [])]).to_pylist()
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        ids = list(range(first + start, first + start + len(vectors[part])))
        batch = models.Batch(ids=ids, vectors=vectors[part].tolist(), payloads=payloads[part])
        client.upsert(name, batch, wait=True)
