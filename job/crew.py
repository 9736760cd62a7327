"""The processes of a run: the first conducts it and writes, the others do what it asks of them.

Data is read, judged and reported by the conductor alone, as by a run of one process; the others
encode their share of the texts and train beside it. In a run of one process nothing is exchanged.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from job.interruption import StopSignal
    from job.model import Model
    from job.workspace import Workspace

# Whoever waits does so for as long as the conductor works; that somebody has gone is found out by
# others (`job.peers`).
PATIENCE = timedelta(days=28)
# The exit code of a process that was deserted, and how long it makes way for the cause.
DESERTED, DESERTED_SECONDS = 120, 10.0
CHUNK_BYTES = 2**26


class Deserted(Exception):
    """Another process of the run has gone; it, or who watches it, says why."""


@dataclass
class Mate:
    """What a process that does not conduct works with."""

    workspace: "Workspace"
    stop: "StopSignal"
    # As the run was told.
    device: str
    model: "Model | None" = None

    @property
    def known_model(self) -> "Model":
        assert self.model is not None, "the conductor introduces the model first"
        return self.model


Work = Callable[..., None]


def is_member() -> bool:
    """Tell whether torchrun has started this process."""
    return "LOCAL_RANK" in environ


def join(device: str) -> None:
    """Meet the other processes of the run; each takes the GPU of its number."""
    import torch
    from torch import distributed

    if device in ("auto", "cuda") and torch.cuda.is_available():
        torch.cuda.set_device(int(environ["LOCAL_RANK"]))
        distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE)
    else:
        distributed.init_process_group("gloo", timeout=PATIENCE)


def leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def size() -> int:
    from torch import distributed

    return distributed.get_world_size() if distributed.is_initialized() else 1


def hosts() -> int:
    return int(environ["WORLD_SIZE"]) // int(environ["LOCAL_WORLD_SIZE"]) if size() > 1 else 1


def rank() -> int:
    from torch import distributed

    return distributed.get_rank() if distributed.is_initialized() else 0


@contextmanager
def deserted() -> Iterator[None]:
    """Raise `Deserted` for what torch raises where another process has gone."""
    try:
        yield
    except RuntimeError as error:
        # Gloo's errors have no class of their own.
        if type(error).__name__.startswith("Dist") or "gloo" in str(error):
            raise Deserted(str(error)) from error
        raise


def share(value: Any = None) -> Any:  # noqa: ANN401  whatever can be pickled
    """Return the conductor's value in every process."""
    from torch import distributed

    if size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def gather(value: Any) -> list[Any]:  # noqa: ANN401  whatever can be pickled
    """Return every process's value, in order of ranks, to the conductor; nothing to the others."""
    from torch import distributed

    if size() == 1:
        return [value]
    found: list[Any] | None = [None] * size() if rank() == 0 else None
    distributed.gather_object(value, found)
    return found or []


def gather_tensor(tensor: "Tensor") -> list["Tensor"]:
    """Return every process's tensor, all of one shape, in order of ranks, to every process."""
    import torch
    from torch import distributed

    found = [torch.empty_like(tensor) for _ in range(size())]
    distributed.all_gather(found, tensor.contiguous())
    return found


def add_up(tensor: "Tensor") -> "Tensor":
    """Return the sum of every process's tensor to every process."""
    from torch import distributed

    total = tensor.contiguous().clone()
    distributed.all_reduce(total)
    return total


def any_of(flag: bool) -> bool:  # noqa: FBT001  a value, not an option
    """Tell in every process whether any of them says so."""
    import torch

    return flag if size() == 1 else bool(add_up(torch.tensor(int(flag))))


class _Engagement:
    """Whether the others do something of their own, and would not hear what they are asked."""

    elsewhere = False


@contextmanager
def others_engaged() -> Iterator[None]:
    """Within this block the others do the same as the conductor, and do not assist."""
    _Engagement.elsewhere = True
    try:
        yield
    finally:
        _Engagement.elsewhere = False


def is_assisted() -> bool:
    """Tell whether there are others, who do what they are asked."""
    return size() > 1 and not _Engagement.elsewhere


def ask(work: Work, *arguments: object) -> None:
    """Have the others, where they `assist`, do some work: a function that takes a `Mate` first.

    What it exchanges with the conductor meanwhile, the caller's next lines do.
    """
    share((work, arguments))


def dismiss(value: object = None) -> None:
    """Let the others go on from where they assist, with a value."""
    share((None, value))


def assist(mate: Mate) -> Any:  # noqa: ANN401  whatever it is dismissed with
    """Do what the conductor asks until it says that this was all; returns what it says then."""
    while True:
        work, found = share()
        if work is None:
            return found
        work(mate, *found)


def share_weights(module: "nn.Module") -> None:
    """Give every process the conductor's weights."""
    from torch import distributed

    for value in module.state_dict().values():
        distributed.broadcast(value, 0)


def share_folder(folder: Path | None, copy: Path | None = None) -> Path | None:
    """Return a folder of the conductor's in every process; the others' hosts get a copy of it.

    The conductor gives the folder, if there is one, and the others where a copy of it may lie.
    """
    given: Path | None = share(folder)
    if given is None or hosts() == 1:
        return given
    if rank() == 0:
        for piece in pieces(given):
            share(piece)
        share(None)
    is_elsewhere = copy is not None and environ["GROUP_RANK"] != "0"
    if rank() > 0:
        _receive(copy if is_elsewhere and environ["LOCAL_RANK"] == "0" else None)
    # Nobody reads before everything is written.
    any_of(flag=False)
    return copy if is_elsewhere else given


def _receive(folder: Path | None) -> None:
    """Write the pieces that the conductor shares; one process of a host is enough for that."""
    from job.workspace import write_error

    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    for name, part in iter(share, None):
        if not folder:
            continue
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab") as handle:
                handle.write(part)
        except OSError as error:
            what = f"`{target}` cannot be written"
            raise write_error(what, error) from None


def pieces(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Read all files of a folder, by their names in it, a large one in several pieces."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            with path.open("rb") as handle:
                # An empty file is one piece as well.
                yield name, handle.read(CHUNK_BYTES)
                while part := handle.read(CHUNK_BYTES):
                    yield name, part
