"""The ranking loss: each question against every document of the batch, at every dimension."""

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
from job.spec.schema import ResolvedTraining
from job.storage.arrow_tables import one_array
from job.training.padding import sorted_by_length

# A CPU compiles its matrix kernels for each shape it meets: texts are padded to these widths.
WIDTHS = 16
ROWS_AT_LEAST = 8


def matryoshka_loss(
    model: Model, pairs: TrainingPairs, dimensions: tuple[int, ...], spec: ResolvedTraining
) -> MatryoshkaLoss:
    """Build the loss for batches whose labels are row numbers of `pairs`."""
    answers, encoder = KnownAnswers(pairs), model.encoder
    ranking: torch.nn.Module
    if spec.mini_batch_size is None:
        ranking = RankingLoss(model, answers, spec.scale)
    else:
        ranking = CachedRankingLoss(encoder, answers, spec.scale, spec.mini_batch_size)
    weights = spec.dimension_weights
    return MatryoshkaLoss(encoder, ranking, list(dimensions), list(weights) if weights else None)


class KnownAnswers(torch.nn.Module):
    """Which documents are known to answer which questions, beyond a row's own document."""

    codes: Tensor
    questions: Tensor
    documents: Tensor

    def __init__(self, pairs: TrainingPairs) -> None:
        """Number the documents of each row, (n_rows, 1 + negatives): the positive stands first."""
        super().__init__()
        questions, positives = torch.tensor(pairs.questions), torch.tensor(pairs.documents)
        # A negative may be another row's positive; one that is none answers no question.
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

    def among(self, rows: Tensor) -> Tensor:
        """Mark what else answers a row's question: (n, n × columns), column after column."""
        documents = self.documents[rows].T.flatten()
        codes = self.questions[rows, None] * self.span + documents
        at = torch.searchsorted(self.codes, codes).clamp(max=len(self.codes) - 1)
        known: Tensor = self.codes[at] == codes
        known[:, : len(rows)].fill_diagonal_(fill_value=False)
        return known


def batch_loss(
    columns: list[Tensor], labels: Tensor, answers: KnownAnswers, scale: float
) -> Tensor:
    """Compute the loss of this rank's share of a batch: a column of anchors, then documents.

    Every rank sees the documents of all ranks, and the mean of their losses is the loss of the
    whole batch, as one process computes it: the trainer averages gradients.
    """
    if process_group.world_size() == 1:
        known = answers.among(labels)
        places = torch.arange(len(labels), device=labels.device)
        return in_batch_losses(columns[0], torch.cat(columns[1:]), known, places, scale).mean()
    everyone = torch.cat(process_group.all_gather(labels))
    # The first of several equal labels.
    equal = everyone[:, None] == everyone[None, :]
    once = equal.int().argmax(dim=1) == torch.arange(len(everyone), device=labels.device)
    documents = [gather_rows(column.float())[once] for column in columns[1:]]
    own = len(labels) * process_group.rank() + torch.arange(len(labels), device=labels.device)
    mine = once[own]
    place = (once.cumsum(0) - 1)[own[mine]]
    known = answers.among(everyone[once])[place]
    losses = in_batch_losses(columns[0][mine], torch.cat(documents), known, place, scale)
    # A rank whose rows are all repeated has no loss, and still takes part in the backward pass.
    return losses.sum() * process_group.world_size() / once.sum() + 0.0 * columns[0].sum()


class GatherRows(torch.autograd.Function):
    """The rows of all ranks, (n, width) each; a rank gets back the sum of its rows' gradients.

    Torch's own, on which the library's `all_gather_with_grad` rests, is deprecated.
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
    queries: Tensor, documents: Tensor, answers: Tensor, places: Tensor, scale: float
) -> Tensor:
    """Compute each query's cross-entropy of finding its own document among all, (n,).

    Takes (n, width), (n_documents, width), and of each query the place of its document, (n,).
    Those that `answers`, (n, n_documents), marks are no wrong answers and are left out of the
    competition. In float32: the differences that matter are smaller than what bfloat16 resolves.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scores = cos_sim(queries.float(), documents.float()) * scale
        scores = scores.masked_fill(answers, -torch.inf)
        return functional.cross_entropy(scores, places, reduction="none")


def embed_by_length(model: torch.nn.Module, features: dict[str, Any], tokens: int | None) -> Tensor:
    """Embed one column, (n, width), in chunks of rows of similar length, of `tokens` each.

    The library embeds all columns in one forward pass, which pads each question to the longest
    document: on a CPU that is most of the time.
    """
    mask = features["attention_mask"]
    # Padding on the left cannot be cut off at the right.
    if tokens is None or not bool(mask[:, 0].all()):
        embedding: Tensor = model(features)["sentence_embedding"]
        return embedding
    lengths = mask.sum(dim=1)
    order = lengths.argsort(descending=True)
    embedded, start = [], 0
    while start < len(order):
        longest = int(lengths[order[start]])
        width = min(math.ceil(longest / WIDTHS) * WIDTHS, mask.shape[1])
        part = order[start : start + max(ROWS_AT_LEAST, tokens // width)]
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
    """The same loss in less memory: rows are embedded a mini-batch at a time, twice.

    A mini-batch has rows of similar length. As many tokens in each, whatever the rows, would put
    long and short ones together (job/LOG.md).
    """

    def __init__(
        self, model: SentenceTransformer, answers: KnownAnswers, scale: float, mini_batch_size: int
    ) -> None:
        super().__init__(model, scale=scale, mini_batch_size=mini_batch_size)
        self.answers = answers
        # Where the rows of each column stood before they were sorted.
        self._places: list[Tensor] = []

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> Tensor:
        columns, places = zip(*map(sorted_by_length, sentence_features), strict=True)
        self._places = list(places)
        loss: Tensor = super().forward(columns, labels)
        return loss

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, **options: bool
    ) -> Tensor:
        assert labels is not None
        columns = [
            torch.cat(column)[places] for column, places in zip(reps, self._places, strict=True)
        ]
        loss = batch_loss(columns, labels, self.answers, self.scale)
        if options.get("with_backward"):
            loss.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach()
        return loss
