"""What hangs in the trainer's loop: it logs, saves, stops, and keeps all ranks in step."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers.trainer_callback import ProgressCallback

from job.distributed import process_group
from job.runtime.logs import tell
from job.runtime.signals import StopSignal
from job.training.batching import Shards

# What an interruption costs at most, as long as writing a checkpoint does not cost more than its
# share of the run.
MAX_LOST_SECONDS = 300.0
MAX_COST_SHARE = 0.05


class RankSync(TrainerCallback):
    """Has all ranks do after a step what the callbacks of rank 0 ask for; the last of them."""

    def __init__(self, shards: Callable[[], Shards | None]) -> None:
        """Take what gives the trainer's shards, which it has once it trains."""
        self._shards = shards

    def on_epoch_begin(self, args: object, state: State, control: object, **_: object) -> None:
        # The trainer does not reach it where it goes on in the midst of an epoch.
        if shards := self._shards():
            shards.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args: object, state: object, control: Control, **_: object) -> None:
        for name, value in process_group.broadcast(vars(control)).items():
            setattr(control, name, value)

    on_epoch_end = on_evaluate = on_step_end

    def on_save(self, *_: object, **__: object) -> None:
        """Wait for rank 0, which may be uploading what it has written."""
        process_group.barrier()


class ProgressBar(ProgressCallback):
    def on_log(self, *args: object, **options: object) -> None:
        """Leave the logging to the recorder."""


class SynchronizedStop(TrainerCallback):
    """Tells every rank of a stop signal that one of them was sent; the first of callbacks."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def on_step_end(self, *_: object, **__: object) -> None:
        if process_group.any_rank(self._stop.requested):
            self._stop.request()


class ProgressLogger(TrainerCallback):
    """Logs progress, ends the training on a stop signal."""

    def __init__(self, stop: StopSignal, *, by_steps: bool) -> None:
        self._stop = stop
        self._by_steps = by_steps
        self._began = 0.0
        # Of the steps since the last line.
        self._seconds, self._steps = 0.0, 0

    def on_step_begin(self, *_: object, **__: object) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: object, state: State, control: Control, **_: object) -> None:
        self._seconds += time.perf_counter() - self._began
        self._steps += 1
        if self._stop.requested:
            control.should_save = control.should_training_stop = True
        elif state.global_step == state.max_steps and self._by_steps:
            # Whatever the cadence, the last step is a candidate (the last epoch's end is one).
            control.should_save = control.should_evaluate = True

    def on_epoch_end(self, args: object, state: State, control: Control, **_: object) -> None:
        # The trainer ends an epoch that a stop signal cut short as if it were whole. Validating
        # there would add a candidate, and draw random numbers that an uninterrupted run does not.
        if self._stop.requested and not float(state.epoch or 0).is_integer():
            control.should_save = control.should_evaluate = False

    def on_log(self, args: TrainingArguments, state: State, control: object, **given: Any) -> None:  # noqa: ANN401
        logs: dict[str, float] = given["logs"]
        where = {"step": state.global_step, "steps": state.max_steps}
        if "loss" in logs:
            each = self._seconds / max(1, self._steps)
            self._seconds, self._steps = 0.0, 0
            tell(
                "train",
                **where,
                loss=round(logs["loss"], 4),
                learning_rate=float(f"{logs['learning_rate']:.2e}"),
                seconds_per_step=round(each, 4),
                pairs_per_second=round(args.train_batch_size / each, 1) if each else 0.0,
            )
        for key, value in logs.items():
            if key.startswith("eval_dim_"):
                tell("validate", **where, **{key.removeprefix("eval_"): value})


class CheckpointSchedule(TrainerCallback):
    """Asks for a checkpoint after MAX_LOST_SECONDS of work, or each `steps` steps.

    Writing one is timed: if it takes long, they become rarer, so that it costs at most MAX_COST_SHARE of the
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
        if self._steps is not None:
            due = state.global_step % self._steps == 0
        else:
            due = self._clock() - self._saved >= max(MAX_LOST_SECONDS, self._cost / MAX_COST_SHARE)
        if due:
            control.should_save = True
            # A validation before it is no part of its cost.
            self._asked = None if control.should_evaluate else self._clock()

    def on_save(self, *_: object, **__: object) -> None:
        self._saved = self._clock()
        if self._asked is not None:
            self._cost = self._saved - self._asked


class CheckpointHooks(TrainerCallback):
    """Hands each written checkpoint's folder on, to one after the other."""

    def __init__(self, *works: Callable[[Path], None] | None) -> None:
        self._works = [work for work in works if work]

    def on_save(self, args: TrainingArguments, state: State, control: object, **_: object) -> None:
        for work in self._works:
            work(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


def training_curves(state: State) -> list[dict[str, float]]:
    """Reduce the trainer's log to what a report draws: loss, learning rate, validation."""
    kept = ("step", "epoch", "loss", "learning_rate", "grad_norm")
    return [
        {key.removeprefix("eval_"): value for key, value in entry.items()
         if key in kept or key.startswith("eval_dim_")}
        for entry in state.log_history
        if "loss" in entry or any(key.startswith("eval_dim_") for key in entry)
    ]  # fmt: skip
