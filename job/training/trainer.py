"""Set up the library's trainer for pairs: arguments, columns, shards per rank, validation."""

import os
import warnings
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset as ArrowDataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import EvalLoopOutput

from job.data.dataset import TrainingPairs
from job.distributed import process_group
from job.evaluation.evaluate import Validation, metric_key
from job.evaluation.metrics import IntArray
from job.model.encoder import Model, set_dropout
from job.model.parts import Role
from job.runtime.oom import retry_on_oom
from job.runtime.signals import StopSignal
from job.spec.schema import ResolvedTraining
from job.storage.arrow_tables import one_array
from job.storage.workspace import Workspace
from job.training.batching import NeighborBatchSampler, Shards
from job.training.callbacks import (
    CheckpointHooks,
    CheckpointSchedule,
    ProgressLogger,
    RankSync,
    SynchronizedStop,
)
from job.training.checkpoints import write_checksums
from job.training.disk_space import MAX_CHECKPOINTS, DiskSpaceCheck
from job.training.hard_negatives import pad_negatives
from job.training.health_checks import HealthCheck
from job.training.lora import Adapter
from job.training.loss import matryoshka_loss


@dataclass(frozen=True)
class TrainingInputs:
    """The inputs of a training; equal on every rank."""

    model: Model
    pairs: TrainingPairs
    validation: Validation
    spec: ResolvedTraining
    # Each row's nearest neighbors, as row numbers (`job.training.hard_negatives`).
    neighbors: list[IntArray] | None = None
    # None trains all weights.
    adapter: Adapter | None = None

    @property
    def requested_mini_batch_size(self) -> int:
        """The rows to embed at once, before any retry after running out of memory."""
        return min(self.spec.batch_size, self.spec.mini_batch_size or self.spec.batch_size)


