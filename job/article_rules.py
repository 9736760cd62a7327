"""The article's rules on our test rows: what duplicates and missing prompts make of the numbers.

Each row is a query of its own, each row's context a document of its own: a context that stands
twice is wrong under its other id. Our split stays, so nothing tested was trained on.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from job.data import Corpus, Dataset, Queries
from job.pairs import text_key
from job.tables import one_array


def article_test(dataset: Dataset) -> tuple[Queries, Corpus]:
    """Arrange the test rows, and the contexts of all rows, as the article does."""
    test = dataset.test_pairs
    parts = [dataset.train.table, dataset.validation_pairs, test]
    rows = pa.concat_tables([part.select(["id", "positive"]) for part in parts])
    # Duplicates score alike, and the first one wins: none of the splits may come first.
    order = np.argsort(np.array(rows["id"].to_pylist(), dtype=object), kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    corpus = Corpus(
        pa.array([f"d{number:08d}" for number in range(len(rows))], pa.large_string()),
        one_array(rows["positive"]).take(order),
    )
    queries = Queries(
        ids=one_array(test["id"]),
        texts=one_array(test["anchor"]),
        offsets=np.arange(len(test) + 1),
        documents=place[len(rows) - len(test) :],
        groups=_groups(dataset.test, test["anchor"].to_pylist()),
    )
    return queries, corpus


def _groups(queries: Queries, anchors: list[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Give each row the group of its question, which several rows may ask."""
    known = zip(queries.texts.to_pylist(), queries.groups.tolist(), strict=True)
    groups = {text_key(text): group for text, group in known}
    return np.array([groups[text_key(anchor)] for anchor in anchors], dtype=np.int64)
