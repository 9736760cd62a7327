"""Batches: every row once an epoch, no text twice in a batch, and nearest neighbors together."""

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
    """Make training pairs whose texts are known by these numbers."""
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
    """Make a sampler as the trainer does; of the data set it needs the length alone."""
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
    """Tell in which order rows are drawn: where no text stands twice, it is that of the batches."""
    count = len(neighbors)
    (batch,) = batches(
        all_different(count), neighbors, hard_group_size, count, seed=seed, epoch=epoch
    )
    return batch


@st.composite
def situations(draw):
    """Draw pairs with texts in common, neighbors of each, the sizes of hard groups and batches."""
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


# What any batch is


@given(situations(), SEEDS, EPOCHS)
@settings(deadline=None)
def test_every_row_is_in_one_batch_and_no_batch_holds_a_text_twice(situation, seed, epoch):
    """Clusters overlap and texts clash: still no row is lost, and none is trained on twice."""
    found = batches(*situation, seed=seed, epoch=epoch)
    pairs, _, _, batch_size = situation

    assert sorted(itertools.chain(*found)) == list(range(len(pairs)))
    for batch in found:
        assert 0 < len(batch) <= batch_size
        # A second answer to a question would be punished as a wrong one.
        for column in texts(pairs, batch):
            assert len(set(column)) == len(column)


@given(situations(), SEEDS, EPOCHS)
@settings(deadline=None)
def test_a_batch_takes_the_first_rows_that_share_no_text(situation, seed, epoch):
    """Against a plain filling of batches, one row after the other; who has to wait comes first."""
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
def test_there_are_as_many_batches_as_the_schedule_counts_on(count):
    """The learning rate follows the length that is told; where no texts clash it is exact."""
    neighbors = [[(row + 1) % count] if count > 1 else [] for row in range(count)]
    for drop_last, expected in ((False, math.ceil(count / 32)), (True, count // 32)):
        made = sampler(all_different(count), neighbors, 8, 32, drop_last=drop_last)
        assert len(made) == len(list(made)) == expected


# The order


@given(situations(), SEEDS, EPOCHS)
@settings(deadline=None)
def test_the_order_depends_on_nothing_but_seed_and_epoch(situation, seed, epoch):
    """A run that is taken up again finds the batches that it was to have."""
    expected = batches(*situation, seed=seed, epoch=epoch)

    made = sampler(*situation, seed=seed)
    for earlier in (epoch, epoch + 1, 0):
        # Epochs that were begun, or trained to their end, before.
        made.set_epoch(earlier)
        next(iter(made))
        collections.deque(made, maxlen=0)
    made.generator.manual_seed(99)
    torch.manual_seed(seed % 7)
    made.set_epoch(epoch)

    assert list(made) == expected


@pytest.mark.parametrize("neighbors", [[[]] * 4, [[1, 2, 3], [0], [3, 0], [2, 1, 0]]])
def test_a_cluster_of_one_is_a_random_order(neighbors):
    """Whatever looks alike: each of the 24 orders of four rows comes up about as often."""
    found = collections.Counter(tuple(order(neighbors, 1, seed)) for seed in range(2400))

    assert len(found) == 24
    # 100 each, with a standard deviation of 9.8.
    assert all(60 < count < 140 for count in found.values())


# Who meets


def runs(drawn, group_of):
    """Cut an order into its longest runs of one group."""
    return [(key, list(rows)) for key, rows in itertools.groupby(drawn, key=group_of.get)]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 12), SEEDS)
@settings(deadline=None)
def test_a_cluster_stands_together(sizes, hard_group_size, seed):
    """Rows of one look are drawn so many at a time, in as few pieces as that allows."""
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
        # Two clusters of one look may come to stand side by side.
        assert len(pieces[number]) <= math.ceil(size / hard_group_size)
        assert sum(length % hard_group_size != 0 for length in pieces[number]) <= 1
        assert sum(pieces[number]) == size


