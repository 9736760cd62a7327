"""What the tuned model must beat: BM25, and the base model with or without its prompts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from job.data import Dataset
from job.evaluate import (
    Dimensions,
    Validation,
    Vectors,
    bound_corpus,
    embed,
    encode_documents,
    score,
    score_bm25,
    score_vectors,
)
from job.model import Model, Prompts
from job.ranking import METRIC, Scores
from job.spec import JobSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PromptChoice:
    """The base model with its prompts and without: validation nDCG@10 at the main dimension.

    Prompts can weaken a model; a weak baseline would flatter the tuned one.
    """

    documented: Prompts
    used: Prompts
    with_prompts: float
    without_prompts: float

    def sentence(self) -> str:
        if self.documented == Prompts():
            return "No prompts are used; the model documents none, or the spec says so."
        used = "with" if self.used == self.documented else "without"
        return (
            f"The base model is scored {used} its prompts, where it is stronger on validation "
            f"({METRIC} {self.with_prompts:.3f} with, {self.without_prompts:.3f} without)."
        )


@dataclass(frozen=True)
class Baseline:
    """The untuned scores on the test set, and what checkpoints will be judged on."""

    bm25: Scores
    # As float32 vectors, by dimension and precision like the tuned model's.
    test: dict[int, dict[str, Scores]]
    # What `test` was scored by: if nothing beats the base model, its smaller vectors are asked for.
    vectors: Vectors
    prompts: PromptChoice
    tuned_prompts: Prompts
    # The whole corpus as embedded with `tuned_prompts`: (n_documents, width).
    corpus_vectors: "Tensor"
    validation: Validation


def score_base(model: Model, dataset: Dataset, dimensions: Dimensions, spec: JobSpec) -> Baseline:
    """Choose the base model's stronger prompts on validation, then score it on the test set."""
    evaluation = spec.evaluation
    search = bound_corpus(
        dataset.validation, dataset.corpus, evaluation.validation_corpus_limit, spec.data.seed
    )
    documented = Prompts() if evaluation.protocol == "article" else model.prompts
    vectors = {}
    reached = {}
    for prompts in dict.fromkeys((documented, Prompts())):
        candidate = model.with_prompts(prompts)
        if prompts.document not in vectors:
            vectors[prompts.document] = encode_documents(
                candidate, dataset.corpus, evaluation.batch_size
            )
        reached[prompts] = score(
            candidate,
            search.queries,
            search.corpus,
            [dimensions.main],
            evaluation.batch_size,
            vectors[prompts.document][search.positions],
        )[dimensions.main].mean(METRIC)
    used = max(reached, key=lambda prompts: reached[prompts])
    # Prompts that the spec names are wanted whatever the base model makes of them.
    explicit = {spec.model.query_prompt, spec.model.document_prompt} != {"auto"}
    tuned_prompts = documented if explicit else used
    tested = embed(
        model.with_prompts(used),
        dataset.test,
        dataset.corpus,
        evaluation.batch_size,
        vectors[used.document],
    )
    return Baseline(
        bm25=score_bm25(dataset.test, dataset.corpus),
        test=score_vectors(tested, dataset.test, dimensions.all),
        vectors=tested,
        prompts=PromptChoice(documented, used, reached[documented], reached[Prompts()]),
        tuned_prompts=tuned_prompts,
        corpus_vectors=vectors[tuned_prompts.document],
        validation=Validation(search, dimensions, evaluation.batch_size, reached[used]),
    )
