"""A run resumes only with the inputs that its checkpoints were trained from."""

import json

import pytest

from job.core.errors import TrainingError
from job.spec.parse import build_spec
from job.storage.workspace import Workspace
from job.training.provenance import provenance_of, verify_checkpoints

DATA = {"train": "aa", "validation": "bb", "test": "cc"}


def provenance(model="m1", precision="float32", data=DATA, **settings):
    spec = build_spec({}, {key.replace("__", "."): value for key, value in settings.items()})
    return provenance_of(spec, data, model, precision)


@pytest.fixture
def workspace(tmp_path):
    """A workspace with a checkpoint and cached baseline scores."""
    workspace = Workspace(tmp_path)
    verify_checkpoints(workspace, provenance())
    (workspace.checkpoints / "checkpoint-4").mkdir()
    workspace.baseline.write_bytes(b"scores")
    return workspace


def test_a_run_with_the_same_inputs_resumes(workspace):
    """The output URI is not an input."""
    verify_checkpoints(workspace, provenance(output__uri="elsewhere"))
    assert workspace.baseline.exists()


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        (provenance(data=DATA | {"test": "dd"}), "the data was aa, bb, cc, is aa, bb, dd"),
        (
            provenance(training__seed="7", data__limit="9"),
            "changed in the spec: `data.limit`, `training.seed`",
        ),
        (
            provenance() | {"versions": provenance()["versions"] | {"torch": "0.1"}},
            f"torch was {provenance()['versions']['torch']}, is 0.1",
        ),
        (
            provenance(model="m2", precision="bfloat16"),
            "the base model was m1, is m2; the precision was float32, is bfloat16",
        ),
        (
            provenance() | {"spec": {"data": provenance()["spec"]["data"]}},
            "the spec was written by another version",
        ),
    ],
)
def test_other_inputs_are_refused_with_the_difference(workspace, now, difference):
    """No file is changed, so the original job can still resume."""
    before = workspace.provenance.read_text("utf-8")
    with pytest.raises(TrainingError) as caught:
        verify_checkpoints(workspace, now)
    message = str(caught.value)
    assert f"`{workspace.checkpoints}` were trained from other inputs: {difference}. " in message
    assert workspace.provenance.read_text("utf-8") == before
    assert workspace.baseline.exists()


@pytest.mark.parametrize("content", [None, "{", "[]", '{"spec": {"version": 7}}'])
def test_checkpoints_of_unknown_provenance_are_refused(workspace, content):
    """The record is missing, damaged, or written by another version of embedtune."""
    workspace.provenance.unlink()
    if content is not None:
        workspace.provenance.write_text(content, "utf-8")
    with pytest.raises(TrainingError, match="were trained from other inputs"):
        verify_checkpoints(workspace, provenance())


def test_without_checkpoints_other_inputs_clear_the_caches(workspace):
    """The run starts over, and the new inputs are recorded."""
    (workspace.checkpoints / "checkpoint-4").rmdir()
    verify_checkpoints(workspace, provenance(model="m2"))
    assert not workspace.baseline.exists()
    assert json.loads(workspace.provenance.read_text("utf-8"))["model"] == "m2"
