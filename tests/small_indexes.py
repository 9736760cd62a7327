"""Small indexes of random vectors, and searches by the examples that users copy."""

import re

import numpy as np
import pyarrow as pa
import torch

from job.data.dataset import Corpus
from job.evaluation.quantization import rank
from job.indexing.documents import Documents
from job.indexing.shards import Shards
from job.indexing.stamp import Stamp

WIDTH = 20
# No multiple of eight: the last byte of bits is filled up.
DIMENSION = 12
DOCUMENTS, QUERIES = 300, 50
random = np.random.default_rng(1)
VECTORS = torch.nn.functional.normalize(
    torch.from_numpy(random.normal(size=(DOCUMENTS, WIDTH)).astype(np.float32)), dim=1
)
QUESTIONS = torch.nn.functional.normalize(
    torch.from_numpy(random.normal(size=(QUERIES, WIDTH)).astype(np.float32)), dim=1
)
IDS = [f"doc {number:03}" for number in range(DOCUMENTS)]
DOCUMENTS_OF_TEST = Documents(
    Corpus(
        pa.array(IDS, pa.large_string()),
        pa.array([str(n) for n in range(DOCUMENTS)], pa.large_string()),
    ),
    (),
)


def embed(texts):
    """Return the vectors of documents, whose texts are their numbers."""
    return VECTORS[[int(text) for text in texts]]


def stamp_of(precision="float32", **changes):
    given = {
        "run": "run",
        "base": "some/model",
        "model": "c0ffee",
        "embedtune": "1",
        "dimension": DIMENSION,
        "precision": precision,
        "query_prompt": "",
        "document_prompt": "",
        "documents": DOCUMENTS,
        "corpus": DOCUMENTS_OF_TEST.digest(),
        "with_text": False,
        "shard_size": 70,
    }
    return Stamp(**(given | changes))


def write_shards(folder, precision="float32", **changes):
    shards = Shards(folder, stamp_of(precision, **changes))
    shards.open(DOCUMENTS_OF_TEST)
    shards.write(DOCUMENTS_OF_TEST.corpus, embed)
    return shards


class Encoder:
    """Stands for the model in an example; questions are their numbers."""

    def encode_query(self, question, normalize_embeddings):
        assert normalize_embeddings
        cut = QUESTIONS[int(question), :DIMENSION]
        return torch.nn.functional.normalize(cut, dim=0).numpy()


def found_by(example):
    """Run an example; return the ids that it finds for every question."""
    # The example asks one question of its own.
    code = re.sub(r"(?m)^print\(.*\)$", "", example)
    names = {"Encoder": Encoder}
    try:
        exec(code, names)
        return [names["search"](str(number)) for number in range(QUERIES)]
    finally:
        for name in {"client", "connection"} & names.keys():
            names[name].close()


def expected(precision):
    """Return the first ten ids of every question by the ruler of the report."""
    stored = precision.partition("_")[0]
    ranked = rank(QUESTIONS, VECTORS, [DIMENSION], [stored])[DIMENSION][precision]
    return [[IDS[position] for position in row[:10]] for row in ranked]
