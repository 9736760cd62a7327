"""Batches contain every row once per epoch, no text twice, and nearest neighbors together."""

import collections
import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from conftest import make_pairs, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import tiny_training

from job.data.dataset import TrainingPairs
from job.training.batching import NeighborBatchSampler, Shards
from job.training.hard_negatives import find_nearest_neighbors

SEEDS = st.integers(0, 2**32 - 1)
EPOCHS = st.integers(0, 20)


def pairs_of(questions, documents):
    """Make training pairs with these numbers of questions and documents."""
    names = [f"q{number}" for number in range(len(questions))]
    table = pa.table(
        {
            "id": names,
            "anchor": [f"question {number}" for number in questions],
            "positive": [f"document {number}" for number in documents],
            "negatives": pa.array([[]] * len(names), pa.list_(pa.string())),
        }
    )
    numbers = (np.array(column, dtype=np.int64) for column in (questions, documents))
    return TrainingPairs(table, *numbers, np.arange(len(names)))


def all_different(count):
    return pairs_of(range(count), range(count))


def sampler(pairs, neighbors, hard_group_size, batch_size, *, seed=0, drop_last=False):
    """Make a sampler like the trainer; it needs only the length of the data set."""
    arrays = [np.array(rows, dtype=np.int64) for rows in neighbors]
    return NeighborBatchSampler(
        range(len(pairs)),
        pairs,
        arrays,
        hard_group_size,
        batch_size=batch_size,
        drop_last=drop_last,
        valid_label_columns=["label"],
        generator=torch.Generator(),
        seed=seed,
    )


def batches(*arguments, epoch=0, **options):
    """List an epoch's batches."""
    made = sampler(*arguments, **options)
    made.set_epoch(epoch)
    return list(made)


def order(neighbors, hard_group_size, seed=0, epoch=0):
    """Return the order in which rows are drawn: without repeated texts, one batch has all rows."""
    count = len(neighbors)
    (batch,) = batches(
        all_different(count), neighbors, hard_group_size, count, seed=seed, epoch=epoch
    )
    return batch


@st.composite
def situations(draw):
    """Draw pairs that share texts, their neighbors, and the sizes of hard groups and batches."""
    count = draw(st.integers(1, 40))
    numbers = st.lists(st.integers(0, draw(st.integers(0, 40))), min_size=count, max_size=count)
    others = [
        st.lists(st.sampled_from([o for o in range(count) if o != row] or [0]), unique=True)
        if count > 1
        else st.just([])
        for row in range(count)
    ]
    pairs = pairs_of(draw(numbers), draw(numbers))
    return pairs, draw(st.tuples(*others)), draw(st.integers(1, 12)), draw(st.integers(2, 12))


def texts(pairs, rows):
    return pairs.questions[rows].tolist(), pairs.documents[rows].tolist()


# Any batch


@given(situations(), SEEDS, EPOCHS)
@settings(deadline=None)
def test_every_row_is_in_one_batch_and_no_batch_contains_a_text_twice(situation, seed, epoch):
    """Even if neighbors overlap and texts repeat, no row is dropped or repeated."""
    found = batches(*situation, seed=seed, epoch=epoch)
    pairs, _, _, batch_size = situation

    assert sorted(itertools.chain(*found)) == list(range(len(pairs)))
    for batch in found:
        assert 0 < len(batch) <= batch_size
        # A second answer to a question would be a false negative.
        for column in texts(pairs, batch):
            assert len(set(column)) == len(column)


@given(situations(), SEEDS, EPOCHS)
@settings(deadline=None)
def test_a_batch_takes_the_first_rows_that_share_no_text(situation, seed, epoch):
    """Compared with filling batches row by row; skipped rows come first in the next batch."""
    pairs, neighbors, hard_group_size, batch_size = situation
    waiting, expected = order(neighbors, hard_group_size, seed, epoch), []
    while waiting:
        batch = []
        for row in waiting:
            taken = [set(column) for column in texts(pairs, batch)]
            if len(batch) < batch_size and not any(
                text in column
                for text, column in zip(itertools.chain(*texts(pairs, [row])), taken, strict=True)
            ):
                batch.append(row)
        expected.append(batch)
        waiting = [row for row in waiting if row not in batch]

    assert batches(*situation, seed=seed, epoch=epoch) == expected


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
def test_the_samplers_length_is_the_number_of_batches(count):
    """The learning rate schedule relies on it; it is exact if no text repeats."""
    neighbors = [[(row + 1) % count] if count > 1 else [] for row in range(count)]
    for drop_last, expected in ((False, math.ceil(count / 32)), (True, count // 32)):
        made = sampler(all_different(count), neighbors, 8, 32, drop_last=drop_last)
        assert len(made) == len(list(made)) == expected


# The order


@given(situations(), SEEDS, EPOCHS)
@settings(deadline=None)
def test_the_order_depends_only_on_seed_and_epoch(situation, seed, epoch):
    """A resumed run gets the same batches as an uninterrupted one."""
    expected = batches(*situation, seed=seed, epoch=epoch)

    made = sampler(*situation, seed=seed)
    for earlier in (epoch, epoch + 1, 0):
        # Epochs that were started or completed before.
        made.set_epoch(earlier)
        next(iter(made))
        collections.deque(made, maxlen=0)
    made.generator.manual_seed(99)
    torch.manual_seed(seed % 7)
    made.set_epoch(epoch)

    assert list(made) == expected


@pytest.mark.parametrize("neighbors", [[[]] * 4, [[1, 2, 3], [0], [3, 0], [2, 1, 0]]])
def test_hard_groups_of_one_give_a_random_order(neighbors):
    """Whatever the neighbors, each of the 24 orders of four rows is about equally frequent."""
    found = collections.Counter(tuple(order(neighbors, 1, seed)) for seed in range(2400))

    assert len(found) == 24
    # 100 each, with a standard deviation of 9.8.
    assert all(60 < count < 140 for count in found.values())


# Hard groups


def runs(drawn, group_of):
    """Split an order into its longest runs of one group."""
    return [(key, list(rows)) for key, rows in itertools.groupby(drawn, key=group_of.get)]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 12), SEEDS)
