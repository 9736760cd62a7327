"""Grouping: rows with equal or near-duplicate texts are one group; other rows are not."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from job.data import near_duplicates as groups
from job.data.near_duplicates import KeyedTexts, group_rows, jaccard, near_duplicates, shingles

# One word of 30 changed in the last place leaves 27 of 29 shingles in common.
WORDS = [f"word{n}" for n in range(30)]


def near_text(number):
    """Return a text that differs from those of other numbers only in its last word."""
    return " ".join([*WORDS[:-1], f"end{number}"])


def far_text(number):
    return " ".join(f"{word}of{number}" for word in WORDS)


def group(rows, texts=None, threshold=None):
    """Group rows of (question key, context key); texts that are not given are different."""
    keys = [np.array(column, dtype=np.uint64) for column in zip(*rows, strict=True)]
    known = {key: far_text(key) for row in rows for key in row} | (texts or {})
    return group_rows(keys, known, threshold)


def partition(labels):
    """Return the sets of row numbers that have the same label."""
    order = sorted(range(len(labels)), key=lambda row: labels[row])
    return {frozenset(rows) for _, rows in itertools.groupby(order, key=lambda row: labels[row])}


def parts(*groups):
    return {frozenset(rows) for rows in groups}


def components(rows):
    """Merge sets of keys until none overlap: slow, but obviously correct."""
    merged: list[tuple[set, set]] = []
    for number, row in enumerate(rows):
        keys, numbers = set(row), {number}
        for other in [pair for pair in merged if pair[0] & keys]:
            merged.remove(other)
            keys, numbers = keys | other[0], numbers | other[1]
        merged.append((keys, numbers))
    return {frozenset(numbers) for _, numbers in merged}


@settings(max_examples=100, deadline=None)
# Numbers from 6 to 12 are questions here and contexts there: a text is the same as either.
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(6, 20)), min_size=1, max_size=25))
def test_without_a_threshold_groups_are_the_components_of_equal_texts(rows):
    """The groups equal those of a simple merging of sets."""
    groups = group(rows)
    assert partition(groups.labels) == components(rows)
    # Labels can be used as positions.
    assert sorted(set(groups.labels.tolist())) == list(range(len(components(rows))))
    assert (groups.near_duplicate_pairs, groups.oversized) == (0, 0)


@pytest.mark.parametrize("near", [(1, 2), (11, 12), (1, 12)], ids=["questions", "contexts", "both"])
def test_near_duplicates_are_one_group(near):
    """Near-duplicate texts connect their rows, whether they are questions or contexts."""
    texts = {key: near_text(key) for key in near}
    groups = group([(1, 11), (2, 12), (3, 13)], texts, 0.8)
    assert partition(groups.labels) == parts({0, 1}, {2})
    assert (groups.near_duplicate_pairs, groups.oversized) == (1, 0)


@pytest.mark.parametrize(("threshold", "expected"), [(0.92, 1), (0.94, 0), (None, 0)])
def test_only_texts_of_at_least_the_threshold_are_near(threshold, expected):
    """28 shingles each, 27 in common: a similarity of 27/29 = 0.931."""
    groups = group([(1, 11), (2, 12)], {11: near_text(1), 12: near_text(2)}, threshold)
    assert groups.near_duplicate_pairs == expected


def near_duplicates_by_datasketch(texts, threshold):
    """Find near-duplicates with the library's index, which holds all texts in memory."""
    plan = MinHashLSH(threshold=min(threshold, 0.9), num_perm=64, weights=(0.05, 0.95))
    for key, text in texts.items():
        if (words := shingles(text)) == {""}:
            continue
        sketch = MinHash(num_perm=64, seed=1)
        sketch.update_batch([word.encode() for word in words])
        candidates = sorted(plan.query(sketch))
        for candidate in candidates[: groups.MAX_CANDIDATES]:
            if jaccard(words, shingles(texts[candidate])) >= threshold:
                yield key, candidate
        if len(candidates) < groups.MAX_SIMILAR:
            plan.insert(key, sketch)


