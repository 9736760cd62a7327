"""The given corpus, in which contexts are found by a document's text without title, or its id."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from job.data.formats.values import identifier
from job.data.text_keys import text_key
from job.storage.arrow_tables import IntArray, JoinedColumn, KeyArray, column_values

# Longer texts are no ids.
ID_CHARACTERS = 200


class GivenDocuments:
    """Finds documents for contexts; false if there are none."""

    def __init__(self, documents: pa.Table) -> None:
        """Take documents as `job.data.cleaning` makes them."""
        self._count = len(documents)
        self._keys = documents["key"].to_numpy()
        self._sorted_keys = np.unique(self._keys)
        text_keys = documents["text_key"].to_numpy()
        titled = np.flatnonzero(text_keys)
        # Of several documents with one text, or one id, the first.
        self._text_keys, first, self._bearers = np.unique(
            text_keys[titled], return_index=True, return_counts=True
        )
        self._titled = titled[first]
        self._every_text_key = text_keys
        # Places of texts that contexts have and several documents.
        self._shared: set[int] = set()
        ids = (_id_key(name) for name in column_values(documents["id"]))
        self._ids, self._named = np.unique(
            np.fromiter(ids, np.uint64, self._count), return_index=True
        )
        self._texts = JoinedColumn([documents["text"]])
        # Contexts that were ids.
        self.found_by_id = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def has(self, text: str) -> bool:
        """Tell whether a text is a document, with its title or without."""
        key = np.uint64(text_key(text))
        return any(_place(keys, key) is not None for keys in (self._sorted_keys, self._text_keys))

    def with_title(self, key: int) -> tuple[str, int] | None:
        """Return the document that has this text without its title, and the key of both.

        None if the text itself is a document, or no document has it.
        """
        wanted = np.uint64(key)
        if _place(self._sorted_keys, wanted) is not None:
            return None
        place = _place(self._text_keys, wanted)
        if place is None:
            return None
        if self._bearers[place] > 1:
            self._shared.add(place)
        return self._document(self._titled[place])

    def twins(self) -> IntArray:
        """Return the positions of documents that are a context's but for their titles.

        They answer as well as the one that was found, and would count as wrong.
        """
        places = np.fromiter(sorted(self._shared), np.int64, len(self._shared))
        every = np.flatnonzero(np.isin(self._every_text_key, self._text_keys[places]))
        return np.setdiff1d(every, self._titled[places])

    def by_id(self, value: Any) -> str | None:  # noqa: ANN401  what a file holds
        """Return the text of the document that has this id."""
        if isinstance(value, bool) or not isinstance(value, str | int):
            return None
        name = str(value).strip()
        if not name or len(name) > ID_CHARACTERS:
            return None
        place = _place(self._ids, np.uint64(_id_key(identifier(name))))
        if place is None:
            return None
        self.found_by_id += 1
        return self._document(self._named[place])[0]

    def _document(self, position: np.integer[Any]) -> tuple[str, int]:
        return str(self._texts[int(position)]), int(self._keys[position])


def _id_key(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _place(keys: KeyArray, key: np.uint64) -> int | None:
    place = int(keys.searchsorted(key))
    return place if place < len(keys) and keys[place] == key else None
