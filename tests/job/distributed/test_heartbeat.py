"""Hosts detect lost hosts and share why a host failed; none waits for a lost one."""

import math
import threading
from datetime import timedelta

import pytest
from worker_processes import PATIENCE_SECONDS, context, free_port, hold_a_store

from job.core.errors import MachineError
from job.distributed import heartbeat
from job.distributed.heartbeat import Cause, Heartbeat
from job.distributed.topology import Topology

HOSTS = ("algo-1", "algo-2", "algo-3")
BROKEN = Cause("algo-2", 4, "There are too few pairs.")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Shorten the times, but not so much that a busy machine looks lost."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(heartbeat, "LOST_AFTER_SECONDS", 2.0)
    monkeypatch.setattr(heartbeat, "CAUSE_SECONDS", 2.0)


class Listener:
    """A host that counts the calls of `on_cause`."""

    def __init__(self, topology):
        self.calls = 0
        self.notified = threading.Event()
        self.heartbeat = Heartbeat(topology, self._on_cause)

    def _on_cause(self):
        self.calls += 1
        self.notified.set()

    def wait(self):
        assert self.notified.wait(PATIENCE_SECONDS)
        return self.heartbeat.cause


@pytest.fixture
def hosts():
    """Start hosts that watch each other."""
    started = []

    def start(count):
        port = free_port()
        names = HOSTS[:count]
        for name in names:
            topology = Topology(names, name, None, 1, "127.0.0.1", port)
            started.append(Listener(topology))
        return list(started)

    yield start
    # The host with the store ends last.
    for listener in reversed(started):
        listener.heartbeat.end()


@pytest.fixture
def waiting():
    """Start the first of two hosts; the test plays the other through the store."""
    listener = Listener(Topology(HOSTS[:2], "algo-1", None, 1, "127.0.0.1", free_port()))
    yield listener
    store_of(listener).set("left/algo-2", "")
    listener.heartbeat.end()


def store_of(listener):
    """Connect to the hosts' store like a host."""
    from torch.distributed import TCPStore

    topology = listener.heartbeat._topology
    return TCPStore("127.0.0.1", topology.port + heartbeat.PORT_OFFSET, wait_for_workers=False)


def assert_lost(listener, host):
    """Assert that the listener reports this host as lost."""
    found = listener.wait()
    assert (found.host, found.code) == (host, MachineError.exit_code)
    assert str(found).startswith(f"{host}: The host stopped responding.")


def test_the_cause_of_a_failure_reaches_every_other_host(hosts):
    """Once, with code and line; the failing host itself is not notified."""
    first, second, third = hosts(3)

    second.heartbeat.end(BROKEN)

    assert (first.wait(), third.wait()) == (BROKEN, BROKEN)
    assert (first.calls, second.calls, third.calls) == (1, 0, 1)
    assert first.heartbeat.await_cause() == BROKEN


def test_the_first_host_keeps_its_store_until_others_read_its_cause(hosts, monkeypatch):
    """Otherwise they would report the first host as lost."""
    monkeypatch.setattr(heartbeat, "CAUSE_SECONDS", PATIENCE_SECONDS)
    first, second = hosts(2)
    ended = threading.Thread(target=first.heartbeat.end, args=(BROKEN,))
    ended.start()

    assert second.wait() == BROKEN
    assert ended.is_alive()
    second.heartbeat.end()
    ended.join(PATIENCE_SECONDS)
    assert not ended.is_alive()


def test_a_host_without_recent_heartbeats_is_lost(waiting):
    """The cause names it."""
    store_of(waiting).set("beat/algo-2", "1")

    assert_lost(waiting, "algo-2")


@pytest.mark.parametrize(
    ("stored", "last"),
    [
        ({}, b""),
        ({"beat/algo-2": "2"}, b"1"),
        ({"beat/algo-2": "1", "left/algo-2": ""}, b"1"),
    ],
    ids=["starts", "beats", "has left"],
)
def test_a_host_that_starts_beats_or_has_left_is_not_lost(waiting, stored, last):
    """Even if its last heartbeat was long ago."""
    store = store_of(waiting)
    for key, value in stored.items():
        store.set(key, value)

    assert waiting.heartbeat._find_lost({"algo-2": (last, -math.inf)}) is None


def test_a_broken_connection_to_the_store_means_the_first_host_is_lost(tmp_path):
    """The store runs on that host."""
    ours, theirs = context.Pipe(duplex=False)
    port = free_port()
    rest = (None, 1, "127.0.0.1", port)
    first = context.Process(target=hold_a_store, args=(port + heartbeat.PORT_OFFSET, theirs))
    first.start()
    try:
        assert ours.poll(PATIENCE_SECONDS)
        second = Listener(Topology(HOSTS[:2], "algo-2", *rest))
    finally:
        first.kill()
        first.join()

    assert_lost(second, "algo-1")
    # With the store lost, it ends without waiting.
    second.heartbeat.end(BROKEN)


def test_waiting_for_a_cause_times_out(hosts, monkeypatch):
    """No host fails or is lost: the cause stays unknown."""
    first, _ = hosts(2)

    with monkeypatch.context() as patch:
        patch.setattr(heartbeat, "CAUSE_SECONDS", -heartbeat.LOST_AFTER_SECONDS)
        assert first.heartbeat.await_cause() is None


def test_an_error_names_the_address_at_which_hosts_cannot_connect(monkeypatch):
    """Another program uses the port, or nobody answers there."""
    import socket

    monkeypatch.setattr(heartbeat, "CONNECT_TIMEOUT", timedelta(seconds=1))
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + heartbeat.PORT_OFFSET))
        for name in HOSTS[:2]:
            topology = Topology(HOSTS[:2], name, None, 1, "127.0.0.1", port)
            with pytest.raises(MachineError) as raised:
                Heartbeat(topology, lambda: None)
            assert f"`127.0.0.1:{port + 1}`" in str(raised.value)