@pytest.mark.parametrize("limits", [(32, 256), (2, 3)], ids=["high limits", "low limits"])
@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.8, 1.0])
def test_sorting_hashes_finds_the_same_pairs_as_an_index(monkeypatch, threshold, limits):
    """The pairs and their order are the same, across batches and with many similar texts."""
    monkeypatch.setattr(groups, "MAX_CANDIDATES", limits[0])
    monkeypatch.setattr(groups, "MAX_SIMILAR", limits[1])
    monkeypatch.setattr(groups, "BATCH", 64)
    random = np.random.default_rng(7)
    texts = ["", "!?", "one", "one"]
    for number in range(300):
        words = texts[random.integers(len(texts))].split() if number % 3 else far_text(number)[:99]
        words = [*words, *words, "new"][: random.integers(1, 40)]
        words[random.integers(len(words))] = f"other{random.integers(3)}"
        texts.append(" ".join(words))
    keyed = dict(zip(random.integers(0, 2**64, len(texts), np.uint64).tolist(), texts, strict=True))
    expected = list(near_duplicates_by_datasketch(keyed, threshold))
    assert list(near_duplicates(keyed, threshold)) == expected
    assert len(expected) > 10


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20))
def test_keyed_texts_equal_those_of_a_dictionary(rows):
    """Keys are in the order of their first occurrence, each with its last spelling."""
    columns = [[row[0] for row in rows], [row[1] + 2**63 for row in rows]]
    columns[1] = [key - 2**63 if key % 2 else key for key in columns[1]]
    spelt = [[f"{side} {n}" for n in range(len(rows))] for side in ("anchor", "positive")]
    expected = {}
    for keys, texts in zip(columns, spelt, strict=True):
        expected |= dict(zip(keys, texts, strict=True))
    keyed = KeyedTexts(
        [np.array(keys, dtype=np.uint64) for keys in columns],
        [pa.array(texts, pa.large_string()) for texts in spelt],
    )
    assert list(keyed.items()) == list(expected.items())


def test_nearly_all_pairs_above_the_threshold_are_found():
    """Each text has a copy with one changed word, a similarity of 0.806; 90 % must be found."""
    texts = {}
    for number in range(0, 400, 2):
        words = far_text(number).split()
        texts[number] = " ".join(words)
        texts[number + 1] = " ".join([*words[:15], "changed", *words[16:]])
    assert jaccard(shingles(texts[0]), shingles(texts[1])) == pytest.approx(25 / 31)
    assert len(set(near_duplicates(texts, 0.8))) >= 180


@pytest.mark.parametrize(
    ("chained", "changes", "together"),
    [
        (3, {}, [{0, 1, 2}]),
        # Templates would put all rows into one group.
        (4, {}, []),
        (4, {5: (5, 1000)}, [{0, 5}]),
        (4, {50: (50, 9998), 51: (51, 9999)}, [{50, 51}]),
    ],
    ids=["at the cap", "above the cap", "equal texts", "another pair"],
)
def test_a_group_above_the_cap_is_divided_into_equal_texts(chained, changes, together):
    """The cap is 5 % of 60 rows, which is 3; other groups do not change."""
    rows = [changes.get(n, (n, 1000 + n)) for n in range(60)]
    texts = {1000 + n: near_text(n) for n in range(chained)}
    if 50 in changes:
        texts |= {9998: far_text(5000) + " a", 9999: far_text(5000) + " b"}
    groups = group(rows, texts, 0.8)
    alone = set(range(60)).difference(*together)
    assert partition(groups.labels) == parts(*together, *({n} for n in alone))
    assert groups.oversized == (chained > 3)
    assert groups.near_duplicate_pairs >= chained - 1


def test_a_large_group_of_equal_texts_is_never_divided():
    """Ten rows with the same context stay together, however large their share."""
    groups = group([(n, 99) for n in range(10)] + [(50, 51)], threshold=0.8)
    assert partition(groups.labels) == parts(set(range(10)), {10})
    assert groups.oversized == 0


def test_two_near_duplicates_stay_together_in_the_smallest_data():
    """The cap never falls below two rows."""
    groups = group([(1, 11), (2, 12)], {11: near_text(1), 12: near_text(2)}, 0.8)
    assert (partition(groups.labels), groups.oversized) == (parts({0, 1}), 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two, THREE four!", {"one two three", "two three four"}),
        ("One two", {"one two"}),
        ("one  two\nthree", {"one two three"}),
        ("Größe: 3", {"grösse 3"}),
    ],
)
def test_shingles_are_runs_of_three_words(text, expected):
    """Case and punctuation are ignored; a shorter text is one shingle."""
    assert shingles(text) == expected
