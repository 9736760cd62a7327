"""Checkpoints of a training: the newest whole one, and giving back the best one's weights."""

import json
from pathlib import Path

from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer

from job.core.errors import MachineError, TrainingError, first_line
from job.distributed import process_group
from job.evaluation.evaluate import Validation, metric_key
from job.model.encoder import Model
from job.runtime.logs import warn
from job.storage.workspace import sha256, write_atomically

# Written last into a checkpoint: the digests of all its files.
CHECKSUMS_FILE = "digests.json"

# A restored checkpoint must score what it scored before. Devices other than the CPU may add up in
# another order, which moves a query's rank now and then.
CPU_TOLERANCE, TOLERANCE = 1e-6, 5e-3


def write_checksums(checkpoint: Path) -> None:
    """Write the digest of every file of a checkpoint, which says that it is whole."""
    digests = {
        path.relative_to(checkpoint).as_posix(): sha256(path)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS_FILE
    }
    write_atomically(checkpoint / CHECKSUMS_FILE, json.dumps(digests, indent=2) + "\n")


def last_checkpoint(folder: Path) -> Path | None:
    """Find the newest whole checkpoint; each newer one that is not is warned of."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        fault = _find_damage(checkpoint)
        if fault is None:
            return checkpoint
        warn("checkpoint", f"`{checkpoint.name}` is skipped: {fault}")
    return None


def checkpoint_on_each_host(folder: Path) -> Path | None:
    """Find the checkpoint that rank 0 goes on from; the other hosts must have it too."""
    newest = process_group.from_rank_zero(lambda: last_checkpoint(folder))
    if newest is None:
        return None
    own = folder / newest.name
    is_other_host = process_group.local_rank() == 0 and not process_group.is_rank_zero()
    if is_other_host and (fault := _find_damage(own)):
        msg = (
            f"The checkpoint `{own}` is not that of the first host: {fault}. All hosts of a run "
            "need one folder of checkpoints, or copies of it."
        )
        raise MachineError(msg)
    return own


def _find_damage(checkpoint: Path) -> str | None:
    """Say why a checkpoint cannot be gone on from; nothing where it can."""
    try:
        digests: dict[str, str] = json.loads((checkpoint / CHECKSUMS_FILE).read_text("utf-8"))
        wrong = [name for name, digest in digests.items() if sha256(checkpoint / name) != digest]
    except FileNotFoundError as error:
        name = Path(error.filename).name
        return "it was not written to its end" if name == CHECKSUMS_FILE else f"`{name}` is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"it cannot be read ({error})"
    return f"`{wrong[0]}` is damaged" if wrong else None


def restore(model: Model, checkpoint: Path, validation: Validation, expected: float) -> None:
    """Load a checkpoint's weights and prove that they score what they scored before.

    Rank 0, which wrote it, loads it and gives the weights to the others.
    """
    try:
        if process_group.is_rank_zero():
            stored = SentenceTransformer(
                str(checkpoint), device="cpu", model_kwargs={"dtype": "float32"}
            )
            model.encoder.load_state_dict(stored.state_dict())
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        msg = (
            f"The checkpoint `{checkpoint.name}`, the best on validation, cannot be loaded: "
            f"{first_line(error)}. Start the run anew."
        )
        raise TrainingError(msg) from None
    process_group.broadcast_weights(model.encoder)
    found = validation.score(model)[metric_key(validation.dimensions.main)]
    if abs(found - expected) > (CPU_TOLERANCE if model.machine.device == "cpu" else TOLERANCE):
        msg = (
            f"The checkpoint `{checkpoint.name}` scores {found:.6f} after loading, but scored "
            f"{expected:.6f} in training. Its files are damaged; start the run anew."
        )
        raise TrainingError(msg)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[-1])
