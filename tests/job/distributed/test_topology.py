"""Which hosts and processes a run has, as SageMaker, the machine and its user say."""

import json
import os
import socket

import pytest

from job.core.errors import MachineError, SpecError
from job.distributed.topology import Topology, read_topology, use_interface, wait_for_names
from job.storage.workspace import Workspace

INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
HOSTS = ("algo-1", "algo-2")
# As SageMaker writes it, hosts in any order.
TOLD = {
    "current_host": "algo-2",
    "current_group_name": "homogeneousCluster",
    "hosts": ["algo-3", "algo-1", "algo-2"],
    "network_interface_name": "eth0",
}


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch):
    """Forget what the test's own machine has been told; what a test sets is taken back."""
    for name in ("EMBEDTUNE_PROCESSES", "EMBEDTUNE_RENDEZVOUS", *INTERFACES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def workspace(tmp_path):
    """Make a workspace whose resource configuration, and that of its inputs, hold these texts."""

    def make(resources=None, inputs=None):
        place = Workspace(tmp_path)
        place.resource_config.parent.mkdir(parents=True, exist_ok=True)
        for path, text in ((place.resource_config, resources), (place.input_config, inputs)):
            if text is not None:
                path.write_text(text, "utf-8")
        return place

    return make


# Hosts


def test_sagemakers_own_configuration_is_understood(workspace):
    """The first host in order has rank 0, wherever it stands in the list."""
    found = read_topology(workspace(json.dumps(TOLD)), "cpu")

    hosts = ("algo-1", "algo-2", "algo-3")
    assert found == Topology(hosts, "algo-2", "eth0", 1, "algo-1", 29400)
    assert (found.world_size, found.host_rank) == (3, 1)


@pytest.mark.parametrize("text", [None, "{}", '{"hosts": []}', '{"hosts": ["localhost"]}'])
def test_without_other_hosts_this_one_is_all(workspace, text):
    """On any machine but SageMaker's there is no such file."""
    found = read_topology(workspace(text), "cpu")

    assert found == Topology(("localhost",), "localhost", None, 1, "localhost", 29400)
    assert (found.world_size, found.host_rank) == (1, 0)


UNREADABLE = ["{", "[]", '{"hosts": 3}', '{"hosts": ["algo-1", 2]}']


@pytest.mark.parametrize(
    ("resources", "inputs", "file"),
    [
        *((text, None, "resourceconfig") for text in UNREADABLE),
        (json.dumps(TOLD | {"current_host": "algo-9"}), None, "resourceconfig"),
        (json.dumps(TOLD), "[]", "inputdataconfig"),
    ],
)
def test_a_damaged_configuration_is_named(workspace, resources, inputs, file):
    """Going on alone would train twice and call it one run."""
    with pytest.raises(MachineError, match=rf"`\S+/{file}\.json`"):
        read_topology(workspace(resources, inputs), "cpu")


def test_channels_that_are_split_among_hosts_are_refused(workspace):
    """Every host reads all files; the sentence names the channels, and what to request."""
    channels = {
        "data": {"S3DistributionType": "ShardedByS3Key"},
        "model": {"S3DistributionType": "FullyReplicated"},
        "test": {"S3DistributionType": "ShardedByS3Key"},
    }
    place = workspace(json.dumps(TOLD), json.dumps(channels))

    with pytest.raises(SpecError, match=r"`data`, `test` .*`FullyReplicated`"):
        read_topology(place, "cpu")


@pytest.mark.parametrize(
    ("resources", "channels", "hosts"),
    [
        # SageMaker's default, and no channel at all.
        (json.dumps(TOLD), '{"data": {"S3DistributionType": "FullyReplicated"}}', 3),
        (json.dumps(TOLD), "{}", 3),
        # There is nobody else to have a part of it.
        ("{}", '{"data": {"S3DistributionType": "ShardedByS3Key"}}', 1),
    ],
)
def test_channels_that_every_host_has_are_read(workspace, resources, channels, hosts):
    assert read_topology(workspace(resources, channels), "cpu").world_size == hosts


# What the user says


def test_the_number_of_processes_and_the_meeting_point_can_be_given(workspace, monkeypatch):
    """Names may hold colons: the last one begins the port."""
    monkeypatch.setenv("EMBEDTUNE_PROCESSES", "4")
    monkeypatch.setenv("EMBEDTUNE_RENDEZVOUS", "fd00::1:3000")

    found = read_topology(workspace(json.dumps(TOLD)), "cuda")

    assert (found.processes, found.world_size) == (4, 12)
    assert (found.address, found.port) == ("fd00::1", 3000)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("EMBEDTUNE_PROCESSES", given) for given in ("0", "-1", "two", "1.5", " ")),
        *(("EMBEDTUNE_RENDEZVOUS", given) for given in ("algo-1", ":29400", "algo-1:", "a:http")),
    ],
)
def test_a_value_of_another_kind_is_refused(workspace, monkeypatch, name, given):
    """What was found is named."""
    monkeypatch.setenv(name, given)

    with pytest.raises(MachineError, match=f"`{name}` is `{given}`"):
        read_topology(workspace("{}"), "cpu")


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 4, 4), ("cuda", 2, 2), ("auto", 0, 1), ("cpu", 4, 1), ("mps", 4, 1)],
)
def test_a_process_for_each_gpu_where_gpus_are_used(workspace, monkeypatch, device, gpus, expected):
    """And one at least: that there is no GPU is said later, in words."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)

    assert read_topology(workspace("{}"), device).processes == expected


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
def test_the_interface_between_hosts_is_used_where_there_are_several(
    monkeypatch, topology, expected
):
    """Hosts that are one machine meet on its own loop; one that the user gave is kept."""
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")

    use_interface(topology)

    assert [os.environ.get(name) for name in INTERFACES] == expected


def test_a_name_is_waited_for_until_it_is_known(monkeypatch):
    """Hosts do not start at once; a name that stays unknown ends the wait."""
    answers = [OSError(-2, "Name or service not known")] * 2 + [[]]
    asked, slept = [], []

    def look_up(*place):
        asked.append(place)
        answer = answers.pop(0) if answers else OSError(-2, "Name or service not known")
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("job.distributed.topology.time.sleep", slept.append)
    topology = Topology(HOSTS, "algo-2", address="algo-1", port=1234)

    wait_for_names(topology)
    assert (asked, len(slept)) == ([("algo-1", 1234)] * 3, 2)

    with pytest.raises(MachineError, match=r"`algo-1` has no address .*Name or service not known"):
        wait_for_names(topology, patience=-1)
