"""The ranking loss: score each question against all documents of the batch, at every dimension."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin, RandContext
from sentence_transformers.util import cos_sim
from torch import Tensor
from torch.nn import functional

from job.data.dataset import TrainingPairs
from job.distributed import process_group
from job.model.encoder import Model
from job.model.features import Passes
from job.model.parts import has_static_embeddings
from job.spec.schema import ResolvedTraining
from job.storage.arrow_tables import one_array


def matryoshka_loss(
    model: Model, pairs: TrainingPairs, dimensions: tuple[int, ...], spec: ResolvedTraining
) -> "RankingLoss":
    """Build the loss; a batch's labels must be row numbers of `pairs`."""
    weights = spec.dimension_weights or (1.0,) * len(dimensions)
    by_dimension = dict(zip(dimensions, weights, strict=True))
    loss = RankingLoss(model, KnownAnswers(pairs), spec.scale, by_dimension)
    loss.embed_at_once(spec.mini_batch_size)
    return loss


class KnownAnswers(torch.nn.Module):
    """Look up documents that are known to answer a question, besides the row's own positive."""

    codes: Tensor
    questions: Tensor
    documents: Tensor

    def __init__(self, pairs: TrainingPairs) -> None:
        """Number the documents of each row, (n_rows, 1 + negatives), positive first."""
        super().__init__()
        questions, positives = torch.tensor(pairs.questions), torch.tensor(pairs.documents)
        # A negative may be another row's positive; all others share one number without a question.
        self.span = int(positives.max()) + 2
        negatives = one_array(pairs.table["negatives"]).flatten()
        row = pc.index_in(negatives, value_set=one_array(pairs.table["positive"]))
        numbers = np.append(pairs.documents, self.span - 1)[row.fill_null(len(pairs)).to_numpy()]
        columns = torch.from_numpy(numbers).reshape(len(pairs), -1)
        documents = torch.cat([positives[:, None], columns], dim=1)
        codes = torch.unique(questions * self.span + positives)
        for name, buffer in {
            "questions": questions,
            "documents": documents,
            "codes": codes,
        }.items():
            self.register_buffer(name, buffer, persistent=False)

    def mask(self, rows: Tensor) -> Tensor:
        """Mark other known answers to each row's question: (n, n × columns), column by column."""
        documents = self.documents[rows].T.flatten()
        codes = self.questions[rows, None] * self.span + documents
        indices = torch.searchsorted(self.codes, codes).clamp(max=len(self.codes) - 1)
        known: Tensor = self.codes[indices] == codes
        known[:, : len(rows)].fill_diagonal_(fill_value=False)
        return known


def batch_loss(
    columns: list[Tensor],
    labels: Tensor,
    answers: KnownAnswers,
    scale: float,
    dimensions: dict[int, float],
) -> Tensor:
    """Compute the loss of this rank's shard: a column of anchors, then columns of documents.

    It is the sum of the losses of the truncated vectors, each with the weight of its dimension.

    Each rank scores its anchors against the documents of all ranks. The mean over ranks equals the
    loss of the whole batch in one process, because the trainer averages gradients.
    """
    if process_group.world_size() == 1:
        known = answers.mask(labels)
        targets = torch.arange(len(labels), device=labels.device)
        queries, documents = columns[0], torch.cat(columns[1:])
        return sum_over(dimensions, queries, documents, known, targets, scale).mean()
    gathered = torch.cat(process_group.all_gather(labels))
    # Uneven batches repeat rows (`Shards`): count only the first occurrence of each label.
    equal = gathered[:, None] == gathered[None, :]
    unique = equal.int().argmax(dim=1) == torch.arange(len(gathered), device=labels.device)
    documents = torch.cat([gather_rows(column.float())[unique] for column in columns[1:]])
    indices = len(labels) * process_group.rank() + torch.arange(len(labels), device=labels.device)
    counted = unique[indices]
    targets = (unique.cumsum(0) - 1)[indices[counted]]
    known = answers.mask(gathered[unique])[targets]
    losses = sum_over(dimensions, columns[0][counted], documents, known, targets, scale)
    # A rank with only repeated rows has no loss, but must take part in the backward pass.
    return losses.sum() * process_group.world_size() / unique.sum() + 0.0 * columns[0].sum()


