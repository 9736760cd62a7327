"""`embedtune launch --backend docker --hosts 2`: two containers act as two machines."""

import json
import os
import re
import shutil
import signal
from uuid import uuid4

import pytest
from containers import docker
from docker_desk import until
from remote import wait_until

from job.distributed import heartbeat

pytestmark = pytest.mark.docker

# Programs that replace the job. In each, every host listens and connects to all others by name.
MEET = """
import json, os, signal, socket, sys, time

def connect(name):
    for _ in range(300):
        try:
            return socket.create_connection((name, 29400), timeout=60)
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{name} does not listen")

config = json.load(open("/opt/ml/input/config/resourceconfig.json"))
server = socket.create_server(("", 29400))
others = [name for name in config["hosts"] if name != config["current_host"]]
calls = {name: connect(name) for name in others}
# Keep references: a connection without one is closed.
answers = [server.accept() for _ in others]
print("met", *others, flush=True)
"""
REPORT = """
folder = "/opt/ml/input/data"
print("holds", sorted(os.listdir(folder)) if os.path.isdir(folder) else None, flush=True)
print("is", socket.gethostname(), "on", config["network_interface_name"], flush=True)
sys.exit(8)
"""
WAIT = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(10))
print("at work", flush=True)
time.sleep(100)
"""
LINES = [
    "algo-1: holds ['data', 'model', 'spec']",
    "algo-1: is algo-1 on eth0",
    "algo-1: met algo-2",
    "algo-2: holds ['data', 'model', 'spec']",
    "algo-2: is algo-2 on eth0",
    "algo-2: met algo-1",
]


@pytest.fixture
def desk_of(desk, image):
    """Return a function that makes a `Desk` whose image always runs a given program."""
    names = []

    def make(program):
        name = f"embedtune-test-{uuid4().hex[:8]}"
        names.append(name)
        entrypoint = json.dumps(["python", "-c", program])
        assert docker("create", "--name", name, "--network", "none", image).returncode == 0
        docker("commit", "--change", f"ENTRYPOINT {entrypoint}", name, name)
        return desk(image=name)

    yield make
    for name in names:
        docker("rm", "--force", name)
        docker("image", "rm", "--force", name)


def from_hosts(text):
    return sorted(line for line in text.splitlines() if line.startswith("algo-"))


def nothing_is_left(cli):
    return not cli.containers() and not cli.networks()


@pytest.mark.parametrize("reaches_out", [False, True])
def test_the_hosts_find_each_other_and_all_have_the_inputs(desk_of, reaches_out):
    """Each log line starts with its host's name; the run has the hosts' exit code.

    Without `--network none` their network has internet access.
    """
    cli = desk_of(MEET + REPORT)
    left_out = ("--network", "none") if reaches_out else ()
    done = cli.run(*(part for part in cli.launch("--hosts", "2") if part not in left_out))
    assert (done.returncode, from_hosts(done.stderr)) == (8, LINES), done.stderr
    receipt = cli.receipt()
    assert receipt.pop("seconds") > 0
    assert receipt.pop("image").startswith("sha256:")
    assert receipt == {
        "backend": "docker",
        "exit_code": 8,
        "usd": None,
        "container_exit_code": 8,
        "ran_out_of_memory": False,
        "host": "algo-1",
        "container_exit_codes": {"algo-1": 8, "algo-2": 8},
    }
    assert nothing_is_left(cli)
    assert from_hosts(cli.run("logs", "r").stdout) == LINES


def test_every_command_treats_several_hosts_as_one_run(desk_of, tmp_path):
    """From another folder, the run is found by name, shown, stopped and removed as a whole."""
    cli = desk_of(MEET + WAIT)
    assert cli.run(*cli.launch("--hosts", "2", "--detach")).returncode == 0
    first, second = sorted(cli.containers())
    assert (first[-7:], second[-7:]) == ("-algo-1", "-algo-2")
    wait_until(lambda: cli.run("logs", "r").stdout.count("at work") == 2)
    assert "running" in cli.run("status", "r").stdout
    stopped = cli.run("stop", "r", cwd=tmp_path)
    assert (stopped.returncode, stopped.stderr.splitlines()[-1]) == (0, "The run r is unfinished.")
    assert cli.receipt()["container_exit_codes"] == {"algo-1": 10, "algo-2": 10}
    assert nothing_is_left(cli)


def test_ctrl_c_stops_all_hosts(desk_of):
    cli = desk_of(MEET + WAIT)
    launched = cli.start("--hosts", "2")
    until(launched, "at work")
    until(launched, "at work")
    os.killpg(launched.pid, signal.SIGINT)
    _, stderr = launched.communicate(timeout=300)
    assert launched.returncode == 10, stderr
    assert "--hosts 2" in stderr.splitlines()[-1]
    assert nothing_is_left(cli)


def test_a_launch_that_fails_halfway_leaves_nothing(desk_of, tmp_path):
    """The engine refuses the second host while the first one is running."""
    cli = desk_of(MEET + WAIT)
    client = tmp_path / "clients" / "docker"
    client.parent.mkdir()
    refuse = 'case "$*" in run*-algo-2\\ *) echo "docker: no room." >&2; exit 125;; esac'
    client.write_text(f'#!/bin/sh\n{refuse}\nexec {shutil.which("docker")} "$@"\n')
    client.chmod(0o755)
    path = f"{client.parent}:{os.environ['PATH']}"
    done = cli.run(*cli.launch("--hosts", "2"), PATH=path)
    line = "Error: Docker reports: docker: no room."
    assert (done.returncode, done.stderr.splitlines()[-1]) == (13, line)
    assert nothing_is_left(cli)
    # The next launch works.
    again = cli.run(*cli.launch("--hosts", "2", "--detach"))
    assert again.returncode == 0, again.stderr


def test_the_command_of_a_dry_run_starts_all_hosts(desk_of):
    """The pasted command starts network and containers; `logs --follow` then follows them."""
    cli = desk_of(MEET + REPORT)
    dry = cli.run(*cli.launch("--hosts", "2", "--dry-run"))
    request = json.loads(dry.stdout)["request"]
    assert list(request) == ["backend", "network", "hosts", "command", "inputs"]
    assert list(request["hosts"]) == ["algo-1", "algo-2"]
    assert nothing_is_left(cli)
    pasted = cli.run("sh", "-c", request["command"])
    assert pasted.returncode == 0, pasted.stderr
    followed = cli.run("logs", "--follow", "r")
    # The run may have ended already.
    assert from_hosts(followed.stdout) == LINES
    assert cli.run("status", "r").returncode == 0
    assert cli.receipt()["exit_code"] == 8
    assert nothing_is_left(cli)


def test_two_hosts_reach_the_same_scores_as_one(desk):
    """The scores of the same job in one and in two containers differ by less than 0.02."""
    cli = desk(epochs=3)
    for output, hosts in (("one", "1"), ("two", "2")):
        done = cli.run(*cli.launch("--hosts", hosts, "--output", output))
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("r: nDCG@10 on ")
    one, two = (tuned_scores(cli.folder / output) for output in ("one", "two"))
    assert two == pytest.approx(one, abs=0.02)
    assert nothing_is_left(cli)


def test_a_killed_host_ends_the_other_and_the_run_can_be_resumed(desk):
    """The other ends within a minute and names the host; a relaunch resumes and finishes."""
    cli, options = desk(epochs=6), ("--hosts", "2", "--set", "training.checkpoint_steps=3")
    launched = cli.start(*options)
    until(launched, "train: step=")
    # The checksums are the last file of a checkpoint, and it needs the trainer's state.
    written = ".work/checkpoints/checkpoint-*/digests.json"
    wait_until(lambda: any("trainer_state" in p.read_text() for p in cli.results.glob(written)))
    docker("kill", max(cli.containers()))
    _, stderr = launched.communicate(timeout=300)
    # Checked by the constants, since elapsed time depends on the machine's load.
    assert heartbeat.LOST_AFTER_SECONDS + heartbeat.CAUSE_SECONDS < 60
    assert launched.returncode == 13, stderr
    assert re.search("^algo-1: Error: .*algo-2", stderr, re.MULTILINE), stderr
    assert "The container of host algo-2 was killed." in stderr.splitlines()[-1]
    assert cli.receipt()["container_exit_codes"]["algo-2"] == 137
    assert nothing_is_left(cli)

    done = cli.run(*cli.launch(*options))
    assert done.returncode == 0, done.stderr
    assert cli.report()["training"]["resumed_from_step"] > 0


def tuned_scores(output):
    report = json.loads((output / "r" / "report" / "report.json").read_text("utf-8"))
    scores = report["scores"]["tuned"]
    return {dimension: found["float32"]["ndcg@10"] for dimension, found in scores.items()}
