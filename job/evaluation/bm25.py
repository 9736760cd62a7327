"""Rank with BM25, the lexical baseline that every model must beat, using the library bm25s.

Words are split at spaces and punctuation; in languages without spaces a whole run of characters
is one word.
"""

from array import array
from collections.abc import Iterator

import bm25s
import numpy as np
import pyarrow as pa
import torch

from job.evaluation.exact_search import MAX_SCORES, top_k
from job.evaluation.metrics import DEPTH
from job.runtime.counter import Counter
from job.storage.arrow_tables import IntArray

WORD = r"(?u)\b\w+\b"
# Texts tokenized at once: their words are Python objects.
TEXTS_PER_BLOCK = 2**13


def rank_bm25(corpus_texts: pa.Array, query_texts: pa.Array) -> tuple[IntArray, IntArray]:
    """Rank with BM25 (k1 1.2, b 0.75, lower-cased words, no stop words).

    Returns corpus positions, (n_queries, ≤ 100), and how many of each query's share a word with it.
    """
    numbers, vocabulary = _tokenize(corpus_texts)
    index = bm25s.BM25(k1=1.2, b=0.75)
    # bm25s rejects a corpus without words, and a query without words.
    unmatched = np.zeros(len(numbers), np.float32)
    if vocabulary:
        index.index(bm25s.tokenization.Tokenized(numbers, vocabulary), show_progress=False)
    ranked, found = [], []
    counter = Counter("bm25", "queries", len(query_texts))
    for texts in _blocks(query_texts, max(1, MAX_SCORES // len(numbers))):
        queries = bm25s.tokenize(
            texts, token_pattern=WORD, stopwords=None, return_ids=False, show_progress=False
        )
        scores = np.stack(
            [index.get_scores(words) if vocabulary and words else unmatched for words in queries]
        )
        ranked.append(top_k(torch.from_numpy(scores), DEPTH).positions.numpy())
        found.append(np.minimum((scores > 0).sum(axis=1), DEPTH))
        counter.add(len(texts))
    return np.concatenate(ranked), np.concatenate(found)


def _tokenize(texts: pa.Array) -> "tuple[list[array[int]], dict[str, int]]":
    """Return each text as word ids, which take a tenth of the words' memory, and the vocabulary."""
    vocabulary: dict[str, int] = {}
    numbers = []
    for block in _blocks(texts, TEXTS_PER_BLOCK):
        found = bm25s.tokenize(block, token_pattern=WORD, stopwords=None, show_progress=False)
        known = [vocabulary.setdefault(word, len(vocabulary)) for word in found.vocab]
        numbers += [array("i", map(known.__getitem__, text)) for text in found.ids]
    return numbers, vocabulary


def _blocks(texts: pa.Array, size: int) -> Iterator[list[str]]:
    for start in range(0, len(texts), size):
        yield texts.slice(start, size).to_pylist()
