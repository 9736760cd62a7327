"""Documents with titles: a context that is one of their texts is that document."""

import numpy as np
import pyarrow as pa

from job.storage.arrow_tables import JoinedColumn


class TitledDocuments:
    """Finds documents by the key of their text without its title."""

    def __init__(self, documents: pa.Table) -> None:
        """Take documents as `job.data.cleaning` makes them."""
        text_keys = documents["text_key"].to_numpy()
        titled = np.flatnonzero(text_keys)
        # Of several documents with one text, the first.
        self._text_keys, first = np.unique(text_keys[titled], return_index=True)
        self._positions = titled[first]
        self._keys = documents["key"].to_numpy()
        self._sorted_keys = np.unique(self._keys)
        self._texts = JoinedColumn([documents["text"]])

    def __bool__(self) -> bool:
        return bool(len(self._text_keys))

    def find(self, key: int) -> tuple[str, int] | None:
        """Return a text with its title, and the key of both; None if no title is known for it."""
        wanted = np.uint64(key)
        if _has(self._sorted_keys, wanted) or not _has(self._text_keys, wanted):
            return None
        position = int(self._positions[self._text_keys.searchsorted(wanted)])
        return str(self._texts[position]), int(self._keys[position])


def _has(keys: np.ndarray, key: np.uint64) -> bool:
    place = int(keys.searchsorted(key))
    return place < len(keys) and bool(keys[place] == key)
