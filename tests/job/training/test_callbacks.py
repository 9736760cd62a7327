"""The checkpoint schedule limits both the work lost by an interruption and its own cost."""

from types import SimpleNamespace

import pytest

from job.runtime.signals import StopSignal
from job.training.callbacks import (
    MAX_COST_SHARE,
    MAX_LOST_SECONDS,
    CheckpointSchedule,
    RankSync,
)


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def stop():
    return StopSignal()


@pytest.fixture
def schedule(now, stop):
    """Make a schedule on a simulated clock."""
    return lambda steps=None: CheckpointSchedule(steps, stop, lambda: now[0])


@pytest.fixture
def run(now):
    def train(schedule, *, steps, seconds, cost=0.0, validate=(), epoch=1000):
        """Train on the clock; return the steps from which the run can resume.

        At the steps `validate`, weights are written after a validation of an hour.
        """
        due = []
        for step in range(1, steps + 1):
            now[0] += seconds
            validated = step in validate
            control = SimpleNamespace(should_save=validated, should_evaluate=validated)
            state = SimpleNamespace(global_step=step, epoch=step / epoch)
            schedule.on_step_end(None, state, control)
            if schedule.is_due(step):
                assert control.should_save
                due.append(step)
            if control.should_save:
                now[0] += cost + 3600 * control.should_evaluate
                schedule.on_save(None, state, control)
        return due

    return train


def test_an_interruption_loses_five_minutes_at_most(schedule, run):
    """With one-minute steps every fifth is saved, with ten-minute steps each one."""
    assert run(schedule(), steps=12, seconds=60) == [5, 10]
    assert run(schedule(), steps=3, seconds=600) == [1, 2, 3]
    assert MAX_LOST_SECONDS == 300


def test_a_short_training_needs_no_checkpoint(schedule, run):
    assert run(schedule(), steps=250, seconds=1) == []


def test_slow_checkpoints_become_rarer(schedule, run):
    """Once the first one is timed, they take at most their share of the time."""
    assert run(schedule(), steps=120, seconds=60, cost=60) == [5, 25, 45, 65, 85, 105]
    assert MAX_COST_SHARE == 60 / (20 * 60)


def test_weights_after_a_validation_do_not_count(schedule, run):
    """They are written at step 3, but nothing can resume from them; the hour is work at risk."""
    assert run(schedule(), steps=12, seconds=60, cost=1, validate=(3,)) == [4, 9]


@pytest.mark.parametrize("options", [{"validate": (5,)}, {"epoch": 5}])
def test_validation_is_no_cost_of_a_checkpoint(schedule, run, options):
    """Otherwise the next one would come after twenty hours."""
    assert run(schedule(), steps=12, seconds=60, cost=1, **options) == [5, 10]


def test_checkpoint_steps_replaces_the_time_schedule(schedule, run):
    assert run(schedule(4), steps=9, seconds=600) == [4, 8]


def test_a_stop_signal_requests_a_checkpoint(schedule, run, stop):
    stop.request()
    assert run(schedule(), steps=1, seconds=1) == [1]


def test_no_timeout_ends_the_wait_for_rank_zeros_last_upload(monkeypatch):
    """Its thread ends after the last step; in a collective call the others would wait in vain."""
    calls = []
    monkeypatch.setattr("job.distributed.process_group.barrier", lambda: calls.append("barrier"))
    RankSync(lambda: None).on_train_end(None, None, None)
    assert calls == ["barrier"]
