"""Set up the library's trainer for pairs: arguments, columns, shards per rank, validation."""

import os
import warnings
from collections import ChainMap
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import EvalLoopOutput

from job.data.dataset import TrainingPairs
from job.distributed import process_group
from job.evaluation.evaluate import Validation, metric_key
from job.model.device import fixed_order
from job.model.encoder import Model, set_dropout
from job.runtime.signals import StopSignal
from job.spec.schema import ResolvedTraining
from job.storage.arrow_tables import IntArray
from job.storage.workspace import Workspace
from job.training.batching import Shards, batch_sampler
from job.training.callbacks import (
    CheckpointSchedule,
    ProgressLogger,
    RankSync,
    SynchronizedStop,
)
from job.training.checkpoints import CheckpointCompletion, checkpoint_at
from job.training.columns import column_arguments, training_rows
from job.training.disk_space import DiskSpaceCheck
from job.training.hard_negatives import pad_negatives
from job.training.health_checks import HealthCheck
from job.training.lora import Adapter
from job.training.loss import matryoshka_loss
from job.training.padding import LengthCollator
from job.training.retries import Retries
from job.training.rotation import Rotation
from job.training.unused_weights import exclude_unused_weights


@dataclass(frozen=True)
class FixedSteps:
    """Train for `steps` steps, the first of a schedule of `scheduled` steps; validate nothing."""

    steps: int
    scheduled: int


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
    # What was added to the model; None if its vectors are not rotated.
    rotation: Rotation | None = None
    # None trains to the end and selects the best checkpoint on validation.
    fixed: FixedSteps | None = None

    @property
    def validates_epochs(self) -> bool:
        return self.spec.evaluate_every == "epoch" and self.fixed is None

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
    schedule = CheckpointSchedule(spec.checkpoint_steps, stop)
    all_callbacks = [
        SynchronizedStop(stop),
        ProgressLogger(stop, by_steps=not (inputs.validates_epochs or inputs.fixed)),
        schedule,
        *callbacks,
        health_check,
    ]
    if process_group.is_rank_zero():
        completion = CheckpointCompletion(on_checkpoint)
        all_callbacks[2:2] = [completion]
        trained = inputs.adapter.parameters if inputs.adapter else None
        all_callbacks.append(DiskSpaceCheck(model, workspace, trained, completion.wait))
    if spec.dropout is not None:
        set_dropout(model.encoder, spec.dropout)
    arguments = _arguments(inputs, workspace)
    return PairTrainer(inputs, arguments, health_check, schedule, all_callbacks)


def _arguments(
    inputs: TrainingInputs, workspace: Workspace
) -> SentenceTransformerTrainingArguments:
    machine, spec = inputs.model.machine, inputs.spec
    when: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    if spec.evaluate_every != "epoch":
        when = dict.fromkeys(("eval_strategy", "save_strategy"), "steps")
        when |= dict.fromkeys(("eval_steps", "save_steps"), spec.evaluate_every)
    if inputs.fixed:
        last = inputs.fixed.steps
        when = {"eval_strategy": "no", "save_strategy": "steps"}
        when |= {"save_steps": last, "max_steps": last}
    is_rank_zero = process_group.is_rank_zero()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(workspace.checkpoints),
        num_train_epochs=spec.epochs,
        # The total over all ranks (`job.training.batching.Shards`).
        per_device_train_batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        warmup_steps=spec.warmup_ratio,
        lr_scheduler_type=spec.schedule,
        weight_decay=spec.weight_decay,
        optim="adamw_torch_fused",
        bf16=machine.precision == "bfloat16",
        fp16=machine.precision == "float16",
        use_cpu=machine.device == "cpu",
        # While the GPU computes a step, another process tokenizes the next ones.
        dataloader_pin_memory=machine.device == "cuda",
        dataloader_num_workers=int(machine.device == "cuda"),
        accelerator_config={"non_blocking": machine.device == "cuda"},
        metric_for_best_model=metric_key(inputs.validation.dimensions.main),
        greater_is_better=True,
        logging_steps=0.05,
        logging_nan_inf_filter=False,
        report_to=list(spec.report_to) if is_rank_zero else [],
        disable_tqdm=True,
        dataloader_drop_last=process_group.world_size() > 1,
        # Each column is a separate forward pass: do not broadcast the buffers before each of them.
        ddp_broadcast_buffers=False,
        ddp_find_unused_parameters=exclude_unused_weights(inputs.model),
        seed=spec.seed,
        **when,
    )
    # Also if a caller left several GPUs visible: no `nn.DataParallel`, which trains in float32.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    # The library requires it with several processes. Our shards have equal sizes, so reset it.
    arguments.dataloader_drop_last = False
    arguments.batch_sampler = batch_sampler(inputs.pairs, inputs.neighbors, spec.hard_group_size)
    return arguments


