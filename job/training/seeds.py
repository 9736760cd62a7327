"""Train several times with different seeds; the model that is best on validation is the result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from job.data.dataset import TrainingData
from job.distributed.process_group import from_rank_zero, is_rank_zero
from job.evaluation.cache import load_scores, save_scores
from job.evaluation.evaluate import Validation
from job.evaluation.metrics import Scores
from job.model.encoder import Model
from job.runtime.logs import tell
from job.spec.schema import TrainingSpec
from job.training.train import Training, TrainingContext, train

# Scores a trained model on the test set, by dimension, with float32 vectors.
ScoreTest = Callable[[Training], Mapping[int, Scores]]


@dataclass(frozen=True)
class SeedResult:
    """The training with one seed: its best validation score and its test scores by dimension.

    Only rank 0 holds scores. The base model counts if no checkpoint beat it on validation.
    """

    seed: int
    validation: float
    pairs: int
    seconds: float
    scores: Mapping[int, Scores]


def train_seeds(
    model: Model,
    reload: Callable[[], Model],
    data: TrainingData,
    validation: Validation,
    spec: TrainingSpec,
    context: TrainingContext,
    score_test: ScoreTest,
) -> tuple[Training, list[SeedResult]]:
    """Train with `training.seeds` seeds; return the training that is best on validation, and all.

    `model` is the base model for the first training, `reload` loads it for the others. Each seed
    has its own checkpoints, and its scores are cached beside them, so a resumed run repeats no
    training. The list is empty if there is only one training.
    """
    if spec.seeds == 1 or spec.epochs == 0:
        return train(model, data, validation, spec, context), []
    results = []
    for number in range(spec.seeds):
        seed = spec.seed + number
        part = replace(context, workspace=context.workspace.for_seed(seed))
        result = _cached(part, seed)
        if result is None:
            own = spec.model_copy(update={"seed": seed})
            training = train(model if not number else reload(), data, validation, own, part)
            result = SeedResult(
                seed,
                training.best_validation,
                training.pairs,
                training.seconds,
                score_test(training),
            )
            _cache(part, result)
            context.stop.check()
        results.append(result)
        tell("seed", seed=seed, validation=round(result.validation, 4))
    best = max(results, key=lambda result: result.validation)
    # Its checkpoints are complete: no step is trained, and the best one is restored.
    own = spec.model_copy(update={"seed": best.seed})
    part = replace(context, workspace=context.workspace.for_seed(best.seed))
    training = train(reload(), data, validation, own, part)
    return replace(training, pairs=best.pairs, seconds=best.seconds), results


def _cached(context: TrainingContext, seed: int) -> SeedResult | None:
    path = context.workspace.seed_scores
    found = load_scores(path) if is_rank_zero() else None
    facts = from_rank_zero(lambda: found and found[1])
    if facts is None:
        return None
    scores = {int(dimension): each for dimension, each in (found[0] if found else {}).items()}
    return SeedResult(seed, facts["validation"], facts["pairs"], facts["seconds"], scores)


def _cache(context: TrainingContext, result: SeedResult) -> None:
    if is_rank_zero():
        facts = {name: getattr(result, name) for name in ("validation", "pairs", "seconds")}
        scores = {str(dimension): found for dimension, found in result.scores.items()}
        save_scores(context.workspace.seed_scores, scores, facts)
