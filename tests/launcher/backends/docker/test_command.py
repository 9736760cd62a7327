"""The complete `docker run` of a plan: mounts, variables, and no secret values."""

import os
from pathlib import Path

import pytest

from job.spec.parse import build_spec
from launcher.backends.docker.command import run_command
from launcher.backends.docker.hosts import container_name, hosts_of
from launcher.containers.engine import Engine
from launcher.plan.machine import MachineOptions
from launcher.plan.plan import Plan

ME = f"{os.getuid()}:{os.getgid()}"
SECRET = "do-not-write-this-down"
DIGESTS = "sha256:" + "0" * 64


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Return a function that makes a plan, in an empty folder, home and environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in list(os.environ):
        if name.startswith(("AWS_", "HF_")):
            monkeypatch.delenv(name)
    cache = tmp_path / "home" / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "home/token"))
    (tmp_path / "pairs.jsonl").write_text("{}\n")

    def make(machine=None, **fields):
        given = {"data.source": "pairs.jsonl", "model.base": "builtin:minilm"}
        given |= {name.replace("__", "."): value for name, value in fields.items()}
        options = {"backend": "docker"} | (machine or {})
        return Plan("first", build_spec({}, given), MachineOptions(**options))

    return make


def command(plan, engine=None):
    """Build the command of a single host."""
    return run_command(plan, engine or Engine(), *hosts_of(plan.folder, 1))


def pairs(argv, option):
    """Return all values of an option."""
    return [argv[i + 1] for i, part in enumerate(argv) if part == option]


def test_the_whole_command(plan, tmp_path):
    """With local data: the workspace, the results' folder, and no credentials."""
    folder = tmp_path / "runs" / "first"
    assert command(plan()) == [
        *("docker", "run", "--detach", "--init", "--name", container_name(folder)),
        *("--label", "embedtune.run=first", "--label", f"embedtune.folder={folder}"),
        *("--pull", "never", "--user", ME),
        *("--mount", f"type=bind,source={folder}/.work,target=/opt/ml"),
        *("--mount", f"type=bind,source={folder},target={folder}", "--workdir", str(tmp_path)),
        *("--env", "TRAINING_JOB_NAME=first", "--env", "EMBEDTUNE_RUN=first"),
        *("--env", "EMBEDTUNE_DEVICE=auto"),
        *("--shm-size", "1g", "embedtune", "train"),
    ]


def test_the_machines_options_reach_the_engine(plan):
    machine = {
        "image": f"registry.example/team/embedtune@{DIGESTS}",
        "memory": "16g",
        "shm_size": "2g",
        "network": "host",
        "price_per_hour": 1.5,
    }
    argv = command(plan(machine))
    assert argv[-2:] == [machine["image"], "train"]
    assert [pairs(argv, f"--{name}") for name in ("memory", "shm-size", "network", "pull")] == [
        ["16g"],
        ["2g"],
        ["host"],
        # The image is in a registry, so the engine may pull it.
        ["missing"],
    ]
    assert "EMBEDTUNE_PRICE_PER_HOUR=1.5" in pairs(argv, "--env")


@pytest.mark.parametrize(
    ("machine", "has_gpus", "wanted", "device"),
    [
        ({}, False, [], "auto"),
        ({}, True, ["all"], "auto"),
        ({"gpus": "all"}, False, ["all"], "auto"),
        # The driver shows a GPU, but the options exclude it.
        ({"gpus": "none"}, True, [], "cpu"),
        ({"device": "cpu"}, True, [], "cpu"),
        ({"device": "cuda", "gpus": "none"}, True, [], "cuda"),
    ],
)
def test_the_container_gets_gpus_if_there_are_any(plan, machine, has_gpus, wanted, device):
    argv = command(plan(machine), Engine(has_gpus=has_gpus))
    assert pairs(argv, "--gpus") == wanted
    assert f"EMBEDTUNE_DEVICE={device}" in pairs(argv, "--env")


def test_a_rootless_engines_root_is_the_caller(plan):
    assert pairs(command(plan(), Engine(is_rootless=True)), "--user") == ["0:0"]


