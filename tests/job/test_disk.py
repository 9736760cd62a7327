"""Whether the disk suffices is known before hours are spent, and looked at before each write."""

from types import SimpleNamespace

import pytest

from job.baseline import score_base
from job.data import load_dataset
from job.disk import (
    CHECKPOINTS_KEPT,
    RESULTS,
    EnoughDisk,
    checkpoint_bytes,
    model_bytes,
    require_room_for_training,
)
from job.errors import MachineError
from job.evaluate import choose_dimensions
from job.interruption import StopSignal
from job.machine import Machine
from job.model import load_model
from job.recipe import resolve
from job.trainer import TrainingInputs, build_trainer
from job.workspace import Workspace


@pytest.fixture
def model(tiny_spec):
    return load_model(tiny_spec().model, Machine("cpu", "float32", ""))


@pytest.fixture
def trainer(tiny_spec, model, tmp_path):
    """Set up a training of one epoch, whose end asks for a checkpoint."""
    spec = tiny_spec(training__epochs="1")
    dataset = load_dataset(spec.data, {})
    base = score_base(model, dataset, choose_dimensions(spec.evaluation, model.width), spec)
    recipe = resolve(spec.training, model, dataset.train)
    place = Workspace(tmp_path)
    return build_trainer(
        TrainingInputs(model, dataset.train, base.validation, recipe.spec),
        place,
        StopSignal(),
    )


@pytest.fixture
def free(monkeypatch):
    """Make a disk with so much free space."""

    def make(size):
        found = SimpleNamespace(free=size)
        monkeypatch.setattr("job.disk.shutil.disk_usage", lambda _: found)

    return make


def needed(model):
    return (CHECKPOINTS_KEPT + 1) * checkpoint_bytes(model) + model_bytes(model) + RESULTS


def test_what_a_run_will_write_is_estimated(model, free, tmp_path):
    """Checkpoints with the optimizer's moments, the model, the report: all on one disk here."""
    free(needed(model))
    require_room_for_training(model, Workspace(tmp_path / "work"))
    free(needed(model) - 1)

    with pytest.raises(MachineError) as caught:
        require_room_for_training(model, Workspace(tmp_path / "work"))

    assert str(caught.value) == (
        f"The run needs about {needed(model) / 1e9:.3g} GB of disk, and "
        f"{needed(model) / 1e9:.3g} GB are free where `{tmp_path}` lies. Free some, or take a "
        "larger disk."
    )


def test_the_checkpoints_of_a_run_that_is_taken_up_are_there_already(model, free, tmp_path):
    place = Workspace(tmp_path)
    (place.checkpoints / "checkpoint-1").mkdir(parents=True)
    (place.checkpoints / "checkpoint-1" / "model").write_bytes(bytes(100_000))

    free(needed(model) - 100_000)
    require_room_for_training(model, place)
    free(needed(model) - 100_001)
    with pytest.raises(MachineError, match="The run needs"):
        require_room_for_training(model, place)


def test_each_disk_has_its_own_part(model, tmp_path, monkeypatch):
    """Checkpoints often lie on a disk of their own."""
    place, small = Workspace(tmp_path), needed(model) // 2
    place.checkpoints.mkdir(parents=True)
    asked = []

    def look(folder):
        asked.append(folder)
        return SimpleNamespace(free=small)

    monkeypatch.setattr("job.disk.shutil.disk_usage", look)
    monkeypatch.setattr(
        "job.disk._disk_of", lambda path: int(path.is_relative_to(place.checkpoints))
    )
    monkeypatch.setattr("job.disk.RESULTS", small - model_bytes(model))

    require_room_for_training(model, place)

    assert asked == [place.checkpoints, tmp_path]


def test_the_estimate_covers_what_training_writes(trainer, model, tmp_path):
    """A real checkpoint is no larger than estimated, but for files of some kilobytes."""
    place = Workspace(tmp_path)
    trainer.train()

    written = sum(p.stat().st_size for p in place.checkpoints.rglob("*") if p.is_file())

    assert 0 < written - checkpoint_bytes(model) < 200_000


def test_a_checkpoint_that_does_not_fit_is_not_begun(model, free, tmp_path):
    """Only where one is asked for; the message says that nothing is lost."""
    guard, size = EnoughDisk(model, Workspace(tmp_path)), checkpoint_bytes(model)
    wanted, unwanted = SimpleNamespace(should_save=True), SimpleNamespace(should_save=False)

    free(size)
    guard.on_step_end(None, None, wanted)
    free(size - 1)
    guard.on_step_end(None, None, unwanted)
    for ask in (guard.on_step_end, guard.on_epoch_end):
        with pytest.raises(MachineError) as caught:
            ask(None, None, wanted)
        assert str(caught.value) == (
            f"The next checkpoint takes about {size / 1e9:.3g} GB of disk, and {size / 1e9:.3g} "
            f"GB are free where `{tmp_path}` lies. Free some and launch the run again: it goes on "
            "from the checkpoint before."
        )


def test_training_ends_before_a_checkpoint_that_does_not_fit(trainer, free, tmp_path):
    """Half of one would help nobody: none is there."""
    free(1000)

    with pytest.raises(MachineError, match="The next checkpoint takes"):
        trainer.train()

    assert not list(Workspace(tmp_path).checkpoints.glob("checkpoint-*"))
    # Nothing loads its data in processes of its own, so neither /dev/shm nor workers can fail.
    assert trainer.args.dataloader_num_workers == 0
