"""The ranking loss: each question against every document of the batch, at every dimension."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import cos_sim
from torch import Tensor
from torch.nn import functional

from job.data import TrainingPairs
from job.model import Model
from job.spec import ResolvedTraining

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


# A CPU compiles its matrix kernels for each shape it meets: texts are padded to these widths.
WIDTHS = 16
ROWS_AT_LEAST = 8


def matryoshka_loss(
    model: Model,
    pairs: TrainingPairs,
    dimensions: tuple[int, ...],
    spec: ResolvedTraining,
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
        numbers = dict(zip(pairs.table["positive"].to_pylist(), pairs.documents, strict=True))
        negatives = [
            [numbers.get(text, self.span - 1) for text in own]
            for own in pairs.table["negatives"].to_pylist()
        ]
        columns = torch.tensor(negatives, dtype=positives.dtype).reshape(len(pairs), -1)
        self.register_buffer("questions", questions, persistent=False)
        self.register_buffer(
            "documents", torch.cat([positives[:, None], columns], dim=1), persistent=False
        )
        codes = torch.unique(questions * self.span + positives)
        self.register_buffer("codes", codes, persistent=False)

    def among(self, rows: Tensor) -> Tensor:
        """Mark what else answers a row's question: (n, n × columns), column after column."""
        documents = self.documents[rows].T.flatten()
        codes = self.questions[rows, None] * self.span + documents
        at = torch.searchsorted(self.codes, codes).clamp(max=len(self.codes) - 1)
        known: Tensor = self.codes[at] == codes
        known[:, : len(rows)].fill_diagonal_(fill_value=False)
        return known


def in_batch_loss(queries: Tensor, documents: Tensor, answers: Tensor, scale: float) -> Tensor:
    """Compute the cross-entropy of finding document i for query i among all documents.

    Takes (n, width) and (n × columns, width); the first n documents are the positives. Those that
    `answers`, (n, n × columns), marks are no wrong answers and are left out of the competition.
    In float32: the differences that matter are smaller than what bfloat16 resolves.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scores = cos_sim(queries.float(), documents.float()) * scale
        scores = scores.masked_fill(answers, -torch.inf)
        targets = torch.arange(len(queries), device=scores.device)
        return functional.cross_entropy(scores, targets)


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
        tokens = self.tuned.machine.tokens_at_once
        with self.tuned.training():
            columns = [embed_by_length(self.model, column, tokens) for column in sentence_features]
        return self.compute_loss_from_embeddings(columns, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        known = self.answers.among(labels)
        return in_batch_loss(embeddings[0], torch.cat(embeddings[1:]), known, self.scale)


class CachedRankingLoss(CachedMultipleNegativesRankingLoss):
    """The same loss in less memory: rows are embedded a mini-batch at a time, twice."""

    def __init__(
        self,
        model: "SentenceTransformer",
        answers: KnownAnswers,
        scale: float,
        mini_batch_size: int,
    ) -> None:
        super().__init__(model, scale=scale, mini_batch_size=mini_batch_size)
        self.answers = answers

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, **options: bool
    ) -> Tensor:
        assert labels is not None
        documents = torch.cat([torch.cat(column) for column in reps[1:]])
        known = self.answers.among(labels)
        loss = in_batch_loss(torch.cat(reps[0]), documents, known, self.scale)
        if options.get("with_backward"):
            loss.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach()
        return loss
