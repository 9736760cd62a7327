"""Trainer callbacks: log progress, schedule checkpoints, stop on a signal, synchronize ranks."""

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers import TrainerControl as Control
from transformers import TrainerState as State

from job.distributed import process_group
from job.runtime.counter import Counter
from job.runtime.logs import tell
from job.runtime.signals import StopSignal
from job.training.batching import Shards

# An interruption loses at most this much work, unless checkpoints would then take more than
# MAX_COST_SHARE of the run.
MAX_LOST_SECONDS = 300.0
MAX_COST_SHARE = 0.05


class RankSync(TrainerCallback):
    """Broadcast rank 0's control flags to all ranks after each step; must be the last callback."""

    def __init__(self, shards: Callable[[], Shards | None]) -> None:
        """Take a function that returns the trainer's shards: they exist only once it trains."""
        self._shards = shards

    def on_epoch_begin(self, args: object, state: State, control: object, **_: object) -> None:
        # The trainer does not set the shards' epoch if it resumes in the middle of one.
        if shards := self._shards():
            shards.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args: object, state: object, control: Control, **_: object) -> None:
        for name, value in process_group.broadcast(vars(control)).items():
            setattr(control, name, value)

    on_epoch_end = on_evaluate = on_step_end

    def on_save(self, *_: object, **__: object) -> None:
        """Wait for rank 0, which may still upload the checkpoint before."""
        process_group.barrier()

    on_train_end = on_save


class SynchronizedStop(TrainerCallback):
    """Stop all ranks if one of them received a stop signal; must be the first callback."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def on_step_end(self, *_: object, **__: object) -> None:
        if process_group.any_rank(self._stop.requested):
            self._stop.request()


class ProgressLogger(TrainerCallback):
    """Log progress, and end the training on a stop signal."""

    def __init__(self, stop: StopSignal, *, by_steps: bool) -> None:
        self._stop = stop
        self._by_steps = by_steps
        self._step_started = 0.0
        # Since the last log line.
        self._seconds, self._steps = 0.0, 0
        self._counter: Counter | None = None

    def on_train_begin(self, args: object, state: State, control: object, **_: object) -> None:
        self._counter = Counter("train", "steps", state.max_steps, state.global_step)

    def on_step_begin(self, *_: object, **__: object) -> None:
        self._step_started = time.perf_counter()

    def on_step_end(self, args: object, state: State, control: Control, **_: object) -> None:
        self._seconds += time.perf_counter() - self._step_started
        self._steps += 1
        if self._counter:
            self._counter.add()
        if self._stop.requested:
            control.should_training_stop = True
        elif state.global_step == state.max_steps and self._by_steps:
            # The last step is always a candidate, even if it is not due by `evaluate_every`.
            control.should_save = control.should_evaluate = True

    def on_epoch_end(self, args: object, state: State, control: Control, **_: object) -> None:
        # After a stop signal the trainer ends the unfinished epoch like a complete one. Evaluating
        # there would add a candidate and draw random numbers that an uninterrupted run does not.
        is_unfinished = state.global_step < state.max_steps
        if self._stop.requested and is_unfinished and not float(state.epoch or 0).is_integer():
            control.should_save = control.should_evaluate = False

    def on_log(self, args: TrainingArguments, state: State, control: object, **event: Any) -> None:  # noqa: ANN401
        logs: dict[str, float] = event["logs"]
        progress = {"step": state.global_step, "steps": state.max_steps}
        if "loss" in logs:
            seconds_per_step = self._seconds / max(1, self._steps)
            self._seconds, self._steps = 0.0, 0
            tell(
                "train",
                **progress,
                loss=round(logs["loss"], 4),
                learning_rate=float(f"{logs['learning_rate']:.2e}"),
                seconds_per_step=round(seconds_per_step, 4),
                pairs_per_second=(
                    round(args.train_batch_size / seconds_per_step, 1) if seconds_per_step else 0.0
                ),
            )
        for key, value in logs.items():
            if key.startswith("eval_dim_"):
                tell("validate", **progress, **{key.removeprefix("eval_"): value})


class CheckpointSchedule(TrainerCallback):
    """Request a checkpoint to resume from: in time, every `steps` steps, or on a stop signal.

    In time means after `MAX_LOST_SECONDS` of work. Slow checkpoints become rarer, so that writing
    them takes at most `MAX_COST_SHARE` of the run.
    """

    def __init__(
        self,
        steps: int | None,
        stop: StopSignal,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steps = steps
        self._stop = stop
        self._clock = clock
        self._saved_at = clock()
        self._seconds_per_save = 0.0
        self._requested_at: float | None = None
        self._due_step = 0

    def is_due(self, step: int) -> bool:
        """Return whether the run must be able to resume from this step."""
        return self._due_step == step

    def on_step_end(self, args: object, state: State, control: Control, **_: object) -> None:
        if self._steps is not None:
            due = state.global_step % self._steps == 0
        else:
            interval = max(MAX_LOST_SECONDS, self._seconds_per_save / MAX_COST_SHARE)
            due = self._clock() - self._saved_at >= interval
        if due or self._stop.requested:
            control.should_save = True
            self._due_step = state.global_step
            # With an evaluation in between, the time until the save is not the cost of the save.
            is_evaluated = control.should_evaluate or float(state.epoch or 0).is_integer()
            self._requested_at = None if is_evaluated else self._clock()

    def on_save(self, args: object, state: State, control: object, **_: object) -> None:
        if self.is_due(state.global_step):
            self._saved_at = self._clock()
            if self._requested_at is not None:
                self._seconds_per_save = self._saved_at - self._requested_at


def training_curves(state: State) -> list[dict[str, float]]:
    """Return the log entries that the report plots: loss, learning rate, validation."""
    keys = ("step", "epoch", "loss", "learning_rate", "grad_norm")
    return [
        {key.removeprefix("eval_"): value for key, value in entry.items()
         if key in keys or key.startswith("eval_dim_")}
        for entry in state.log_history
        if "loss" in entry or any(key.startswith("eval_dim_") for key in entry)
    ]  # fmt: skip
