"""The library's trainer, set up for pairs: arguments, columns, shares, validation."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import EvalLoopOutput

from job import crew
from job.batches import Shares, lookalike_sampler
from job.callbacks import Bar, InUnison
from job.data import TrainingPairs
from job.disk import CHECKPOINTS_KEPT
from job.evaluate import Dimensions, Validation, metric_key
from job.losses import matryoshka_loss
from job.memory import RandomState, retry_on_oom
from job.model import Model, Prompts, set_dropout
from job.negatives import fill
from job.ranking import IntArray
from job.sanity import Sanity
from job.spec import ResolvedTraining
from job.tables import one_array
from job.workspace import Workspace

if TYPE_CHECKING:
    from datasets import Dataset as ArrowDataset


@dataclass(frozen=True)
class Setting:
    """What a training is made of: the same in every process of the run."""

    pairs: TrainingPairs
    dimensions: Dimensions
    spec: ResolvedTraining
    prompts: Prompts
    # The rows that each row's question could be taken to ask for (`job.negatives`).
    alike: list[IntArray] | None = None


def build_trainer(
    model: Model,
    setting: Setting,
    workspace: Workspace,
    judge: Callable[[], dict[str, float]] | None,
    callbacks: Sequence[TrainerCallback],
) -> "PairTrainer":
    """Set a trainer up; its checkpoints go to the workspace, its curves to the logs.

    `judge` returns the scores of a checkpoint, in the process that conducts; the last callbacks
    decide on what those before them ask for.
    """
    # The trainer's callback takes its folder from nowhere else.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(workspace.logs / "tensorboard")
    spec, pairs = setting.spec, fill(setting.pairs, setting.spec.seed)
    rows = training_rows(pairs)
    if spec.dropout is not None:
        set_dropout(model.encoder, spec.dropout)
    arguments = _arguments(model, setting, workspace)
    # The library wants it where there are several processes; our shares are even.
    arguments.dataloader_drop_last = False
    if setting.alike is not None and spec.cluster > 1:
        arguments.batch_sampler = lookalike_sampler(pairs, setting.alike, spec.cluster)
    texts = [name for name in rows.column_names if name != "label"]
    own = setting.prompts
    prompts = {name: own.query if name == "anchor" else own.document for name in texts}
    arguments.prompts = {name: prompt for name, prompt in prompts.items() if prompt}

    def loss(rows_at_once: int | None) -> torch.nn.Module:
        changed = spec.model_copy(update={"mini_batch_size": rows_at_once})
        return matryoshka_loss(model, pairs, setting.dimensions.all, changed)

    trainer = PairTrainer(
        model=model.encoder,
        args=arguments,
        train_dataset=rows,
        loss=loss(spec.mini_batch_size),
        evaluator=Evaluator(judge),
    )
    trainer.autocast = model.machine.autocast
    trainer.loss_in_parts = loss
    trainer.rows_asked = min(spec.batch_size, spec.mini_batch_size or spec.batch_size)
    trainer.rows_at_once = trainer.rows_asked
    # They print what the recorder logs, the first one to stdout, where results belong.
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(Bar)
    for callback in callbacks:
        trainer.add_callback(callback)
    if crew.size() > 1:
        trainer.add_callback(InUnison(trainer))
        # Torch is about to call it something else.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    return trainer


def training_rows(pairs: TrainingPairs) -> "ArrowDataset":
    """Arrange the columns as the trainer takes them: anchor, positive, negatives, row number."""
    import pyarrow as pa
    from datasets import Dataset as ArrowDataset

    table = pairs.table.select(["anchor", "positive"])
    # Every row has as many.
    negatives = one_array(pairs.table["negatives"]).flatten()
    columns = len(negatives) // max(1, len(pairs))
    for column in range(columns):
        own = negatives.take(pa.array(np.arange(column, len(negatives), columns)))
        table = table.append_column(f"negative_{column + 1}", own)
    return ArrowDataset(table.append_column("label", pa.array(np.arange(len(pairs)))))


def _arguments(
    model: Model, setting: Setting, workspace: Workspace
) -> SentenceTransformerTrainingArguments:
    precision, spec = model.machine.precision, setting.spec
    when: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    if spec.evaluate_every != "epoch":
        when = dict.fromkeys(("eval_strategy", "save_strategy"), "steps")
        when |= dict.fromkeys(("eval_steps", "save_steps"), spec.evaluate_every)
    return SentenceTransformerTrainingArguments(
        output_dir=str(workspace.checkpoints),
        num_train_epochs=spec.epochs,
        # Of all processes together (`job.batches.Shares`).
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
        metric_for_best_model=metric_key(setting.dimensions.main),
        greater_is_better=True,
        logging_steps=0.05,
        logging_nan_inf_filter=False,
        report_to=list(spec.report_to) if crew.rank() == 0 else [],
        disable_tqdm=not sys.stderr.isatty() or crew.rank() > 0,
        dataloader_drop_last=crew.size() > 1,
        # Each column is a pass of its own, before which the weights' buffers stay as they are.
        ddp_broadcast_buffers=False,
        seed=spec.seed,
        **when,
    )


class PairTrainer(SentenceTransformerTrainer):
    # The conductor's.
    sanity: Sanity | None = None
    # The texts of a column that are embedded at once, and the loss that does so.
    rows_at_once: int
    rows_asked: int
    loss_in_parts: Callable[[int], torch.nn.Module]
    shares: Shares | None = None
    autocast: Callable[[], AbstractContextManager[object]]

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Collect nothing for the library's own card: ours is made from the report."""

    def get_batch_sampler(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  the library's
        """Give each process its share of the batches that one process would take."""
        batches: Any = super().get_batch_sampler(*args, **options)
        if crew.size() == 1:
            return batches
        self.shares = Shares(batches, crew.size())
        return self.shares

    def run(self, checkpoint: Path | None) -> None:
        """Train, from a checkpoint on if there is one."""
        if checkpoint:
            # The state holds it as a number; a share would be warned of as another setting.
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            self.args.logging_steps = state.logging_steps
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

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

        if crew.size() > 1:
            # The others are in the midst of the same step and would wait in vain.
            loss = take(model, inputs, num_items_in_batch)
        else:
            loss = retry_on_oom(self.rows_at_once, step, "train")
        if self.sanity:
            self.sanity.saw_loss(loss)
        return loss

    def evaluation_loop(self, *args: Any, **options: Any) -> EvalLoopOutput:  # noqa: ANN401
        # The library shares out what the conductor encodes in there.
        with self.autocast():
            return super().evaluation_loop(*args, **options)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:  # noqa: FBT001, FBT002
        # The library's own check lets the other processes write all but the weights.
        if crew.rank() == 0:
            super().save_model(output_dir, _internal_call)

    def _save_rng_state(self, output_dir: str) -> None:
        """Write every process's random state; only the conductor writes."""
        with TemporaryDirectory() as folder:
            super()._save_rng_state(folder)
            own = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        for states in crew.gather(own):
            for name, state in states.items():
                (Path(output_dir) / name).write_bytes(state)


class Evaluator(SentenceEvaluator):
    """Lets the trainer judge a checkpoint with our ruler; it asks the conductor's only."""

    def __init__(self, judge: Callable[[], dict[str, float]] | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._judge = judge

    def __call__(self, model: object, *args: object, **options: object) -> dict[str, float]:
        # The model given is the one being trained, hence the encoder of ours.
        del model, args, options
        return self._judge() if self._judge else {}


def judge_checkpoint(model: Model, validation: Validation, sanity: Sanity) -> dict[str, float]:
    if sanity.finds_fault():
        # What such a model finds, it finds by chance, which may be above the base model.
        return {metric_key(d): 0.0 for d in validation.dimensions.all}
    return validation.score(model)
