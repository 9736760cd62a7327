"""Divide texts into forward passes: little padding in each, and few of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
# Passes of fewer rows are not worth their overhead, however long the texts are.
MIN_ROWS = 8


@dataclass(frozen=True)
class PassCost:
    """What a forward pass costs a device besides its tokens."""

    # The time of a pass without any token, in tokens.
    overhead: int
    # Texts are padded to multiples of this many tokens.
    step: int
    # Tokens of a pass; more would only slow it down.
    max_tokens: int | None = None
    # Whether texts are embedded without their padding (job/model/packing.py).
    packed: bool = False


# All texts in one pass, padded to the longest.
ONE_PASS = PassCost(2**40, 1)


@dataclass(frozen=True)
class Cut:
    """The rows of a pass, of texts that are sorted by length, and the tokens of each row."""

    start: int
    stop: int
    width: int

    @property
    def positions(self) -> int:
        return (self.stop - self.start) * self.width


def cut(lengths: IntArray, cost: PassCost, max_rows: int | None = None) -> list[Cut]:
    """Return the passes with the least cost: tokens, padding and overhead.

    `lengths` are tokens, descending. Between texts of one padded length, only a limit divides.
    """
    widths, counts = np.unique(-(-lengths // cost.step) * cost.step, return_counts=True)
    widths, ends = widths[::-1], np.concatenate([[0], np.cumsum(counts[::-1])])
    # The cheapest way to divide the first n widths, and where its last pass begins.
    best, begins = np.zeros(len(ends)), np.zeros(len(ends), np.int64)
    for last in range(1, len(ends)):
        rows = ends[last] - ends[:last]
        passes = np.ceil(rows / _rows_per_pass(widths[:last], cost, max_rows))
        costs = best[:last] + rows * widths[:last] + cost.overhead * passes
        begins[last] = costs.argmin()
        best[last] = costs.min()
    found: list[Cut] = []
    last = len(widths)
    while last:
        first = begins[last]
        whole = Cut(int(ends[first]), int(ends[last]), int(widths[first]))
        found = _split(whole, cost, max_rows) + found
        last = first
    return found


def _rows_per_pass(widths: IntArray, cost: PassCost, max_rows: int | None) -> IntArray:
    rows = np.full(len(widths), max_rows or np.iinfo(np.int64).max)
    if cost.max_tokens is not None:
        rows = np.minimum(rows, np.maximum(MIN_ROWS, cost.max_tokens // widths))
    return rows


def _split(whole: Cut, cost: PassCost, max_rows: int | None) -> list[Cut]:
    start, stop, width = whole.start, whole.stop, whole.width
    rows = min(stop - start, int(_rows_per_pass(np.array([width]), cost, max_rows)[0]))
    return [Cut(first, min(first + rows, stop), width) for first in range(start, stop, rows)]
