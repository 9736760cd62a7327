"""The owner's ids of questions and contexts: kept if each names one text."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from job.data.schemas import TEXT
from job.data.text_keys import pair_keys
from job.storage.arrow_tables import one_array

# `data`, `validation` and `test` may each count from 1. What names more texts is something else,
# such as the document of which a context is a part.
MAX_BEARERS = 3


def name_once(pairs: pa.Table, name: str, key: str) -> pa.Table:
    """Make the ids in a column name one text each; `key` is the column of the texts' keys.

    Later bearers of an id get a number after it (`7~2`); ids of many texts become null.
    """
    at = pairs.schema.get_field_index(name)
    ids = one_array(pairs[name])
    if ids.null_count == len(ids):
        return pairs
    encoded = ids.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    texts = pair_keys(codes.astype(np.uint64), pairs[key].to_numpy())
    # Each id with each of its texts, in the order of the rows.
    _, first, inverse = np.unique(texts, return_index=True, return_inverse=True)
    order = np.argsort(first)
    bearers = codes[first]
    turns = np.empty(len(first), dtype=np.int64)
    counts: Counter[int] = Counter()
    shared = np.bincount(bearers[bearers >= 0], minlength=len(encoded.dictionary))
    if not (shared > 1).any():
        return pairs
    for place in order[shared[bearers[order]] > 1]:
        counts[int(bearers[place])] += 1
        turns[place] = counts[int(bearers[place])]
    concerned = np.flatnonzero((codes >= 0) & (shared[codes] > 1))
    taken = set(encoded.dictionary.to_pylist())
    renamed: dict[tuple[int, int], str | None] = {}
    names = ids.take(pa.array(concerned)).to_pylist()
    values = []
    for row, given in zip(concerned, names, strict=True):
        bearer = int(codes[row]), int(turns[inverse[row]])
        if bearer not in renamed:
            renamed[bearer] = _name(given, bearer[1], int(shared[codes[row]]), taken)
        values.append(renamed[bearer])
    mask = np.zeros(len(ids), dtype=bool)
    mask[concerned] = True
    column = pc.replace_with_mask(ids, pa.array(mask), pa.array(values, TEXT))
    return pairs.set_column(at, pairs.schema.field(at), column)


def _name(given: str, turn: int, bearers: int, taken: set[str]) -> str | None:
    if bearers > MAX_BEARERS:
        return None
    if turn == 1:
        return given
    name = f"{given}~{turn}"
    while name in taken:
        name += "~"
    taken.add(name)
    return name