class GatherRows(torch.autograd.Function):
    """Gather the rows of all ranks, (n, width) each, and sum the gradients of this rank's rows.

    The library's `all_gather_with_grad` uses a deprecated function of torch.
    """

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:  # noqa: ANN401  torch's
        context.first = process_group.rank() * len(rows)
        context.count = len(rows)
        return torch.cat(process_group.all_gather(rows))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401  torch's
        summed = process_group.all_reduce(gradients[0])
        return summed[context.first : context.first + context.count]


gather_rows: Callable[[Tensor], Tensor] = GatherRows.apply


def sum_over(
    dimensions: dict[int, float],
    queries: Tensor,
    documents: Tensor,
    *compared: Any,  # noqa: ANN401
) -> Tensor:
    """Sum each query's losses, (n,), over dimensions with these weights."""
    losses = [
        weight * in_batch_losses(queries[:, :size], documents[:, :size], *compared)
        for size, weight in dimensions.items()
    ]
    return torch.stack(losses).sum(dim=0)


def in_batch_losses(
    queries: Tensor, documents: Tensor, answers: Tensor, targets: Tensor, scale: float
) -> Tensor:
    """Compute each query's cross-entropy over all documents, (n,).

    Takes queries, (n, width), documents, (n_documents, width), and the index of each query's
    positive, `targets`, (n,). Documents marked in `answers`, (n, n_documents), are other known
    answers, not negatives. Computed in float32: bfloat16 is too coarse for the score
    differences that matter.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scores = cos_sim(queries.float(), documents.float()) * scale
        scores = scores.masked_fill(answers, -torch.inf)
        return functional.cross_entropy(scores, targets, reduction="none")


class RankingLoss(CachedLossMixin, torch.nn.Module):
    """The loss of a batch's pairs; each text is embedded once for all dimensions.

    With few rows at once, each is embedded twice (gradient caching): that takes less memory and
    gives the same loss.
    """

    def __init__(
        self,
        model: Model,
        answers: KnownAnswers,
        scale: float,
        dimensions: dict[int, float],
    ) -> None:
        """Take the weight of each dimension."""
        super().__init__()
        # The trainer replaces this one in several processes.
        self.model = model.encoder
        self.answers = answers
        self.scale = scale
        self.dimensions = dimensions
        self.max_rows: int | None = None
        self._tuned = model
        self._passes: Passes

    def embed_at_once(self, rows: int | None) -> None:
        """Set the rows of a pass, and cache gradients; None: the whole batch, without a cache."""
        # Features of static embeddings are one list of tokens for all texts, which is not divided.
        self.max_rows = None if has_static_embeddings(self._tuned.encoder) else rows

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> Tensor:
        tuned = self._tuned
        self._passes = Passes(
            list(sentence_features), tuned.encoder, tuned.pass_cost, self.max_rows
        )
        if self.max_rows is not None:
            # The library caches the gradients of each of its mini-batches: one for each pass.
            self.mini_batch_size = max(2, self.max_rows)
            return self.forward_cached(self._passes.features, labels)
        with tuned.training():
            vectors = [
                self.model(dict(each))["sentence_embedding"] for each in self._passes.features
            ]
        return self._loss(vectors, labels)

    def embed_minibatch(
        self,
        sentence_feature: dict[str, Any],
        begin: int,
        end: int,
        with_grad: bool,  # noqa: FBT001  the library's
        copy_random_state: bool,  # noqa: FBT001
        random_state: RandContext | None = None,
    ) -> tuple[Tensor, RandContext | None]:
        """Embed a pass. The library's method would ask the GPU for its width."""
        del begin, end
        with random_state or nullcontext(), torch.set_grad_enabled(with_grad):
            state = RandContext(*sentence_feature.values()) if copy_random_state else None
            return self.model(dict(sentence_feature))["sentence_embedding"], state

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        assert labels is not None
        loss = self._loss([vectors for (vectors,) in reps], labels)
        if with_backward:
            loss.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach()
        return loss

    def _loss(self, vectors: list[Tensor], labels: Tensor) -> Tensor:
        columns = self._passes.columns(vectors)
        return batch_loss(columns, labels, self.answers, self.scale, self.dimensions)
