"""A stop signal is never lost, whatever Python was doing when it arrived."""

import signal
import sys
import time

import pytest

from job.runtime import signals
from job.runtime.logs import Progress
from job.runtime.signals import StopSignal, wait_for_kill


class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    made = StopSignal()
    made.install()
    yield made
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def swallowed(monkeypatch):
    """Collect the exceptions that Python ignores."""
    found = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: found.append(error.exc_type))
    return found


def test_a_stop_that_python_swallows_ends_the_run_at_its_next_stage(stop, swallowed):
    """Python ignores exceptions raised in a `__del__`."""
    progress = Progress(0.0, check=stop.check)
    with progress.stage("data"):
        Dying()
    assert swallowed == [KeyboardInterrupt]
    assert stop.requested
    with pytest.raises(KeyboardInterrupt), progress.stage("model"):
        pytest.fail("the stage began")


def test_a_stop_that_python_swallows_ends_a_training_after_its_step(stop, swallowed):
    """Like a signal during training; a second signal ends it at once."""
    Dying()
    assert swallowed == [KeyboardInterrupt]
    with stop.deferred():
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_wait_for_the_kill_ends_after_its_time_or_with_another_signal(stop, monkeypatch):
    """On SageMaker the kill comes first, at most 120 s after the signal."""
    slept = []
    monkeypatch.setattr(signals.time, "sleep", slept.append)
    wait_for_kill()
    assert slept == [120]

    def sleep(_):
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the signal did not end the wait")

    monkeypatch.setattr(signals.time, "sleep", sleep)
    wait_for_kill()
    # As `run_workers` leaves it: its handler forwards signals to workers.
    signal.signal(signal.SIGTERM, lambda *_: None)
    wait_for_kill()


def test_a_signal_that_is_handled_does_not_end_the_process(stop, monkeypatch):
    """The watching thread then waits for the next one."""
    ended = []
    monkeypatch.setattr(signals.os, "_exit", ended.append)
    monkeypatch.setattr(signals, "UNHANDLED_SECONDS", 0.2)
    stop.exit_if_unhandled()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert ended == []
