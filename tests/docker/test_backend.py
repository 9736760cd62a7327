"""`embedtune launch --backend docker` and the other commands for its jobs, on a real engine."""

import json
import os
import re
import shlex
import signal
import subprocess

import pytest
from containers import TINY_JOB, docker
from docker_desk import LONG, until
from s3_server import S3

from job.core.errors import BackendError, OutOfMemory

pytestmark = pytest.mark.docker


@pytest.fixture
def at_work(desk):
    """A detached job with long training."""
    cli = desk(epochs=LONG)
    done = cli.run(*cli.launch("--detach"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "To follow it: embedtune logs r --follow"
    (name,) = cli.containers()
    with subprocess.Popen(
        ["docker", "logs", "--follow", name], stderr=subprocess.PIPE, text=True
    ) as log:
        until(log, "train: step=")
        log.terminate()
    return cli


def test_the_same_spec_scores_the_same_as_a_process_and_in_a_container(desk):
    """The real model on real pairs has bit-identical weights, so the same scores."""
    cli = desk()
    fields = [part for name, value in TINY_JOB.items() for part in ("--set", f"{name}={value}")]
    (cli.folder / "job.yaml").write_text("{}")
    contained = cli.run(*cli.launch(*fields, "--output", "a", "--price-per-hour", "1.5"))
    assert contained.returncode == 0, contained.stderr
    bare = cli.run("launch", "job.yaml", *fields, "--output", "b", "--name", "r")
    assert bare.returncode == 0, bare.stderr
    reports = [
        json.loads((cli.folder / output / "r/report/report.json").read_text("utf-8"))
        for output in "ab"
    ]
    assert reports[0]["scores"] == reports[1]["scores"]
    manifests = [json.loads((cli.folder / o / "r/manifest.json").read_text()) for o in "ab"]
    assert len({m["model/model.safetensors"]["sha256"] for m in manifests}) == 1

    assert "train: step=" in contained.stderr
    assert contained.stdout.startswith("r: nDCG@10 on ")
    assert cli.containers() == []
    receipt = json.loads((cli.folder / "a/r/receipt.json").read_text())
    assert receipt.pop("seconds") > 0
    assert receipt.pop("usd") > 0
    assert receipt.pop("image").startswith("sha256:")
    assert receipt == {
        "backend": "docker",
        "exit_code": 0,
        "container_exit_code": 0,
        "ran_out_of_memory": False,
    }
    owners = {path.stat().st_uid for path in (cli.folder / "a").rglob("*")}
    assert owners == {os.getuid()}


def test_ctrl_c_stops_the_container_and_a_second_launch_resumes(desk):
    """The launcher waits for the checkpoint; the printed command resumes the run."""
    cli = desk(epochs=LONG)
    launched = cli.start()
    until(launched, "train: step=")
    os.killpg(launched.pid, signal.SIGINT)
    _, stderr = launched.communicate(timeout=300)
    assert launched.returncode == 10, stderr
    step = int(re.search(r"interrupted after step (\d+) of", stderr)[1])
    assert cli.containers() == []
    assert cli.receipt()["exit_code"] == 10
    listing = cli.run("ls")
    assert "unfinished" in listing.stdout

    resume = shlex.split(stderr.splitlines()[-1].removeprefix("To resume: embedtune "))
    done = cli.run(*resume)
    assert done.returncode == 0, done.stderr
    assert cli.report()["training"]["resumed_from_step"] == step


def test_a_killed_container_is_recorded_and_resumed(at_work):
    """The next command records the end, and the same launch resumes."""
    docker("kill", *at_work.containers())
    assert at_work.run("status", "r").returncode == 0
    assert at_work.receipt()["exit_code"] == BackendError.exit_code
    done = at_work.run(*at_work.launch())
    assert done.returncode == 0, done.stderr
    assert at_work.receipt()["exit_code"] == 0
    assert at_work.containers() == []


def test_a_job_outlives_its_launcher(desk):
    """After the launcher is killed, `status`, `logs --follow` and `report` find the job."""
    cli = desk(epochs=20)
    launched = cli.start()
    until(launched, "train: start")
    launched.kill()
    for pipe in (launched.stdout, launched.stderr):
        pipe.close()
    launched.wait()
    (container,) = cli.containers()

    status = cli.run("status", "r").stdout
    assert re.search(r"state +running", status), status
    assert re.search(rf"job +docker {container}", status), status
    again = cli.run(*cli.launch())
    assert again.returncode == 6
    assert "`embedtune logs --follow r`" in again.stderr.splitlines()[-1]

    logs = cli.run("logs", "-f")
    assert logs.returncode == 0, logs.stderr
    assert "fetch: start" in logs.stdout
    verdict, *publish = logs.stdout.splitlines()[-3:]
    assert "verdict: " in verdict
    assert all("publish: " in line for line in publish)
    # `logs` removes the container only if it saw the job end.
    cli.run("status")
    assert cli.containers() == []
    assert cli.run("report").returncode == 0
    assert cli.run("logs").stdout.splitlines()[-1] == logs.stdout.splitlines()[-1]


def test_stop_from_another_folder_leaves_a_checkpoint(at_work, tmp_path):
    """A detached job is found by its name and stopped, and its end is recorded."""
    stopped = at_work.run("stop", "r", cwd=tmp_path)
    assert (stopped.returncode, stopped.stderr.splitlines()[-1]) == (0, "The run r is unfinished.")
    assert list((at_work.results / ".work" / "checkpoints").glob("checkpoint-*"))
    assert at_work.receipt()["exit_code"] == 10
    assert at_work.containers() == []
    assert "The run was interrupted" in at_work.run("logs").stdout
    status = at_work.run("status").stdout
    assert re.search(r"exit code +10, the run was interrupted", status), status
    again = at_work.run("stop")
    assert (again.returncode, again.stderr) == (
        0,
        "The run r is unfinished; there is nothing to stop.\n",
    )


def test_the_command_of_a_dry_run_can_be_pasted(desk):
    """stdout is one JSON document, whose `command` starts the job in a shell."""
    cli = desk(epochs=1)
    dry = cli.run(*cli.launch("--dry-run"))
    assert dry.returncode == 0, dry.stderr
    document = json.loads(dry.stdout)
    assert list(document) == ["spec", "request"]
    assert cli.containers() == []
    pasted = cli.run("sh", "-c", document["request"]["command"])
    assert pasted.returncode == 0, pasted.stderr
    followed = cli.run("logs", "--follow")
    assert followed.returncode == 0, followed.stderr
    assert cli.run("report").stdout.startswith("r: nDCG@10 on ")


def test_running_out_of_memory_is_explained(desk):
    cli = desk()
    done = cli.run(*cli.launch("--memory", "200m", "--set", "model.base=builtin:minilm"))
    assert done.returncode == OutOfMemory.exit_code, done.stderr
    assert "Raise `--memory`" in done.stderr.splitlines()[-1]
    assert cli.receipt()["ran_out_of_memory"]


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        # A bare name is never pulled from a public registry.
        (("--image", "embedtune-nobody-built"), {}, "build it with `make image`"),
        ((), {"DOCKER_HOST": "unix:///nowhere/docker.sock"}, "engine does not respond"),
        (("--gpus", "all"), {}, "install the NVIDIA Container Toolkit"),
    ],
)
def test_an_engine_error_is_one_line_with_a_fix(desk, options, environment, message):
    """A container that was created but not started is removed."""
    if "--gpus" in options and "nvidia" in docker("info", "--format", "{{json .Runtimes}}").stdout:
        pytest.skip("this engine has the NVIDIA runtime")
    cli = desk()
    done = cli.run(*cli.launch(*options), **environment)
    assert done.returncode == BackendError.exit_code
    assert message in done.stderr.splitlines()[-1]
    assert cli.containers() == []


