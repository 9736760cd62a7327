"""Prove, before the first step, that a model can be trained, saved and loaded to equal vectors.

Two pairs are enough: what fails with them would otherwise fail at the end of a paid run.
"""

from collections.abc import Iterator, Mapping, Sequence
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
from job.model.parts import ROLES, Role, max_tokens, token_counts
from job.model.passes import ONE_PASS
from job.model.save import MIN_COSINE, compare_saved, write_model
from job.model.vocabulary import require_known_words
from job.runtime.logs import warn
from job.runtime.oom import is_out_of_memory
from job.spec.schema import ResolvedTraining, TrainingSpec
from job.training.columns import column_arguments, training_rows
from job.training.loss import matryoshka_loss

# Adam's first step changes each weight by the learning rate; this one is seen in every format.
STEP = 1e-3
PAIRS = 2
# Pairs whose words the tokenizer must know.
SAMPLE = 1_000
# Tokens of a long text, unless the model or the data has less or more.
LONG = 512


def prove_trainable(
    model: Model,
    base: str,
    pairs: TrainingPairs,
    dimensions: tuple[int, ...],
    spec: TrainingSpec,
    folder: Path,
) -> None:
    """Take a training step on two pairs, save the model below `folder`, load and compare it.

    Before that, the tokenizer must know the words of the data. Afterwards the model and the random
    numbers are as before. A collective call.
    Raises `ModelError`, which names the base model, if any of it fails.
    """
    sample = _sample(pairs)
    _require_fit(model, base, sample)
    two = _first_pairs(pairs)
    try:
        with _unchanged(model) as trained:
            _require_long_texts(model, base, sample)
            _train_step(model, base, two, dimensions, spec, trained)
            process_group.from_rank_zero(lambda: _save_and_compare(model, base, two, folder))
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, ImportError,
            ArithmeticError, SafetensorError) as error:  # fmt: skip
        if is_out_of_memory(error):
            raise
        msg = (
            f"The model `{base}` cannot be trained: with two pairs, a training step, saving and "
            f"loading failed ({type(error).__name__}: {first_line(error)}). Use another base model."
        )
        raise ModelError(msg) from error


def _sample(pairs: TrainingPairs) -> dict[Role, list[str]]:
    count = min(SAMPLE, len(pairs))
    return _texts(pairs.table.take(np.linspace(0, len(pairs) - 1, count).astype(np.int64)))


def _require_fit(model: Model, base: str, sample: Mapping[Role, list[str]]) -> None:
    """Raise `ModelError` if the tokenizer does not know the data, or no weight is trainable."""
    for role, texts in sample.items():
        require_known_words(base, model.encoder, model.prompt(role), texts, role)
    if not any(weights.requires_grad for weights in model.encoder.parameters()):
        msg = f"The model `{base}` cannot be trained: none of its weights is trainable. "
        raise ModelError(msg + "Use another base model.")


def _require_long_texts(model: Model, base: str, sample: Mapping[Role, list[str]]) -> None:
    """Embed a short text alone and next to a long one.

    Raises `ModelError` if the model cannot read the long one; warns if padding changes the vector
    of the short one.
    """
    for role, texts in sample.items():
        short, longest = min(texts, key=len), max(texts, key=len)
        tokens = max(1, token_counts(model.encoder, [longest], role)[0])
        long = " ".join([longest] * -(-LONG // tokens))
        alone = embed_texts(model, [short], role, 1)
        try:
            padded = embed_texts(model, [short, long], role, PAIRS, ONE_PASS)[:1]
        except (LookupError, RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            read = min(max_tokens(model.encoder, role), max(tokens, LONG))
            msg = f"The model `{base}` cannot embed a text of {read:g} tokens "
            msg += f"({type(error).__name__}: {first_line(error)}). Set a smaller "
            raise ModelError(msg + "`model.max_length`, or use another base model.") from error
        cosine = float(torch.nn.functional.cosine_similarity(alone, padded))
        if not cosine >= MIN_COSINE:
            msg = f"The model `{base}` embeds a text differently next to a longer one (cosine "
            msg += f"{cosine:.3f}): its scores depend on which texts are embedded together"
            warn("proof", msg)


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
        cosines, unequal = compare_saved(model, Path(saved) / "model", _texts(pairs.table))
    if unequal:
        msg = f"The model `{base}` cannot be trained: once saved and loaded, its weights "
        msg += f"`{unequal[0]}` have other values. Use another base model, or mend its module."
        raise ModelError(msg)
    lowest = min(cosines.values())
    if not lowest >= MIN_COSINE:
        msg = f"The model `{base}` cannot be trained: once saved and loaded, it embeds a text "
        msg += f"differently (cosine {lowest:.4f}). Use another base model."
        raise ModelError(msg)


def _texts(table: pa.Table) -> dict[Role, list[str]]:
    anchors, positives = (table[name].to_pylist() for name in ("anchor", "positive"))
    return {"query": anchors, "document": positives}


def _vectors(model: Model, pairs: TrainingPairs) -> dict[Role, Tensor]:
    return {
        role: embed_texts(model, texts, role, PAIRS) for role, texts in _texts(pairs.table).items()
    }


def _to_device(value: Any, model: Model) -> Any:  # noqa: ANN401  the collator's
    return value.to(model.encoder.device) if isinstance(value, Tensor) else value
