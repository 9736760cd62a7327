"""Checkpoints of a training: the newest whole one, and giving back the best one's weights."""

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from sentence_transformers import SentenceTransformer

from job.errors import TrainingError
from job.evaluate import Validation, metric_key
from job.model import Model

# A restored checkpoint must score what it scored before. Devices other than the CPU may add up in
# another order, which moves a query's rank now and then.
RESTORED_TOLERANCE = {"cpu": 1e-6}
OTHER_TOLERANCE = 5e-3


def last_checkpoint(folder: Path) -> Path | None:
    """Find the newest complete checkpoint: the trainer writes its state file last."""
    found = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    return next((checkpoint for checkpoint in found if _is_whole(checkpoint)), None)


def _is_whole(checkpoint: Path) -> bool:
    """Tell whether every file that a resumed training needs is there and can be read.

    The trainer goes on without some of them, silently, and then ends elsewhere.
    """
    weights = sorted(checkpoint.rglob("*.safetensors"))
    # torch writes zip archives, whose directory stands at the end; each process has an rng_state.
    archives = [checkpoint / "optimizer.pt", checkpoint / "scheduler.pt"]
    archives += checkpoint.glob("rng_state*.pth")
    try:
        json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
        for path in weights:
            with safe_open(str(path), "pt"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return bool(weights) and len(archives) > 2 and all(map(zipfile.is_zipfile, archives))


def restore(model: Model, checkpoint: Path, validation: Validation, expected: float) -> None:
    """Load a checkpoint's weights and prove that they score what they scored before."""
    try:
        stored = SentenceTransformer(
            str(checkpoint), device="cpu", model_kwargs={"dtype": "float32"}
        )
        model.encoder.load_state_dict(stored.state_dict())
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        msg = (
            f"The checkpoint `{checkpoint.name}`, the best on validation, cannot be loaded: "
            f"{reason[:300]}. Start the run anew."
        )
        raise TrainingError(msg) from None
    found = validation.score(model)[metric_key(validation.dimensions.main)]
    tolerance = RESTORED_TOLERANCE.get(model.machine.device, OTHER_TOLERANCE)
    if abs(found - expected) > tolerance:
        msg = (
            f"The checkpoint `{checkpoint.name}` scores {found:.6f} after loading, but scored "
            f"{expected:.6f} in training. Its files are damaged; start the run anew."
        )
        raise TrainingError(msg)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[-1])
