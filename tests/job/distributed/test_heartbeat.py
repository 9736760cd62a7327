"""Hosts tell each other that they live and why they ended; none waits for one that has gone."""

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
    """Beat often, and have little patience; a beat more or less is nothing to a busy machine."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(heartbeat, "SILENCE_SECONDS", 2.0)
    monkeypatch.setattr(heartbeat, "FAREWELL_SECONDS", 2.0)


class Listener:
    """A host whose causes are counted."""

    def __init__(self, topology):
        self.calls = 0
        self.heard = threading.Event()
        self.heartbeat = Heartbeat(topology, self._on_cause)

    def _on_cause(self):
        self.calls += 1
        self.heard.set()

    def wait(self):
        assert self.heard.wait(PATIENCE_SECONDS)
        return self.heartbeat.cause


@pytest.fixture
def hosts():
    """Start so many hosts, of which each listens to the others."""
    started = []

    def start(count):
        port = free_port()
        names = HOSTS[:count]
        for name in names:
            topology = Topology(names, name, None, 1, "127.0.0.1", port)
            started.append(Listener(topology))
        return list(started)

    yield start
    # The store's host goes last.
    for listener in reversed(started):
        listener.heartbeat.end()


@pytest.fixture
def waiting():
    """Start the first of two hosts; the other one is whoever talks to its store."""
    listener = Listener(Topology(HOSTS[:2], "algo-1", None, 1, "127.0.0.1", free_port()))
    yield listener
    store_of(listener).set("left/algo-2", "")
    listener.heartbeat.end()


def store_of(listener):
    """Connect to the hosts' store as a host does."""
    from torch.distributed import TCPStore

    place = listener.heartbeat._topology
    return TCPStore("127.0.0.1", place.port + heartbeat.NEXT_PORT, wait_for_workers=False)


def assert_gone(listener, host):
    """Assert that it has heard of a host's loss, and of its name."""
    found = listener.wait()
    assert (found.host, found.code) == (host, MachineError.exit_code)
    assert str(found).startswith(f"{host}: it has gone")


def test_the_cause_of_an_end_reaches_every_other_host(hosts):
    """With its code and line, and once; whoever said it hears nothing."""
    first, second, third = hosts(3)

    second.heartbeat.end(BROKEN)

    assert (first.wait(), third.wait()) == (BROKEN, BROKEN)
    assert (first.calls, second.calls, third.calls) == (1, 0, 1)
    assert first.heartbeat.await_cause() == BROKEN


def test_the_first_hosts_cause_is_heard_before_its_store_goes(hosts, monkeypatch):
    """It waits for the others, who would otherwise think that it had gone."""
    monkeypatch.setattr(heartbeat, "FAREWELL_SECONDS", PATIENCE_SECONDS)
    first, second = hosts(2)
    ended = threading.Thread(target=first.heartbeat.end, args=(BROKEN,))
    ended.start()

    assert second.wait() == BROKEN
    assert ended.is_alive()
    second.heartbeat.end()
    ended.join(PATIENCE_SECONDS)
    assert not ended.is_alive()


def test_a_host_that_says_nothing_any_more_is_given_up(waiting):
    """Its last beat is long ago; it is named."""
    store_of(waiting).set("beat/algo-2", "1")

    assert_gone(waiting, "algo-2")


@pytest.mark.parametrize(
    ("told", "last"),
    [
        ({}, b""),
        ({"beat/algo-2": "2"}, b"1"),
        ({"beat/algo-2": "1", "left/algo-2": ""}, b"1"),
    ],
    ids=["not begun", "beats", "has left"],
)
def test_a_silent_host_that_starts_or_is_done_is_not_given_up(waiting, told, last):
    """However long ago its last beat was."""
    store = store_of(waiting)
    for key, value in told.items():
        store.set(key, value)

    assert waiting.heartbeat._silent({"algo-2": (last, -math.inf)}) is None


def test_the_first_host_that_goes_takes_the_store_and_is_named(tmp_path):
    """What the others hear of it is that the connection is lost."""
    ours, theirs = context.Pipe(duplex=False)
    port = free_port()
    place = (None, 1, "127.0.0.1", port)
    first = context.Process(target=hold_a_store, args=(port + heartbeat.NEXT_PORT, theirs))
    first.start()
    try:
        assert ours.poll(PATIENCE_SECONDS)
        second = Listener(Topology(HOSTS[:2], "algo-2", *place))
    finally:
        first.kill()
        first.join()

    assert_gone(second, "algo-1")
    # And says farewell to nobody.
    second.heartbeat.end(BROKEN)


def test_a_cause_is_not_waited_for_without_end(hosts, monkeypatch):
    """Nothing was said and nobody is silent: the cause stays unknown."""
    first, _ = hosts(2)

    with monkeypatch.context() as patch:
        patch.setattr(heartbeat, "FAREWELL_SECONDS", -heartbeat.SILENCE_SECONDS)
        assert first.heartbeat.await_cause() is None


def test_hosts_that_cannot_meet_say_where(monkeypatch):
    """The address is taken by something else, or nobody is there."""
    import socket

    monkeypatch.setattr(heartbeat, "MEETING_TIME", timedelta(seconds=1))
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + heartbeat.NEXT_PORT))
        for name in HOSTS[:2]:
            topology = Topology(HOSTS[:2], name, None, 1, "127.0.0.1", port)
            with pytest.raises(MachineError) as raised:
                Heartbeat(topology, lambda: None)
            assert f"`127.0.0.1:{port + 1}`" in str(raised.value)
