"""Stop a failing training early: NaN or infinite values, collapsed embeddings, sinking scores."""

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

# Documents of the validation corpus whose mutual similarity is measured.
SAMPLE = 32
# Spread is 1 - mean cosine. Healthy models have 0.05 (random weights) to 0.95, collapsed ones less
# than 1e-4 (measured, job/LOG.md). Some base models have little spread already, so it must also
# have shrunk to a tenth of the base model's.
MIN_SPREAD, MIN_SHARE_OF_BASE_SPREAD = 1e-3, 0.1
# A validation score that stays this far below the base model's is not chance. The check starts
# after this share of the training, because the learning rate is highest at the beginning.
MAX_LOSS_OF_NDCG, MIN_SHARE_DONE = 0.05, 0.25
LOWER_RATE = "lower `training.learning_rate`"


class HealthCheck(TrainerCallback):
    """Stop a failing training; `reason` is a clause for a sentence.

    The failing step is neither applied, validated nor saved: a resumed run repeats its last steps
    and stops in the same way.
    """

    def __init__(self, model: Model, validation: Validation) -> None:
        """Measure the base model; must be called before training starts."""
        self.reason: str | None = None
        self._model = model
        self._validation = validation
        self._base_spread = spread(model, validation)
        self._loss = torch.zeros(())
        self.fault: str | None = None

    def record_loss(self, loss: torch.Tensor) -> None:
        # Averaged over ranks, so that all of them apply the step or none does.
        self._loss = all_reduce(loss) / world_size()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: State, control: Control, **_: object
    ) -> None:
        values = {"loss": self._loss}
        # float16's scaler raises its scale until gradients overflow, and skips those steps itself.
        if not args.fp16:
            weights = self._model.encoder.parameters()
            values["gradient"] = total_norm(w.grad for w in weights if w.grad is not None)
        # Read together: each read makes the host wait for the GPU.
        found = torch.stack([value.to(self._loss.device) for value in values.values()]).tolist()
        for name, value in zip(values, found, strict=True):
            if not math.isfinite(value):
                # Without gradients the optimizer changes no weight.
                self._model.encoder.zero_grad()
                step = f"step {state.global_step + 1} of {state.max_steps}"
                advice = f"{LOWER_RATE}, or set `model.precision=float32`"
                self._stop(control, f"the {name} is {value} at {step}; {advice}")
                return

    def detect_fault(self) -> bool:
        """Return whether the model is broken, so that its search results would be random."""
        # One norm takes a hundredth of the time of testing each weight.
        if not math.isfinite(total_norm(self._model.encoder.parameters())):
            self.fault = "some weights are NaN or infinite"
        elif self._base_spread > 0:
            found = spread(self._model, self._validation)
            if found < MIN_SPREAD and found < MIN_SHARE_OF_BASE_SPREAD * self._base_spread:
                self.fault = (
                    f"all texts have nearly the same vector (mean cosine {1 - found:.5f}, the "
                    f"base model's {1 - self._base_spread:.3f})"
                )
        return self.fault is not None

    def on_evaluate(self, args: object, state: State, control: Control, **_: object) -> None:
        step = f"step {state.global_step} of {state.max_steps}"
        key, base = metric_key(self._validation.dimensions.main), self._validation.base
        scores = [entry[f"eval_{key}"] for entry in state.log_history if f"eval_{key}" in entry]
        if self.fault:
            self._stop(control, f"{self.fault} at {step}; {LOWER_RATE}")
        elif is_degrading(scores, base, state.global_step / state.max_steps):
            self._stop(
                control,
                f"the validation score was {scores[-2]:.3f} and is {scores[-1]:.3f} at {step}, the "
                f"base model's is {base:.3f}; {LOWER_RATE}",
            )

    def on_step_end(self, args: object, state: object, control: Control, **_: object) -> None:
        if self.reason:
            control.should_log = control.should_evaluate = control.should_save = False

    # The trainer ends an unfinished epoch like a complete one.
    on_epoch_end = on_step_end

    def _stop(self, control: Control, reason: str) -> None:
        self.reason = reason
        control.should_training_stop = True
        control.should_save = False
        warn("train", f"stopped early: {reason}")


def is_degrading(scores: Sequence[float], base: float, share_done: float) -> bool:
    """Return whether validation was always clearly below the base model and is not improving."""
    return (
        len(scores) > 1
        and share_done >= MIN_SHARE_DONE
        and max(scores) < base - MAX_LOSS_OF_NDCG
        and scores[-1] <= scores[-2]
    )


def spread(model: Model, validation: Validation) -> float:
    """Return 1 - the mean cosine between sampled validation documents, on every rank."""
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


def total_norm(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the norm of all values: finite only if every value is."""
    return torch.nn.utils.get_total_norm(t.detach() for t in tensors)
