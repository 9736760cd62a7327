"""The library's trainer, set up for pairs: arguments, columns, validation and what it logs."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from job.batches import lookalike_sampler
from job.data import TrainingPairs
from job.disk import CHECKPOINTS_KEPT, EnoughDisk
from job.evaluate import Validation, metric_key
from job.interruption import StopSignal
from job.losses import matryoshka_loss
from job.memory import RandomState, with_fewer_rows
from job.model import Model, set_dropout
from job.negatives import fill
from job.progress import join_facts, log
from job.ranking import IntArray
from job.sanity import Sanity
from job.spec import ResolvedTraining
from job.workspace import Workspace

if TYPE_CHECKING:
    from datasets import Dataset as ArrowDataset


def build_trainer(
    model: Model,
    pairs: TrainingPairs,
    validation: Validation,
    spec: ResolvedTraining,
    workspace: Workspace,
    stop: StopSignal,
    alike: list[IntArray] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> "PairTrainer":
    """Set a trainer up; its checkpoints go to the workspace, its curves to the logs.

    `alike` are the rows that each row's question could be taken to ask for (`job.negatives`).
    """
    # The trainer's callback takes its folder from nowhere else.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(workspace.logs / "tensorboard")
    pairs = fill(pairs, spec.seed)
    rows = training_rows(pairs)
    if spec.dropout is not None:
        set_dropout(model.encoder, spec.dropout)
    arguments = _arguments(model, validation.dimensions.main, spec, workspace)
    if alike is not None and spec.cluster > 1:
        arguments.batch_sampler = lookalike_sampler(pairs, alike, spec.cluster)
    texts = [name for name in rows.column_names if name != "label"]
    prompts = {
        name: model.prompts.query if name == "anchor" else model.prompts.document for name in texts
    }
    arguments.prompts = {name: prompt for name, prompt in prompts.items() if prompt}

    def loss(rows_at_once: int | None) -> torch.nn.Module:
        changed = spec.model_copy(update={"mini_batch_size": rows_at_once})
        return matryoshka_loss(model, pairs, validation.dimensions.all, changed)

    sanity = Sanity(model, validation)
    trainer = PairTrainer(
        model=model.encoder,
        args=arguments,
        train_dataset=rows,
        loss=loss(spec.mini_batch_size),
        evaluator=_Evaluator(model, validation, sanity),
    )
    trainer.sanity, trainer.loss_in_parts = sanity, loss
    trainer.rows_at_once = min(spec.batch_size, spec.mini_batch_size or spec.batch_size)
    # They print what the recorder logs, the first one to stdout, where results belong.
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(_Bar)
    recorder = _Recorder(stop, by_steps=spec.evaluate_every != "epoch")
    # The last ones judge what those before them ask for.
    for callback in (recorder, *callbacks, sanity, EnoughDisk(model, workspace)):
        trainer.add_callback(callback)
    return trainer


def training_rows(pairs: TrainingPairs) -> "ArrowDataset":
    """Arrange the columns as the trainer takes them: anchor, positive, negatives, row number."""
    import pyarrow as pa
    from datasets import Dataset as ArrowDataset

    table = pairs.table.select(["anchor", "positive"])
    negatives = pairs.table["negatives"].to_pylist()
    for column in range(len(negatives[0])):
        texts = pa.array([own[column] for own in negatives], pa.large_string())
        table = table.append_column(f"negative_{column + 1}", texts)
    return ArrowDataset(table.append_column("label", pa.array(np.arange(len(pairs)))))


def _arguments(
    model: Model, main_dimension: int, spec: ResolvedTraining, workspace: Workspace
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
        learning_rate=spec.learning_rate,
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


class PairTrainer(SentenceTransformerTrainer):
    sanity: Sanity
    # The texts of a column that are embedded at once, and the loss that does so.
    rows_at_once: int
    loss_in_parts: Callable[[int], torch.nn.Module]

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Collect nothing for the library's own card: ours is made from the report."""

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Compute a step's gradients; where memory runs out, the same ones in smaller parts."""
        take = super().training_step
        before = RandomState()

        def step(rows: int) -> torch.Tensor:
            if rows < self.rows_at_once:
                before.restore()
                model.zero_grad()
                self.rows_at_once = rows
                smaller: Any = self.loss_in_parts(rows).to(self.args.device)
                self.loss = smaller
            # A pass may change its features.
            copied = {
                name: value.clone() if isinstance(value, torch.Tensor) else value
                for name, value in inputs.items()
            }
            return take(model, copied, num_items_in_batch)

        loss = with_fewer_rows(self.rows_at_once, step, "train")
        self.sanity.saw_loss(loss)
        return loss


class _Evaluator(SentenceEvaluator):
    """Lets the trainer judge a checkpoint with our ruler."""

    def __init__(self, model: Model, validation: Validation, sanity: Sanity) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model
        self._validation = validation
        self._sanity = sanity

    def __call__(self, model: object, *args: object, **options: object) -> dict[str, float]:
        # The model given is the one being trained, hence the encoder of ours.
        del model, args, options
        if self._sanity.finds_fault():
            # What such a model finds, it finds by chance, which may be above the base model.
            return {metric_key(d): 0.0 for d in self._validation.dimensions.all}
        return self._validation.score(self._model)


class _Bar(ProgressCallback):
    def on_log(self, *args: object, **options: object) -> None:
        """Leave the logging to the recorder."""


class _Recorder(TrainerCallback):
    """Logs progress, ends the training on a stop signal."""

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
            facts = {"loss": f"{logs['loss']:.4f}", "learning_rate": f"{logs['learning_rate']:.2e}"}
            log.info("train: %s %s", where, join_facts(dict(facts)))
        for key, value in logs.items():
            if key.startswith("eval_dim_"):
                log.info("validate: %s %s: %.4f", where, key.removeprefix("eval_"), value)


class AfterSaving(TrainerCallback):
    """Hands each written checkpoint's folder on."""

    def __init__(self, work: Callable[[Path], None]) -> None:
        self._work = work

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002  the trainer's signature
        **_: object,
    ) -> None:
        self._work(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


def curves(state: TrainerState) -> list[dict[str, float]]:
    """Reduce the trainer's log to what a report draws: loss, learning rate, validation."""
    kept = ("step", "epoch", "loss", "learning_rate", "grad_norm")
    return [
        {key.removeprefix("eval_"): value for key, value in entry.items()
         if key in kept or key.startswith("eval_dim_")}
        for entry in state.log_history
        if "loss" in entry or any(key.startswith("eval_dim_") for key in entry)
    ]  # fmt: skip
