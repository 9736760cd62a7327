"""Score the baselines that the tuned model must beat: BM25 and the base model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from job.data.dataset import Dataset
from job.distributed.process_group import from_rank_zero, is_rank_zero
from job.evaluation.auxiliary_tests import AuxiliaryTest
from job.evaluation.cache import load_scores, save_scores
from job.evaluation.dimensions import Dimensions
from job.evaluation.evaluate import (
    NO_SCORES,
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
from job.model.encoder import Model
from job.model.prompts import Prompts
from job.spec.schema import JobSpec


@dataclass(frozen=True)
class PromptChoice:
    """The base model's validation nDCG@10 at the main dimension, with its prompts and without.

    The better variant is the baseline: prompts can weaken a model, and a weak baseline would
    flatter the tuned model.
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
            return "No prompts are used: the model documents none, or the job file disables them."
        used = "with" if self.used == self.documented else "without"
        return (
            f"The base model is scored {used} its prompts, because that scores higher on "
            f"validation ({METRIC} {self.with_prompts:.3f} with, {self.without_prompts:.3f} "
            "without)."
        )


@dataclass(frozen=True)
class Baseline:
    """Test scores before tuning, and the validation search for checkpoints.

    Only rank 0 holds scores.
    """

    bm25: Scores
    # By dimension and precision, like the tuned model's scores; float32 only.
    test: dict[int, dict[str, Scores]]
    prompts: PromptChoice
    tuned_prompts: Prompts
    validation: Validation
    # The vectors behind `test`: if no checkpoint beats the base model, they are scored at the
    # smaller precisions too. None if the scores come from the cache of an earlier start.
    vectors: Vectors | None = None
    # The whole corpus, embedded with `tuned_prompts`: (n_documents, width).
    corpus_vectors: Tensor | None = None
    # Scores of the auxiliary tests, by name and dimension.
    auxiliary: Mapping[str, dict[int, Scores]] = field(default_factory=dict)
    # With `evaluation.folds`: the validation of each fold; `validation` is the first one.
    folds: tuple[Validation, ...] = ()


def score_base(
    model: Model,
    dataset: Dataset,
    dimensions: Dimensions,
    spec: JobSpec,
    auxiliary: Mapping[str, AuxiliaryTest] | None = None,
) -> Baseline:
    """Choose on validation whether the base model uses prompts, then score it on the test set."""
    main, batch_size = dimensions.main, spec.evaluation.batch_size
    # Corpus vectors by document prompt, so that the corpus is encoded once per prompt.
    search, corpora = _validation_search(dataset, spec), {}

    def validation_ndcg(prompts: Prompts) -> float:
        candidate = model.with_prompts(prompts)
        if prompts.document not in corpora:
            corpora[prompts.document] = encode_documents(candidate, dataset.corpus, batch_size)
        subset = corpora[prompts.document][search.positions]
        scores = score(candidate, search.queries, search.corpus, [main], batch_size, subset)
        return from_rank_zero(lambda: scores[main].mean(METRIC))

    documented = _documented_prompts(model, spec)
    with_prompts = validation_ndcg(documented)
    without = validation_ndcg(Prompts()) if documented != Prompts() else with_prompts
    choice = PromptChoice(documented, with_prompts, without)
    prompted = model.with_prompts(choice.used)
    corpus = corpora[choice.used.document]
    vectors = embed(prompted, dataset.test, dataset.corpus, batch_size, corpus)

    def validation_of(fold: Dataset) -> Validation:
        search = _validation_search(fold, spec)
        found = (search.queries, search.corpus, [main], batch_size, corpus[search.positions])
        scores = score(prompted, *found)
        ndcg = from_rank_zero(lambda: scores[main].mean(METRIC))
        return Validation(search, dimensions, batch_size, ndcg)

    tuned_prompts = _tuned_prompts(choice, spec)
    return Baseline(
        bm25=score_bm25(dataset.test, dataset.corpus),
        test=score_vectors(vectors, dataset.test, dimensions.all),
        prompts=choice,
        tuned_prompts=tuned_prompts,
        validation=Validation(search, dimensions, batch_size, choice.ndcg),
        auxiliary={
            name: test.score(prompted, dimensions, batch_size)
            for name, test in (auxiliary or {}).items()
        },
        folds=tuple(map(validation_of, dataset.folds)),
        vectors=vectors,
        corpus_vectors=corpora[tuned_prompts.document],
    )


def _validation_search(dataset: Dataset, spec: JobSpec) -> SampledSearch:
    limit = spec.evaluation.validation_corpus_limit
    return sample_corpus(dataset.validation, dataset.corpus, limit, spec.data.seed)


def _documented_prompts(model: Model, spec: JobSpec) -> Prompts:
    return Prompts() if spec.evaluation.protocol == "article" else model.prompts


def _tuned_prompts(choice: PromptChoice, spec: JobSpec) -> Prompts:
    # Prompts given in the spec are used even if the base model scores lower with them.
    explicit = {spec.model.query_prompt, spec.model.document_prompt} != {"auto"}
    return choice.documented if explicit else choice.used


def save_baseline(base: Baseline, path: Path) -> None:
    """Cache the scores for the next start of this run; the vectors are too large to cache."""
    scores = {"bm25": base.bm25}
    scores |= {f"test/{d}": found["float32"] for d, found in base.test.items()}
    for name, by_dimension in base.auxiliary.items():
        scores |= {f"auxiliary/{name}/{d}": found for d, found in by_dimension.items()}
    choice = base.prompts
    facts = {"with": choice.with_prompts, "without": choice.without_prompts}
    save_scores(path, scores, facts | {"folds": [fold.base for fold in base.folds]})


def load_baseline(
    path: Path, model: Model, dataset: Dataset, dimensions: Dimensions, spec: JobSpec
) -> Baseline | None:
    """Load the scores that an earlier start of this run has cached; None if there are none."""
    cached = load_scores(path) if is_rank_zero() else None
    facts = from_rank_zero(lambda: cached and cached[1])
    if facts is None:
        return None
    scores = cached[0] if cached else {}
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
        folds=tuple(
            Validation(_validation_search(fold, spec), dimensions, batch_size, ndcg)
            for fold, ndcg in zip(dataset.folds, facts.get("folds", []), strict=True)
        ),
    )
