"""The image as a SageMaker training image, started by our launcher as SageMaker starts it."""

import json
import os
import subprocess
import sys

import pytest
from sagemaker_container import Docker
from sagemaker_server import SageMaker

pytestmark = pytest.mark.docker


@pytest.fixture
def server(image):
    with SageMaker(executor=Docker(image)) as server:
        server.s3.bucket("box")
        yield server


@pytest.fixture
def launch(server, tmp_path, pairs_file, tiny_encoder, tiny_settings):
    """Return a function that launches a job in a container and follows it to its end."""
    role, image = server.add_role("trainer"), server.add_image("embedtune", "1")
    here = ["--role", role, "--image", image, "--output", "s3://box/runs"]
    fields = [part for pair in tiny_settings.items() for part in ("--set", "=".join(pair))]

    def work(name, *options):
        command = [sys.executable, "-P", "-m", "launcher.cli", "launch", "--backend", "sagemaker"]
        data = ["--data", str(pairs_file), "--model", str(tiny_encoder), "--name", name]
        return subprocess.run(
            [*command, *data, *here, *fields, *options],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=server.environment(tmp_path),
        )

    return work


def test_the_image_runs_as_a_training_job(server, launch):
    """As root, on SageMaker's paths, with the role's credentials from the container endpoint."""
    done = launch("first")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("first: nDCG@10 on ")
    report = json.loads(server.s3.get("box", "runs/first/report/report.json"))
    assert report["training"]["steps"] == 30
    assert server.jobs["first"].exit_codes == [0]


def test_an_isolated_job_has_no_network(server, launch):
    """With `--network none` the job publishes nothing, but all results arrive."""
    done = launch("alone", "--isolate")
    assert done.returncode == 0, done.stderr
    assert not [call for call in server.job_calls if call.service == "s3"]
    assert server.s3.get("box", "runs/alone/manifest.json")
    assert server.s3.get("box", "runs/alone/model/model.safetensors")


@pytest.mark.parametrize("options", [(), ("--isolate",)])
def test_two_machines_run_one_job(server, launch, options):
    """They reach each other by name, with internet access or on an isolated network."""
    name = f"two{len(options)}"
    done = launch(name, "--instances", "2", "--max-cost", "20", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name}: nDCG@10 on ")
    assert server.jobs[name].host_codes == [{"algo-1": 0, "algo-2": 0}]
    assert server.s3.get("box", f"runs/{name}/manifest.json")


def test_the_containers_exit_code_is_passed_on(launch):
    done = launch("wrong", "--set", "data.min_test_queries=300")
    assert done.returncode == 4, done.stderr
    assert "data.min_test_queries" in done.stderr
    assert os.linesep.join(done.stderr.splitlines()[-2:]).count("Traceback") == 0
