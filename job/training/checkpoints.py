"""Complete checkpoints, find the newest one to resume from, restore the best one's weights.

A checkpoint has weights. If a run can resume from it, it also has the trainer's state and, unless
it is of the last step, that of the optimizer, which is twice as large as the weights.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerState, TrainingArguments

from job.core.errors import MachineError, TrainingError, first_line
from job.distributed import process_group
from job.model.encoder import Model, open_encoder
from job.runtime.logs import warn
from job.storage.workspace import sha256, write_atomically

if TYPE_CHECKING:
    from job.training.lora import Adapter

# Written last into a checkpoint: the SHA-256 digests of all its files.
CHECKSUMS_FILE = "digests.json"
STATE_FILE = "trainer_state.json"
# The newest one that a run can resume from, and the one before: a copy of the folder, such as
# SageMaker's, may have the newest one in part only.
KEPT_STATES = 2


def write_checksums(checkpoint: Path) -> None:
    """Write the digest of every file of a checkpoint, which marks it as complete."""
    digests = {
        path.relative_to(checkpoint).as_posix(): sha256(path)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS_FILE
    }
    write_atomically(checkpoint / CHECKSUMS_FILE, json.dumps(digests, indent=2) + "\n")


class CheckpointCompletion(TrainerCallback):
    """Completes the checkpoints of rank 0 in a thread, while the training goes on.

    It writes the checksums of a checkpoint, deletes those that are no longer needed, and calls
    `on_checkpoint`. An error of the thread is raised at the next checkpoint, or at the end.
    """

    def __init__(self, on_checkpoint: Callable[[Path], None] | None) -> None:
        self._on_checkpoint = on_checkpoint
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: object, **_: object
    ) -> None:
        checkpoint = checkpoint_at(Path(str(args.output_dir)), state.global_step)
        self.wait()
        # The trainer also announces steps of which it writes nothing.
        if checkpoint.is_dir():
            # A daemon: a second stop signal does not wait for an upload.
            found = (checkpoint, state.best_global_step)
            self._thread = Thread(target=self._complete, args=found, daemon=True)
            self._thread.start()

    def on_train_end(self, *_: object, **__: object) -> None:
        self.wait()

    def wait(self) -> None:
        """Wait until the checkpoints so far are complete; raise the error of the thread."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            raise self._error

    def _complete(self, checkpoint: Path, best: int | None) -> None:
        try:
            write_checksums(checkpoint)
            delete_superseded(checkpoint, best)
            if self._on_checkpoint:
                self._on_checkpoint(checkpoint)
        except Exception as error:  # noqa: BLE001  raised in the main thread
            self._error = error


def delete_superseded(newest: Path, best: int | None) -> None:
    """Delete checkpoints up to the newest complete one from which nothing is needed any more.

    Needed are `KEPT_STATES` to resume from, the best one of each, and the step that is best now.
    """
    earlier = [
        checkpoint
        for checkpoint in _newest_first(newest.parent)
        if step_of(checkpoint) <= step_of(newest)
    ]
    states = [checkpoint for checkpoint in earlier if _has_state(checkpoint)][:KEPT_STATES]
    needed = {newest, *states, *map(_best_of, states)}
    if best is not None:
        needed.add(checkpoint_at(newest.parent, best))
    for checkpoint in set(earlier) - needed:
        shutil.rmtree(checkpoint)


def delete_newer(folder: Path, resumed: Path | None) -> None:
    """Delete what an earlier start wrote after the checkpoint that is resumed from.

    The run writes those steps again, and would mix their files.
    """
    for checkpoint in _newest_first(folder):
        if resumed is None or step_of(checkpoint) > step_of(resumed):
            shutil.rmtree(checkpoint)


def last_checkpoint(folder: Path) -> Path | None:
    """Find the newest complete checkpoint to resume from; warn about newer incomplete ones."""
    for checkpoint in _newest_first(folder):
        damage = _find_damage(checkpoint)
        if damage is None:
            if not _has_state(checkpoint):
                continue
            best = _best_of(checkpoint)
            damage = _find_damage(best) if best and best != checkpoint else None
            if damage is None:
                return checkpoint
            damage = f"its best step is in `{best.name if best else ''}`, but {damage}"
        warn("checkpoint", f"`{checkpoint.name}` is skipped: {damage}")
    return None


def checkpoint_on_each_host(folder: Path) -> Path | None:
    """Find the checkpoint that rank 0 resumes from.

    Raises `MachineError` on another host that does not have it.
    """
    newest = process_group.from_rank_zero(lambda: last_checkpoint(folder))
    if newest is None:
        return None
    local = folder / newest.name
    is_other_host = process_group.local_rank() == 0 and not process_group.is_rank_zero()
    if is_other_host and (damage := _find_damage(local)):
        msg = (
            f"The checkpoint `{local}` differs from that of the first host: {damage}. All hosts "
            "of a run must share one checkpoint folder, or have copies of it."
        )
        raise MachineError(msg)
    return local


def _find_damage(checkpoint: Path) -> str | None:
    """Return why a checkpoint cannot be resumed from; None if it can."""
    try:
        digests: dict[str, str] = json.loads((checkpoint / CHECKSUMS_FILE).read_text("utf-8"))
        wrong = [name for name, digest in digests.items() if sha256(checkpoint / name) != digest]
    except FileNotFoundError as error:
        name = Path(error.filename).name
        return "it is incomplete" if name == CHECKSUMS_FILE else f"`{name}` is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"it cannot be read ({error})"
    return f"`{wrong[0]}` is damaged" if wrong else None


def restore(model: Model, checkpoint: Path, adapter: "Adapter | None" = None) -> None:
    """Load the weights of a complete checkpoint; with an adapter, it holds only that.

    Rank 0, which wrote the checkpoint, loads it and broadcasts the weights.
    Raises `TrainingError` if a file has changed since, or cannot be loaded.
    """
    try:
        if process_group.is_rank_zero():
            if damage := _find_damage(checkpoint):
                raise ValueError(damage)
            _load(model, checkpoint, adapter)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        msg = (
            f"The checkpoint `{checkpoint.name}`, the best on validation, cannot be loaded: "
            f"{first_line(error)}. Start the run again under another `--name`."
        )
        raise TrainingError(msg) from None
    process_group.broadcast_weights(model.encoder)


def _load(model: Model, checkpoint: Path, adapter: "Adapter | None") -> None:
    if adapter:
        adapter.load(checkpoint)
        return
    trust_code = model.encoder.trust_remote_code
    loaded = open_encoder(checkpoint, "cpu", trust_code=trust_code, dtype="float32")
    model.encoder.load_state_dict(loaded.state_dict())


def checkpoint_at(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[-1])


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)


def _has_state(checkpoint: Path) -> bool:
    """Return whether a checkpoint is complete and a run can resume from it."""
    return all((checkpoint / name).is_file() for name in (CHECKSUMS_FILE, STATE_FILE))


def _best_of(checkpoint: Path) -> Path | None:
    """Return the checkpoint with the best weights at the time of this one."""
    best = TrainerState.load_from_json(str(checkpoint / STATE_FILE)).best_global_step
    return None if best is None else checkpoint_at(checkpoint.parent, best)
