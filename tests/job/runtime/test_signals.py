"""A stop signal is never lost, whatever Python was doing when it arrived."""

import signal
import sys

import pytest

from job.runtime.logs import Progress
from job.runtime.signals import StopSignal


class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    made = StopSignal()
    made.install()
    yield made
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
