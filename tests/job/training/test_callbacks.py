"""The checkpoint schedule limits both the work lost by an interruption and its own cost."""

from types import SimpleNamespace

import pytest

from job.training.callbacks import MAX_COST_SHARE, MAX_LOST_SECONDS, CheckpointSchedule


def run(cadence, now, *, steps, seconds, cost=0.0, validate=()):
    """Train on a simulated clock; return the steps after which a checkpoint was saved."""
    saved = []
    for step in range(1, steps + 1):
        now[0] += seconds
        control = SimpleNamespace(should_save=step in validate, should_evaluate=step in validate)
        state = SimpleNamespace(global_step=step)
        cadence.on_step_end(None, state, control)
        if control.should_save:
            saved.append(step)
            # A simulated validation takes an hour.
            now[0] += cost + 3600 * control.should_evaluate
            cadence.on_save(None, state, control)
    return saved


@pytest.fixture
def now():
    return [0.0]


def test_an_interruption_loses_five_minutes_at_most(now):
    """With one-minute steps every fifth is saved, with ten-minute steps each one."""
    assert run(CheckpointSchedule(None, lambda: now[0]), now, steps=12, seconds=60) == [5, 10]
    assert run(CheckpointSchedule(None, lambda: now[0]), now, steps=3, seconds=600) == [1, 2, 3]
    assert MAX_LOST_SECONDS == 300


def test_a_short_training_needs_no_checkpoint(now):
    assert run(CheckpointSchedule(None, lambda: now[0]), now, steps=250, seconds=1) == []


def test_slow_checkpoints_become_rarer(now):
    """Once the first one is timed, they take at most their share of the time."""
    saved = run(CheckpointSchedule(None, lambda: now[0]), now, steps=120, seconds=60, cost=60)
    assert saved == [5, 25, 45, 65, 85, 105]
    assert MAX_COST_SHARE == 60 / (20 * 60)


def test_a_checkpoint_after_validation_restarts_the_interval(now):
    """The hour of validation does not count as the cost of the checkpoint."""
    saved = run(
        CheckpointSchedule(None, lambda: now[0]), now, steps=12, seconds=60, cost=1, validate=(3,)
    )
    assert saved == [3, 8]


def test_checkpoint_steps_replaces_the_time_schedule(now):
    assert run(CheckpointSchedule(4, lambda: now[0]), now, steps=9, seconds=600) == [4, 8]
