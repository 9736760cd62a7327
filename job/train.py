"""Training: the loss, the trainer, the checkpoints, and the choice among them on validation."""

import math
import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import PrinterCallback

from job.checkpoints import last_checkpoint, restore, step_of
from job.data import TrainingData, TrainingPairs
from job.errors import DataError, Interrupted, SpecError, TrainingError
from job.evaluate import Validation, metric_key
from job.interruption import StopSignal
from job.losses import matryoshka_loss
from job.model import Model, parameters
from job.progress import join_facts, log
from job.spec import TrainingSpec
from job.workspace import Workspace

if TYPE_CHECKING:
    from datasets import Dataset as ArrowDataset

CHECKPOINTS_KEPT = 3


@dataclass(frozen=True)
class Training:
    """The outcome: `model` is the best on validation; `best_step` 0 means the base model."""

    model: Model
    steps: int
    resumed_from_step: int
    best_step: int
    learning_rate: float
    # Validation nDCG@10 at the main dimension, of the base and of the chosen model.
    base_validation: float
    best_validation: float
    history: list[dict[str, float]]

    @property
    def improved_on_validation(self) -> bool:
        return self.best_step > 0

    def facts(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "resumed_from_step": self.resumed_from_step,
            "best_step": self.best_step,
            "learning_rate": self.learning_rate,
            "base_validation": self.base_validation,
            "best_validation": self.best_validation,
            "history": self.history,
        }


def train(
    model: Model,
    data: TrainingData,
    validation: Validation,
    spec: TrainingSpec,
    workspace: Workspace,
    stop: StopSignal,
) -> Training:
    """Train, then restore the best checkpoint on validation; the base model is a candidate too.

    Raises `Interrupted` after a stop signal (with a checkpoint written) and `TrainingError`.
    """
    weights = spec.dimension_weights
    if weights and len(weights) != len(validation.dimensions.all):
        msg = (
            f"`training.dimension_weights` has {len(weights)} values for the dimensions "
            f"{list(validation.dimensions.all)}; one each is needed, large to small."
        )
        raise SpecError(msg)
    untouched = Training(model, 0, 0, 0, 0.0, validation.base, validation.base, [])
    if spec.epochs == 0:
        return untouched
    rate = learning_rate(spec, model)
    checkpoint = last_checkpoint(workspace.checkpoints)
    # The trainer's callback takes its folder from nowhere else.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(workspace.logs / "tensorboard")
    arguments = _arguments(model, rate, validation.dimensions.main, spec, workspace)
    trainer = _trainer(model, data.train, validation, spec, arguments)
    trainer.add_callback(_Recorder(stop, by_steps=spec.evaluate_every != "epoch"))
    with stop.awaited():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    state = trainer.state
    if stop.requested:
        msg = f"The run was interrupted after step {state.global_step} of {state.max_steps}."
        raise Interrupted(msg)
    outcome = replace(
        untouched,
        steps=state.global_step,
        resumed_from_step=step_of(checkpoint) if checkpoint else 0,
        learning_rate=rate,
        history=curves(state),
    )
    best, step = float(state.best_metric or 0.0), int(state.best_global_step or 0)
    if best <= validation.base:
        return outcome
    restore(model, workspace.checkpoints / f"checkpoint-{step}", validation, best)
    return replace(outcome, best_step=step, best_validation=best)


