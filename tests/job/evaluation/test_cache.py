"""Cached results are loaded bit by bit as they were saved, or not at all."""

import numpy as np
import pytest

from job.evaluation.cache import (
    load_neighbors,
    load_scores,
    load_seconds,
    save_neighbors,
    save_scores,
    save_seconds,
)
from job.evaluation.metrics import METRICS, Scores


def scores(seed, depth, *, found):
    draw = np.random.default_rng(seed)
    return Scores(
        {metric: draw.random(7) for metric in METRICS},
        draw.integers(0, 100, 7),
        draw.integers(0, 1000, (7, depth)),
        draw.integers(0, 20, 7) if found else None,
    )


def test_scores_are_loaded_bit_by_bit_as_saved(tmp_path):
    """Names may contain slashes, rankings may differ in depth, and facts are saved too."""
    before = {"test/64": scores(1, 20, found=False), "bm25": scores(0, 30, found=True)}
    save_scores(tmp_path / "new" / "b.parquet", before, {"with": 0.1 + 0.2})

    after, facts = load_scores(tmp_path / "new" / "b.parquet")

    assert [*after] == [*before]
    for name, expected in before.items():
        for field, value in vars(expected).items():
            np.testing.assert_equal(getattr(after[name], field), value)
    assert facts == {"with": 0.1 + 0.2}


@pytest.mark.parametrize("rows", [[[3, 1], [], [2]], [[], []], [[5]], []])
def test_neighbors_are_loaded_in_their_order(tmp_path, rows):
    """Some rows have no neighbors."""
    save_neighbors(tmp_path / "r.parquet", [np.array(row, dtype=np.int64) for row in rows])
    assert [row.tolist() for row in load_neighbors(tmp_path / "r.parquet")] == rows


def test_seconds_are_saved_by_stage(tmp_path):
    save_seconds(tmp_path / "new" / "s.json", {"score base": 1.25, "train": 0.0})
    assert load_seconds(tmp_path / "new" / "s.json") == {"score base": 1.25, "train": 0.0}
    assert load_seconds(tmp_path / "none.json") == {}
    assert (
        load_neighbors(tmp_path / "none.parquet") is load_scores(tmp_path / "none.parquet") is None
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "a text"])
def test_a_damaged_file_counts_as_missing(tmp_path, caplog, damage):
    """Page checksums detect the damage; the warning names the file."""
    path = tmp_path / "r.parquet"
    save_neighbors(path, [np.arange(50) + 7 * start for start in range(40)])
    content = path.read_bytes()
    middle = len(content) // 3
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    new = {"cut": content[:middle], "flipped": flipped, "empty": b"", "a text": b"rows"}
    for damaged, load in ((path, load_neighbors), (tmp_path / "s.json", load_seconds)):
        damaged.write_bytes(new[damage])
        assert not load(damaged)
        assert f"`{damaged.name}` is damaged" in caplog.messages[-1]