class PairTrainer(SentenceTransformerTrainer):
    def __init__(
        self,
        inputs: TrainingInputs,
        arguments: SentenceTransformerTrainingArguments,
        health_check: HealthCheck,
        schedule: CheckpointSchedule,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        self.health_check = health_check
        self._schedule = schedule
        self._validated_step = 0
        self.shards: Shards | None = None
        self.inputs = inputs
        self._pairs = pad_negatives(inputs.pairs, inputs.spec.seed)
        rows = training_rows(self._pairs)
        columns: dict[str, Any] = {**column_arguments(inputs.model, rows.column_names)}
        for name, value in columns.items():
            setattr(arguments, name, value)
        ranking = matryoshka_loss(
            inputs.model, self._pairs, inputs.validation.dimensions.all, inputs.spec
        )
        self.retries = Retries(ranking, inputs.requested_mini_batch_size)
        super().__init__(
            model=inputs.model.encoder,
            args=arguments,
            train_dataset=rows,
            loss=ranking,
            evaluator=NoEvaluator(),  # type: ignore[no-untyped-call]
            data_collator=LengthCollator(inputs.model.encoder.preprocess, **columns),
        )
        # `ProgressLogger` logs already, and PrinterCallback writes to stdout, which is for results.
        self.remove_callback(PrinterCallback)
        for callback in callbacks:
            self.add_callback(callback)
        if process_group.world_size() > 1:
            self.add_callback(RankSync(lambda: self.shards))
            # Torch is going to rename this argument.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Collect nothing for the library's model card: ours is rendered from the report."""

    def create_scheduler(self, num_training_steps: int, *args: Any, **options: Any) -> Any:  # noqa: ANN401  the library's
        """Follow the schedule of all steps, also if the training ends before."""
        if self.inputs.fixed:
            num_training_steps = self.inputs.fixed.scheduled
        return super().create_scheduler(num_training_steps, *args, **options)

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
            if state.global_step >= state.max_steps:
                # After a part of an epoch, the library would train one more step.
                self._load_from_checkpoint(str(checkpoint))
                self.state = state
                return
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Compute a step's gradients; if memory runs out, the same ones in smaller mini-batches."""
        training_step = super().training_step

        def step() -> torch.Tensor:
            # A forward pass may change its features, and a retry needs the original ones.
            copied = {
                name: value.clone() if isinstance(value, torch.Tensor) else value
                for name, value in inputs.items()
            }
            spec, device = self.inputs.spec, self.inputs.model.machine.device
            with fixed_order(device) if spec.deterministic else nullcontext():
                return training_step(model, copied, num_items_in_batch)

        # No retry in several processes: the others would wait forever in this step's collectives.
        loss = step() if process_group.world_size() > 1 else self.retries.run(model, step)
        self.health_check.record_loss(loss)
        return loss

    def evaluation_loop(self, *args: Any, **options: Any) -> EvalLoopOutput:  # noqa: ANN401
        """Score this step's weights on our validation search; a collective call."""
        output: EvalLoopOutput = super().evaluation_loop(*args, **options)
        self._validated_step = self.state.global_step
        validation = self.inputs.validation
        if self.health_check.detect_fault():
            # A broken model's results are random, and could by chance beat the base model.
            scores = {metric_key(d): 0.0 for d in validation.dimensions.all}
        else:
            scores = validation.score(self.inputs.model)
        metrics = {f"eval_{metric}": value for metric, value in scores.items()}
        return output._replace(metrics=(output.metrics or {}) | metrics)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:  # noqa: ANN401
        """Write the weights if they are the best so far, and a resumable checkpoint if it is due.

        Nothing can resume from weights alone, but the best ones may become the result.
        """
        is_resumable, is_best = process_group.broadcast(self._reasons_to_save())
        is_last = self.state.global_step >= self.state.max_steps
        if is_resumable:
            # After the last step nothing needs the optimizer.
            self.args.save_only_model = is_last
            super()._save_checkpoint(model, trial)
        elif is_best:
            folder = checkpoint_at(Path(str(self.args.output_dir)), self.state.global_step)
            self.save_model(str(folder), _internal_call=True)

    def _reasons_to_save(self) -> tuple[bool, bool]:
        """Return whether a resumable checkpoint is due, and whether the weights are the best."""
        state = self.state
        is_last = state.global_step >= state.max_steps
        ends_epoch = is_last or float(state.epoch or 0).is_integer()
        is_validated = self._validated_step == state.global_step
        if ends_epoch and self.inputs.validates_epochs and not is_validated:
            # A resumed run would skip the validation that follows; after it, this is called again.
            return False, False
        is_best = state.best_global_step == state.global_step
        return is_last or self._schedule.is_due(state.global_step), is_best

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:  # noqa: FBT001, FBT002
        # The library's check lets other ranks write all files except the weights.
        if process_group.is_rank_zero():
            super().save_model(output_dir, _internal_call)

    def _save(
        self,
        output_dir: str | None = None,
        state_dict: dict[str, Any] | None = None,  # noqa: ARG002  the library's signature
    ) -> None:
        folder = output_dir or str(self.args.output_dir)
        # The frozen weights are those of the base model.
        if self.inputs.adapter:
            self.inputs.adapter.save(Path(folder))
        else:
            # Without the library's model card, which takes longer than the files of a small model.
            self.inputs.model.encoder.save_pretrained(folder, create_model_card=False)

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
