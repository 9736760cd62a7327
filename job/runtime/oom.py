"""Detect out-of-memory errors and retry the work with half the batch size."""

from collections.abc import Callable
from typing import TypeVar

from job.core.errors import OutOfMemory, first_line
from job.runtime.logs import warn

Result = TypeVar("Result")
ADVICE = "Lower `model.max_length`, or use a machine with more memory."
# Messages of torch's errors that are plain RuntimeErrors: its CPU allocator, MPS, CUDA's driver and
# libraries. accelerate's `should_reduce_batch_size` misses the CUDA libraries and MemoryError.
OOM_MESSAGES = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OOM_MESSAGES)


def retry_on_oom(
    batch_size: int, work: Callable[[int], Result], what: str, advice: str = ADVICE
) -> Result:
    """Call `work` with this batch size, halving it until the memory suffices.

    `what` names the stage in the log. Raises `OutOfMemory`, with `advice`, if a single row does not
    fit.
    """
    while True:
        try:
            return work(batch_size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            why = first_line(error)
            if batch_size == 1:
                msg = f"Memory ran out with a single text per batch ({why}). {advice}"
                raise OutOfMemory(msg) from None
        from accelerate.utils import release_memory

        # After the except block: within it, the error's frames hold the tensors that fill memory.
        release_memory()
        facts = {"mini_batch_size": batch_size // 2, "before": batch_size, "reason": why}
        warn(what, "memory ran out, going on", **facts)
        batch_size //= 2


def batch_size_facts(asked: int, used: int) -> dict[str, int]:
    """Return the requested batch size, the used one and the number of halvings, for the report."""
    times = next(n for n in range(asked.bit_length()) if asked >> n <= used)
    return {"asked": asked, "used": used, "halved": times}
