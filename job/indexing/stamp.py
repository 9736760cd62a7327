"""What an index was made of: model, vectors, documents. Stored with every index."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from job.core.errors import StorageError

# In messages, by field.
NAMES = {
    "model": "the model",
    "dimension": "the dimension",
    "precision": "the precision",
    "query_prompt": "the prompt of queries",
    "document_prompt": "the prompt of documents",
    "corpus": "the documents",
    "with_text": "whether texts are stored",
    "shard_size": "the documents of a file",
}
# Without effect on what a search finds.
UNIMPORTANT = ("with_text", "shard_size")


class Stamp(BaseModel):
    """Equal stamps mean that queries of one model find the same documents in the same index."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 1
    # The run, its base model, and the digest of the stored weights.
    run: str
    base: str
    model: str
    embedtune: str
    dimension: int
    # Of the stored vectors: `float32`, `int8` or `binary`.
    precision: str
    query_prompt: str
    document_prompt: str
    similarity: str = "cosine"
    # Their number, and the digest of ids and texts.
    documents: int
    corpus: str
    with_text: bool
    shard_size: int

    @property
    def digest(self) -> str:
        """Return 8 hex digits of what makes this index another one."""
        values = {name: getattr(self, name) for name in NAMES if name != "shard_size"}
        return hashlib.sha256(json.dumps(values).encode("utf-8")).hexdigest()[:8]

    def differences(self, other: "Stamp", *, ignored: tuple[str, ...] = ()) -> list[str]:
        """Say in which fields another stamp differs, with its value and that of this one."""
        return [
            f"{name} ({_shown(other, field)} there, {_shown(self, field)} now)"
            for field, name in NAMES.items()
            if field not in ignored and getattr(self, field) != getattr(other, field)
        ]

    def to_json(self) -> str:
        return self.model_dump_json()


def _shown(stamp: Stamp, field: str) -> str:
    value: Any = getattr(stamp, field)
    if field == "model":
        return f"`{value}` of the run `{stamp.run}`"
    if field == "corpus":
        return f"{stamp.documents}, digest `{value}`"
    return f"`{value}`"


def read_stamp(text: str | bytes, place: str) -> Stamp:
    """Parse a stamp; raises `StorageError`."""
    try:
        return Stamp.model_validate_json(text)
    except ValidationError:
        msg = f"The stamp of the index in {place} is damaged. Delete that index, or choose another "
        raise StorageError(msg + "place.") from None
