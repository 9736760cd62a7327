"""Check the disk space before the training starts and before each checkpoint."""

import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from transformers import TrainerCallback
from transformers import TrainerControl as Control

from job.core.errors import MachineError
from job.model.encoder import Model
from job.storage.workspace import Workspace

MAX_CHECKPOINTS = 3
# Report, scores per query, splits and logs take a few MB each.
RESULTS_BYTES = 64 * 2**20
FLOAT32_BYTES = 4


def model_bytes(model: Model) -> int:
    return sum(w.numel() * w.element_size() for w in model.encoder.parameters())


def checkpoint_bytes(model: Model, adapter_parameters: int | None = None) -> int:
    """Return the size of the trained weights plus the optimizer's two values per weight."""
    if adapter_parameters is not None:
        return 3 * FLOAT32_BYTES * adapter_parameters
    return 3 * model_bytes(model)


def require_disk_space(
    model: Model,
    workspace: Workspace,
    trainings: int = 1,
    adapter_parameters: int | None = None,
    models: int = 1,
) -> None:
    """Raise `MachineError` unless the checkpoints, stored models, exports and the report fit.

    An export is at most as large as a model, and counts as one.

    Two to resume from and the best weights of three moments are as large as `MAX_CHECKPOINTS`
    whole ones. A new one is written before an old one is deleted. A resumed run has some of them
    already. Each of several trainings keeps its own. `models` is the number of models stored.
    """
    used = sum(path.stat().st_size for path in workspace.checkpoints.rglob("*") if path.is_file())
    checkpoints = MAX_CHECKPOINTS * trainings + 1
    checkpoint = checkpoint_bytes(model, adapter_parameters)
    needs = {
        workspace.checkpoints: max(0, checkpoints * checkpoint - used),
        workspace.model: models * model_bytes(model),
        workspace.results: RESULTS_BYTES,
    }
    _require(needs, "The run needs", "Free some space, or use a larger disk")


class DiskSpaceCheck(TrainerCallback):
    """Raise `MachineError` before a checkpoint that does not fit, rather than write half of it."""

    def __init__(
        self,
        model: Model,
        workspace: Workspace,
        adapter_parameters: int | None = None,
        await_deletion: Callable[[], None] = lambda: None,
    ) -> None:
        """Take a function that waits until checkpoints that are no longer needed are deleted."""
        self._needs = {workspace.checkpoints: checkpoint_bytes(model, adapter_parameters)}
        self._await_deletion = await_deletion

    def on_step_end(self, args: object, state: object, control: Control, **_: object) -> None:
        if control.should_save:
            try:
                self._require()
            except MachineError:
                self._await_deletion()
                self._require()

    def _require(self) -> None:
        advice = "Free some space and relaunch the run: it resumes from its last checkpoint"
        _require(self._needs, "The next checkpoint needs", advice)

    on_epoch_end = on_step_end


def _require(needs: Mapping[Path, int], what: str, advice: str) -> None:
    by_disk: dict[int, dict[Path, int]] = defaultdict(dict)
    for folder, size in needs.items():
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        sizes = by_disk[existing.stat().st_dev]
        sizes[existing] = sizes.get(existing, 0) + size
    for sizes in by_disk.values():
        folder, needed = next(iter(sizes)), sum(sizes.values())
        free = shutil.disk_usage(folder).free
        if free < needed:
            msg = f"{what} about {_gb(needed)} GB of disk space, but only {_gb(free)} GB are free "
            raise MachineError(msg + f"on the disk of `{folder}`. {advice}.")


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g}" if size < 1e9 else f"{size / 1e9:.1f}"
