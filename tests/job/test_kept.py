"""What is kept for the next start comes back to the last bit, or not at all."""

import numpy as np
import pytest

from job.kept import keep_rows, keep_scores, keep_seconds, kept_rows, kept_scores, kept_seconds
from job.ranking import METRICS, Scores


def scores(seed, *, found):
    draw = np.random.default_rng(seed)
    return Scores(
        {metric: draw.random(7) for metric in METRICS},
        draw.integers(0, 100, 7),
        draw.integers(0, 1000, (7, 20)),
        draw.integers(0, 20, 7) if found else None,
    )


def assert_same(one, other):
    assert {m: v.tolist() for m, v in one.metrics.items()} == {
        m: v.tolist() for m, v in other.metrics.items()
    }
    assert one.rank.tolist() == other.rank.tolist()
    assert one.ranked.tolist() == other.ranked.tolist()
    assert (one.found is None) == (other.found is None)
    assert one.found is None or one.found.tolist() == other.found.tolist()


def test_scores_come_back_to_the_last_bit(tmp_path):
    """Names with slashes too, and facts beside them."""
    before = {"bm25": scores(0, found=True), "test/64": scores(1, found=False)}
    keep_scores(tmp_path / "new" / "b.npz", before, {"with": 0.1 + 0.2})

    after, facts = kept_scores(tmp_path / "new" / "b.npz")

    assert after.keys() == before.keys()
    for name, found in before.items():
        assert_same(found, after[name])
    assert facts == {"with": 0.1 + 0.2}


@pytest.mark.parametrize("rows", [[[3, 1], [], [2]], [[], []], [[5]]])
def test_rows_come_back_in_their_order(tmp_path, rows):
    """Some rows have none."""
    keep_rows(tmp_path / "r.npz", [np.array(row, dtype=np.int64) for row in rows])
    assert [row.tolist() for row in kept_rows(tmp_path / "r.npz")] == rows


def test_seconds_are_kept_by_stage(tmp_path):
    keep_seconds(tmp_path / "s.npz", {"score base": 1.25, "train": 0.0})
    assert kept_seconds(tmp_path / "s.npz") == {"score base": 1.25, "train": 0.0}
    assert kept_seconds(tmp_path / "none.npz") == {}


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "a text", "a pickle"])
def test_what_is_damaged_is_found_out_anew(tmp_path, caplog, damage):
    """Each byte is checked; the warning names the file."""
    path = tmp_path / "r.npz"
    keep_rows(path, [np.arange(50)] * 40)
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "a pickle":
        np.savez(path, rows=np.array([{"a": 1}], dtype=object), ends=np.array([1]))
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        new = {"cut": content[:middle], "flipped": flipped, "empty": b"", "a text": b"rows"}
        path.write_bytes(new[damage])

    assert kept_rows(path) is None
    assert caplog.messages[0].startswith("kept: `r.npz` is damaged (")
