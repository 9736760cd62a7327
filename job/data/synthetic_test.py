"""The synthetic test beside a test set of real questions: the same corpus, written questions."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from job.data.dataset import Dataset, Queries
from job.data.readers import read_records
from job.data.text_keys import text_key
from job.spec.schema import Columns
from job.storage.arrow_tables import column_values


def load_synthetic_test(path: Path, columns: Columns, dataset: Dataset) -> tuple[Queries, int]:
    """Return the questions of a file of written pairs, and how many have no document here.

    The chunks of one document are one group.
    """
    places = {text_key(str(t)): n for n, t in enumerate(column_values(dataset.corpus.texts))}
    answers: dict[str, set[int]] = {}
    sources: dict[str, str] = {}
    lost: set[str] = set()
    for record in read_records(path):
        question = str(record.fields[columns.anchor or "question"])
        place = places.get(text_key(str(record.fields[columns.positive or "context"])))
        if place is None:
            lost.add(question)
        else:
            answers.setdefault(question, set()).add(place)
            sources.setdefault(question, str(record.fields[str(columns.document)]))
    documents = [sorted(found) for found in answers.values()]
    groups = np.unique(np.array([*sources.values()], dtype=object), return_inverse=True)[1]
    queries = Queries(
        ids=pa.array([f"s{number:08d}" for number in range(len(answers))], pa.large_string()),
        texts=pa.array([*answers], pa.large_string()),
        offsets=np.cumsum([0, *map(len, documents)]),
        documents=np.array([place for found in documents for place in found], np.int64),
        groups=groups.astype(np.int64),
    )
    return queries, len(lost - answers.keys())
