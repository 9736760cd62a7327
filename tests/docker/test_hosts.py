"""`embedtune launch --backend docker --hosts 2`: two containers that work as two machines would."""

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

# What stands in for the job: each host listens, and finds all others by their names.
MEET = """
import json, os, signal, socket, sys, time

def connect(name):
    for _ in range(300):
        try:
            return socket.create_connection((name, 29400), timeout=60)
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{name} is not there")

config = json.load(open("/opt/ml/input/config/resourceconfig.json"))
server = socket.create_server(("", 29400))
others = [name for name in config["hosts"] if name != config["current_host"]]
calls = {name: connect(name) for name in others}
# Kept, since one that nobody holds is closed.
answers = [server.accept() for _ in others]
print("met", *others, flush=True)
"""
TELL = """
folder = "/opt/ml/input/data"
print("holds", sorted(os.listdir(folder)) if os.path.isdir(folder) else None, flush=True)
print("is", socket.gethostname(), "on", config["network_interface_name"], flush=True)
sys.exit(8)
"""
HEED = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(10))
print("at work", flush=True)
time.sleep(100)
"""
TOLD = [
    "algo-1: holds ['data', 'model', 'spec']",
    "algo-1: is algo-1 on eth0",
    "algo-1: met algo-2",
    "algo-2: holds ['data', 'model', 'spec']",
    "algo-2: is algo-2 on eth0",
    "algo-2: met algo-1",
]


@pytest.fixture
def desk_of(desk, image):
    """Make a desk whose image runs a program, whatever it is told to run."""
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


def nothing_is_left(place):
    return not place.containers() and not place.networks()


@pytest.mark.parametrize("reaches_out", [False, True])
def test_the_hosts_find_each_other_and_all_have_the_inputs(desk_of, reaches_out):
    """Each line bears its host's name, then and later; the run's code is theirs.

    Without `--network none` their network is an ordinary one.
    """
    place = desk_of(MEET + TELL)
    left_out = ("--network", "none") if reaches_out else ()
    done = place.run(*(part for part in place.launch("--hosts", "2") if part not in left_out))
    assert (done.returncode, from_hosts(done.stderr)) == (8, TOLD), done.stderr
    receipt = place.receipt()
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
    assert nothing_is_left(place)
    assert from_hosts(place.run("logs", "r").stdout) == TOLD


def test_a_run_of_several_hosts_is_one_to_every_command(desk_of, tmp_path):
    """Found by its name from another folder: running, its log, stopped as a whole, gone."""
    place = desk_of(MEET + HEED)
    assert place.run(*place.launch("--hosts", "2", "--detach")).returncode == 0
    first, second = sorted(place.containers())
    assert (first[-7:], second[-7:]) == ("-algo-1", "-algo-2")
    wait_until(lambda: place.run("logs", "r").stdout.count("at work") == 2)
    assert "running" in place.run("status", "r").stdout
    stopped = place.run("stop", "r", cwd=tmp_path)
    assert (stopped.returncode, stopped.stderr.splitlines()[-1]) == (0, "The run r is unfinished.")
    assert place.receipt()["container_exit_codes"] == {"algo-1": 10, "algo-2": 10}
    assert nothing_is_left(place)


def test_ctrl_c_stops_all_hosts(desk_of):
    place = desk_of(MEET + HEED)
    launched = place.start("--hosts", "2")
    until(launched, "at work")
    until(launched, "at work")
    os.killpg(launched.pid, signal.SIGINT)
    _, said = launched.communicate(timeout=300)
    assert launched.returncode == 10, said
    assert "--hosts 2" in said.splitlines()[-1]
    assert nothing_is_left(place)


def test_a_launch_that_fails_half_way_leaves_nothing(desk_of, tmp_path):
    """The first host runs when the second is refused."""
    place = desk_of(MEET + HEED)
    client = tmp_path / "clients" / "docker"
    client.parent.mkdir()
    refuse = 'case "$*" in run*-algo-2\\ *) echo "docker: no room." >&2; exit 125;; esac'
    client.write_text(f'#!/bin/sh\n{refuse}\nexec {shutil.which("docker")} "$@"\n')
    client.chmod(0o755)
    path = f"{client.parent}:{os.environ['PATH']}"
    done = place.run(*place.launch("--hosts", "2"), PATH=path)
    line = "Error: Docker says: docker: no room."
    assert (done.returncode, done.stderr.splitlines()[-1]) == (13, line)
    assert nothing_is_left(place)
    # Nor is the next launch in its way.
    again = place.run(*place.launch("--hosts", "2", "--detach"))
    assert again.returncode == 0, again.stderr


def test_the_command_of_a_dry_run_starts_all_hosts(desk_of):
    """Network and containers, pasted into a shell; `logs --follow` takes it from there."""
    place = desk_of(MEET + TELL)
    dry = place.run(*place.launch("--hosts", "2", "--dry-run"))
    request = json.loads(dry.stdout)["request"]
    assert list(request) == ["backend", "network", "hosts", "command", "inputs"]
    assert list(request["hosts"]) == ["algo-1", "algo-2"]
    assert nothing_is_left(place)
    pasted = place.run("sh", "-c", request["command"])
    assert pasted.returncode == 0, pasted.stderr
    followed = place.run("logs", "--follow", "r")
    # It may have ended before.
    assert from_hosts(followed.stdout) == TOLD
    assert place.run("status", "r").returncode == 0
    assert place.receipt()["exit_code"] == 8
    assert nothing_is_left(place)


def test_two_hosts_train_what_one_does(desk):
    """The same job in one container and in two: the scores differ by less than 0.02."""
    place = desk(epochs=3)
    for output, hosts in (("one", "1"), ("two", "2")):
        done = place.run(*place.launch("--hosts", hosts, "--output", output))
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("r: nDCG@10 on ")
    one, two = (tuned_scores(place.folder / output) for output in ("one", "two"))
    assert two == pytest.approx(one, abs=0.02)
    assert nothing_is_left(place)


def test_a_killed_host_ends_the_other_and_the_run_goes_on(desk):
    """Within a minute, with the host's name; launched again it resumes, and finishes."""
    place = desk(epochs=20)
    launched = place.start("--hosts", "2")
    until(launched, "train: step=")
    # Its seal is the last of a checkpoint's files.
    wait_until(lambda: list(place.results.glob(".work/checkpoints/checkpoint-*/digests.json")))
    docker("kill", max(place.containers()))
    _, said = launched.communicate(timeout=300)
    # A clock would measure what else this machine does.
    assert heartbeat.LOST_AFTER_SECONDS + heartbeat.CAUSE_SECONDS < 60
    assert launched.returncode == 13, said
    assert re.search("^algo-1: Error: algo-2: The host stopped responding", said, re.MULTILINE), (
        said
    )
    assert "The container of the host algo-2 was killed." in said.splitlines()[-1]
    assert place.receipt()["container_exit_codes"]["algo-2"] == 137
    assert nothing_is_left(place)

    done = place.run(*place.launch("--hosts", "2"))
    assert done.returncode == 0, done.stderr
    assert place.report()["training"]["resumed_from_step"] > 0


def tuned_scores(output):
    report = json.loads((output / "r" / "report" / "report.json").read_text("utf-8"))
    scores = report["scores"]["tuned"]
    return {dimension: found["float32"]["ndcg@10"] for dimension, found in scores.items()}
