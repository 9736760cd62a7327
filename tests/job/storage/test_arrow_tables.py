"""Tables on disk return their rows unchanged, in one chunk."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.storage import arrow_tables

SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
        ("number", pa.int64()),
        ("key", pa.uint64()),
        ("texts", pa.list_(pa.large_string())),
    ]
)
TEXTS = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
ROWS = st.fixed_dictionaries(
    {
        "text": TEXTS,
        "number": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        "key": st.one_of(st.none(), st.integers(0, 2**64 - 1)),
        "texts": st.lists(TEXTS, max_size=3),
    }
)


@pytest.fixture(params=[1, arrow_tables.MAX_IN_MEMORY], ids=["mapped", "in memory"])
def _storage(request, monkeypatch):
    monkeypatch.setattr(arrow_tables, "MAX_IN_MEMORY", request.param)


@pytest.mark.usefixtures("_storage")
@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.tuples(st.lists(ROWS, max_size=12), st.integers(0, 5)), max_size=4))
def test_collected_rows_and_tables_become_one_table_of_one_chunk(parts):
    """With nulls, empty lists, empty parts, array slices and single rows."""
    made, expected = [SCHEMA.empty_table()], []
    for rows, start in parts:
        table = arrow_tables.TableFile(SCHEMA)
        for row in rows[:start]:
            table.add(*(row[name] for name in SCHEMA.names))
        # A slice: its buffers begin before its first value.
        made += [table.table(), pa.Table.from_pylist(rows, SCHEMA).slice(start)]
        expected += rows
    whole = arrow_tables.one_table(made)
    whole.validate(full=True)
    assert whole.to_pylist() == expected
    assert {column.num_chunks for column in whole.columns} == {1}


@pytest.mark.parametrize("count", [0, 1, 25_000])
def test_rows_are_returned_in_the_requested_order(count):
    """Like Arrow's `take`, in any number of batches."""
    table = pa.table({"n": np.arange(30_000), "t": [f"text {n}" for n in range(30_000)]})
    positions = np.random.default_rng(1).permutation(30_000)[:count]
    assert arrow_tables.rows_on_disk(table.cast(NT), positions) == table.cast(NT).take(positions)


NT = pa.schema([("n", pa.int64()), ("t", pa.large_string())])


def test_tables_are_concatenated():
    """In their order; if only one has rows, that one is returned."""
    a, b = (pa.table([[n], [str(n)]], schema=NT) for n in range(2))
    empty = NT.empty_table()
    assert arrow_tables.one_table([a, empty, b]).to_pylist() == [*a.to_pylist(), *b.to_pylist()]
    assert arrow_tables.one_table([empty, b]) is b
    assert arrow_tables.one_table([empty, empty]) == empty


def test_joined_columns_are_indexed_as_one():
    """Positions count through all columns and chunks, empty ones too."""
    columns = [
        pa.array(["a", "b"]),
        pa.chunked_array([["c"], [], ["d", "e"]], pa.string()),
        pa.array([], pa.string()),
        pa.array(["f"]),
    ]
    joined = arrow_tables.JoinedColumn(columns)
    assert [a.to_pylist() for a in joined.batches(np.array([5, 0, 3, 3, 2, 1, 4]))] == [
        list("faddcbe")
    ]
    assert [joined[n] for n in range(6)] == list("abcdef")


@pytest.mark.parametrize("pieces", [[], [["a"]], [["a"], [], ["b", "c"]]])
def test_a_column_becomes_one_array_without_copying_a_single_chunk(pieces):
    """A copy of a mapped column would defeat its file."""
    column = pa.chunked_array(pieces, pa.large_string())
    array = arrow_tables.one_array(column)
    assert array.to_pylist() == column.to_pylist()
    shared = column.num_chunks == 1 and array.buffers()[2] is not None
    assert (shared and array.buffers()[2].address == column.chunk(0).buffers()[2].address) == (
        len(pieces) == 1
    )


def test_a_large_table_leaves_no_file_behind(tmp_path, monkeypatch):
    """Its files have no names: they are deleted with the table, even if the job is killed."""
    monkeypatch.setattr(arrow_tables.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(arrow_tables, "MAX_IN_MEMORY", 1)
    gathered = arrow_tables.TableFile(NT)
    gathered.add(1, "a")
    table = gathered.table()
    assert list(tmp_path.iterdir()) == []
    assert table.to_pylist() == [{"n": 1, "t": "a"}]
