"""Results are published whole or not at all: report first, model last, and the manifest ends it."""

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
    """Fill a workspace with results and their manifest."""
    place = Workspace(tmp_path / "work")
    for name in REPORT | MODEL | OTHERS:
        path = (place.root if name in MODEL else place.results) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}", "utf-8")
    publish.write_manifest(place)
    return place


class Watched(FolderStore):
    """Notes what is put into it, in order."""

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
def place(tmp_path):
    return Watched(tmp_path / "result")


def test_every_file_is_published_in_order_and_listed_in_the_manifest(workspace, place):
    """What an unfinished run left there is replaced; size and digest of each file are told."""
    left = place.folder / "model" / "model.safetensors"
    left.parent.mkdir(parents=True)
    left.write_text("half a mod", "utf-8")

    publish.upload(workspace, place)
    assert not publish.is_complete(place)
    publish.complete(workspace, place)

    assert publish.is_complete(place)
    assert place.parts == [REPORT, OTHERS, MODEL, {"manifest.json"}]
    assert json.loads(place.read("manifest.json")) == {
        name: {
            "bytes": len(content := place.read(name).encode("utf-8")),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        for name in REPORT | MODEL | OTHERS
    }
    assert left.read_text("utf-8") == "content of model/model.safetensors"


@pytest.mark.parametrize("name", ["spec.json", "report/report.md", "model/model.safetensors"])
def test_a_result_that_is_only_half_there_has_no_manifest(workspace, place, name):
    """Whichever file cannot be written, first or last."""
    in_the_way = place.folder / name
    in_the_way.mkdir(parents=True)

    with pytest.raises(StorageError, match=str(in_the_way)):
        publish.upload(workspace, place)
    assert not publish.is_complete(place)


def test_a_destination_belongs_to_one_spec(place, tmp_path):
    """Claiming proves that it can be written and keeps other jobs away; again it does nothing."""
    publish.reserve(place, SPEC)
    publish.reserve(place, SPEC)
    assert place.parts == [{"spec.json"}]
    assert place.read("spec.json") == SPEC.to_json()

    other = build_spec(SPEC.model_dump(mode="json"), {"training.epochs": "9"})
    with pytest.raises(SpecError, match=rf"{place.folder}.*`training\.epochs`"):
        publish.reserve(place, other)
    (tmp_path / "file").write_text("in the way", "utf-8")
    with pytest.raises(StorageError, match=r"file/run/spec\.json"):
        publish.reserve(FolderStore(tmp_path / "file" / "run"), SPEC)
