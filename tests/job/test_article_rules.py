"""The article's rules on our own test rows."""

import json

import numpy as np

from job.article_rules import article_test
from job.data import load_dataset
from job.spec import DataSpec


def dataset_of(tmp_path):
    rows = [
        {"question": f"what is {i}?", "context": f"context {i // 2} of many"} for i in range(60)
    ]
    rows += [{"question": f"What is {i}?", "context": f"other {i}"} for i in range(4)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    spec = DataSpec(source=str(path), min_test_queries=2, test_fraction=0.3)
    return load_dataset(spec, {})


def test_each_row_is_a_query_with_a_document_of_its_own(tmp_path):
    """A context that stands in two rows is two documents, and only a row's own one is right."""
    dataset = dataset_of(tmp_path)
    queries, corpus = article_test(dataset)

    assert len(corpus) == 64
    assert len(dataset.corpus) == 34
    assert queries.texts.to_pylist() == dataset.test_pairs["anchor"].to_pylist()
    assert np.diff(queries.offsets).tolist() == [1] * len(queries)
    own = corpus.texts.take(queries.documents).to_pylist()
    assert own == dataset.test_pairs["positive"].to_pylist()
    assert len(set(queries.documents.tolist())) == len(queries)


def test_ties_go_by_the_rows_order_whatever_their_split(tmp_path):
    """Duplicates score alike: a corpus that began with the training rows would always win them."""
    dataset = dataset_of(tmp_path)
    _, corpus = article_test(dataset)

    ids = [
        *dataset.train.table["id"].to_pylist(),
        *dataset.validation_pairs["id"].to_pylist(),
        *dataset.test_pairs["id"].to_pylist(),
    ]
    texts = [
        *dataset.train.table["positive"].to_pylist(),
        *dataset.validation_pairs["positive"].to_pylist(),
        *dataset.test_pairs["positive"].to_pylist(),
    ]
    assert corpus.texts.to_pylist() == [text for _, text in sorted(zip(ids, texts, strict=True))]
    assert corpus.ids.to_pylist() == sorted(corpus.ids.to_pylist())


def test_rows_that_ask_the_same_stay_in_one_group(tmp_path):
    """Intervals judge by group, here as elsewhere."""
    dataset = dataset_of(tmp_path)
    queries, _ = article_test(dataset)

    by_text = {}
    for text, group in zip(queries.texts.to_pylist(), queries.groups.tolist(), strict=True):
        by_text.setdefault(text.lower(), set()).add(group)
    assert all(len(groups) == 1 for groups in by_text.values())
    assert set(queries.groups.tolist()) == set(dataset.test.groups.tolist())
