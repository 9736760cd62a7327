"""The hosts and processes of a run come from SageMaker, the machine and the user."""

import json
import os
import socket

import pytest

from job.core.errors import MachineError, SpecError
from job.distributed.topology import (
    Topology,
    read_topology,
    set_network_interface,
    use_one_gpu,
    wait_for_dns,
)
from job.storage.workspace import Workspace

INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
HOSTS = ("algo-1", "algo-2")
# SageMaker's resourceconfig.json, which lists hosts in any order.
RESOURCES = {
    "current_host": "algo-2",
    "current_group_name": "homogeneousCluster",
    "hosts": ["algo-3", "algo-1", "algo-2"],
    "network_interface_name": "eth0",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """Unset the variables of this machine, and restore them after the test."""
    for name in ("EMBEDTUNE_PROCESSES", "EMBEDTUNE_RENDEZVOUS", *INTERFACES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def workspace(tmp_path):
    """Make a workspace with these texts as its resource and input configuration."""

    def make(resources=None, inputs=None):
        run_workspace = Workspace(tmp_path)
        run_workspace.resource_config.parent.mkdir(parents=True, exist_ok=True)
        for path, text in (
            (run_workspace.resource_config, resources),
            (run_workspace.input_config, inputs),
        ):
            if text is not None:
                path.write_text(text, "utf-8")
        return run_workspace

    return make


# Hosts


def test_hosts_come_from_sagemakers_configuration(workspace):
    """The first host by name has rank 0, at any position of the list."""
    found = read_topology(workspace(json.dumps(RESOURCES)), "cpu")

    hosts = ("algo-1", "algo-2", "algo-3")
    assert found == Topology(hosts, "algo-2", "eth0", 1, "algo-1", 29400)
    assert (found.world_size, found.host_rank) == (3, 1)


@pytest.mark.parametrize("text", [None, "{}", '{"hosts": []}', '{"hosts": ["localhost"]}'])
def test_without_a_list_of_hosts_there_is_one(workspace, text):
    """Machines outside SageMaker do not have the file."""
    found = read_topology(workspace(text), "cpu")

    assert found == Topology(("localhost",), "localhost", None, 1, "localhost", 29400)
    assert (found.world_size, found.host_rank) == (1, 0)


UNREADABLE = ["{", "[]", '{"hosts": 3}', '{"hosts": ["algo-1", 2]}']


@pytest.mark.parametrize(
    ("resources", "inputs", "file"),
    [
        *((text, None, "resourceconfig") for text in UNREADABLE),
        (json.dumps(RESOURCES | {"current_host": "algo-9"}), None, "resourceconfig"),
        (json.dumps(RESOURCES), "[]", "inputdataconfig"),
    ],
)
def test_an_error_names_a_damaged_configuration(workspace, resources, inputs, file):
    """Ignoring it, each host would train a run of its own."""
    with pytest.raises(MachineError, match=rf"`\S+/{file}\.json`"):
        read_topology(workspace(resources, inputs), "cpu")


def test_channels_divided_among_hosts_are_refused(workspace):
    """Every host reads all files; the error names the channels and the right setting."""
    channels = {
        "data": {"S3DistributionType": "ShardedByS3Key"},
        "model": {"S3DistributionType": "FullyReplicated"},
        "test": {"S3DistributionType": "ShardedByS3Key"},
    }
    run_workspace = workspace(json.dumps(RESOURCES), json.dumps(channels))

    with pytest.raises(SpecError, match=r"`data`, `test` .*`FullyReplicated`"):
        read_topology(run_workspace, "cpu")


@pytest.mark.parametrize(
    ("resources", "channels", "hosts"),
    [
        # SageMaker's default, and no channel at all.
        (json.dumps(RESOURCES), '{"data": {"S3DistributionType": "FullyReplicated"}}', 3),
        (json.dumps(RESOURCES), "{}", 3),
        # A single host gets all files anyway.
        ("{}", '{"data": {"S3DistributionType": "ShardedByS3Key"}}', 1),
    ],
)
def test_channels_with_all_files_on_every_host_are_accepted(workspace, resources, channels, hosts):
    assert read_topology(workspace(resources, channels), "cpu").world_size == hosts


# What the user says


def test_variables_set_processes_and_rendezvous(workspace, monkeypatch):
    """An address may contain colons; the port follows the last one."""
    monkeypatch.setenv("EMBEDTUNE_PROCESSES", "4")
    monkeypatch.setenv("EMBEDTUNE_RENDEZVOUS", "fd00::1:3000")

    found = read_topology(workspace(json.dumps(RESOURCES)), "cuda")

    assert (found.processes, found.world_size) == (4, 12)
    assert (found.address, found.port) == ("fd00::1", 3000)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("EMBEDTUNE_PROCESSES", given) for given in ("0", "-1", "two", "1.5", " ")),
        *(("EMBEDTUNE_RENDEZVOUS", given) for given in ("algo-1", ":29400", "algo-1:", "a:http")),
    ],
)
def test_an_error_names_an_invalid_variable(workspace, monkeypatch, name, given):
    """And the value found."""
    monkeypatch.setenv(name, given)

    with pytest.raises(MachineError, match=f"`{name}` is `{given}`"):
        read_topology(workspace("{}"), "cpu")


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 4, 4), ("cuda", 2, 2), ("auto", 0, 1), ("cpu", 4, 1), ("mps", 4, 1)],
)
def test_each_gpu_gets_a_process(workspace, monkeypatch, device, gpus, expected):
    """At least one process; a missing GPU is reported later, as an error."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)

    assert read_topology(workspace("{}"), device).processes == expected


@pytest.mark.parametrize(
    ("processes", "device", "gpus", "is_refused"),
    [
        ("3", "auto", 2, True),
        ("3", "cuda", 1, True),
        ("2", "auto", 2, False),
        ("1", "auto", 2, False),
        # The CPU has room for any number.
        ("3", "auto", 0, False),
        ("3", "cpu", 2, False),
    ],
)
def test_each_process_needs_a_gpu_of_its_own(
    workspace, monkeypatch, processes, device, gpus, is_refused
):
    """The error names both numbers, instead of a traceback from CUDA in one of the processes."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setenv("EMBEDTUNE_PROCESSES", processes)

    if not is_refused:
        assert read_topology(workspace("{}"), device).processes == int(processes)
        return
    with pytest.raises(MachineError, match=rf"`{processes}`, but this machine has {gpus} usable"):
        read_topology(workspace("{}"), device)


