"""Finding a run's results, and collecting those that only SageMaker has."""

import json
from pathlib import Path

import pytest
from remote import emptied, served_s3

from job.storage.stores import S3Store
from launcher.backends.sagemaker.job_search import collect_results, results_store
from launcher.runs.run import Run

FILES = ("spec.json", "report/report.json", "data/train.jsonl", "model/model.safetensors")
OUTPUT = "sagemaker/first/first-2/output"
FOUND = {
    "TrainingJobName": "first-2",
    "OutputDataConfig": {"S3OutputPath": "s3://box/sagemaker/first"},
    "Environment": {"EMBEDTUNE_RESULTS": "s3://box/runs/first"},
}


@pytest.fixture(scope="module")
def server():
    with served_s3("box") as server:
        yield server


@pytest.fixture
def s3(server):
    with emptied(server):
        yield server


def upload(s3, folder, without=()):
    """Store results as SageMaker does, its data below `folder` in the job's output."""
    manifest = json.dumps({name: {"bytes": 1, "sha256": ""} for name in FILES})
    for name in (*FILES, "manifest.json"):
        parent = "" if name.startswith("model/") else folder
        if name not in without:
            text = manifest if name == "manifest.json" else name
            s3.put("box", f"{OUTPUT}/{parent}{name}", text.encode())


def collected(s3):
    run = Run(Path("first"), S3Store("s3://box/runs/first"))
    return collect_results(run, FOUND), s3.keys("box", "runs/")


@pytest.mark.parametrize("folder", ["data/", ""])
def test_both_layouts_of_uploaded_results_are_collected(s3, folder):
    """AWS's "Uncompressed model output" does not say where data is stored."""
    upload(s3, folder)
    expected = sorted(f"runs/first/{name}" for name in (*FILES, "manifest.json"))
    assert collected(s3) == (True, expected)
    # A second time, nothing is copied.
    s3.requests.clear()
    assert collected(s3) == (True, expected)
    assert {request.method for request in s3.requests} == {"HEAD"}


def test_incomplete_results_are_collected_without_their_manifest(s3):
    """After a failure SageMaker uploads no model, but the report is kept."""
    upload(s3, "data/", without=["model/model.safetensors"])
    is_complete, keys = collected(s3)
    assert not is_complete
    assert keys == [f"runs/first/{name}" for name in sorted(FILES[:3])]


def test_nothing_is_collected_of_a_job_that_finished_nothing(s3):
    s3.put("box", f"{OUTPUT}/data/logs/job.log", b"")
    assert collected(s3) == (False, [])


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({"EMBEDTUNE_RESULTS": "s3://box/runs/first"}, "s3://box/sagemaker/first"),
        # Jobs of older versions.
        ({}, "s3://box/runs/first/sagemaker"),
    ],
)
def test_the_results_are_found_by_the_jobs_description(environment, path):
    found = {"OutputDataConfig": {"S3OutputPath": path}, "Environment": environment}
    assert results_store(found).uri == "s3://box/runs/first"
