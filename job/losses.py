"""The ranking loss: each question against every document of the batch, at every dimension."""

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
from job.spec import TrainingSpec

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

CPU_ROWS = 32


def matryoshka_loss(
    encoder: "SentenceTransformer",
    pairs: TrainingPairs,
    dimensions: tuple[int, ...],
    spec: TrainingSpec,
) -> MatryoshkaLoss:
    """Build the loss for batches whose labels are row numbers of `pairs`."""
    answers = KnownAnswers(pairs)
    ranking: torch.nn.Module
    if spec.mini_batch_size is None:
        ranking = RankingLoss(encoder, answers, spec.scale)
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
        super().__init__()
        questions, documents = torch.tensor(pairs.questions), torch.tensor(pairs.documents)
        self.span = int(documents.max()) + 1
        self.register_buffer("questions", questions, persistent=False)
        self.register_buffer("documents", documents, persistent=False)
        codes = torch.unique(questions * self.span + documents)
        self.register_buffer("codes", codes, persistent=False)

    def among(self, rows: Tensor) -> Tensor:
        """Mark, (n, n), the other rows' documents that answer a row's question."""
        codes = self.questions[rows, None] * self.span + self.documents[rows]
        at = torch.searchsorted(self.codes, codes).clamp(max=len(self.codes) - 1)
        own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        return (self.codes[at] == codes) & ~own


def in_batch_loss(queries: Tensor, documents: Tensor, answers: Tensor, scale: float) -> Tensor:
    """Compute the cross-entropy of finding document i for query i among all documents.

    Takes (n, width) and (n × columns, width); the first n documents are the positives. Those that
    `answers` marks are no wrong answers and are left out of the competition. In float32: the
    differences that matter are smaller than what bfloat16 resolves.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scores = cos_sim(queries.float(), documents.float()) * scale
        own = scores[:, : len(queries)].masked_fill(answers, -torch.inf)
        scores = torch.cat([own, scores[:, len(queries) :]], dim=1)
        targets = torch.arange(len(queries), device=scores.device)
        return functional.cross_entropy(scores, targets)


def embed_by_length(model: torch.nn.Module, features: dict[str, Any], rows: int) -> Tensor:
    """Embed one column, (n, width), in chunks of rows of similar length, each padded no further.

    The library embeds all columns in one forward pass, which pads each question to the longest
    document: on a CPU that is most of the time.
    """
    mask = features["attention_mask"]
    order = mask.sum(dim=1).argsort(descending=True)
    # Padding on the left cannot be cut off at the right.
    cut = bool(mask[:, 0].all())
    embedded = []
    for part in order.split(rows):
        width = int(mask[part].sum(dim=1).max()) if cut else mask.shape[1]
        chunk = {
            name: value[part, :width] if isinstance(value, Tensor) and value.ndim == 2 else value
            for name, value in features.items()
        }
        embedded.append(model(chunk)["sentence_embedding"])
    return torch.cat(embedded)[order.argsort()]


class RankingLoss(MultipleNegativesRankingLoss):
    def __init__(self, model: "SentenceTransformer", answers: KnownAnswers, scale: float) -> None:
        super().__init__(model, scale=scale)
        self.answers = answers

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> Tensor:
        # A GPU is fastest with one large pass; a CPU with short rows.
        rows = CPU_ROWS if labels.device.type == "cpu" else len(labels)
        columns = [embed_by_length(self.model, column, rows) for column in sentence_features]
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
