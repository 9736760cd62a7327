"""Texts as 64-bit keys: equal keys mean the same text, but for case, width and spacing."""

import hashlib
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from job.storage.arrow_tables import KeyArray

# Characters to normalize at a time. NFKC takes quadratic time on a run of combining marks: hours
# for one long line.
NORMALIZE_CHARACTERS = 10_000
# Any odd numbers with many digits.
PAIR_FACTOR = 0xD6E8FEB86659FD93
SPLIT_FACTOR = 0xA0761D6478BD642F
MASK = 2**64 - 1
# A row's split changes its question's key: the same pair in two splits is no duplicate.
SPLITS = (None, "train", "validation", "test")


def normalize(text: str) -> str:
    """Reduce a text to what makes it the same text: letters without case, width and spacing."""
    size = NORMALIZE_CHARACTERS
    parts = (text[start : start + size] for start in range(0, len(text), size))
    composed = "".join(unicodedata.normalize("NFKC", part) for part in parts)
    return " ".join(composed.casefold().split())


def text_key(text: str) -> int:
    """Hash a normalized text to 64 bits: with a million texts, 1 in 37 million runs collides."""
    digest = hashlib.blake2b(normalize(text).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def pair_key(question: int, context: int) -> int:
    """Hash two keys, in this order, to one of 64 bits."""
    return (question * PAIR_FACTOR + context) & MASK


def pair_keys(questions: KeyArray, contexts: KeyArray) -> KeyArray:
    return questions * np.uint64(PAIR_FACTOR) + contexts


def question_key(anchor_key: int, split: str | None) -> int:
    """Return the key of a question within a split."""
    return anchor_key ^ ((SPLITS.index(split) * SPLIT_FACTOR) & MASK)


def question_keys(pairs: pa.Table) -> KeyArray:
    """Return `question_key` of each pair."""
    numbers = pc.index_in(pairs["split"], pa.array(SPLITS[1:], pa.large_string()))
    codes = pc.add(numbers.fill_null(-1), 1).to_numpy().astype(np.uint64)
    keys: KeyArray = pairs["anchor_key"].to_numpy() ^ (codes * np.uint64(SPLIT_FACTOR))
    return keys
