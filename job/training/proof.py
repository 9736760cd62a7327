"""Prove, before the first step, that a model can be trained, saved and loaded to equal vectors.

A failure at the end of a paid run is the worst kind, so it is provoked at the start, on two pairs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from torch import Tensor

from job.core.errors import ModelError, first_line
from job.data.dataset import TrainingPairs
from job.distributed import process_group
from job.model.dtypes import LARGE, weights_dtype
from job.model.encode import embed_texts
from job.model.encoder import Model, count_parameters
from job.model.parts import ROLES, Role
from job.model.save import MIN_COSINE, compare_saved, write_model
from job.runtime.oom import is_out_of_memory
from job.spec.schema import ResolvedTraining, TrainingSpec
from job.training.loss import matryoshka_loss
from job.training.trainer import column_arguments, training_rows

# Adam's first step changes each weight by the learning rate; this one is seen in every format.
STEP = 1e-3
PAIRS = 2


def prove_trainable(
    model: Model,
    base: str,
    pairs: TrainingPairs,
    dimensions: tuple[int, ...],
    spec: TrainingSpec,
    folder: Path,
) -> None:
    """Take a training step on two pairs, save the model below `folder`, load and compare it.

    Afterwards the model and the random numbers are as before. A collective call.
    Raises `ModelError`, which names the base model, if any of it fails.
    """
    two = _first_pairs(pairs)
    try:
        with _unchanged(model) as trained:
            _train_step(model, base, two, dimensions, spec, trained)
            process_group.from_rank_zero(lambda: _save_and_compare(model, base, two, folder))
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError,
            SafetensorError) as error:  # fmt: skip
        if is_out_of_memory(error):
            raise
        msg = (
            f"The model `{base}` cannot be trained: with two pairs, a training step, saving and "
            f"loading failed ({type(error).__name__}: {first_line(error)}). Use another base model."
        )
        raise ModelError(msg) from error


def _first_pairs(pairs: TrainingPairs) -> TrainingPairs:
    """Return the first pair, and the first one with another question and document."""
    others = (pairs.questions != pairs.questions[0]) & (pairs.documents != pairs.documents[0])
    rows = np.array([0, int(others.argmax())])
    empty = pa.array([[]] * PAIRS, pairs.table.schema.field("negatives").type)
    table = pairs.table.take(rows)
    table = table.set_column(table.column_names.index("negatives"), "negatives", empty)
    arrays = (pairs.questions, pairs.documents, pairs.groups)
    return TrainingPairs(table, *(numbers[rows] for numbers in arrays))


@contextmanager
def _unchanged(model: Model) -> Iterator[Sequence[Tensor]]:
    """Yield the weights to train; restore them, the model's settings and the random state.

    Of large models, only vectors (biases, norms) are trained: the gradients still pass all layers,
    but take no memory.
    """
    encoder = model.encoder
    trained = [weights for weights in encoder.parameters() if weights.requires_grad]
    if count_parameters(model) > LARGE and any(weights.ndim == 1 for weights in trained):
        trained = [weights for weights in trained if weights.ndim == 1]
    chosen = set(map(id, trained))
    frozen = [w for w in encoder.parameters() if w.requires_grad and id(w) not in chosen]
    kept = [weights.detach().to("cpu", copy=True) for weights in trained]
    settings = encoder.prompts, encoder.default_prompt_name
    modes = [(module, module.training) for module in encoder.modules()]
    devices = [encoder.device] if model.machine.device == "cuda" else []
    for weights in frozen:
        weights.requires_grad = False
    try:
        with torch.random.fork_rng(devices):
            yield trained
    finally:
        for weights, before in zip(trained, kept, strict=True):
            weights.data.copy_(before)
            weights.grad = None
        for weights in frozen:
            weights.requires_grad = True
        encoder.prompts, encoder.default_prompt_name = settings
        for module, is_training in modes:
            module.training = is_training


def _train_step(
    model: Model,
    base: str,
    pairs: TrainingPairs,
    dimensions: tuple[int, ...],
    spec: TrainingSpec,
    trained: Sequence[Tensor],
) -> None:
    before = _vectors(model, pairs)
    rows = training_rows(pairs)
    arguments: dict[str, Any] = {**column_arguments(model, rows.column_names)}
    collate = SentenceTransformerDataCollator(model.encoder.preprocess, **arguments)
    batch = collate(rows.to_list())
    features = [
        {
            name.removeprefix(f"{column}_"): _to_device(value, model)
            for name, value in batch.items()
            if name.startswith(f"{column}_")
        }
        for column in ("anchor", "positive")
    ]
    whole: dict[str, Any] = {"mini_batch_size": None, "dimension_weights": None}
    resolved = ResolvedTraining(
        epochs=1, batch_size=PAIRS, learning_rate=STEP, scale=spec.scale, **whole
    )
    loss = matryoshka_loss(model, pairs, dimensions, resolved).to(model.encoder.device)
    model.encoder.train()
    with model.machine.autocast():
        value = loss(features, _to_device(batch["label"], model))
    value.backward()
    gradients = [weights.grad for weights in trained if weights.grad is not None]
    # The trainer scales float16's gradients, which overflow or vanish here.
    is_scaled = model.machine.precision == "float16"
    is_finite = is_scaled or all(bool(gradient.isfinite().all()) for gradient in gradients)
    if not value.isfinite() or not is_finite:
        msg = f"The model `{base}` cannot be trained: the loss of two pairs is {value.item()}, or "
        msg += "its gradient is not finite. Set `model.precision=float32`, or use another model."
        raise ModelError(msg)
    for weights in trained:
        if weights.grad is not None:
            weights.data -= STEP * weights.grad.nan_to_num().sign()
    model.encoder.eval()
    after = _vectors(model, pairs)
    is_still = all(torch.equal(before[role], after[role]) for role in ROLES)
    # Every rank has the same pairs, which count on rank 0 only: others have no gradient.
    if is_still and process_group.is_rank_zero():
        msg = f"The model `{base}` cannot be trained: a training step changes no vector. "
        raise ModelError(msg + "Use another base model.")


def _save_and_compare(model: Model, base: str, pairs: TrainingPairs, folder: Path) -> None:
    with TemporaryDirectory(prefix="proof-", dir=folder) as saved:
        write_model(model, Path(saved) / "model", weights_dtype(model.encoder))
        cosines = compare_saved(model, Path(saved) / "model", _texts(pairs))
    lowest = min(cosines.values())
    if not lowest >= MIN_COSINE:
        msg = f"The model `{base}` cannot be trained: once saved and loaded, it embeds a text "
        msg += f"differently (cosine {lowest:.4f}). Use another base model."
        raise ModelError(msg)


def _texts(pairs: TrainingPairs) -> dict[Role, list[str]]:
    anchors, positives = (pairs.table[name].to_pylist() for name in ("anchor", "positive"))
    return {"query": anchors, "document": positives}


def _vectors(model: Model, pairs: TrainingPairs) -> dict[Role, Tensor]:
    return {role: embed_texts(model, texts, role, PAIRS) for role, texts in _texts(pairs).items()}


def _to_device(value: Any, model: Model) -> Any:  # noqa: ANN401  the collator's
    return value.to(model.encoder.device) if isinstance(value, Tensor) else value
