"""Find the newest complete checkpoint to resume from, and restore the best one's weights."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from job.core.errors import MachineError, TrainingError, first_line
from job.distributed import process_group
from job.evaluation.evaluate import Validation, metric_key
from job.model.encoder import Model, open_encoder
from job.runtime.logs import warn
from job.storage.workspace import sha256, write_atomically

if TYPE_CHECKING:
    from job.training.lora import Adapter

# Written last into a checkpoint: the SHA-256 digests of all its files.
CHECKSUMS_FILE = "digests.json"

# A restored checkpoint must reproduce its validation score. Devices other than the CPU may sum in
# another order, which sometimes changes a query's rank.
CPU_TOLERANCE, TOLERANCE = 1e-6, 5e-3


def write_checksums(checkpoint: Path) -> None:
    """Write the digest of every file of a checkpoint, which marks it as complete."""
    digests = {
        path.relative_to(checkpoint).as_posix(): sha256(path)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS_FILE
    }
    write_atomically(checkpoint / CHECKSUMS_FILE, json.dumps(digests, indent=2) + "\n")


def last_checkpoint(folder: Path) -> Path | None:
    """Find the newest complete checkpoint; warn about newer incomplete ones."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        damage = _find_damage(checkpoint)
        if damage is None:
            return checkpoint
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


def restore(
    model: Model,
    checkpoint: Path,
    validation: Validation,
    expected: float,
    adapter: "Adapter | None" = None,
) -> None:
    """Load a checkpoint's weights and check that they reproduce the expected validation score.

    With an adapter, the checkpoint holds only that.

    Rank 0, which wrote the checkpoint, loads it and broadcasts the weights.
    Raises `TrainingError` if it cannot be loaded or scores differently.
    """
    try:
        if adapter and process_group.is_rank_zero():
            adapter.load(checkpoint)
        elif process_group.is_rank_zero():
            trust_code = model.encoder.trust_remote_code
            loaded = open_encoder(checkpoint, "cpu", trust_code=trust_code, dtype="float32")
            model.encoder.load_state_dict(loaded.state_dict())
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        msg = (
            f"The checkpoint `{checkpoint.name}`, the best on validation, cannot be loaded: "
            f"{first_line(error)}. Start the run again under another `--name`."
        )
        raise TrainingError(msg) from None
    process_group.broadcast_weights(model.encoder)
    found = validation.score(model)[metric_key(validation.dimensions.main)]
    if abs(found - expected) > (CPU_TOLERANCE if model.machine.device == "cpu" else TOLERANCE):
        msg = (
            f"The checkpoint `{checkpoint.name}` scores {found:.6f} after loading, but scored "
            f"{expected:.6f} in training. Its files are damaged. Start the run again under another "
            "`--name`."
        )
        raise TrainingError(msg)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[-1])
