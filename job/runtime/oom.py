"""Where memory runs out, the same work is done again with half the batch size."""

from collections.abc import Callable
from typing import TypeVar

from job.core.errors import OutOfMemory, first_line
from job.runtime.logs import warn

Result = TypeVar("Result")
# What torch says without an error class of its own: its CPU allocator, MPS, CUDA's driver and
# libraries. accelerate's `should_reduce_batch_size` knows neither the latter nor MemoryError.
COMPLAINTS = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in COMPLAINTS)


def retry_on_oom(batch_size: int, work: Callable[[int], Result], what: str) -> Result:
    """Do the work with this batch size, halved until the memory suffices.

    Raises `OutOfMemory` where not even one row fits.
    """
    while True:
        try:
            return work(batch_size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            why = first_line(error)
            if batch_size == 1:
                msg = (
                    f"Memory does not suffice for a single text ({why}). Lower "
                    "`model.max_length`, or take a machine with more."
                )
                raise OutOfMemory(msg) from None
        from accelerate.utils import release_memory

        # Only here: while the error lives, its frames keep alive what filled the memory.
        release_memory()
        facts = {"mini_batch_size": batch_size // 2, "before": batch_size, "reason": why}
        warn(what, "memory ran out, going on", **facts)
        batch_size //= 2


def batch_size_facts(asked: int, used: int) -> dict[str, int]:
    """Tell a report which batch size was asked for and which was used in the end."""
    times = next(n for n in range(asked.bit_length()) if asked >> n <= used)
    return {"asked": asked, "used": used, "halved": times}