def learning_rate(spec: TrainingSpec, model: Model) -> float:
    """Resolve `auto`: small models bear, and with few steps need, a higher rate."""
    if spec.learning_rate != "auto":
        return spec.learning_rate
    count = parameters(model)
    # Measured for MiniLM (22 M, job/LOG.md); the others are the usual rates of their sizes.
    rate = next(
        rate for size, rate in ((50e6, 1e-4), (200e6, 5e-5), (math.inf, 2e-5)) if count <= size
    )
    log.info("train: learning_rate=%g for a model of %d M parameters", rate, count // 10**6)
    return rate


def training_rows(pairs: TrainingPairs, seed: int) -> "ArrowDataset":
    """Arrange the columns as the trainer takes them: anchor, positive, negatives, row number.

    A row that lacks a negative others have gets a random document of another row: it is then
    just one more in-batch negative.
    """
    import pyarrow as pa
    from datasets import Dataset as ArrowDataset

    table = pairs.table.select(["anchor", "positive"])
    negatives = pairs.table["negatives"].to_pylist()
    width = max(map(len, negatives), default=0)
    answers: dict[int, set[int]] = {}
    for question, document in zip(pairs.questions, pairs.documents, strict=True):
        answers.setdefault(question, set()).add(document)
    random = np.random.default_rng(seed)
    for own, question in zip(negatives, pairs.questions, strict=True):
        while len(own) < width:
            row = _other_row(pairs, answers[question], random)
            own.append(pairs.table["positive"][row].as_py())
    for column in range(width):
        texts = pa.array([own[column] for own in negatives], pa.large_string())
        table = table.append_column(f"negative_{column + 1}", texts)
    return ArrowDataset(table.append_column("label", pa.array(np.arange(len(pairs)))))


def _other_row(pairs: TrainingPairs, known: set[int], random: np.random.Generator) -> int:
    for row in random.integers(len(pairs), size=100).tolist():
        if pairs.documents[row] not in known:
            return int(row)
    msg = "Some rows have negatives and others none, and nearly all rows share one context."
    raise DataError(msg)


def _arguments(
    model: Model, rate: float, main_dimension: int, spec: TrainingSpec, workspace: Workspace
) -> SentenceTransformerTrainingArguments:
    precision = model.machine.precision
    when: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    if spec.evaluate_every != "epoch":
        when = dict.fromkeys(("eval_strategy", "save_strategy"), "steps")
        when |= dict.fromkeys(("eval_steps", "save_steps"), spec.evaluate_every)
    return SentenceTransformerTrainingArguments(
        output_dir=str(workspace.checkpoints),
        num_train_epochs=spec.epochs,
        per_device_train_batch_size=spec.batch_size,
        # A text that stands twice in a batch would be punished as a wrong answer to itself.
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        learning_rate=rate,
        warmup_steps=spec.warmup_ratio,
        lr_scheduler_type=spec.schedule,
        weight_decay=spec.weight_decay,
        optim="adamw_torch_fused",
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=model.machine.device == "cpu",
        dataloader_pin_memory=model.machine.device == "cuda",
        save_total_limit=CHECKPOINTS_KEPT,
        metric_for_best_model=metric_key(main_dimension),
        greater_is_better=True,
        logging_steps=0.05,
        logging_nan_inf_filter=False,
        report_to=list(spec.report_to),
        disable_tqdm=not sys.stderr.isatty(),
        seed=spec.seed,
        **when,
    )


def _trainer(
    model: Model,
    pairs: TrainingPairs,
    validation: Validation,
    spec: TrainingSpec,
    arguments: SentenceTransformerTrainingArguments,
) -> SentenceTransformerTrainer:
    rows = training_rows(pairs, spec.seed)
    texts = [name for name in rows.column_names if name != "label"]
    prompts = {
        name: model.prompts.query if name == "anchor" else model.prompts.document for name in texts
    }
    arguments.prompts = {name: prompt for name, prompt in prompts.items() if prompt}
    trainer = SentenceTransformerTrainer(
        model=model.encoder,
        args=arguments,
        train_dataset=rows,
        loss=matryoshka_loss(model.encoder, pairs, validation.dimensions.all, spec),
        evaluator=_Evaluator(model, validation),
    )
    # It prints to stdout, where results belong; the recorder logs the same.
    trainer.remove_callback(PrinterCallback)
    # It collects what the library's own card shows; ours is made from the report.
    trainer.remove_callback(trainer.model_card_callback_class)
    return trainer


class _Evaluator(SentenceEvaluator):
    """Lets the trainer judge a checkpoint with our ruler."""

    def __init__(self, model: Model, validation: Validation) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model
        self._validation = validation

    def __call__(self, model: object, *args: object, **options: object) -> dict[str, float]:
        # The model given is the one being trained, hence the encoder of ours.
        del model, args, options
        return self._validation.score(self._model)


class _Recorder(TrainerCallback):
    """Logs progress, ends the training on a stop signal or a loss that is no number."""

    def __init__(self, stop: StopSignal, *, by_steps: bool) -> None:
        self._stop = stop
        self._by_steps = by_steps

    def on_step_end(
        self,
        args: object,  # noqa: ARG002  the trainer's signature
        state: TrainerState,
        control: TrainerControl,
        **_: object,
    ) -> None:
        if self._stop.requested:
            control.should_save = control.should_training_stop = True
        elif state.global_step == state.max_steps and self._by_steps:
            # Whatever the cadence, the last step is a candidate (the last epoch's end is one).
            control.should_save = control.should_evaluate = True

    def on_epoch_end(
        self,
        args: object,  # noqa: ARG002  the trainer's signature
        state: TrainerState,
        control: TrainerControl,
        **_: object,
    ) -> None:
        # The trainer ends an epoch that a stop signal cut short as if it were whole. Validating
        # there would add a candidate, and draw random numbers that an uninterrupted run does not.
        if self._stop.requested and not float(state.epoch or 0).is_integer():
            control.should_save = control.should_evaluate = False

    def on_log(
        self,
        args: object,  # noqa: ARG002  the trainer's signature
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002  the trainer's signature
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        logs = logs or {}
        where = f"step={state.global_step}/{state.max_steps}"
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                msg = (
                    f"The loss is {logs['loss']} at step {state.global_step}. Lower "
                    "`training.learning_rate`, or set `model.precision=float32`."
                )
                raise TrainingError(msg)
            facts = {"loss": f"{logs['loss']:.4f}", "learning_rate": f"{logs['learning_rate']:.2e}"}
            log.info("train: %s %s", where, join_facts(dict(facts)))
        for key, value in logs.items():
            if key.startswith("eval_dim_"):
                log.info("validate: %s %s: %.4f", where, key.removeprefix("eval_"), value)


def curves(state: TrainerState) -> list[dict[str, float]]:
    """Reduce the trainer's log to what a report draws: loss, learning rate, validation."""
    kept = ("step", "epoch", "loss", "learning_rate", "grad_norm")
    return [
        {key.removeprefix("eval_"): value for key, value in entry.items()
         if key in kept or key.startswith("eval_dim_")}
        for entry in state.log_history
        if "loss" in entry or any(key.startswith("eval_dim_") for key in entry)
    ]  # fmt: skip
