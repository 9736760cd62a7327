"""Whether the disk suffices is known before hours are spent, and looked at before each write."""

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
    """Make disks with so much free space; returns the folders that were asked about."""

    def make(size):
        asked = []
        monkeypatch.setattr(
            "job.training.disk_space.shutil.disk_usage",
            lambda folder: asked.append(folder) or SimpleNamespace(free=size),
        )
        return asked

    return make


def needed(model):
    return (MAX_CHECKPOINTS + 1) * checkpoint_bytes(model) + model_bytes(model) + RESULTS_BYTES


@pytest.mark.parametrize("there", [0, 100_000])
def test_what_a_run_will_write_is_estimated(model, free, tmp_path, there):
    """Checkpoints with the optimizer's moments, the model, the report: all on one disk here.

    The checkpoints of a run that is resumed are there already.
    """
    place = Workspace(tmp_path)
    (place.checkpoints / "checkpoint-1").mkdir(parents=True)
    (place.checkpoints / "checkpoint-1" / "model").write_bytes(bytes(there))
    free(needed(model) - there)
    require_disk_space(model, place)
    free(needed(model) - there - 1)
    with pytest.raises(MachineError, match=rf"{(needed(model) - there) / 1e9:.3g} GB .*{tmp_path}"):
        require_disk_space(model, place)


@pytest.mark.skipif(sys.platform != "linux", reason="the second disk is /dev/shm")
def test_each_disk_has_its_own_part(model, free, tmp_path, monkeypatch):
    """Checkpoints often lie on a disk of their own: here in shared memory."""
    place = Workspace(tmp_path)
    place.checkpoints = Path(tempfile.mkdtemp(dir="/dev/shm"))
    small = needed(model) // 2
    monkeypatch.setattr("job.training.disk_space.RESULTS_BYTES", small - model_bytes(model))
    asked = free(small)
    try:
        require_disk_space(model, place)
    finally:
        shutil.rmtree(place.checkpoints)
    assert asked == [place.checkpoints, tmp_path]


@pytest.mark.parametrize("room", [True, False])
def test_a_checkpoint_is_written_whole_or_not_begun(tiny_spec, model, free, tmp_path, room):
    """A real one is no larger than estimated, but for files of some kilobytes."""
    spec = tiny_spec(training__epochs="1")
    dataset = load_dataset(spec.data, {})
    base = score_base(model, dataset, choose_dimensions(spec.evaluation, model.width), spec)
    hyperparameters, place = resolve(spec.training, model, dataset.train), Workspace(tmp_path)
    inputs = TrainingInputs(model, dataset.train, base.validation, hyperparameters.spec)
    trainer = build_trainer(inputs, place, StopSignal())
    # Nothing loads its data in processes of its own, so neither /dev/shm nor workers can fail.
    assert trainer.args.dataloader_num_workers == 0
    if room:
        trainer.train()
        written = sum(p.stat().st_size for p in place.checkpoints.rglob("*") if p.is_file())
        assert 0 < written - checkpoint_bytes(model) < 200_000
    else:
        free(1000)
        with pytest.raises(MachineError, match="The next checkpoint takes"):
            trainer.train()
        assert not list(place.checkpoints.glob("checkpoint-*"))


def test_the_disk_is_looked_at_where_a_checkpoint_is_asked_for(model, free, tmp_path):
    """To the byte, at the end of a step or of an epoch."""
    guard, size = DiskSpaceCheck(model, Workspace(tmp_path)), checkpoint_bytes(model)
    wanted, unwanted = SimpleNamespace(should_save=True), SimpleNamespace(should_save=False)
    free(size)
    guard.on_step_end(None, None, wanted)
    free(size - 1)
    guard.on_step_end(None, None, unwanted)
    for ask in (guard.on_step_end, guard.on_epoch_end):
        with pytest.raises(MachineError, match=rf"{size / 1e9:.3g} GB .*`{tmp_path}`"):
            ask(None, None, wanted)
