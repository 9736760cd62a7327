"""The image's contract, driven by a client that is not ours: SageMaker's `ModelTrainer`."""

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
# Of every kind that the SDK turns into a text; 1e-5 becomes `1e-05`, for YAML a text.
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
# What of a report does not tell of the machine, the moment or the job's name.
FINDINGS = ("verdict", "recommendation", "scores", "comparison", "data", "prompts", "spec")


@pytest.fixture
def sdk():
    """Interpreter of the SDK's environment."""
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
    """Run the user's program to its end; return what became of it and of its one job."""
    role, image = server.add_role("trainer"), server.add_image("embedtune", "1")
    config = tmp_path / "sagemaker.json"
    opted_out = {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}
    config.write_text(json.dumps({"SchemaVersion": "1.0", "SageMaker": opted_out}), "utf-8")
    environment = server.environment(
        tmp_path,
        SAGEMAKER_USER_CONFIG_OVERRIDE=str(config),
        # It asks IAM to simulate a policy, which moto cannot.
        SAGEMAKER_VALIDATE_ROLE="false",
        # Nothing of a test leaves this machine, whatever the SDK has in mind.
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


def test_a_job_of_the_sdks_is_as_one_of_ours(server, submit, tmp_path, pairs_file, tiny_encoder):
    """Same model, same findings, from hyperparameters alone: no launcher, no channel `spec`."""
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
    assert {key: report[key] for key in FINDINGS} == {key: own[key] for key in FINDINGS}
    assert report["verdict"]["improved"]


def test_the_sdk_shows_the_jobs_own_line(submit):
    """A mistyped hyperparameter: SageMaker hands on what `output/failure` says, and the code."""
    done, job = submit({"training.epoch": 3})
    assert done.returncode == 1
    assert job.exit_codes == [3]
    assert "Did you mean `training.epochs`?, exit code: 3" in done.stderr


def unpacked(server, job, kind):
    """Read one of the archives that SageMaker makes of a job's results."""
    archive = server.s3.get("box", f"results/{job.name}/output/{kind}.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = [member for member in tar.getmembers() if member.isfile()]
        return {Path(member.name).as_posix(): tar.extractfile(member).read() for member in files}


def timeless(files):
    """Leave out what tells of seconds, or has the time in its name."""
    timed = ("README.md", "logs/", "manifest.json", "report/")
    return {name: content for name, content in files.items() if not name.startswith(timed)}


def run_with_our_spec(root, pairs_file, tiny_encoder):
    """Run the job as the launcher would have it: with a spec, in a workspace of its own."""
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
