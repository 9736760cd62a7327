"""The article's rules on our test rows: what duplicates and missing prompts make of the numbers.

Each row is a query of its own, each row's context a document of its own: a context that stands
twice is wrong under its other id. Our split stays, so nothing tested was trained on.
"""

import numpy as np
import pyarrow as pa

from job.corpus import numbered_ids
from job.data import Corpus, Dataset, Queries
from job.pairs import text_key
from job.tables import one_array


def article_test(dataset: Dataset) -> tuple[Queries, Corpus]:
    """Arrange the test rows, and the contexts of all rows, as the article does."""
    test = dataset.test_pairs
    rows = pa.concat_tables([part.select(["id", "positive"]) for part in dataset.tables])
    # Duplicates score alike, and the first one wins: none of the splits may come first.
    order = np.argsort(np.array(rows["id"].to_pylist(), dtype=object), kind="stable")
    ids, texts = numbered_ids("d", np.arange(len(rows))), one_array(rows["positive"]).take(order)
    # A row has the group of its question, which several rows may ask.
    asked = dataset.test
    groups = dict(zip(map(text_key, asked.texts.to_pylist()), asked.groups, strict=True))
    queries = Queries(
        ids=one_array(test["id"]),
        texts=one_array(test["anchor"]),
        offsets=np.arange(len(test) + 1),
        documents=np.argsort(order)[len(rows) - len(test) :],
        groups=np.array([groups[text_key(anchor)] for anchor in test["anchor"].to_pylist()]),
    )
    return queries, Corpus(ids, texts)