def build_trainer(
    inputs: TrainingInputs,
    workspace: Workspace,
    stop: StopSignal,
    on_checkpoint: Callable[[Path], None] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> "PairTrainer":
    """Build a trainer that writes checkpoints and logs to the workspace.

    The order of callbacks matters: later ones may override the requests of earlier ones.
    """
    # The trainer's TensorBoard callback reads its folder from this variable only.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(workspace.logs / "tensorboard")
    model, spec = inputs.model, inputs.spec
    health_check = HealthCheck(model, inputs.validation)
    all_callbacks = [
        SynchronizedStop(stop),
        ProgressLogger(stop, by_steps=spec.evaluate_every != "epoch"),
        CheckpointSchedule(spec.checkpoint_steps),
        *callbacks,
        health_check,
    ]
    if process_group.is_rank_zero():
        # Checksums come first: `on_checkpoint` may upload the checkpoint.
        all_callbacks[2:2] = [CheckpointHooks(write_checksums, on_checkpoint)]
        trained = inputs.adapter.parameters if inputs.adapter else None
        all_callbacks.append(DiskSpaceCheck(model, workspace, trained))
    if spec.dropout is not None:
        set_dropout(model.encoder, spec.dropout)
    return PairTrainer(inputs, _arguments(inputs, workspace), health_check, all_callbacks)


def training_rows(pairs: TrainingPairs) -> ArrowDataset:
    """Return the columns that the trainer expects: anchor, positive, negatives, row number."""
    table = pairs.table.select(["anchor", "positive"])
    # All rows have the same number of negatives (`pad_negatives`).
    negatives = one_array(pairs.table["negatives"]).flatten()
    columns = len(negatives) // max(1, len(pairs))
    for column in range(columns):
        texts = negatives.take(pa.array(np.arange(column, len(negatives), columns)))
        table = table.append_column(f"negative_{column + 1}", texts)
    return ArrowDataset(table.append_column("label", pa.array(np.arange(len(pairs)))))


def column_arguments(model: Model, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the library's arguments with the prompt and the role of each column of texts."""
    roles: dict[str, Role] = {
        name: "query" if name == "anchor" else "document" for name in columns if name != "label"
    }
    prompts = {name: model.prompt(role) for name, role in roles.items()}
    return {
        "prompts": {name: prompt for name, prompt in prompts.items() if prompt},
        # As `encode_query` and `encode_document` pass it; routers choose by it.
        "router_mapping": {**roles},
    }


def _arguments(
    inputs: TrainingInputs, workspace: Workspace
) -> SentenceTransformerTrainingArguments:
    machine, spec = inputs.model.machine, inputs.spec
    when: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    if spec.evaluate_every != "epoch":
        when = dict.fromkeys(("eval_strategy", "save_strategy"), "steps")
        when |= dict.fromkeys(("eval_steps", "save_steps"), spec.evaluate_every)
    is_rank_zero = process_group.is_rank_zero()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(workspace.checkpoints),
        num_train_epochs=spec.epochs,
        # The total over all ranks (`job.training.batching.Shards`).
        per_device_train_batch_size=spec.batch_size,
        # A text that occurs twice in a batch would be its own false negative.
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        learning_rate=spec.learning_rate,
        warmup_steps=spec.warmup_ratio,
        lr_scheduler_type=spec.schedule,
        weight_decay=spec.weight_decay,
        optim="adamw_torch_fused",
        bf16=machine.precision == "bfloat16",
        fp16=machine.precision == "float16",
        use_cpu=machine.device == "cpu",
        dataloader_pin_memory=machine.device == "cuda",
        save_total_limit=MAX_CHECKPOINTS,
        metric_for_best_model=metric_key(inputs.validation.dimensions.main),
        greater_is_better=True,
        logging_steps=0.05,
        logging_nan_inf_filter=False,
        report_to=list(spec.report_to) if is_rank_zero else [],
        disable_tqdm=True,
        dataloader_drop_last=process_group.world_size() > 1,
        # Each column is a separate forward pass: do not broadcast the buffers before each of them.
        ddp_broadcast_buffers=False,
        seed=spec.seed,
        **when,
    )
    # The library requires it with several processes. Our shards have equal sizes, so reset it.
    arguments.dataloader_drop_last = False
    if inputs.neighbors is not None and spec.hard_group_size > 1:
        arguments.batch_sampler = partial(
            NeighborBatchSampler,
            pairs=inputs.pairs,
            neighbors=inputs.neighbors,
            hard_group_size=spec.hard_group_size,
        )
    return arguments


class PairTrainer(SentenceTransformerTrainer):
    def __init__(
        self,
        inputs: TrainingInputs,
        arguments: SentenceTransformerTrainingArguments,
        health_check: HealthCheck,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        self.health_check = health_check
        self.shards: Shards | None = None
        self.inputs = inputs
        self._pairs = pad_negatives(inputs.pairs, inputs.spec.seed)
        self.mini_batch_size = inputs.requested_mini_batch_size
        rows = training_rows(self._pairs)
        for name, value in column_arguments(inputs.model, rows.column_names).items():
            setattr(arguments, name, value)
        super().__init__(
            model=inputs.model.encoder,
            args=arguments,
            train_dataset=rows,
            loss=self._loss(inputs.spec.mini_batch_size),
            evaluator=NoEvaluator(),  # type: ignore[no-untyped-call]
        )
        # `ProgressLogger` logs already, and PrinterCallback writes to stdout, which is for results.
        self.remove_callback(PrinterCallback)
        for callback in callbacks:
            self.add_callback(callback)
        if process_group.world_size() > 1:
            self.add_callback(RankSync(lambda: self.shards))
            # Torch is going to rename this argument.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)

    def _loss(self, mini_batch_size: int | None) -> torch.nn.Module:
        inputs = self.inputs
        changed = inputs.spec.model_copy(update={"mini_batch_size": mini_batch_size})
        return matryoshka_loss(inputs.model, self._pairs, inputs.validation.dimensions.all, changed)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Collect nothing for the library's model card: ours is rendered from the report."""

    def get_batch_sampler(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  the library's
        """Give each rank its shard of each batch; batches are those of a single process."""
        batches: Any = super().get_batch_sampler(*args, **options)
        if process_group.world_size() == 1:
            return batches
        self.shards = Shards(batches, process_group.world_size())
        return self.shards

    def run(self, checkpoint: Path | None) -> None:
        if checkpoint:
            # The state stores the resolved number of steps. A fraction here would differ from it,
            # and the trainer would warn about a changed setting.
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            self.args.logging_steps = state.logging_steps
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Compute a step's gradients; if memory runs out, the same ones in smaller mini-batches."""
        training_step = super().training_step
        # A retry restores the random state, so it draws the same dropout.
        cpu, gpus = torch.get_rng_state(), torch.cuda.get_rng_state_all()

        def step(rows: int) -> torch.Tensor:
            if rows < self.mini_batch_size:
                torch.set_rng_state(cpu)
                torch.cuda.set_rng_state_all(gpus)
                model.zero_grad()
                self.mini_batch_size = rows
                smaller: Any = self._loss(rows).to(self.args.device)
                self.loss = smaller
            # A forward pass may change its features, and a retry needs the original ones.
            copied = {
                name: value.clone() if isinstance(value, torch.Tensor) else value
                for name, value in inputs.items()
            }
            return training_step(model, copied, num_items_in_batch)

        if process_group.world_size() > 1:
            # No retry: the other ranks would wait forever in this step's collectives.
            loss = training_step(model, inputs, num_items_in_batch)
        else:
            loss = retry_on_oom(self.mini_batch_size, step, "train")
        self.health_check.record_loss(loss)
        return loss

    def evaluation_loop(self, *args: Any, **options: Any) -> EvalLoopOutput:  # noqa: ANN401
        """Score this step's weights on our validation search; a collective call."""
        output: EvalLoopOutput = super().evaluation_loop(*args, **options)
        validation = self.inputs.validation
        if self.health_check.detect_fault():
            # A broken model's results are random, and could by chance beat the base model.
            scores = {metric_key(d): 0.0 for d in validation.dimensions.all}
        else:
            scores = validation.score(self.inputs.model)
        metrics = {f"eval_{metric}": value for metric, value in scores.items()}
        return output._replace(metrics=(output.metrics or {}) | metrics)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:  # noqa: FBT001, FBT002
        # The library's check lets other ranks write all files except the weights.
        if process_group.is_rank_zero():
            super().save_model(output_dir, _internal_call)

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        # The frozen weights are those of the base model.
        if self.inputs.adapter:
            self.inputs.adapter.save(Path(output_dir or str(self.args.output_dir)))
        else:
            super()._save(output_dir, state_dict)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:  # type: ignore[override]
        if self.inputs.adapter:
            self.inputs.adapter.load(Path(checkpoint_path))
        else:
            super()._load_from_checkpoint(checkpoint_path)

    def _save_rng_state(self, output_dir: str) -> None:
        """Gather the random states of all ranks; rank 0 writes them."""
        with TemporaryDirectory() as folder:
            super()._save_rng_state(folder)
            local = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        states = process_group.all_gather_objects(local)
        if process_group.is_rank_zero():
            for name, state in ChainMap(*states).items():
                Path(output_dir, name).write_bytes(state)


class NoEvaluator(SentenceEvaluator):
    """A placeholder for the library's evaluator, which only rank 0 would call."""

    def __call__(self, *_: object, **__: object) -> dict[str, float]:
        return {}