@pytest.mark.parametrize("seed", range(10))
def test_those_that_look_most_alike_come_first(seed):
    """A hard group takes nearest neighbors in their order: each row's nearest is one of them."""
    nearest = [[row ^ 1, *(o for o in range(20) if o not in (row, row ^ 1))] for row in range(20)]

    drawn = order(nearest, 2, seed)

    assert all(a ^ 1 == b for a, b in zip(drawn[::2], drawn[1::2], strict=True))


# Among several ranks


def sharded(situation, ranks, seed, epoch):
    """List what each rank gets of an epoch from the trainer's library."""
    shards = Shards(sampler(*situation, seed=seed), ranks)
    shards.set_epoch(epoch)
    assert len(shards) == ranks * len(sampler(*situation))
    return [
        list(BatchSamplerShard(shards, ranks, rank, even_batches=False)) for rank in range(ranks)
    ]


@given(situations(), st.integers(1, 4), SEEDS, EPOCHS)
@settings(deadline=None)
def test_the_shards_of_a_batch_are_that_batch(situation, ranks, seed, epoch):
    """All are of one size, also where a batch is short; only then do its first rows come again."""
    expected = batches(*situation, seed=seed, epoch=epoch)

    by_rank = sharded(situation, ranks, seed, epoch)

    assert [len(own) for own in by_rank] == [len(expected)] * ranks
    for batch, shards in zip(expected, zip(*by_rank, strict=True), strict=True):
        rows = math.ceil(len(batch) / ranks)
        assert [len(shard) for shard in shards] == [rows] * ranks
        together = list(itertools.chain(*shards))
        assert together[: len(batch)] == batch
        # Three rows among four ranks: the rest is the batch again.
        assert together[len(batch) :] == (batch * ranks)[: len(together) - len(batch)]


# In the trainer


@pytest.fixture
def prepared(tiny_spec, tmp_path):
    """Make what a training of two epochs of ten steps is given.

    The untrained encoder scores all contexts much the same, hence the margin.
    """

    def prepare(**fields):
        fields = {"training__epochs": "2", "training__negative_margin": "1", **fields}
        return tiny_training(tiny_spec(**fields), tmp_path / "work")

    return prepare


def alike_in(task):
    return find_nearest_neighbors(task.load(), task.dataset.train, 1.0, 64)


def test_the_trainer_draws_its_batches_so(prepared):
    """With the spec's seed, batch size and cluster, each epoch anew."""
    task = prepared(training__seed="5", training__cluster="4")
    neighbors = alike_in(task)

    loader = task.trainer(neighbors=neighbors).get_train_dataloader()

    epochs = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        epochs.append([batch["label"].tolist() for batch in loader])
        assert epochs[-1] == batches(task.dataset.train, neighbors, 4, 32, seed=5, epoch=epoch)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(("protocol", "hard_group_size"), [("grouped", "1"), ("article", "8")])
def test_no_text_stands_twice_in_what_the_trainer_draws(
    prepared, tmp_path, protocol, hard_group_size
):
    """Nor where the protocol takes each row for a document of its own: the text would be the same.

    As a wrong answer to its own question it would be punished.
    """
    rows = make_pairs(300)
    rows += [{**row, "question": " ".join(reversed(row["question"].split()))} for row in rows]
    task = prepared(
        data__source=str(write_jsonl(tmp_path / "twice.jsonl", rows)),
        evaluation__protocol=protocol,
        training__cluster=hard_group_size,
    )
    contexts = task.dataset.train.table["positive"].to_pylist()
    assert len(set(contexts)) < len(contexts)

    for batch in task.trainer(neighbors=alike_in(task)).get_train_dataloader():
        drawn = [contexts[row] for row in batch["label"].tolist()]
        assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(("hard_group_size", "searches"), [("1", 0), ("2", 1)])
def test_random_batches_need_no_search(prepared, monkeypatch, hard_group_size, searches):
    """Every question is compared with every document, which takes its time."""
    asked = []

    def counted(*given):
        asked.append(given)
        return find_nearest_neighbors(*given)

    monkeypatch.setattr("job.training.train.find_nearest_neighbors", counted)

    prepared(training__epochs="1", training__cluster=hard_group_size).train()

    assert len(asked) == searches
