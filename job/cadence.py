"""When a training writes a checkpoint beside its validations: by time, or each N steps."""

import time
from collections.abc import Callable

from transformers import TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State

# What an interruption costs at most, as long as writing a checkpoint does not cost more than its
# share of the run.
LOST_SECONDS = 300.0
SHARE = 0.05


class Cadence(TrainerCallback):
    """Asks for a checkpoint after LOST_SECONDS of work, or each `steps` steps.

    Writing one is timed: if it takes long, they become rarer, so that it costs at most SHARE of the
    run.
    """

    def __init__(self, steps: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps = steps
        self._clock = clock
        self._saved = clock()
        self._cost = 0.0
        self._asked: float | None = None

    def on_step_end(self, args: object, state: State, control: Control, **_: object) -> None:
        self._asked = None
        if self._is_due(state.global_step):
            control.should_save = True
            # A validation before it is no part of its cost.
            self._asked = None if control.should_evaluate else self._clock()

    def _is_due(self, step: int) -> bool:
        if self._steps is not None:
            return step % self._steps == 0
        return self._clock() - self._saved >= max(LOST_SECONDS, self._cost / SHARE)

    def on_save(self, *_: object, **__: object) -> None:
        self._saved = self._clock()
        if self._asked is not None:
            self._cost = self._saved - self._asked
