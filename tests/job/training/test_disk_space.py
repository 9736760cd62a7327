"""Disk space is checked before the training and before each checkpoint."""

import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from job.core.errors import MachineError
from job.data.dataset import load_dataset
from job.evaluation.baseline import score_base
from job.evaluation.evaluate import choose_dimensions
from job.model.device import Machine
from job.model.encoder import load_model
from job.runtime.signals import StopSignal
from job.storage.workspace import Workspace
from job.training.disk_space import (
    MAX_CHECKPOINTS,
    RESULTS_BYTES,
    DiskSpaceCheck,
    checkpoint_bytes,
    model_bytes,
    require_disk_space,
)
from job.training.hyperparameters import resolve
from job.training.trainer import TrainingInputs, build_trainer


@pytest.fixture
def model(tiny_spec):
    return load_model(tiny_spec().model, Machine("cpu", "float32", ""))


@pytest.fixture
def free(monkeypatch):
    """Fake the free space of all disks; return the folders that are queried."""

    def make(size):
        queried = []
        monkeypatch.setattr(
            "job.training.disk_space.shutil.disk_usage",
            lambda folder: queried.append(folder) or SimpleNamespace(free=size),
        )
        return queried

    return make


def needed(model):
    return (MAX_CHECKPOINTS + 1) * checkpoint_bytes(model) + model_bytes(model) + RESULTS_BYTES


@pytest.mark.parametrize("used", [0, 100_000])
def test_the_output_of_a_run_is_estimated(model, free, tmp_path, used):
    """Checkpoints with the optimizer's state, the model and the report, here all on one disk.

    Existing checkpoints of a resumed run are subtracted.
    """
    workspace = Workspace(tmp_path)
    (workspace.checkpoints / "checkpoint-1").mkdir(parents=True)
    (workspace.checkpoints / "checkpoint-1" / "model").write_bytes(bytes(used))
    free(needed(model) - used)
    require_disk_space(model, workspace)
    free(needed(model) - used - 1)
    with pytest.raises(MachineError, match=rf"{(needed(model) - used) / 1e9:.3g} GB .*{tmp_path}"):
        require_disk_space(model, workspace)


@pytest.mark.skipif(sys.platform != "linux", reason="the second disk is /dev/shm")
def test_each_disk_is_checked_for_its_part(model, free, tmp_path, monkeypatch):
    """Checkpoints are often on another disk; here in shared memory."""
    workspace = Workspace(tmp_path)
    workspace.checkpoints = Path(tempfile.mkdtemp(dir="/dev/shm"))
    small = needed(model) // 2
    monkeypatch.setattr("job.training.disk_space.RESULTS_BYTES", small - model_bytes(model))
    queried = free(small)
    try:
        require_disk_space(model, workspace)
    finally:
        shutil.rmtree(workspace.checkpoints)
    assert queried == [workspace.checkpoints, tmp_path]


@pytest.mark.parametrize("room", [True, False])
def test_a_checkpoint_that_does_not_fit_is_not_started(tiny_spec, model, free, tmp_path, room):
    """A real checkpoint is as large as estimated, plus some kilobytes of small files."""
    spec = tiny_spec(training__epochs="1", training__checkpoint_steps="9")
    dataset = load_dataset(spec.data, {})
    base = score_base(model, dataset, choose_dimensions(spec.evaluation, model.width), spec)
    hyperparameters, workspace = resolve(spec.training, model, dataset.train), Workspace(tmp_path)
    inputs = TrainingInputs(model, dataset.train, base.validation, hyperparameters.spec)
    trainer = build_trainer(inputs, workspace, StopSignal())
    # Data is loaded without worker processes, so /dev/shm cannot run full.
    assert trainer.args.dataloader_num_workers == 0
    if room:
        trainer.train()
        checkpoint = workspace.checkpoints / "checkpoint-9"
        written = sum(p.stat().st_size for p in checkpoint.rglob("*") if p.is_file())
        assert 0 < written - checkpoint_bytes(model) < 200_000
    else:
        free(1000)
        with pytest.raises(MachineError, match="The next checkpoint needs"):
            trainer.train()
        assert not list(workspace.checkpoints.glob("checkpoint-*"))


def test_the_disk_is_checked_only_if_a_checkpoint_is_due(model, free, tmp_path):
    """The check is exact to the byte, at the end of a step or of an epoch."""
    check, size = DiskSpaceCheck(model, Workspace(tmp_path)), checkpoint_bytes(model)
    due, not_due = SimpleNamespace(should_save=True), SimpleNamespace(should_save=False)
    free(size)
    check.on_step_end(None, None, due)
    free(size - 1)
    check.on_step_end(None, None, not_due)
    for hook in (check.on_step_end, check.on_epoch_end):
        with pytest.raises(MachineError, match=rf"{size / 1e9:.3g} GB .*`{tmp_path}`"):
            hook(None, None, due)


def test_a_checkpoint_waits_for_the_deletion_of_older_ones_only_if_it_does_not_fit(
    model, free, tmp_path
):
    """A thread deletes them while the training goes on."""
    size, waits = checkpoint_bytes(model), []

    def delete():
        waits.append(1)
        free(size)

    check = DiskSpaceCheck(model, Workspace(tmp_path), None, delete)
    for room in (size - 1, size):
        free(room)
        check.on_step_end(None, None, SimpleNamespace(should_save=True))
        assert len(waits) == 1
