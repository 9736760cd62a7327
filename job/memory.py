"""Where memory runs out, the same work is done again with half as many rows at once."""

import gc
from collections.abc import Callable
from typing import TypeVar

from job.errors import OutOfMemory
from job.lines import write_line
from job.progress import log

Result = TypeVar("Result")
# What torch says without an error class of its own: its CPU allocator, MPS and CUDA's libraries.
COMPLAINTS = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in COMPLAINTS)


def reason(error: BaseException) -> str:
    """Return the first line of what an allocator says."""
    return next(iter(str(error).splitlines()), "no details")[:200]


def with_fewer_rows(rows: int, work: Callable[[int], Result], what: str) -> Result:
    """Do the work with so many rows at once, or with half as many until the memory suffices.

    Raises `OutOfMemory` where not even one row fits.
    """
    while True:
        try:
            return work(rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            why = reason(error)
            if rows == 1:
                msg = (
                    f"Memory does not suffice for a single text ({why}). Lower "
                    "`model.max_length`, or take a machine with more."
                )
                raise OutOfMemory(msg) from None
        # Only here: while the error lives, its frames keep alive what filled the memory.
        _release()
        facts = {"rows_at_once": rows // 2, "before": rows, "reason": why}
        log.warning(write_line(what, "memory ran out, going on", **facts))
        rows //= 2


def halvings(asked: int, used: int) -> dict[str, int]:
    """Tell a report how many rows were wanted at once and how many it was in the end."""
    times, rows = 0, asked
    while rows > used:
        times, rows = times + 1, rows // 2
    return {"asked": asked, "used": used, "halved": times}


def _release() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class RandomState:
    """What decides a step's dropout; put back, the step draws the same numbers again."""

    def __init__(self) -> None:
        import torch

        self._cpu = torch.get_rng_state()
        self._gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore(self) -> None:
        import torch

        torch.set_rng_state(self._cpu)
        if self._gpus:
            torch.cuda.set_rng_state_all(self._gpus)