def test_credentials_are_passed_by_name_and_only_to_jobs_that_need_them(plan, monkeypatch):
    """AWS's for a job with S3, the Hub's for a job with the Hub; values appear nowhere."""
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "EMBEDTUNE_LLM_KEY"):
        monkeypatch.setenv(name, SECRET)
    aws = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    cases = {
        (): set(),
        (("output__uri", "s3://box/runs"),): aws,
        (("data__source", "s3://box/pairs.jsonl"),): aws,
        (("model__base", "me/model"),): {"HF_TOKEN"},
        (("data__source", "hf://datasets/me/pairs"),): {"HF_TOKEN"},
        (("output__hub", "me/tuned"),): {"HF_TOKEN"},
        (("data__documents", "pairs.jsonl"),): {"EMBEDTUNE_LLM_KEY"},
        (("generation__llm", "bedrock:m"),): set(),
        (("data__documents", "pairs.jsonl"), ("generation__judge", "bedrock:m")): {
            *("EMBEDTUNE_LLM_KEY", *aws)
        },
    }
    for fields, expected in cases.items():
        argv = command(plan(**dict(fields)))
        assert {e for e in pairs(argv, "--env") if "=" not in e} == expected
        assert SECRET not in " ".join(argv)


def test_profiles_and_tokens_are_mounted_read_only(plan, tmp_path, monkeypatch):
    """Without variables, AWS's profile files, the Hub's token and its cache are mounted."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "config").touch()
    (home / "token").touch()
    (home / "hub").mkdir()
    keys = tmp_path / "keys"
    keys.touch()
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    argv = command(plan(model__base="me/model", output__uri="s3://box/runs"))
    assert pairs(argv, "--mount")[1:] == [
        f"type=bind,source={keys},target=/tmp/.aws/credentials,readonly",
        f"type=bind,source={home}/.aws/config,target=/tmp/.aws/config,readonly",
        f"type=bind,source={home}/token,target=/run/embedtune/token,readonly",
        f"type=bind,source={home}/hub,target=/run/embedtune/hub,readonly",
    ]
    variables = {e for e in pairs(argv, "--env") if e.startswith(("HF_", "EMBEDTUNE_HUB"))}
    assert variables == {
        "HF_TOKEN_PATH=/run/embedtune/token",
        "EMBEDTUNE_HUB_CACHE=/run/embedtune/hub",
    }
    # Results in S3 need no local folder.
    assert "--workdir" not in argv


def test_any_path_can_be_mounted(plan, tmp_path):
    """Docker parses a mount as a CSV line."""
    argv = command(plan(output__uri='a,b "c"'))
    folder = str(tmp_path / 'a,b "c"' / "first").replace('"', '""')
    assert pairs(argv, "--mount")[1] == f'type=bind,"source={folder}","target={folder}"'


def test_runs_with_the_same_name_in_two_folders_have_two_containers():
    names = {container_name(Path(folder) / "first") for folder in ("/a", "/b")}
    assert len(names) == 2
    assert all(name.startswith("embedtune-first-") for name in names)


def test_the_whole_commands_of_two_hosts(plan, tmp_path):
    """Each has a workspace, a name and a share of the cores; inputs and checkpoints are shared."""
    two = plan({"hosts": 2, "network": "none"}, data__source="s3://box/pairs.jsonl")
    folder = tmp_path / "runs" / "first"
    name = container_name(folder)
    first, second = hosts_of(two.folder, 2)
    shared = [
        *("--env", "TRAINING_JOB_NAME=first", "--env", "EMBEDTUNE_RUN=first"),
        *("--env", "EMBEDTUNE_DEVICE=auto", "--env", "OMP_NUM_THREADS=4"),
    ]
    assert run_command(two, Engine(cores=8), second) == [
        *("docker", "run", "--detach", "--init", "--name", f"{name}-algo-2"),
        *("--label", "embedtune.run=first", "--label", f"embedtune.folder={folder}"),
        *("--pull", "never", "--user", ME),
        *("--mount", f"type=bind,source={folder}/.work-algo-2,target=/opt/ml"),
        "--mount",
        f"type=bind,source={folder}/.work/input/data,target=/opt/ml/input/data,readonly",
        *("--mount", f"type=bind,source={folder}/.work/checkpoints,target=/opt/ml/checkpoints"),
        *shared,
        *("--shm-size", "1g", "--network", name),
        *("--hostname", "algo-2", "--network-alias", "algo-2", "embedtune", "train"),
    ]
    argv = run_command(two, Engine(cores=8), first)
    assert pairs(argv, "--mount") == [
        f"type=bind,source={folder}/.work,target=/opt/ml",
        f"type=bind,source={folder},target={folder}",
    ]
    assert pairs(argv, "--name") == [f"{name}-algo-1"]
    assert pairs(argv, "--network-alias") == ["algo-1"]
