"""Which hosts and processes a run has, as SageMaker, the machine and its user say."""

import json
import os
import socket

import pytest
from job.cluster import Cluster, read_cluster, use_interface, wait_for_names

from job.errors import MachineError
from job.workspace import Workspace

VARIABLES = ("EMBEDTUNE_PROCESSES", "EMBEDTUNE_RENDEZVOUS")
INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
# As SageMaker writes it, hosts in any order.
TOLD = {
    "current_host": "algo-2",
    "current_instance_type": "ml.g5.xlarge",
    "current_group_name": "homogeneousCluster",
    "hosts": ["algo-3", "algo-1", "algo-2"],
    "instance_groups": [
        {
            "instance_group_name": "homogeneousCluster",
            "instance_type": "ml.g5.xlarge",
            "hosts": ["algo-3", "algo-1", "algo-2"],
        }
    ],
    "network_interface_name": "eth0",
}


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch):
    """Forget what the test's own machine has been told."""
    for name in (*VARIABLES, *INTERFACES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def workspace(tmp_path):
    """Make a workspace whose resource configuration holds this text."""

    def make(text):
        place = Workspace(tmp_path)
        place.resource_config.parent.mkdir(parents=True, exist_ok=True)
        place.resource_config.write_text(text, "utf-8")
        return place

    return make


# Hosts


def test_sagemakers_own_configuration_is_understood(workspace):
    """The first host in order conducts, wherever it stands in the list."""
    found = read_cluster(workspace(json.dumps(TOLD)), "cpu")

    hosts = ("algo-1", "algo-2", "algo-3")
    assert found == Cluster(hosts, "algo-2", "eth0", 1, "algo-1", 29400)
    assert (found.size, found.number) == (3, 1)


@pytest.mark.parametrize("text", [None, "{}", '{"hosts": []}', '{"hosts": ["localhost"]}'])
def test_without_other_hosts_this_one_is_all(workspace, tmp_path, text):
    """On any machine but SageMaker's there is no such file."""
    place = Workspace(tmp_path) if text is None else workspace(text)

    found = read_cluster(place, "cpu")

    assert found == Cluster(("localhost",), "localhost", None, 1, "localhost", 29400)
    assert (found.size, found.number) == (1, 0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", "'list' object has no attribute 'get'"),
        ('{"hosts": 3}', "'int' object is not iterable"),
        ('{"hosts": ["algo-1", 2]}', "'<' not supported between instances of 'int' and 'str'"),
    ],
)
def test_a_damaged_configuration_is_named(workspace, text, why):
    """Going on alone would train twice and call it one run."""
    place = workspace(text)

    with pytest.raises(MachineError) as raised:
        read_cluster(place, "cpu")

    assert str(raised.value) == (
        f"`{place.resource_config}` is none of SageMaker's resource configurations ({why}). Start "
        "the job through SageMaker, or delete that file."
    )


def test_a_host_must_be_among_its_hosts(workspace):
    """Otherwise nobody knows who conducts."""
    place = workspace(json.dumps(TOLD | {"current_host": "algo-9"}))

    with pytest.raises(MachineError) as raised:
        read_cluster(place, "cpu")

    assert str(raised.value) == (
        f"`{place.resource_config}` says that this is the host `algo-9`, which is none of its "
        "`hosts`. Correct or delete that file."
    )


# What the user says


def test_the_number_of_processes_and_the_meeting_point_can_be_given(workspace, monkeypatch):
    """Names may hold colons: the last one begins the port."""
    monkeypatch.setenv("EMBEDTUNE_PROCESSES", "4")
    monkeypatch.setenv("EMBEDTUNE_RENDEZVOUS", "fd00::1:3000")

    found = read_cluster(workspace(json.dumps(TOLD)), "cuda")

    assert (found.processes, found.size) == (4, 12)
    assert (found.address, found.port) == ("fd00::1", 3000)


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", " "])
def test_a_number_of_processes_must_be_one(workspace, monkeypatch, given):
    """What was found is named, with what is expected."""
    monkeypatch.setenv("EMBEDTUNE_PROCESSES", given)

    with pytest.raises(MachineError) as raised:
        read_cluster(workspace("{}"), "cpu")

    assert str(raised.value) == (
        f"`EMBEDTUNE_PROCESSES` is `{given}`; expected a number of processes, from 1."
    )