def test_the_callers_hub_cache_is_read_and_never_written(desk, hub_cache):
    """Without network, the model comes from the caller's cache, which is mounted read-only."""
    cli = desk(encoder=hub_cache.model)
    before = hub_cache.listing()
    environment = {"HF_HUB_CACHE": str(hub_cache.folder), "HF_HUB_OFFLINE": "1"}
    done = cli.run(*cli.launch(), **environment)
    assert done.returncode == 0, done.stderr
    assert cli.report()["inputs"]["model"]["commit"] == hub_cache.commit
    assert hub_cache.listing() == before


def test_data_and_results_may_be_in_s3(desk, pairs_file):
    """The caller's credentials are passed by name and never printed; the report is fetched."""
    cli = desk(epochs=1)
    with S3() as server:
        server.bucket("box")
        server.put("box", "pairs.jsonl", pairs_file.read_bytes())
        planted = {"AWS_ACCESS_KEY_ID": "PLANTEDKEY", "AWS_SECRET_ACCESS_KEY": "planted-secret"}
        environment = server.environment | planted
        there = ("--data", "s3://box/pairs.jsonl", "--output", "s3://box/runs")
        command = cli.launch(*there, "--network", "host")
        dry = cli.run(*command, "--dry-run", **environment)
        assert dry.returncode == 0, dry.stderr
        done = cli.run(*command, **environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("r: nDCG@10 on ")
        assert server.get("box", "runs/r/manifest.json")
    for text in (dry.stdout, done.stdout, done.stderr):
        assert "PLANTEDKEY" not in text
        assert "planted-secret" not in text


def test_the_image_is_shown_layer_by_layer(image, desk):
    """`embedtune image inspect` shows the revision, and the size of each layer."""
    done = desk().run("image", "inspect", image)
    assert done.returncode == 0, done.stderr
    assert "linux/amd64" in done.stdout
    assert re.search(r"org\.opencontainers\.image\.revision +[0-9a-f]{12}", done.stdout)
    sizes = [float(s.replace(",", "")) for s in re.findall(r"(?m)^ *([\d,]+\.\d\d)  ", done.stdout)]
    assert len(sizes) >= 5
