"""Train several times with different seeds; the model that is best on validation is the result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from job.data.dataset import Dataset
from job.distributed.process_group import from_rank_zero, is_rank_zero
from job.evaluation.baseline import Baseline
from job.evaluation.cache import load_scores, save_scores
from job.evaluation.evaluate import score
from job.evaluation.metrics import Scores
from job.model.dtypes import round_weights, stored_dtype
from job.model.encoder import Model
from job.runtime.logs import tell
from job.spec.schema import JobSpec
from job.training.train import Training, TrainingContext, train

# The fields of a result that are stored beside its scores.
CACHED = ("validation", "pairs", "seconds", "mini_batch_size")


@dataclass(frozen=True)
class SeedResult:
    """The training with one seed: its best validation score and its test scores by dimension.

    Only rank 0 holds scores. The base model counts if no checkpoint beat it on validation.
    """

    seed: int
    validation: float
    pairs: int
    seconds: float
    # Rows embedded at once, and whether memory ran out: see `Training`.
    mini_batch_size: dict[str, int] | None
    scores: Mapping[int, Scores]


def train_seeds(
    model: Model,
    reload: Callable[[], Model],
    dataset: Dataset,
    base: Baseline,
    spec: JobSpec,
    context: TrainingContext,
) -> tuple[Training, list[SeedResult]]:
    """Train with `training.seeds` seeds; return the training that is best on validation, and all.

    `model` is the base model for the first training, `reload` loads it for the others. Each seed
    has its own checkpoints, and its scores are cached beside them, so a resumed run repeats no
    training. The list is empty if there is only one training.
    """
    prompts, first = base.tuned_prompts, spec.training.seed
    is_single = spec.training.seeds == 1 or spec.training.epochs == 0

    def train_one(model: Model, seed: int) -> Training:
        own = spec.training.model_copy(update={"seed": seed})
        part = context if is_single else _part(context, seed)
        return train(model.with_prompts(prompts), dataset.training, base.validation, own, part)

    if is_single:
        return train_one(model, first), []
    results = []
    for number, seed in enumerate(range(first, first + spec.training.seeds), 1):
        tell("seed", "start", seed=seed, training=number, trainings=spec.training.seeds)
        part = _part(context, seed)
        result = _cached(part, seed)
        if result is None:
            training = train_one(model if seed == first else reload(), seed)
            batch_size, dtype = spec.evaluation.batch_size, spec.output.dtype
            scores = _score_test(training, dataset, base, batch_size, dtype)
            result = SeedResult(
                seed,
                training.best_validation,
                training.pairs,
                training.seconds,
                training.mini_batch_size,
                scores,
            )
            _cache(part, result)
            # Before the next model is loaded.
            del training
            context.stop.check()
        results.append(result)
        tell("seed", "done", seed=seed, validation=round(result.validation, 4))
    chosen = max(results, key=lambda result: result.validation)
    # A complete training trains no step; one that stopped early repeats its last steps.
    training = train_one(reload(), chosen.seed)
    of_training = {name: getattr(chosen, name) for name in CACHED if name != "validation"}
    return replace(training, resumed_from_step=0, tokens=None, **of_training), results


def _part(context: TrainingContext, seed: int) -> TrainingContext:
    return replace(context, workspace=context.workspace.for_seed(seed))


def _score_test(
    training: Training, dataset: Dataset, base: Baseline, batch_size: int, dtype: str
) -> Mapping[int, Scores]:
    """Score with float32 vectors, by dimension; the base model if no checkpoint was better."""
    if not training.improved_on_validation:
        return {d: found["float32"] for d, found in base.test.items()}
    dimensions = base.validation.dimensions.all
    # As it would be stored.
    round_weights(training.model.encoder, stored_dtype(dtype, training.model))
    return score(training.model, dataset.test, dataset.corpus, dimensions, batch_size)


def _cached(context: TrainingContext, seed: int) -> SeedResult | None:
    path = context.workspace.seed_scores
    found = load_scores(path) if is_rank_zero() else None
    facts = from_rank_zero(lambda: found and found[1])
    if facts is None:
        return None
    scores = {int(dimension): each for dimension, each in (found[0] if found else {}).items()}
    # Older images did not store it.
    facts.setdefault("mini_batch_size", None)
    return SeedResult(seed, **{name: facts[name] for name in CACHED}, scores=scores)


def _cache(context: TrainingContext, result: SeedResult) -> None:
    if is_rank_zero():
        facts = {name: getattr(result, name) for name in CACHED}
        scores = {str(dimension): found for dimension, found in result.scores.items()}
        save_scores(context.workspace.seed_scores, scores, facts)
