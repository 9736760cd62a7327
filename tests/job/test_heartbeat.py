"""Hosts tell each other that they live and why they ended; none waits for one that has gone."""

import threading
import time
from datetime import timedelta

import pytest
from chaos_job import context
from job.cluster import Cluster
from job.peers import Cause, Peers
from worker_processes import PATIENCE_SECONDS, free_port, hold_a_store

from job import peers
from job.errors import MachineError

HOSTS = ("algo-1", "algo-2", "algo-3")
BROKEN = Cause("algo-2", 4, "There are too few pairs.")
GONE = "it has gone, without a word. Launch the run again to go on from its last checkpoint."


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Beat often, and have little patience; a beat more or less is nothing to a busy machine."""
    monkeypatch.setattr(peers, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(peers, "SILENCE_SECONDS", 2.0)
    monkeypatch.setattr(peers, "FAREWELL_SECONDS", 2.0)


class Listener:
    """A host whose causes are counted."""

    def __init__(self, cluster):
        self.calls = 0
        self.heard = threading.Event()
        self.peers = Peers(cluster, self._on_cause)

    def _on_cause(self):
        self.calls += 1
        self.heard.set()

    def wait(self):
        assert self.heard.wait(PATIENCE_SECONDS)
        return self.peers.cause


@pytest.fixture
def hosts():
    """Start so many hosts, of which each listens to the others."""
    started = []

    def start(count):
        port = free_port()
        names = HOSTS[:count]
        for name in names:
            cluster = Cluster(names, name, None, 1, "127.0.0.1", port)
            started.append(Listener(cluster))
        return list(started)

    yield start
    # The store's host goes last.
    for listener in reversed(started):
        listener.peers.end()


@pytest.fixture
def waiting():
    """Start the first of two hosts; the other one is whoever talks to its store."""
    listener = Listener(Cluster(HOSTS[:2], "algo-1", None, 1, "127.0.0.1", free_port()))
    yield listener
    store_of(listener).set("left/algo-2", "")
    listener.peers.end()


def store_of(listener):
    """Connect to the hosts' store as a host does."""
    from torch.distributed import TCPStore

    place = listener.peers._cluster
    return TCPStore("127.0.0.1", place.port + peers.NEXT_PORT, wait_for_workers=False)


def test_a_cause_is_read_as_a_host_and_what_it_says():
    """As it stands in the other hosts' failure files."""
    assert str(BROKEN) == "algo-2: There are too few pairs."


def test_the_cause_of_an_end_reaches_every_other_host(hosts):
    """With its code and line, and once; whoever said it hears nothing."""
    first, second, third = hosts(3)

    second.peers.end(BROKEN)

    assert (first.wait(), third.wait()) == (BROKEN, BROKEN)
    assert (first.calls, second.calls, third.calls) == (1, 0, 1)
    assert first.peers.await_cause() == BROKEN


def test_the_first_hosts_cause_is_heard_before_its_store_goes(hosts, monkeypatch):
    """It waits for the others, who would otherwise think that it had gone."""
    monkeypatch.setattr(peers, "FAREWELL_SECONDS", PATIENCE_SECONDS)
    first, second = hosts(2)
    ended = threading.Thread(target=first.peers.end, args=(BROKEN,))
    ended.start()

    assert second.wait() == BROKEN
    assert ended.is_alive()
    second.peers.end()
    ended.join(PATIENCE_SECONDS)
    assert not ended.is_alive()


def test_a_host_that_says_nothing_any_more_is_given_up(waiting):
    """Its last beat is long ago; it is named."""
    store_of(waiting).set("beat/algo-2", "1")

    assert waiting.wait() == Cause("algo-2", 6, GONE)


def test_a_host_that_has_not_begun_and_one_that_has_left_are_not_given_up(hosts, waiting):
    """One is still starting, the other is done; what beats is alive."""
    first, second, third = hosts(3)
    store_of(first).wait(["beat/algo-3"])
    third.peers.end()

    # Longer than a silence that would be too long.
    time.sleep(2 * peers.SILENCE_SECONDS)

    assert [listener.peers.cause for listener in (first, second, waiting)] == [None] * 3


def test_the_first_host_that_goes_takes_the_store_and_is_named(tmp_path):
    """What the others hear of it is that the connection is lost."""
    ours, theirs = context.Pipe(duplex=False)
    port = free_port()
    place = (None, 1, "127.0.0.1", port)
    first = context.Process(target=hold_a_store, args=(port + peers.NEXT_PORT, theirs))
    first.start()
    try:
        assert ours.poll(PATIENCE_SECONDS)
        second = Listener(Cluster(HOSTS[:2], "algo-2", *place))
    finally:
        first.kill()
        first.join()

    assert second.wait() == Cause("algo-1", 6, GONE)
    # And says farewell to nobody.
    second.peers.end(BROKEN)


def test_a_silence_is_waited_for_no_longer_than_needed(hosts):
    """Nothing was said and nobody is silent: the cause stays unknown."""
    first, _ = hosts(2)

    assert first.peers.await_cause() is None


def test_hosts_that_cannot_meet_say_where(monkeypatch):
    """The address is taken by something else, or nobody is there."""
    import socket

    monkeypatch.setattr(peers, "MEETING_TIME", timedelta(seconds=1))
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + peers.NEXT_PORT))
        for name in HOSTS[:2]:
            cluster = Cluster(HOSTS[:2], name, None, 1, "127.0.0.1", port)
            with pytest.raises(MachineError) as raised:
                Peers(cluster, lambda: None)
            start = f"The hosts cannot meet at `127.0.0.1:{port + 1}`: "
            assert str(raised.value).startswith(start)
            assert str(raised.value).endswith(". They must reach each other on all ports.")
