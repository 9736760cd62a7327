"""The round trip: does a search with the question find its chunk again?

BM25 and the base model search all chunks. Only training questions are tested: a test of questions
that one of them answers would favor that one.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from job.generation.chunks import Chunk
from job.generation.filters import Question, Rejected
from job.model.device import Machine
from job.spec.schema import JobSpec

if TYPE_CHECKING:
    from torch import Tensor

    from job.model.encoder import Model
    from job.model.parts import Role

NOT_FOUND = "not found again"
ELSEWHERE = "found better elsewhere"
Positions = npt.NDArray[np.int64]
# Positions of the chunks that a search finds for each question, best first: (n_questions, ≤ depth).
Search = Callable[[Sequence[str], Sequence[str], int], Positions]


@dataclass(frozen=True)
class Tested:
    accepted: list[Question]
    rejected: list[Rejected]
    # Questions that both searches answer with the same other chunk, and that chunk.
    elsewhere: list[tuple[Question, int]]


def round_trip(
    questions: Sequence[Question], chunks: Sequence[Chunk], searches: Sequence[Search], depth: int
) -> Tested:
    """Test the training questions; those of other splits are accepted."""
    asked = [question for question in questions if question.split == "train"]
    accepted = [question for question in questions if question.split != "train"]
    rejected: list[Rejected] = []
    elsewhere: list[tuple[Question, int]] = []
    if not asked:
        return Tested(accepted, rejected, elsewhere)
    texts, corpus = [each.text for each in asked], [chunk.text for chunk in chunks]
    found = [search(texts, corpus, depth) for search in searches]
    for row, question in enumerate(asked):
        ranked = [positions[row].tolist() for positions in found]
        other = better_elsewhere(question.chunk, ranked)
        if not is_found(question.chunk, ranked):
            rejected.append(Rejected(question, NOT_FOUND))
        elif other is not None:
            elsewhere.append((question, other))
        else:
            accepted.append(question)
    return Tested(accepted, rejected, elsewhere)


def is_found(chunk: int, ranked: Sequence[Sequence[int]]) -> bool:
    """Tell whether any search has the chunk among its results."""
    return any(chunk in results for results in ranked)


def better_elsewhere(chunk: int, ranked: Sequence[Sequence[int]]) -> int | None:
    """Return the other chunk that all searches rank first; None if they do not agree on one."""
    first = {results[0] if results else chunk for results in ranked}
    only = first.pop()
    return only if not first and only != chunk and len(ranked) > 1 else None


def search_bm25(questions: Sequence[str], corpus: Sequence[str], depth: int) -> Positions:
    from job.evaluation.bm25 import rank_bm25

    positions, found = rank_bm25(pa.array(corpus), pa.array(questions))
    # Behind the documents that share a word with the question, BM25 ranks the rest by position.
    positions = np.where(np.arange(positions.shape[1]) < found[:, None], positions, -1)
    return positions[:, :depth].astype(np.int64)


def base_searches(spec: JobSpec, machine: Machine, folder: Path) -> Sequence[Search]:
    """Return BM25 and the base model, which is in memory only while it searches."""
    from job.model.encoder import load_model

    def search(questions: Sequence[str], corpus: Sequence[str], depth: int) -> Positions:
        find = search_with(load_model(spec.model, machine, folder), spec.evaluation.batch_size)
        found = find(questions, corpus, depth)
        del find
        # Modules and their hooks refer to each other.
        gc.collect()
        return found

    return search_bm25, search


def search_with(model: "Model", batch_size: int) -> Search:
    """Return the search of the base model, by float32 vectors at full width."""
    from job.evaluation.evaluate import encode_alone
    from job.evaluation.exact_search import Transform, search
    from job.runtime.counter import embeddings_counted

    def find(questions: Sequence[str], corpus: Sequence[str], depth: int) -> Positions:
        def embed(texts: Sequence[str], role: "Role") -> "Tensor":
            with embeddings_counted(model.encoder, len(texts)):
                return encode_alone(model, [*texts], role, batch_size).cpu()

        asked, known = embed(questions, "query"), embed(corpus, "document")
        (found,) = search(asked, known, [Transform(depth=depth)], model.machine.device)
        return found.positions.numpy()

    return find
