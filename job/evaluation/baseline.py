"""What the tuned model must beat: BM25, and the base model with or without its prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from job.data.dataset import Dataset
from job.distributed.process_group import from_rank_zero, is_rank_zero
from job.evaluation.auxiliary import AuxiliaryTest
from job.evaluation.cache import load_scores, save_scores
from job.evaluation.evaluate import (
    NO_SCORES,
    Dimensions,
    SampledSearch,
    Validation,
    Vectors,
    embed,
    encode_documents,
    sample_corpus,
    score,
    score_bm25,
    score_vectors,
)
from job.evaluation.metrics import METRIC, Scores
from job.model.encoder import Model, Prompts
from job.spec.schema import JobSpec


@dataclass(frozen=True)
class PromptChoice:
    """The base model with its prompts and without: validation nDCG@10 at the main dimension.

    Prompts can weaken a model; a weak baseline would flatter the tuned one.
    """

    documented: Prompts
    with_prompts: float
    without_prompts: float

    @property
    def used(self) -> Prompts:
        return self.documented if self.with_prompts >= self.without_prompts else Prompts()

    @property
    def ndcg(self) -> float:
        return max(self.with_prompts, self.without_prompts)

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
    """The untuned scores on the test set, and what checkpoints will be judged on.

    Scores are known on rank 0 alone.
    """

    bm25: Scores
    # As float32 vectors, by dimension and precision like the tuned model's.
    test: dict[int, dict[str, Scores]]
    prompts: PromptChoice
    tuned_prompts: Prompts
    validation: Validation
    # What `test` was scored by: if nothing beats the base model, its smaller vectors are asked for.
    # None where an earlier start of the run has scored it.
    vectors: Vectors | None = None
    # The whole corpus as embedded with `tuned_prompts`: (n_documents, width).
    corpus_vectors: Tensor | None = None
    # Scores of the tests beside, by their name and dimension.
    auxiliary: Mapping[str, dict[int, Scores]] = field(default_factory=dict)


def score_base(
    model: Model,
    dataset: Dataset,
    dimensions: Dimensions,
    spec: JobSpec,
    auxiliary: Mapping[str, AuxiliaryTest] | None = None,
) -> Baseline:
    """Choose the base model's stronger prompts on validation, then score it on the test set."""
    main, batch_size = dimensions.main, spec.evaluation.batch_size
    search, vectors = _validation_search(dataset, spec), {}

    def reached(prompts: Prompts) -> float:
        candidate = model.with_prompts(prompts)
        if prompts.document not in vectors:
            vectors[prompts.document] = encode_documents(candidate, dataset.corpus, batch_size)
        known = vectors[prompts.document][search.positions]
        scores = score(candidate, search.queries, search.corpus, [main], batch_size, known)
        return from_rank_zero(lambda: scores[main].mean(METRIC))

    documented = _documented_prompts(model, spec)
    with_prompts = reached(documented)
    without = reached(Prompts()) if documented != Prompts() else with_prompts
    choice = PromptChoice(documented, with_prompts, without)
    prompted = model.with_prompts(choice.used)
    known = vectors[choice.used.document]
    tested = embed(prompted, dataset.test, dataset.corpus, batch_size, known)
    tuned_prompts = _tuned_prompts(choice, spec)
    return Baseline(
        bm25=score_bm25(dataset.test, dataset.corpus),
        test=score_vectors(tested, dataset.test, dimensions.all),
        prompts=choice,
        tuned_prompts=tuned_prompts,
        validation=Validation(search, dimensions, batch_size, choice.ndcg),
        auxiliary={
            name: test.score(prompted, dimensions, batch_size)
            for name, test in (auxiliary or {}).items()
        },
        vectors=tested,
        corpus_vectors=vectors[tuned_prompts.document],
    )


def _validation_search(dataset: Dataset, spec: JobSpec) -> SampledSearch:
    limit = spec.evaluation.validation_corpus_limit
    return sample_corpus(dataset.validation, dataset.corpus, limit, spec.data.seed)


def _documented_prompts(model: Model, spec: JobSpec) -> Prompts:
    return Prompts() if spec.evaluation.protocol == "article" else model.prompts


def _tuned_prompts(choice: PromptChoice, spec: JobSpec) -> Prompts:
    # Prompts that the spec names are wanted whatever the base model makes of them.
    explicit = {spec.model.query_prompt, spec.model.document_prompt} != {"auto"}
    return choice.documented if explicit else choice.used


def save_baseline(base: Baseline, path: Path) -> None:
    """Keep the scores for the next start of this run; the vectors are too large for that."""
    scores = {"bm25": base.bm25}
    scores |= {f"test/{d}": found["float32"] for d, found in base.test.items()}
    for name, by_dimension in base.auxiliary.items():
        scores |= {f"auxiliary/{name}/{d}": found for d, found in by_dimension.items()}
    choice = base.prompts
    save_scores(path, scores, {"with": choice.with_prompts, "without": choice.without_prompts})


def load_baseline(
    path: Path, model: Model, dataset: Dataset, dimensions: Dimensions, spec: JobSpec
) -> Baseline | None:
    """Take up what an earlier start of this run has scored, if it came so far."""
    kept = load_scores(path) if is_rank_zero() else None
    facts = from_rank_zero(lambda: kept and kept[1])
    if facts is None:
        return None
    scores = kept[0] if kept else {}
    choice = PromptChoice(_documented_prompts(model, spec), facts["with"], facts["without"])
    auxiliary: dict[str, dict[int, Scores]] = {}
    for key, found in scores.items():
        if key.startswith("auxiliary/"):
            _, name, dimension = key.split("/")
            auxiliary.setdefault(name, {})[int(dimension)] = found
    search, batch_size = _validation_search(dataset, spec), spec.evaluation.batch_size
    return Baseline(
        bm25=scores.get("bm25", NO_SCORES),
        test={d: {"float32": scores[f"test/{d}"]} for d in dimensions.all if scores},
        prompts=choice,
        tuned_prompts=_tuned_prompts(choice, spec),
        validation=Validation(search, dimensions, batch_size, choice.ndcg),
        auxiliary=auxiliary,
    )
