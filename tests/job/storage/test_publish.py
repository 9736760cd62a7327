"""Results are published report first, model last, and complete only with their manifest."""

import hashlib
import json

import pytest

from job.core.errors import SpecError, StorageError
from job.spec.parse import build_spec
from job.storage import publish
from job.storage.stores import FolderStore
from job.storage.workspace import Workspace

SPEC = build_spec({}, {"data.source": "pairs.jsonl"})
REPORT = {"report/report.json", "report/report.md"}
MODEL = {"model/model.safetensors", "model/modules.json"}
OTHERS = {"spec.json", "per_query.parquet", "data/qrels.tsv", "logs/job.log"}


@pytest.fixture
def workspace(tmp_path):
    """Create a workspace with results and their manifest."""
    made = Workspace(tmp_path / "work")
    for name in REPORT | MODEL | OTHERS:
        path = (made.root if name in MODEL else made.results) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}", "utf-8")
    publish.write_manifest(made)
    return made


class RecordingStore(FolderStore):
    """Records the names of each write, in order."""

    def __init__(self, folder):
        super().__init__(folder)
        self.parts = []

    def put(self, files):
        self.parts.append(set(files))
        super().put(files)

    def write(self, name, text):
        self.parts.append({name})
        super().write(name, text)


@pytest.fixture
def store(tmp_path):
    return RecordingStore(tmp_path / "result")


def test_every_file_is_published_in_order_and_listed_in_the_manifest(workspace, store):
    """It has each file's size and SHA-256; files of an unfinished run are replaced."""
    earlier = store.folder / "model" / "model.safetensors"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("half a mod", "utf-8")

    publish.upload(workspace, store)
    assert not publish.is_complete(store)
    publish.complete(workspace, store)

    assert publish.is_complete(store)
    assert store.parts == [REPORT, OTHERS, MODEL, {"manifest.json"}]
    assert json.loads(store.read("manifest.json")) == {
        name: {
            "bytes": len(content := store.read(name).encode("utf-8")),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        for name in REPORT | MODEL | OTHERS
    }
    assert earlier.read_text("utf-8") == "content of model/model.safetensors"


@pytest.mark.parametrize("name", ["spec.json", "report/report.md", "model/model.safetensors"])
def test_an_incomplete_result_has_no_manifest(workspace, store, name):
    """Whether the first or the last file cannot be written."""
    in_the_way = store.folder / name
    in_the_way.mkdir(parents=True)

    with pytest.raises(StorageError, match=str(in_the_way)):
        publish.upload(workspace, store)
    assert not publish.is_complete(store)


def test_a_destination_belongs_to_one_spec(store, tmp_path):
    """Reserving proves that it is writable and keeps other specs away; repeating it is harmless."""
    publish.reserve(store, SPEC)
    publish.reserve(store, SPEC)
    assert store.parts == [{"spec.json"}]
    assert store.read("spec.json") == SPEC.to_json()

    other = build_spec(SPEC.model_dump(mode="json"), {"training.epochs": "9"})
    with pytest.raises(SpecError, match=rf"{store.folder}.*`training\.epochs`"):
        publish.reserve(store, other)
    (tmp_path / "file").write_text("in the way", "utf-8")
    with pytest.raises(StorageError, match=r"file/run/spec\.json"):
        publish.reserve(FolderStore(tmp_path / "file" / "run"), SPEC)


def test_published_results_can_be_deleted_but_not_their_folders(workspace):
    """SageMaker would upload, and bill, what is left in them; other folders keep their files."""
    workspace.checkpoints.mkdir()
    (workspace.checkpoints / "provenance.json").touch()
    publish.delete_results(workspace)
    for folder in (workspace.results, workspace.model):
        assert list(folder.iterdir()) == []
    assert (workspace.checkpoints / "provenance.json").is_file()
    publish.delete_results(Workspace(workspace.root / "none"))
