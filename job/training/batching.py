"""Build batches from groups of pairs that are hard to tell apart, and shard them across ranks."""

import math
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from datasets import Dataset as ArrowDataset
from sentence_transformers.base.sampler import BatchSamplers, DefaultBatchSampler

from job.data.dataset import TrainingPairs
from job.storage.arrow_tables import IntArray, one_array


def batch_sampler(
    pairs: TrainingPairs, neighbors: list[IntArray] | None, hard_group_size: int
) -> Any:  # noqa: ANN401  a name or a class
    """Return the library's argument for batches of hard groups, or for random ones."""
    if neighbors is not None and hard_group_size > 1:
        return partial(
            NeighborBatchSampler, pairs=pairs, neighbors=neighbors, hard_group_size=hard_group_size
        )
    # A text that occurs twice in a batch would be its own false negative.
    return BatchSamplers.NO_DUPLICATES


class NeighborBatchSampler(DefaultBatchSampler):
    """Fill batches with hard groups: pairs and their nearest neighbors.

    In a random batch most in-batch negatives are easy. With its nearest neighbors in the batch, a
    pair gets hard negatives at no cost, because their documents are embedded anyway.
    A batch never contains a question or a document twice.
    """

    def __init__(
        self,
        dataset: ArrowDataset,
        pairs: TrainingPairs,
        neighbors: list[IntArray],
        hard_group_size: int,
        **options: Any,  # noqa: ANN401  the trainer's own: batch size, generator, seed
    ) -> None:
        super().__init__(dataset, **options)
        # Document ids count down from -1, so that they never equal a question's id.
        documents = [-1 - number for number in _text_ids(pairs, "positive")]
        self._texts = list(zip(_text_ids(pairs, "anchor"), documents, strict=True))
        self._groups = pairs.groups.tolist()
        self._neighbors = neighbors
        self._hard_group_size = hard_group_size

    def __iter__(self) -> Iterator[list[int]]:
        if self.generator is not None:
            # Like the library's samplers: the order depends only on seed and epoch.
            self.generator.manual_seed(self.seed + self.epoch)
        waiting = deque(self._order())
        while waiting:
            batch = self._next_batch(waiting)
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def _order(self) -> list[int]:
        """Draw hard groups without replacement, and shuffle the groups."""
        drawn: set[int] = set()
        hard_groups = []
        for row in self._shuffled(len(self._texts)):
            if row not in drawn:
                hard_group = self._hard_group_of(row, drawn)
                drawn.update(hard_group)
                hard_groups.append(hard_group)
        return [row for number in self._shuffled(len(hard_groups)) for row in hard_groups[number]]

    def _shuffled(self, count: int) -> list[int]:
        order: list[int] = torch.randperm(count, generator=self.generator).tolist()
        return order

    def _hard_group_of(self, row: int, drawn: set[int]) -> list[int]:
        """Return a row and its nearest undrawn neighbors; of near-duplicates only the first."""
        hard_group, groups = [row], {self._groups[row]}
        for other in self._neighbors[row].tolist():
            if len(hard_group) == self._hard_group_size:
                break
            if other not in drawn and self._groups[other] not in groups:
                hard_group.append(other)
                groups.add(self._groups[other])
        return hard_group

    def _next_batch(self, waiting: deque[int]) -> list[int]:
        """Take the first rows that share no text; skipped rows keep their order in `waiting`."""
        seen: set[int] = set()
        batch: list[int] = []
        skipped: list[int] = []
        while waiting and len(batch) < self.batch_size:
            row = waiting.popleft()
            if seen.isdisjoint(self._texts[row]):
                seen.update(self._texts[row])
                batch.append(row)
            else:
                skipped.append(row)
        waiting.extendleft(reversed(skipped))
        return batch


class Shards:
    """Split each batch of a sampler into one shard per rank, yielded in the order of the ranks.

    The library gives each rank the next shard. All shards have the same size: if a batch does not
    divide evenly, its first rows are repeated in the last shards, and the loss counts them once.
    """

    def __init__(self, batches: DefaultBatchSampler, processes: int) -> None:
        self._batches = batches
        self._processes = processes

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches:
            rows = math.ceil(len(batch) / self._processes)
            filled = list(islice(cycle(batch), rows * self._processes))
            for start in range(0, len(filled), rows):
                yield filled[start : start + rows]

    def __len__(self) -> int:
        return self._processes * len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        self._batches.set_epoch(epoch)


def _text_ids(pairs: TrainingPairs, column: str) -> list[int]:
    """Return an id per text of a column; equal texts have equal ids, under either protocol."""
    encoded = one_array(pairs.table[column]).dictionary_encode()
    ids: list[int] = encoded.indices.to_pylist()
    return ids
