"""Count what a run reads, encodes, searches or moves, and log it every few seconds.

A line has the unit, what is done, the total if it is known, the rate and the memory in use:
`encode: texts done=1200 total=5400 per_second=310.5 memory_gb=1.2`. Lines come by time, not by
count, so the log of a long run stays small.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from job.runtime.logs import log, memory, tell

Item = TypeVar("Item")
# The pause between two lines: short at first, longer in long runs.
FIRST_SECONDS, LAST_SECONDS, SHARE_OF_ELAPSED = 2.0, 10.0, 0.05


class Counter:
    """Counts units of one piece of work; any thread may add to it."""

    def __init__(
        self,
        what: str,
        unit: str,
        total: int | None = None,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`what` is the line's subject; `done` was counted in an earlier start of the run."""
        self._what, self._unit, self.total = what, unit, total
        self._done = self._first = done
        self._clock = clock
        self._started = self._logged = clock()
        self._lock = threading.Lock()

    def add(self, count: int = 1) -> None:
        with self._lock:
            self._done += count
            now = self._clock()
            elapsed = now - self._started
            pause = min(max(FIRST_SECONDS, SHARE_OF_ELAPSED * elapsed), LAST_SECONDS)
            if now - self._logged < pause:
                return
            self._logged = now
            # A batch that is repeated after running out of memory counts twice.
            done = self._done if self.total is None else min(self._done, self.total)
        self._log(done, (done - self._first) / elapsed)

    def _log(self, done: int, rate: float) -> None:
        # Without a handler (`embedtune check`) nobody reads the line.
        if log.isEnabledFor(logging.INFO):
            total = {} if self.total is None else {"total": self.total}
            facts = {"done": done, **total, "per_second": float(f"{rate:.4g}")}
            tell(self._what, self._unit, **facts, **_memory_facts())


def _memory_facts() -> dict[str, float]:
    used = memory()
    names = {"host_bytes": "memory_gb", "device_bytes": "gpu_gb"}
    return {names[key]: round(count / 1e9, 2) for key, count in used.items()}


def count_each(
    items: Iterable[Item], what: str, unit: str, total: int | None = None
) -> Iterator[Item]:
    """Yield the items, and count each one."""
    counter = Counter(what, unit, total)
    for item in items:
        yield item
        counter.add()


@contextmanager
def embeddings_counted(encoder: Any, total: int, ranks: int = 1) -> Iterator[None]:  # noqa: ANN401
    """Count the texts that a sentence-transformers model embeds within this block.

    Each of the `ranks` embeds an equal share of them.
    """
    counter = Counter("encode", "texts", total)

    def count(_module: object, _features: object, features: dict[str, Any]) -> None:
        counter.add(ranks * len(features["sentence_embedding"]))

    # The last module's output has one embedding per text.
    hook = encoder[-1].register_forward_hook(count)
    try:
        yield
    finally:
        hook.remove()
