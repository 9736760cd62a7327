"""Checkpoints by time or by steps: how much an interruption can cost, and how much they cost."""

from types import SimpleNamespace

import pytest

from job.training.callbacks import MAX_COST_SHARE, MAX_LOST_SECONDS, CheckpointSchedule


def run(cadence, now, *, steps, seconds, cost=0.0, validate=()):
    """Train in made-up time; returns the steps after which a checkpoint was asked for."""
    asked = []
    for step in range(1, steps + 1):
        now[0] += seconds
        control = SimpleNamespace(should_save=step in validate, should_evaluate=step in validate)
        state = SimpleNamespace(global_step=step)
        cadence.on_step_end(None, state, control)
        if control.should_save:
            asked.append(step)
            # A validation takes an hour.
            now[0] += cost + 3600 * control.should_evaluate
            cadence.on_save(None, state, control)
    return asked


@pytest.fixture
def now():
    return [0.0]


def test_an_interruption_costs_five_minutes_at_most(now):
    """Steps of a minute: every fifth; steps of ten minutes: each."""
    assert run(CheckpointSchedule(None, lambda: now[0]), now, steps=12, seconds=60) == [5, 10]
    assert run(CheckpointSchedule(None, lambda: now[0]), now, steps=3, seconds=600) == [1, 2, 3]
    assert MAX_LOST_SECONDS == 300


def test_what_is_quickly_done_needs_none(now):
    assert run(CheckpointSchedule(None, lambda: now[0]), now, steps=250, seconds=1) == []


def test_where_writing_takes_long_they_become_rarer(now):
    """At most their share of the time is spent on them, once it is known what one costs."""
    asked = run(CheckpointSchedule(None, lambda: now[0]), now, steps=120, seconds=60, cost=60)
    assert asked == [5, 25, 45, 65, 85, 105]
    assert MAX_COST_SHARE == 60 / (20 * 60)


def test_a_validations_own_checkpoint_counts(now):
    """After it the time begins anew, and its hour is no cost of writing."""
    asked = run(
        CheckpointSchedule(None, lambda: now[0]), now, steps=12, seconds=60, cost=1, validate=(3,)
    )
    assert asked == [3, 8]


def test_a_given_number_of_steps_is_kept(now):
    assert run(CheckpointSchedule(4, lambda: now[0]), now, steps=9, seconds=600) == [4, 8]
