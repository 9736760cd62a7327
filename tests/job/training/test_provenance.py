"""Checkpoints are gone on from with what they were made from, and with nothing else."""

import json

import pytest

from job.core.errors import TrainingError
from job.spec.parse import build_spec
from job.storage.workspace import Workspace
from job.training.provenance import provenance_of, verify_checkpoints

DATA = {"train": "aa", "validation": "bb", "test": "cc"}


def origin(model="m1", precision="float32", data=DATA, **settings):
    spec = build_spec({}, {key.replace("__", "."): value for key, value in settings.items()})
    return provenance_of(spec, data, model, precision)


@pytest.fixture
def workspace(tmp_path):
    """One with a checkpoint and what was found out before it."""
    workspace = Workspace(tmp_path)
    verify_checkpoints(workspace, origin())
    (workspace.checkpoints / "checkpoint-4").mkdir()
    workspace.baseline.write_bytes(b"scores")
    return workspace


def test_the_same_beginning_goes_on(workspace):
    """Where the results go is no part of how they are made."""
    verify_checkpoints(workspace, origin(output__uri="elsewhere"))
    assert workspace.baseline.exists()


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (origin(data=DATA | {"test": "dd"}), "the data was aa, bb, cc, is aa, bb, dd"),
        (origin(training__seed="7", data__limit="9"), "of the spec `data.limit`, `training.seed`"),
        (
            origin() | {"versions": origin()["versions"] | {"torch": "0.1"}},
            f"torch was {origin()['versions']['torch']}, is 0.1",
        ),
        (
            origin(model="m2", precision="bfloat16"),
            "the base model was m1, is m2; the precision was float32, is bfloat16",
        ),
    ],
)
def test_another_beginning_is_refused_with_the_difference(workspace, now, told):
    """Nothing is touched: the same job can still go on."""
    before = workspace.provenance.read_text("utf-8")
    with pytest.raises(TrainingError) as caught:
        verify_checkpoints(workspace, now)
    assert f"`{workspace.checkpoints}` were made from something else: {told}. " in str(caught.value)
    assert workspace.provenance.read_text("utf-8") == before
    assert workspace.baseline.exists()


@pytest.mark.parametrize("content", [None, "{", "[]", '{"spec": {"version": 7}}'])
def test_checkpoints_of_unknown_origin_are_refused(workspace, content):
    """Those of an earlier version of embedtune too."""
    workspace.provenance.unlink()
    if content is not None:
        workspace.provenance.write_text(content, "utf-8")
    with pytest.raises(TrainingError, match="were made from something else"):
        verify_checkpoints(workspace, origin())


def test_before_the_first_checkpoint_a_change_only_makes_it_begin_afresh(workspace):
    """What was found out of the other data is not taken up."""
    (workspace.checkpoints / "checkpoint-4").rmdir()
    verify_checkpoints(workspace, origin(model="m2"))
    assert not workspace.baseline.exists()
    assert json.loads(workspace.provenance.read_text("utf-8"))["model"] == "m2"