@settings(deadline=None)
def test_neighbors_are_drawn_together(sizes, hard_group_size, seed):
    """Rows that are all neighbors of each other are split into as few hard groups as possible."""
    group_of, neighbors, start = {}, [], 0
    for number, size in enumerate(sizes):
        members = range(start, start + size)
        group_of |= dict.fromkeys(members, number)
        neighbors += [[other for other in members if other != row] for row in members]
        start += size

    pieces = collections.defaultdict(list)
    for group, rows in runs(order(neighbors, hard_group_size, seed), group_of):
        pieces[group].append(len(rows))

    for number, size in enumerate(sizes):
        # Two hard groups of the same neighbors may be adjacent.
        assert len(pieces[number]) <= math.ceil(size / hard_group_size)
        assert sum(length % hard_group_size != 0 for length in pieces[number]) <= 1
        assert sum(pieces[number]) == size


@pytest.mark.parametrize("seed", range(10))
def test_the_nearest_neighbor_comes_first(seed):
    """A hard group takes a row's neighbors in their order."""
    nearest = [[row ^ 1, *(o for o in range(20) if o not in (row, row ^ 1))] for row in range(20)]

    drawn = order(nearest, 2, seed)

    assert all(a ^ 1 == b for a, b in zip(drawn[::2], drawn[1::2], strict=True))


# Several ranks


def sharded(situation, ranks, seed, epoch):
    """List the shards of an epoch that each rank gets from the trainer's library."""
    shards = Shards(sampler(*situation, seed=seed), ranks)
    shards.set_epoch(epoch)
    assert len(shards) == ranks * len(sampler(*situation))
    return [
        list(BatchSamplerShard(shards, ranks, rank, even_batches=False)) for rank in range(ranks)
    ]


@given(situations(), st.integers(1, 4), SEEDS, EPOCHS)
@settings(deadline=None)
def test_the_shards_of_a_batch_add_up_to_that_batch(situation, ranks, seed, epoch):
    """All have the same size; if a batch does not divide evenly, its first rows are repeated."""
    expected = batches(*situation, seed=seed, epoch=epoch)

    by_rank = sharded(situation, ranks, seed, epoch)

    assert [len(shards) for shards in by_rank] == [len(expected)] * ranks
    for batch, shards in zip(expected, zip(*by_rank, strict=True), strict=True):
        rows = math.ceil(len(batch) / ranks)
        assert [len(shard) for shard in shards] == [rows] * ranks
        together = list(itertools.chain(*shards))
        assert together[: len(batch)] == batch
        # With three rows and four ranks, the fourth shard repeats the first row.
        assert together[len(batch) :] == (batch * ranks)[: len(together) - len(batch)]


# In the trainer


@pytest.fixture
def prepared(tiny_spec, tmp_path):
    """Prepare a training of two epochs of ten steps.

    The margin is 1, because the untrained encoder gives all contexts similar scores.
    """

    def prepare(**fields):
        fields = {"training__epochs": "2", "training__negative_margin": "1", **fields}
        return tiny_training(tiny_spec(**fields), tmp_path / "work")

    return prepare


def neighbors_in(task):
    return find_nearest_neighbors(task.load(), task.dataset.train, 1.0, 64)


def test_the_trainer_uses_this_sampler(prepared):
    """With the spec's seed, batch size and hard group size; each epoch has another order."""
    task = prepared(training__seed="5", training__hard_group_size="4")
    neighbors = neighbors_in(task)

    loader = task.trainer(neighbors=neighbors).get_train_dataloader()

    epochs = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        epochs.append([batch["label"].tolist() for batch in loader])
        assert epochs[-1] == batches(task.dataset.train, neighbors, 4, 32, seed=5, epoch=epoch)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(("protocol", "hard_group_size"), [("grouped", "1"), ("article", "8")])
def test_no_batch_of_the_trainer_contains_a_text_twice(
    prepared, tmp_path, protocol, hard_group_size
):
    """Also under the article's protocol, where equal contexts of two rows are two documents.

    A second copy of a context would be a false negative.
    """
    rows = make_pairs(300)
    rows += [{**row, "question": " ".join(reversed(row["question"].split()))} for row in rows]
    task = prepared(
        data__source=str(write_jsonl(tmp_path / "twice.jsonl", rows)),
        evaluation__protocol=protocol,
        training__hard_group_size=hard_group_size,
    )
    contexts = task.dataset.train.table["positive"].to_pylist()
    assert len(set(contexts)) < len(contexts)

    for batch in task.trainer(neighbors=neighbors_in(task)).get_train_dataloader():
        drawn = [contexts[row] for row in batch["label"].tolist()]
        assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(("hard_group_size", "searches"), [("1", 0), ("2", 1)])
def test_random_batches_need_no_search(prepared, monkeypatch, hard_group_size, searches):
    """The search is slow: it compares every question with every document."""
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return find_nearest_neighbors(*arguments)

    monkeypatch.setattr("job.training.train.find_nearest_neighbors", counted)

    prepared(training__epochs="1", training__hard_group_size=hard_group_size).train()

    assert len(calls) == searches
