"""The ranking loss: score each question against all documents of the batch, at every dimension."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import cos_sim
from torch import Tensor
from torch.nn import functional

from job.data.dataset import TrainingPairs
from job.distributed import process_group
from job.model.encoder import Model
from job.model.parts import has_static_embeddings
from job.spec.schema import ResolvedTraining
from job.storage.arrow_tables import one_array
from job.training.padding import sorted_by_length

# A CPU compiles matrix kernels per shape, so texts are padded to multiples of this many tokens.
WIDTH_STEP = 16
MIN_ROWS = 8


def matryoshka_loss(
    model: Model, pairs: TrainingPairs, dimensions: tuple[int, ...], spec: ResolvedTraining
) -> MatryoshkaLoss:
    """Build the loss; a batch's labels must be row numbers of `pairs`."""
    answers, encoder = KnownAnswers(pairs), model.encoder
    ranking: torch.nn.Module
    # Features of static embeddings are one list of tokens for all texts, which cannot be divided.
    if spec.mini_batch_size is None or has_static_embeddings(encoder):
        ranking = RankingLoss(model, answers, spec.scale)
    else:
        ranking = CachedRankingLoss(encoder, answers, spec.scale, spec.mini_batch_size)
    weights = spec.dimension_weights
    return MatryoshkaLoss(encoder, ranking, list(dimensions), list(weights) if weights else None)


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
    columns: list[Tensor], labels: Tensor, answers: KnownAnswers, scale: float
) -> Tensor:
    """Compute the loss of this rank's shard: a column of anchors, then columns of documents.

    Each rank scores its anchors against the documents of all ranks. The mean over ranks equals the
    loss of the whole batch in one process, because the trainer averages gradients.
    """
    if process_group.world_size() == 1:
        known = answers.mask(labels)
        targets = torch.arange(len(labels), device=labels.device)
        return in_batch_losses(columns[0], torch.cat(columns[1:]), known, targets, scale).mean()
    gathered = torch.cat(process_group.all_gather(labels))
    # Uneven batches repeat rows (`Shards`): count only the first occurrence of each label.
    equal = gathered[:, None] == gathered[None, :]
    unique = equal.int().argmax(dim=1) == torch.arange(len(gathered), device=labels.device)
    documents = [gather_rows(column.float())[unique] for column in columns[1:]]
    indices = len(labels) * process_group.rank() + torch.arange(len(labels), device=labels.device)
    counted = unique[indices]
    targets = (unique.cumsum(0) - 1)[indices[counted]]
    known = answers.mask(gathered[unique])[targets]
    losses = in_batch_losses(columns[0][counted], torch.cat(documents), known, targets, scale)
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


def embed_by_length(model: torch.nn.Module, features: dict[str, Any], tokens: int | None) -> Tensor:
    """Embed one column, (n, width), in chunks of rows of similar length, about `tokens` each.

    The library embeds all columns in one forward pass and pads each question to the longest
    document, which takes most of the time on a CPU.
    """
    mask = features.get("attention_mask")
    # Truncating columns on the right works only if the padding is on the right. Static embeddings
    # have neither padding nor a mask.
    if tokens is None or mask is None or not bool(mask[:, 0].all()):
        embedding: Tensor = model(features)["sentence_embedding"]
        return embedding
    lengths = mask.sum(dim=1)
    order = lengths.argsort(descending=True)
    embedded, start = [], 0
    while start < len(order):
        longest = int(lengths[order[start]])
        width = min(math.ceil(longest / WIDTH_STEP) * WIDTH_STEP, mask.shape[1])
        part = order[start : start + max(MIN_ROWS, tokens // width)]
        start += len(part)
        chunk = {
            name: value[part, :width] if isinstance(value, Tensor) and value.ndim == 2 else value
            for name, value in features.items()
        }
        embedded.append(model(chunk)["sentence_embedding"])
    return torch.cat(embedded)[order.argsort()]


class RankingLoss(MultipleNegativesRankingLoss):
    def __init__(self, model: Model, answers: KnownAnswers, scale: float) -> None:
        super().__init__(model.encoder, scale=scale)
        self.answers = answers
        self.tuned = model

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> Tensor:
        tokens = self.tuned.machine.tokens_per_pass
        with self.tuned.training():
            columns = [embed_by_length(self.model, column, tokens) for column in sentence_features]
        return batch_loss(columns, labels, self.answers, self.scale)


class CachedRankingLoss(CachedMultipleNegativesRankingLoss):
    """The same loss with less memory: rows are embedded one mini-batch at a time, twice.

    Mini-batches hold rows of similar length. Mini-batches of equal token counts were tried, but
    they mix long and short rows (job/LOG.md).
    """

    def __init__(
        self, model: SentenceTransformer, answers: KnownAnswers, scale: float, mini_batch_size: int
    ) -> None:
        super().__init__(model, scale=scale, mini_batch_size=mini_batch_size)
        self.answers = answers
        # For each column, the order that undoes its sorting by length.
        self._orders: list[Tensor] = []

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> Tensor:
        columns, orders = zip(*map(sorted_by_length, sentence_features), strict=True)
        self._orders = list(orders)
        loss: Tensor = super().forward(columns, labels)
        return loss

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, **options: bool
    ) -> Tensor:
        assert labels is not None
        columns = [
            torch.cat(column)[order] for column, order in zip(reps, self._orders, strict=True)
        ]
        loss = batch_loss(columns, labels, self.answers, self.scale)
        if options.get("with_backward"):
            loss.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach()
        return loss
