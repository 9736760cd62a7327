"""The data benchmark, with few rows: its pairs, and equal results from memory and disk."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from scale_data import make_pairs

from job.data.dataset import load_dataset, write_splits
from job.spec.schema import DataSpec

SCRIPT = Path(__file__).with_name("scale_data.py")
ROWS = 3000


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale") / "pairs"
    make_pairs(folder, ROWS)
    return folder


def prepared(source, folder):
    """Prepare pairs like a job; return all results as values that `==` can compare."""
    dataset = load_dataset(DataSpec(source=str(source)), {})
    write_splits(dataset, folder)
    written = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    queries = [
        (q.ids.to_pylist(), q.texts.to_pylist(), q.offsets.tolist(), q.documents.tolist())
        for q in (dataset.validation, dataset.test)
    ]
    train = dataset.train
    numbers = [column.tolist() for column in (train.questions, train.documents, train.groups)]
    return dataset.facts, written, queries, train.table.to_pylist(), numbers


def test_the_generated_pairs_have_the_stated_lengths_and_duplicates(pairs):
    """One of twenty contexts repeats another, one of fifty nearly does."""
    files = sorted(pairs.iterdir())
    assert [pq.ParquetFile(file).metadata.num_rows for file in files] == [ROWS // 8] * 8
    table = pq.read_table(pairs)
    words = [sum(len(text.split()) for text in column.to_pylist()) for column in table.columns]
    assert [count / ROWS for count in words] == pytest.approx([12, 60], rel=0.02)
    facts = load_dataset(DataSpec(source=str(pairs)), {}).facts
    assert 0.08 * ROWS < facts["duplicates"]["rows_sharing_a_context"] < 0.12 * ROWS
    assert 0.01 * ROWS < facts["duplicates"]["near_duplicate_pairs"] < 0.03 * ROWS


def test_data_on_disk_in_small_batches_gives_the_same_result(pairs, tmp_path, monkeypatch):
    """Rows, ids, splits, groups and files do not depend on how many rows are in memory."""
    expected = prepared(pairs, tmp_path / "memory")
    monkeypatch.setattr("job.storage.arrow_tables.MAX_IN_MEMORY", 1)
    for module in ("storage.arrow_tables", "data.rows", "data.near_duplicates", "data.dataset"):
        monkeypatch.setattr(f"job.{module}.BATCH", 7)
    assert prepared(pairs, tmp_path / "disk") == expected
