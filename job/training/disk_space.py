"""Disk space: estimated before hours are spent, and looked at before each checkpoint."""

import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from transformers import TrainerCallback
from transformers import TrainerControl as Control

from job.core.errors import MachineError
from job.model.encoder import Model
from job.storage.workspace import Workspace

MAX_CHECKPOINTS = 3
# Report, per-query scores, splits and logs: a few MB each.
RESULTS_BYTES = 64 * 2**20


def model_bytes(model: Model) -> int:
    return sum(w.numel() * w.element_size() for w in model.encoder.parameters())


def checkpoint_bytes(model: Model) -> int:
    """Count the weights, and the optimizer's two numbers for each."""
    return 3 * model_bytes(model)


def require_disk_space(model: Model, workspace: Workspace) -> None:
    """Raise `MachineError` unless the checkpoints, the model and the report fit.

    A checkpoint is written before an older one goes; those of a run that is taken up are there.
    """
    there = sum(path.stat().st_size for path in workspace.checkpoints.rglob("*") if path.is_file())
    needs = {
        workspace.checkpoints: max(0, (MAX_CHECKPOINTS + 1) * checkpoint_bytes(model) - there),
        workspace.model: model_bytes(model),
        workspace.results: RESULTS_BYTES,
    }
    _require(needs, "The run needs", "Free some, or take a larger disk")


class DiskSpaceCheck(TrainerCallback):
    """Ends the run before a checkpoint that does not fit: half of one helps nobody."""

    def __init__(self, model: Model, workspace: Workspace) -> None:
        self._needs = {workspace.checkpoints: checkpoint_bytes(model)}

    def on_step_end(self, args: object, state: object, control: Control, **_: object) -> None:
        if control.should_save:
            advice = "Free some and launch the run again: it goes on from the checkpoint before"
            _require(self._needs, "The next checkpoint takes", advice)

    on_epoch_end = on_step_end


def _require(needs: Mapping[Path, int], what: str, advice: str) -> None:
    by_disk: dict[int, dict[Path, int]] = defaultdict(dict)
    for folder, size in needs.items():
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        sizes = by_disk[there.stat().st_dev]
        sizes[there] = sizes.get(there, 0) + size
    for sizes in by_disk.values():
        folder, needed = next(iter(sizes)), sum(sizes.values())
        free = shutil.disk_usage(folder).free
        if free < needed:
            msg = f"{what} about {_gb(needed)} GB of disk, and {_gb(free)} GB are free where "
            raise MachineError(msg + f"`{folder}` lies. {advice}.")


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g}" if size < 1e9 else f"{size / 1e9:.1f}"