@pytest.mark.parametrize(
    ("device", "gpus", "visible", "expected"),
    [
        ("auto", 4, None, "0"),
        ("cuda", 2, "3,1", "3"),
        ("cuda", 2, "GPU-8932f937,GPU-46a2b8f1", "GPU-8932f937"),
        ("auto", 1, None, None),
        ("auto", 0, "", ""),
        ("cpu", 4, None, None),
    ],
)
def test_a_single_process_sees_a_single_gpu(monkeypatch, device, gpus, visible, expected):
    """With several, transformers would divide the batch among them, in float32."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    use_one_gpu(device)

    assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected


# The network


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        (Topology(HOSTS, "algo-1", "eth0", 1, "algo-1"), ["ib0", "eth0"]),
        (Topology(HOSTS, "algo-1", "eth0", 1, "127.0.0.1"), ["ib0", "lo"]),
        (Topology(HOSTS, "algo-1", None, 1, "algo-1"), ["ib0", None]),
        (Topology(HOSTS[:1], "algo-1", "eth0", 2, "algo-1"), ["ib0", None]),
    ],
)
def test_several_hosts_use_the_interface_between_them(monkeypatch, topology, expected):
    """Hosts on one machine use its loopback; an interface set by the user wins."""
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")

    set_network_interface(topology)

    assert [os.environ.get(name) for name in INTERFACES] == expected


def test_a_host_waits_until_the_rendezvous_name_resolves(monkeypatch):
    """Hosts start at different times; the wait ends with an error."""
    answers = [OSError(-2, "Name or service not known")] * 2 + [[]]
    asked, slept = [], []

    def look_up(*address):
        asked.append(address)
        answer = answers.pop(0) if answers else OSError(-2, "Name or service not known")
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("job.distributed.topology.time.sleep", slept.append)
    topology = Topology(HOSTS, "algo-2", address="algo-1", port=1234)

    wait_for_dns(topology)
    assert (asked, len(slept)) == ([("algo-1", 1234)] * 3, 2)

    with pytest.raises(
        MachineError, match=r"`algo-1` does not resolve .*Name or service not known"
    ):
        wait_for_dns(topology, timeout=-1)
