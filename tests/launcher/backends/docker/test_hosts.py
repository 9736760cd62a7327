"""The hosts of a run on one engine: their network and their `resourceconfig.json`."""

import json

import pytest

from job.core.errors import SpecError
from job.spec.parse import build_spec
from job.storage.workspace import Workspace
from launcher.backends.docker.hosts import (
    check_network,
    container_name,
    hosts_of,
    network_command,
    prepare_workspaces,
    threads_per_host,
)
from launcher.plan.machine import MachineOptions
from launcher.plan.plan import Plan
from launcher.plan.staging import stage


@pytest.fixture
def plan(tmp_path):
    def make(**machine):
        spec = build_spec({}, {"data.source": "pairs", "output.uri": str(tmp_path)})
        return Plan("first", spec, MachineOptions("docker", **machine))

    return make


def test_the_hosts_network_has_internet_access_unless_isolated(plan):
    name = container_name(plan().folder)
    create = ["docker", "network", "create"]
    assert network_command(plan(hosts=2)) == [*create, name]
    assert network_command(plan(hosts=2, network="none")) == [*create, "--internal", name]


def test_several_hosts_cannot_use_an_existing_network(plan):
    """Two runs on it would both have a host `algo-1`."""
    check_network(plan(network="mine"))
    check_network(plan(hosts=2, network="none"))
    with pytest.raises(SpecError, match=r"`--network mine` with `--hosts 2`.*`--network none`"):
        check_network(plan(hosts=2, network="mine"))


def test_each_host_gets_all_names_and_only_the_first_keeps_its_workspace(tmp_path):
    hosts = hosts_of(tmp_path / "first", 3)
    for host in hosts:
        (host.workspace / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    prepare_workspaces(hosts)
    assert [json.loads(_config(host).read_text()) for host in hosts] == [
        {
            "current_host": f"algo-{number}",
            "hosts": ["algo-1", "algo-2", "algo-3"],
            "network_interface_name": "eth0",
        }
        for number in (1, 2, 3)
    ]
    # The mount points of the shared folders exist.
    assert all((host.workspace / "checkpoints").is_dir() for host in hosts)
    assert all((host.workspace / "input" / "data").is_dir() for host in hosts)
    kept = [(host.workspace / "checkpoints" / "checkpoint-1").is_dir() for host in hosts]
    assert kept == [True, False, False]


def test_a_run_resumed_by_one_host_does_not_wait_for_others(tmp_path, plan):
    """Staging deletes the `resourceconfig.json` of an earlier launch, for any backend."""
    hosts = hosts_of(tmp_path / "first", 2)
    prepare_workspaces(hosts)
    stage(Workspace(hosts[0].workspace), plan().spec, {})
    assert not _config(hosts[0]).exists()
    prepare_workspaces(hosts_of(tmp_path / "first", 1))
    assert not _config(hosts[0]).exists()


def test_cores_are_divided_among_the_hosts():
    """Each host has at least one, even if the number of cores is unknown."""
    assert [threads_per_host(2, 8), threads_per_host(3, 8), threads_per_host(4, 2)] == [4, 2, 1]
    assert threads_per_host(1, 0) >= 1


def _config(host):
    return Workspace(host.workspace).resource_config
