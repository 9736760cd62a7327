"""Every expected failure, drawn as a tree: one class, one exit code, the same on every backend.

EmbedtuneError
├── SpecError       3    the job's description
├── DataError       4    the pairs
├── ModelError      5    the base model
├── MachineError    6    what the job runs on
├── StorageError    7    S3 and the Hub
├── TrainingError   8    the training itself
├── GateNotMet      9    a required result was not reached
├── Interrupted    10    the run can be resumed
├── Stopped        11    somebody stopped the run
├── TimeLimit      12    the run used up its time
├── BackendError   13    quota, role, capacity, image, engine
├── OutOfMemory    14    device or host memory
└── Stalled        15    nothing moved any more

0 is success, 1 a bug of ours (with a traceback) and 2 wrong usage (Click's own).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from job.core.formatting import on_one_line


class EmbedtuneError(Exception):
    """Says in one line what is wrong, what was found and what to do."""

    exit_code: ClassVar[int]
    meaning: ClassVar[str]

    def __str__(self) -> str:
        # File names and rows, which are quoted in it, may hold anything.
        return on_one_line(super().__str__())


class SpecError(EmbedtuneError):
    exit_code = 3
    meaning = "the job's description is wrong: an unknown field, a value out of bounds"


class DataError(EmbedtuneError):
    exit_code = 4
    meaning = "the data cannot be read, or there is too little of it"


class ModelError(EmbedtuneError):
    exit_code = 5
    meaning = "the base model cannot be found or loaded"


class MachineError(EmbedtuneError):
    exit_code = 6
    meaning = "the machine lacks something: a usable GPU, disk space, a Python package"


class StorageError(EmbedtuneError):
    exit_code = 7
    meaning = "results or inputs cannot be written or read (folder, S3, Hub)"


class TrainingError(EmbedtuneError):
    exit_code = 8
    meaning = "training went wrong: a checkpoint cannot be restored"


class GateNotMet(EmbedtuneError):
    exit_code = 9
    meaning = "the run finished, but a required result was not reached"


class Interrupted(EmbedtuneError):
    exit_code = 10
    meaning = "the run was interrupted and can be resumed"


class Stopped(EmbedtuneError):
    exit_code = 11
    meaning = "the run was stopped by its user"


class TimeLimit(EmbedtuneError):
    exit_code = 12
    meaning = "the run reached its time limit"


class BackendError(EmbedtuneError):
    exit_code = 13
    meaning = "the backend refused or lost the job: quota, role, capacity, image, engine"


class OutOfMemory(EmbedtuneError):
    exit_code = 14
    meaning = "the device's or the machine's memory did not suffice"


class Stalled(EmbedtuneError):
    exit_code = 15
    meaning = "nothing moved any more, so the run ended itself; it can be resumed"


def first_line(error: BaseException) -> str:
    """Quote what a library says of an error, of which the first line tells enough."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line.rstrip(".")[:300]


@contextmanager
def translated(expected: Callable[[Exception], EmbedtuneError | None]) -> Iterator[None]:
    """Raise what `expected` makes of an exception; where that is nothing, it is a bug of ours."""
    try:
        yield
    except Exception as error:
        if (known := expected(error)) is None:
            raise
        raise known from None


EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "a bug of ours; the traceback says where",
    2: "wrong usage of the command line",
    **{error.exit_code: error.meaning for error in EmbedtuneError.__subclasses__()},
}