@pytest.mark.parametrize("given", ["algo-1", ":29400", "algo-1:", "algo-1:http"])
def test_a_meeting_point_must_have_address_and_port(workspace, monkeypatch, given):
    """What was found is named, with what is expected."""
    monkeypatch.setenv("EMBEDTUNE_RENDEZVOUS", given)

    with pytest.raises(MachineError) as raised:
        read_cluster(workspace("{}"), "cpu")

    assert str(raised.value) == (
        f"`EMBEDTUNE_RENDEZVOUS` is `{given}`; expected address and port: `algo-1:29400`."
    )


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 4, 4), ("cuda", 2, 2), ("auto", 0, 1), ("cpu", 4, 1), ("mps", 4, 1)],
)
def test_a_process_for_each_gpu_where_gpus_are_used(workspace, monkeypatch, device, gpus, expected):
    """And one at least: that there is no GPU is said later, in words."""
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)

    assert read_cluster(workspace("{}"), device).processes == expected


# The network


def interfaces():
    return [os.environ.get(name) for name in INTERFACES]


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        (Cluster(("algo-1", "algo-2"), "algo-1", "eth0", 1, "algo-1"), ["eth0", "eth0"]),
        (Cluster(("algo-1", "algo-2"), "algo-1", "eth0", 1, "127.0.0.1"), ["lo", "lo"]),
        (Cluster(("algo-1", "algo-2"), "algo-1", None, 1, "algo-1"), [None, None]),
        (Cluster(("algo-1",), "algo-1", "eth0", 2, "algo-1"), [None, None]),
    ],
)
def test_the_interface_between_hosts_is_used_where_there_are_several(
    monkeypatch, cluster, expected
):
    """Hosts that are one machine meet on its own loop."""
    # Whatever is set is taken back after the test.
    for name in INTERFACES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    use_interface(cluster)

    assert interfaces() == expected


def test_an_interface_that_is_given_is_kept(monkeypatch):
    """Who knows the network better says so by the libraries' own variables."""
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")

    use_interface(Cluster(("algo-1", "algo-2"), "algo-1", "eth0", 1, "algo-1"))

    assert interfaces() == ["ib0", ""]


def test_a_name_that_is_known_is_not_waited_for():
    """No look-up is repeated, and nothing said."""
    wait_for_names(Cluster(("localhost",), address="localhost"), patience=0)


def test_a_name_is_waited_for_until_it_is_known(monkeypatch):
    """Hosts do not start at once; each failed look-up is followed by another."""
    answers = [OSError(-2, "Name or service not known")] * 2 + [[]]
    asked, slept = [], []

    def look_up(*place):
        asked.append(place)
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("job.cluster.time.sleep", slept.append)

    wait_for_names(Cluster(("algo-1", "algo-2"), "algo-2", address="algo-1", port=1234))

    assert asked == [("algo-1", 1234)] * 3
    assert slept == [2.0, 2.0]


def test_a_name_that_stays_unknown_ends_the_wait(monkeypatch):
    """In words, with what the system says and where to look."""

    def unknown(*_):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    with pytest.raises(MachineError) as raised:
        wait_for_names(Cluster(("algo-1", "algo-2"), "algo-2", address="algo-1"), patience=-1)

    assert str(raised.value) == (
        "The host `algo-1` has no address after -1 s (Name or service not known). See whether it "
        "has started, and whether the network lets the hosts of a run reach each other."
    )
