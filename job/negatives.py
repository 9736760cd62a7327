"""Hard negatives: documents that look like an answer and are none; mined, or given in the data."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from job.data import TrainingPairs
from job.errors import DataError
from job.evaluate import encode
from job.model import Model
from job.progress import log
from job.ranking import CHUNK

# The library's miner knows equal texts only, and drops rows that find too few (job/LOG.md).
CANDIDATES = 50
NEGATIVES = pa.list_(pa.large_string())


def mine(
    model: Model, pairs: TrainingPairs, count: int, margin: float, batch_size: int
) -> TrainingPairs:
    """Add up to `count` hard negatives to each pair, those that score highest.

    Only training documents are candidates. Those of the pair's own group are none (its question's
    other answers, near-duplicates of its context), nor is what scores above `margin` times its own
    context: that is likely to be an answer which nobody marked. Pairs may find none.
    """
    from torch.nn.functional import normalize

    numbers, first = np.unique(pairs.documents, return_index=True)
    texts = pairs.table["positive"].take(pa.array(first)).combine_chunks()
    prompts = model.prompts
    documents = normalize(encode(model, texts, prompts.document, batch_size), dim=1)
    anchors = pairs.table["anchor"].combine_chunks()
    questions = normalize(encode(model, anchors, prompts.query, batch_size), dim=1)
    own = documents[np.searchsorted(numbers, pairs.documents)]
    limits = margin * (questions * own).sum(dim=1, keepdim=True)

    mined: list[list[str]] = []
    rows = max(1, CHUNK // len(numbers))
    for start in range(0, len(pairs), rows):
        part = slice(start, start + rows)
        scores, found = (questions[part] @ documents.T).topk(min(CANDIDATES, len(numbers)), dim=1)
        positions = found.cpu().numpy()
        usable = (scores <= limits[part]).cpu().numpy()
        usable &= pairs.groups[first][positions] != pairs.groups[part, None]
        mined += [
            texts.take(pa.array(candidates[good][:count])).to_pylist()
            for candidates, good in zip(positions, usable, strict=True)
        ]
    log.info("negatives: mined=%d", sum(map(len, mined)))
    given = pairs.table["negatives"].to_pylist()
    return _with_negatives(pairs, [a + b for a, b in zip(given, mined, strict=True)])


def fill(pairs: TrainingPairs, seed: int) -> TrainingPairs:
    """Give every row as many negatives as the row with most has, as batches need columns.

    What a row lacks becomes a random document of another row: one more in-batch negative.
    """
    negatives = pairs.table["negatives"].to_pylist()
    width = max(map(len, negatives), default=0)
    answers: dict[int, set[int]] = {}
    for question, document in zip(pairs.questions, pairs.documents, strict=True):
        answers.setdefault(question, set()).add(document)
    random = np.random.default_rng(seed)
    for own, question in zip(negatives, pairs.questions, strict=True):
        while len(own) < width:
            row = _other_row(pairs, answers[question], random)
            own.append(pairs.table["positive"][row].as_py())
    return _with_negatives(pairs, negatives)


def _other_row(pairs: TrainingPairs, known: set[int], random: np.random.Generator) -> int:
    for row in random.integers(len(pairs), size=100).tolist():
        if pairs.documents[row] not in known:
            return int(row)
    msg = "Some rows have negatives and others none, and nearly all rows share one context."
    raise DataError(msg)


def _with_negatives(pairs: TrainingPairs, negatives: list[list[str]]) -> TrainingPairs:
    at = pairs.table.column_names.index("negatives")
    column = pa.array(negatives, NEGATIVES)
    return replace(pairs, table=pairs.table.set_column(at, "negatives", column))
