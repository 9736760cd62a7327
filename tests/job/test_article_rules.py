"""The article's rules on our own test rows."""

import numpy as np
import pytest
from conftest import write_jsonl

from job.article_rules import article_test
from job.data import load_dataset
from job.spec import DataSpec


@pytest.fixture
def dataset(tmp_path):
    rows = [{"question": f"what is {i}?", "context": f"context {i // 2} of all"} for i in range(60)]
    rows += [{"question": f"What is {i}?", "context": f"other {i}"} for i in range(4)]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    return load_dataset(DataSpec(source=str(path), min_test_queries=2, test_fraction=0.3), {})


def test_each_row_is_a_query_with_a_document_of_its_own(dataset):
    """A context that stands in two rows is two documents, and only a row's own one is right."""
    queries, corpus = article_test(dataset)

    assert len(corpus) == 64
    assert len(dataset.corpus) == 34
    assert queries.texts.to_pylist() == dataset.test_pairs["anchor"].to_pylist()
    assert np.diff(queries.offsets).tolist() == [1] * len(queries)
    own = corpus.texts.take(queries.documents).to_pylist()
    assert own == dataset.test_pairs["positive"].to_pylist()
    assert len(set(queries.documents.tolist())) == len(queries)


def test_ties_go_by_the_rows_order_whatever_their_split(dataset):
    """Duplicates score alike: a corpus that began with the training rows would always win them."""
    _, corpus = article_test(dataset)

    splits = (dataset.train.table, dataset.validation_pairs, dataset.test_pairs)
    rows = [row for part in splits for row in part.select(["id", "positive"]).to_pylist()]
    by_id = sorted(rows, key=lambda row: row["id"])
    assert corpus.texts.to_pylist() == [row["positive"] for row in by_id]
    assert corpus.ids.to_pylist() == sorted(corpus.ids.to_pylist())


def test_rows_that_ask_the_same_stay_in_one_group(dataset):
    """Intervals judge by group, here as elsewhere."""
    queries, _ = article_test(dataset)

    by_text = {}
    for text, group in zip(queries.texts.to_pylist(), queries.groups.tolist(), strict=True):
        by_text.setdefault(text.lower(), set()).add(group)
    assert all(len(groups) == 1 for groups in by_text.values())
    assert set(queries.groups.tolist()) == set(dataset.test.groups.tolist())
