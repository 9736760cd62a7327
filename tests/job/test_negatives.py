"""Mined negatives look like answers and are none."""

from dataclasses import replace

import numpy as np
import pytest

from job import negatives
from job.data import load_dataset
from job.evaluate import encode
from job.machine import Machine
from job.model import load_model
from job.negatives import mine
from job.spec import DataSpec, ModelSpec

CPU = Machine("cpu", "float32", "as the spec says")


@pytest.fixture(scope="module")
def model(tiny_encoder):
    return load_model(ModelSpec(base=str(tiny_encoder)), CPU)


@pytest.fixture(scope="module")
def pairs(pairs_file):
    return load_dataset(DataSpec(source=str(pairs_file)), {}).train


@pytest.fixture(scope="module")
def scores(model, pairs):
    """Cosine similarity of each row's question to each row's context, (n, n)."""
    from torch.nn.functional import normalize

    questions, contexts = (
        normalize(encode(model, pairs.table[name].combine_chunks(), "", 64), dim=1)
        for name in ("anchor", "positive")
    )
    return (questions @ contexts.T).numpy()


def mined(pairs):
    return pairs.table["negatives"].to_pylist()


def row_of(pairs):
    return {text: row for row, text in enumerate(pairs.table["positive"].to_pylist())}


def test_the_hardest_documents_below_the_margin_are_taken(model, pairs, scores):
    """By hand: of the other rows' contexts that score below a row's own, the best two."""
    found, at = mined(mine(model, pairs, 2, 1.0, 64)), row_of(pairs)

    full = 0
    for row, texts in enumerate(found):
        others = np.delete(scores[row], row)
        # Only the fifty that score highest are looked at.
        candidates = np.sort(others)[::-1][:49]
        wanted = candidates[candidates < scores[row, row]][:2]
        np.testing.assert_allclose([scores[row, at[text]] for text in texts], wanted, atol=1e-6)
        full += len(wanted) == 2
    assert full > 20


def test_only_training_documents_of_other_groups_are_taken(model, pairs):
    """Neither the row's own context nor what shares a group with it, be it ever so similar."""
    halves = replace(pairs, groups=pairs.groups % 2)
    at = row_of(pairs)

    for row, texts in enumerate(mined(mine(model, halves, 3, 1.0, 64))):
        assert all(halves.groups[at[text]] != halves.groups[row] for text in texts)


def test_rows_that_find_none_are_kept_without(model, pairs):
    """Where one group holds everything there is no negative, and still every row."""
    alike = replace(pairs, groups=np.zeros(len(pairs), dtype=np.int64))

    assert mined(mine(model, alike, 3, 0.95, 64)) == [[]] * len(pairs)


def test_a_smaller_margin_takes_less(model, pairs):
    """What scores nearly as high as the context itself may be an answer that nobody marked."""
    counts = [sum(map(len, mined(mine(model, pairs, 5, margin, 64)))) for margin in (1.0, 0.9, 0.1)]

    assert counts[0] > counts[2]
    assert counts == sorted(counts, reverse=True)


def test_given_negatives_stand_before_mined_ones(model, pairs):
    """The data's own negatives are all kept."""
    at = pairs.table.column_names.index("negatives")
    given = [[f"given {row}"] for row in range(len(pairs))]
    theirs = replace(
        pairs, table=pairs.table.set_column(at, "negatives", [negatives.pa.array(given)])
    )

    alone, both = mined(mine(model, pairs, 2, 0.95, 64)), mined(mine(model, theirs, 2, 0.95, 64))

    assert both == [a + b for a, b in zip(given, alone, strict=True)]


def test_mining_in_blocks_finds_the_same(model, pairs, monkeypatch):
    """A million pairs are mined in pieces that fit into memory."""
    whole = mined(mine(model, pairs, 2, 0.95, 64))
    monkeypatch.setattr(negatives, "CHUNK", 7 * len(pairs))

    assert mined(mine(model, pairs, 2, 0.95, 64)) == whole
