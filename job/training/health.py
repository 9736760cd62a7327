"""A training that can come to nothing ends early: no numbers, one vector for all, ever worse."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from transformers import TrainerCallback, TrainingArguments
from transformers import TrainerControl as Control
from transformers import TrainerState as State

from job.distributed.process_group import all_reduce, from_rank_zero, world_size
from job.evaluation.evaluate import Validation, encode_documents, metric_key
from job.model.encoder import Model
from job.runtime.logs import warn

# Documents whose similarity is looked at, of those that validation searches.
SAMPLE = 32
# 1 - mean cosine. Sound models have 0.05 (random weights) to 0.95, collapsed ones less than 1e-4
# (measured, job/LOG.md). Some are narrow from the start: then it takes a tenth of theirs.
COLLAPSED, OF_THE_BASE = 1e-3, 0.1
# So far below the base model from the first validation on is no chance any more; and so much of the
# training must be over, as the rate is highest at its beginning.
CLEARLY_WORSE, SHARE_DONE = 0.05, 0.25
SLOWER = "lower `training.learning_rate`"


class HealthCheck(TrainerCallback):
    """Ends such a training; `reason` says why, to be put in a sentence.

    The step that went wrong is not taken, and neither validated nor saved: a run that is taken up
    again does its last steps once more, and ends the same.
    """

    def __init__(self, model: Model, validation: Validation) -> None:
        """Take the model while it is the base model."""
        self.reason: str | None = None
        self._model = model
        self._validation = validation
        self._base_spread = spread(model, validation)
        self._loss = 0.0
        self._fault: str | None = None

    def record_loss(self, loss: torch.Tensor) -> None:
        # Every rank must take the step, or none.
        self._loss = float(all_reduce(loss)) / world_size()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: State, control: Control, **_: object
    ) -> None:
        faults = {"loss": self._loss}
        # float16's scaler looks for large gradients until some are infinite, and skips those steps.
        if not args.fp16:
            weights = self._model.encoder.parameters()
            faults["gradient"] = total_norm(w.grad for w in weights if w.grad is not None)
        for name, value in faults.items():
            if not math.isfinite(value):
                # Without gradients the optimizer leaves every weight as it is.
                self._model.encoder.zero_grad()
                where = f"step {state.global_step + 1} of {state.max_steps}"
                advice = f"{SLOWER}, or set `model.precision=float32`"
                self._stop(control, f"the {name} is {value} at {where}; {advice}")
                return

    def detect_fault(self) -> bool:
        """Tell whether the model is beyond being scored: a search by it would find by chance."""
        # A norm takes a hundredth of the time of looking at each weight.
        if not math.isfinite(total_norm(self._model.encoder.parameters())):
            self._fault = "the weights are no numbers"
        elif self._base_spread > 0:
            found = spread(self._model, self._validation)
            if found < COLLAPSED and found < OF_THE_BASE * self._base_spread:
                self._fault = (
                    f"all texts have nearly the same vector (mean cosine {1 - found:.5f}, the "
                    f"base model's {1 - self._base_spread:.3f})"
                )
        return self._fault is not None

    def on_evaluate(self, args: object, state: State, control: Control, **_: object) -> None:
        where = f"step {state.global_step} of {state.max_steps}"
        key, base = metric_key(self._validation.dimensions.main), self._validation.base
        reached = [entry[f"eval_{key}"] for entry in state.log_history if f"eval_{key}" in entry]
        if self._fault:
            self._stop(control, f"{self._fault} at {where}; {SLOWER}")
        elif is_degrading(reached, base, state.global_step / state.max_steps):
            self._stop(
                control,
                f"validation was {reached[-2]:.3f} and is {reached[-1]:.3f} at {where}, the base "
                f"model's is {base:.3f}; {SLOWER}",
            )

    def on_step_end(self, args: object, state: object, control: Control, **_: object) -> None:
        if self.reason:
            control.should_log = control.should_evaluate = control.should_save = False

    # The trainer ends a broken epoch as if it were whole.
    on_epoch_end = on_step_end

    def _stop(self, control: Control, reason: str) -> None:
        self.reason = reason
        control.should_training_stop = True
        control.should_save = False
        warn("train", f"stopped early: {reason}")


def is_degrading(reached: Sequence[float], base: float, share_done: float) -> bool:
    """Tell whether validation was clearly below the base model from the start and still sinks."""
    return (
        len(reached) > 1
        and share_done >= SHARE_DONE
        and max(reached) < base - CLEARLY_WORSE
        and reached[-1] <= reached[-2]
    )


def spread(model: Model, validation: Validation) -> float:
    """Return 1 - the mean cosine of two documents of the validation search: on every rank."""
    corpus = validation.search.corpus
    drawn = np.unique(np.linspace(0, len(corpus) - 1, SAMPLE).astype(np.int64))
    if len(drawn) < 2:
        return 0.0
    found = encode_documents(model, corpus.take(drawn), validation.batch_size).double()
    vectors = torch.nn.functional.normalize(found, dim=1)
    n = len(vectors)
    return from_rank_zero(
        lambda: 1.0 - (float(vectors.sum(dim=0).square().sum()) - n) / (n * (n - 1))
    )


def total_norm(tensors: Iterable[torch.Tensor]) -> float:
    """Return the norm of them all: finite where every number is."""
    return float(torch.nn.utils.get_total_norm(t.detach() for t in tensors))
