"""A model is timed and scored on the run's test set, however small that is."""

import numpy as np
import pyarrow as pa
import torch

from job.data.dataset import Corpus, Queries
from job.exports import measure as measuring


def test_a_test_set_of_one_query_is_timed(monkeypatch):
    monkeypatch.setattr(
        measuring, "embed_texts", lambda _model, texts, _role, _rows: torch.eye(4)[: len(texts)]
    )
    queries = Queries(
        ids=pa.array(["q"]),
        texts=pa.array(["a question"]),
        offsets=np.array([0, 1]),
        documents=np.array([0]),
        groups=np.array([0]),
    )
    corpus = Corpus(pa.array(["a", "b"]), pa.array(["one", "other"]))
    test = measuring.TestSet.of(
        queries,
        corpus,
        by_group=None,
        dimensions=(4,),
        precisions=("float32",),
        recommended=(4, "float32"),
        retention=0.9,
        batch_size=2,
    )
    found = measuring.measure(None, test)
    assert found.speed.p50_ms > 0
    assert found.means() == {"4": {"float32": 1.0}}
