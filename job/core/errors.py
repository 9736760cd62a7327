"""Every expected failure as a tree: one class, one exit code, the same on every backend.

EmbedtuneError
├── SpecError       3    the job spec
├── DataError       4    the data: pairs, corpus
├── ModelError      5    the base model
├── MachineError    6    the machine the job runs on
├── StorageError    7    folders, S3, the Hub, databases
├── TrainingError   8    the training
├── GateNotMet      9    a required result was missed
├── Interrupted    10    interrupted; the run can be resumed
├── Stopped        11    stopped by the user
├── TimeLimit      12    the time limit was reached
├── BackendError   13    quota, role, capacity, image, engine
├── OutOfMemory    14    out of GPU or host memory
├── Stalled        15    no progress for too long
└── BuildFailed    16    an image's build on AWS failed

0 is success, 1 a bug in embedtune (with a traceback) and 2 wrong usage (Click's own code).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from job.core.formatting import escape_to_one_line


class EmbedtuneError(Exception):
    """Its message is one line: what is wrong, what was found, what to do."""

    exit_code: ClassVar[int]
    meaning: ClassVar[str]

    def __str__(self) -> str:
        # Quoted file names and rows may contain control characters.
        return escape_to_one_line(super().__str__())


class SpecError(EmbedtuneError):
    exit_code = 3
    meaning = "the job spec is invalid: an unknown field, a value out of bounds"


class DataError(EmbedtuneError):
    exit_code = 4
    meaning = "the data cannot be read, or has too few usable pairs"


class ModelError(EmbedtuneError):
    exit_code = 5
    meaning = "the base model cannot be found or loaded"


class MachineError(EmbedtuneError):
    exit_code = 6
    meaning = "the machine lacks something: a usable GPU, disk space, a Python package"


class StorageError(EmbedtuneError):
    exit_code = 7
    meaning = "inputs cannot be read or results cannot be written (folder, S3, Hub, database)"


class TrainingError(EmbedtuneError):
    exit_code = 8
    meaning = "training failed: a damaged checkpoint, a saved model that differs from the tuned one"


class GateNotMet(EmbedtuneError):
    exit_code = 9
    meaning = "a required result was missed: by a finished run, or by an endpoint (`verify`)"


class Interrupted(EmbedtuneError):
    exit_code = 10
    meaning = "the run was interrupted and can be resumed"


class Stopped(EmbedtuneError):
    exit_code = 11
    meaning = "the user stopped the run"


class TimeLimit(EmbedtuneError):
    exit_code = 12
    meaning = "the run reached its time limit"


class BackendError(EmbedtuneError):
    exit_code = 13
    meaning = (
        "the backend refused or lost the job: quota, role, capacity, image, engine; "
        "or an endpoint (`verify`) or language model (`pairs`) does not answer"
    )


class OutOfMemory(EmbedtuneError):
    exit_code = 14
    meaning = "GPU or host memory ran out"


class Stalled(EmbedtuneError):
    exit_code = 15
    meaning = "the run made no progress for too long and ended itself; it can be resumed"


class BuildFailed(EmbedtuneError):
    exit_code = 16
    meaning = "the image's build on AWS failed; its last lines show why"


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error message, at most 300 characters."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line.rstrip(".")[:300]


@contextmanager
def translated(expected: Callable[[Exception], EmbedtuneError | None]) -> Iterator[None]:
    """Convert exceptions to the error `expected` returns; if it returns None, re-raise (a bug)."""
    try:
        yield
    except Exception as error:
        if (known := expected(error)) is None:
            raise
        raise known from None


EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "a bug in embedtune; the traceback shows where",
    2: "wrong usage of the command line",
    **{error.exit_code: error.meaning for error in EmbedtuneError.__subclasses__()},
}
