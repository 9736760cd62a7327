"""Fixtures of trainings."""

import pytest

from job.runtime.signals import StopSignal


@pytest.fixture
def stop_after(monkeypatch):
    """Make a stop signal that is sent when a step is logged, so the next step sees it."""

    def make(step):
        stop = StopSignal()

        def tell(event, **facts):
            if event == "train" and facts["step"] == step:
                stop.request()

        monkeypatch.setattr("job.training.callbacks.tell", tell)
        return stop

    return make
