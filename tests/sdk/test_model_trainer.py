"""The image's contract, tested with another client: `ModelTrainer` of SageMaker's SDK."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from remote import files_of
from sagemaker_server import SageMaker

from job.spec.parse import build_spec
from job.storage.workspace import Workspace

pytestmark = pytest.mark.sdk

SUBMIT = Path(__file__).with_name("submit.py")
# A value of each type that the SDK converts to a string; 1e-5 becomes `1e-05`, a string in YAML.
DOCUMENT = {
    "data": {"seed": "7"},
    "model": {"base": "me/tiny", "precision": "float32", "trust_remote_code": False, "name": None},
    "training": {"epochs": 3, "batch_size": 32, "learning_rate": 3e-3, "weight_decay": 1e-5},
    "evaluation": {"dimensions": [64, 32, 16], "main_dimension": 32, "permutations": 1000},
}
HYPERPARAMETERS = {
    f"{section}.{field}": value
    for section, fields in DOCUMENT.items()
    for field, value in fields.items()
}
# Parts of the report that do not depend on machine, time or job name.
STABLE_PARTS = ("verdict", "recommendation", "scores", "comparison", "data", "prompts", "spec")


@pytest.fixture
def sdk():
    """The Python interpreter of the SDK's environment."""
    if "EMBEDTUNE_TEST_SDK" not in os.environ:
        pytest.skip("no SDK to test with: `make test-sdk` installs it")
    return os.environ["EMBEDTUNE_TEST_SDK"]


@pytest.fixture
def server(pairs_file, tiny_encoder):
    with SageMaker() as server:
        server.s3.bucket("box")
        server.s3.put("box", "pairs/pairs.jsonl", pairs_file.read_bytes())
        for name, content in files_of(tiny_encoder).items():
            server.s3.put("box", f"encoder/{name}", content)
        yield server


@pytest.fixture
def submit(server, sdk, tmp_path):
    """Return a function that runs submit.py and returns its outcome and its job."""
    role, image = server.add_role("trainer"), server.add_image("embedtune", "1")
    config = tmp_path / "sagemaker.json"
    opted_out = {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}
    config.write_text(json.dumps({"SchemaVersion": "1.0", "SageMaker": opted_out}), "utf-8")
    environment = server.environment(
        tmp_path,
        SAGEMAKER_USER_CONFIG_OVERRIDE=str(config),
        # The validation simulates an IAM policy, which moto does not support.
        SAGEMAKER_VALIDATE_ROLE="false",
        # A closed port, so that the SDK cannot send anything to other machines.
        HTTPS_PROXY="http://127.0.0.1:9",
    )

    def work(hyperparameters):
        done = subprocess.run(
            [sdk, str(SUBMIT), role, image, json.dumps(hyperparameters)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert len(server.jobs) == 1, done.stderr
        (name,) = server.jobs
        server.wait(name)
        return done, server.jobs[name]

    return work


def test_a_job_of_the_sdk_equals_one_of_ours(server, submit, tmp_path, pairs_file, tiny_encoder):
    """With hyperparameters only, without channel `spec`, model and report are the same."""
    done, job = submit(HYPERPARAMETERS)
    assert done.returncode == 0, done.stderr
    assert job.status == "Completed"

    model, results = (unpacked(server, job, kind) for kind in ("model", "output"))
    assert build_spec(json.loads(results["spec.json"])) == build_spec(DOCUMENT)
    ours = run_with_our_spec(tmp_path / "ml", pairs_file, tiny_encoder)
    assert timeless(model) == timeless(files_of(ours.model))
    assert timeless(results) == timeless(files_of(ours.results))
    report = json.loads(results["report/report.json"])
    own = json.loads((ours.report / "report.json").read_text("utf-8"))
    assert {key: report[key] for key in STABLE_PARTS} == {key: own[key] for key in STABLE_PARTS}
    assert report["verdict"]["improved"]


def test_the_sdk_shows_the_jobs_own_line(submit):
    """For a mistyped hyperparameter SageMaker passes on `output/failure` and the exit code."""
    done, job = submit({"training.epoch": 3})
    assert done.returncode == 1
    assert job.exit_codes == [3]
    assert "Did you mean `training.epochs`?, exit code: 3" in done.stderr


def unpacked(server, job, kind):
    """Read the files of an archive with a job's results."""
    archive = server.s3.get("box", f"results/{job.name}/output/{kind}.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = [member for member in tar.getmembers() if member.isfile()]
        return {Path(member.name).as_posix(): tar.extractfile(member).read() for member in files}


def timeless(files):
    """Remove files whose content or name depends on the time."""
    timed = ("README.md", "logs/", "manifest.json", "report/")
    return {name: content for name, content in files.items() if not name.startswith(timed)}


def run_with_our_spec(root, pairs_file, tiny_encoder):
    """Run the job as the launcher does: with a spec, in a separate workspace."""
    workspace = Workspace(root)
    workspace.job_spec.parent.mkdir(parents=True)
    workspace.job_spec.write_text(build_spec(DOCUMENT).to_json(), "utf-8")
    workspace.channel_folder("data").mkdir()
    shutil.copy(pairs_file, workspace.channel_folder("data"))
    shutil.copytree(tiny_encoder, workspace.channel_folder("model"))
    command = [sys.executable, "-P", "-m", "job", "train", "--workspace", str(root)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return workspace
