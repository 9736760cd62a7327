"""Train once for each fold; the tests of all folds together are the test of the run."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from job.core.errors import TrainingError
from job.core.formatting import share
from job.data.dataset import Dataset
from job.distributed.process_group import from_rank_zero, is_rank_zero
from job.evaluation.agreement import compare_rankings, is_plausible
from job.evaluation.baseline import Baseline
from job.evaluation.cache import load_scores, save_scores
from job.evaluation.metrics import METRIC, ByVector, Scores, joined
from job.evaluation.results import Stored
from job.evaluation.scope import OneFold
from job.model.encoder import Model
from job.prepare import RunInputs, load_base
from job.refit import check_sentence
from job.runtime.logs import tell
from job.scoring import Tuned, score_tuned
from job.spec.schema import JobSpec, ResolvedTraining
from job.training.refit import share_of_schedule
from job.training.train import Training, TrainingContext, train

# Facts of a training that are stored beside its scores.
CACHED = ("base_validation", "best_validation", "best_step", "steps", "pairs", "seconds",
          "mini_batch_size")  # fmt: skip


@dataclass(frozen=True)
class FoldResult:
    """The training of one fold: its facts, and its test scores by dimension and precision.

    Only rank 0 holds scores. Those of the auxiliary tests are by name and dimension.
    """

    facts: dict[str, Any]
    scores: ByVector
    auxiliary: dict[str, dict[int, Scores]]

    @property
    def improved_on_validation(self) -> bool:
        return bool(self.facts["best_step"])


def train_folds(
    inputs: RunInputs, spec: JobSpec, base: Baseline, context: TrainingContext
) -> tuple[Training, list[FoldResult]]:
    """Train and score each fold; return a training that stands for all of them, and each result.

    Its model is the average of those of the folds, or with `training.refit`, which needs none, that
    of one fold; its steps and curve are those of one fold. A resumed run repeats no training.
    """
    dataset, results = inputs.dataset, []
    # Each fold loads the base model again; on a GPU, there may not be room for one more.
    inputs.model.encoder.to("cpu")
    for number in range(1, len(dataset.folds) + 1):
        tell("fold", "start", training=number, trainings=len(dataset.folds))
        path = context.workspace.for_fold(number).seed_scores
        result = _cached(path)
        if result is None:
            result = _train_and_score(number, inputs, spec, base, context)
            _cache(path, result)
            context.stop.check()
        results.append(result)
        tell("fold", "done", validation=round(result.facts["best_validation"], 4))
    best = [number for number, each in enumerate(results, 1) if each.improved_on_validation]
    is_better = 2 * len(best) > len(results)
    wanted = best if is_better else [1]
    if spec.training.refit:
        wanted = wanted[:1]
    trainings = (_train(number, inputs, spec, base, context) for number in wanted)
    training = _combined(trainings, results, is_better=is_better)
    if training.lora and is_rank_zero():
        adapter = context.workspace.for_fold(wanted[0]).adapter
        shutil.copytree(adapter, context.workspace.adapter, dirs_exist_ok=True)
    return training, results


def _train_and_score(
    number: int, inputs: RunInputs, spec: JobSpec, base: Baseline, context: TrainingContext
) -> FoldResult:
    training = _train(number, inputs, spec, base, context)
    own = replace(inputs, dataset=inputs.dataset.folds[number - 1])
    tuned = score_tuned(own, spec, of_fold(base, inputs.dataset, number), training)
    facts = {name: getattr(training, name) for name in CACHED}
    auxiliary = {name: dict(scores) for name, scores in tuned.auxiliary.items()}
    return FoldResult(facts, tuned.scores, auxiliary)


def _train(
    number: int, inputs: RunInputs, spec: JobSpec, base: Baseline, context: TrainingContext
) -> Training:
    """Train the fold, or restore its model; a complete training trains no step."""
    fold, own = inputs.dataset.folds[number - 1], context.workspace.for_fold(number)
    model = load_base(spec, inputs.machine, inputs.fetched, inputs.dataset, inputs.lora)
    part = replace(context, workspace=own)
    return train(
        model.with_prompts(base.tuned_prompts),
        fold.training,
        base.folds[number - 1],
        spec.training,
        part,
    )


def of_fold(base: Baseline, dataset: Dataset, number: int) -> Baseline:
    """Return the part of the baseline that belongs to the test queries of a fold, from 1."""
    sizes = [len(fold.test) for fold in dataset.folds]
    first = sum(sizes[: number - 1])
    part = slice(first, first + sizes[number - 1])
    vectors = base.vectors
    return replace(
        base,
        bm25=base.bm25.part(part),
        test={d: {"float32": found["float32"].part(part)} for d, found in base.test.items()},
        validation=base.folds[number - 1],
        vectors=vectors and replace(vectors, queries=vectors.queries[part]),
        folds=(),
    )


def _combined(
    trainings: Iterator[Training], results: Sequence[FoldResult], *, is_better: bool
) -> Training:
    first = next(trainings)
    average = _Average(first.model)
    for training in trainings:
        average.add(training.model)
    average.load()
    facts: dict[str, Any] = {
        "best_step": first.best_step if is_better else 0,
        "resumed_from_step": 0,
        "tokens": None,
        "lora": first.lora if is_better and average.count == 1 else None,
    }
    for name in ("base_validation", "best_validation"):
        facts[name] = fmean(each.facts[name] for each in results)
    for name in ("pairs", "seconds"):
        facts[name] = sum(each.facts[name] for each in results)
    facts["mini_batch_size"] = results[0].facts["mini_batch_size"]
    return replace(first, **facts)


def median_share(spec: ResolvedTraining, results: Sequence[FoldResult], dataset: Dataset) -> float:
    """Return the median share of the schedule at which the trainings were best."""
    found = zip(results, dataset.folds, strict=True)
    return median(
        share_of_schedule(spec, each.facts["best_step"], len(fold.train)) for each, fold in found
    )


class _Average:
    """The average of the weights of several models; a sum on the CPU, in float32."""

    def __init__(self, model: Model) -> None:
        self.count = 1
        self._encoder = model.encoder
        self._sums = dict(self._weights(model))

    def add(self, model: Model) -> None:
        self.count += 1
        for name, values in self._weights(model):
            self._sums[name] += values

    def load(self) -> None:
        """Load the average into the first model."""
        if self.count == 1:
            return
        state = self._encoder.state_dict()
        for name, total in self._sums.items():
            state[name] = (total / self.count).to(state[name].dtype)
        self._encoder.load_state_dict(state)

    @staticmethod
    def _weights(model: Model) -> Iterator[tuple[str, torch.Tensor]]:
        for name, values in model.encoder.state_dict().items():
            if values.is_floating_point():
                yield name, values.detach().to("cpu", torch.float32, copy=True)


def with_fold_scores(tuned: Tuned, results: Sequence[FoldResult]) -> Tuned:
    """Give the model the scores of the folds, instead of its own on queries that it has seen."""
    scores = _pooled(results) if is_rank_zero() else {}
    auxiliary = {name: _mean(name, results) for name in results[0].auxiliary}
    return replace(tuned, scores=scores, auxiliary=auxiliary)


def _pooled(results: Sequence[FoldResult]) -> ByVector:
    return {
        dimension: {
            precision: joined([each.scores[dimension][precision] for each in results])
            for precision in by_precision
        }
        for dimension, by_precision in results[0].scores.items()
    }


def _mean(name: str, results: Sequence[FoldResult]) -> dict[int, Scores]:
    """Return the mean scores of all folds' models on the queries of an auxiliary test."""
    found = [each.auxiliary[name] for each in results]
    return {
        dimension: replace(
            first,
            metrics={
                metric: np.mean([each[dimension].metrics[metric] for each in found], axis=0)
                for metric in first.metrics
            },
        )
        for dimension, first in found[0].items()
    }


def stored_average(
    average: Tuned,
    tested: Tuned,
    base: Baseline,
    dataset: Dataset,
    results: Sequence[FoldResult],
) -> Stored:
    """Describe the stored average; `tested` has the scores of the folds, `results`.

    Only rank 0 has scores. Raises `TrainingError` if the average ranks very differently from the
    models of the folds.
    """
    full = max(average.scores)
    models = (tested.scores, average.scores, base.test)
    agreement = compare_rankings(*(scores[full]["float32"].ranked for scores in models))
    if not is_plausible(agreement):
        msg = f"The average of the folds' models shares only {share(agreement.shared_of_ten)} of "
        msg += "the first ten documents with them, so it is not stored. Set `training.refit=true`, "
        raise TrainingError(msg + "which trains one more model of all pairs.")
    parts = [
        fold
        for fold, each in zip(dataset.folds, results, strict=True)
        if each.improved_on_validation
    ]
    whose = "their weights"
    if len(parts) < len(dataset.folds):
        whose = f"the weights of those {len(parts)} that are better on validation"
    # A pair may be a test row of one fold, and a validation row of all others.
    ids = pa.concat_tables([fold.train.table.select(["id"]) for fold in parts])["id"]
    pairs = len(ids.unique())
    return Stored(
        kind="average",
        pairs=pairs,
        steps=0,
        agreement=agreement,
        tested_fingerprint=None,
        sentence=(
            f"All scores are those of {len(dataset.folds)} tested models, each tested on the pairs "
            "of its fold, which it was not trained on. The stored model (`model/`) is the average "
            f"of {whose}, which come from {pairs} pairs together. It has no score of its own, "
            "because it has seen test queries. "
            f"{check_sentence(agreement, 'the tested model of its fold')}"
        ),
    )


def describe_folds(
    results: Sequence[FoldResult], base: Baseline, dataset: Dataset
) -> list[OneFold]:
    """Return what the report shows of each fold: float32 vectors of full width."""
    described = []
    for number, each in enumerate(results, 1):
        full = max(each.scores)
        before = of_fold(base, dataset, number).test[full]["float32"].mean(METRIC)
        after = each.scores[full]["float32"].mean(METRIC)
        described.append(
            OneFold(
                queries=len(dataset.folds[number - 1].test),
                validation=each.facts["best_validation"],
                base=before,
                tuned=after,
                lift=after - before,
                improved_on_validation=each.improved_on_validation,
            )
        )
    return described


def _cached(path: Path) -> FoldResult | None:
    found = load_scores(path) if is_rank_zero() else None
    facts = from_rank_zero(lambda: found and found[1])
    if facts is None:
        return None
    scores: dict[int, dict[str, Scores]] = {}
    auxiliary: dict[str, dict[int, Scores]] = {name: {} for name in facts["auxiliary"]}
    for key, each in (found[0] if found else {}).items():
        kind, name, dimension = key.split("/")
        if kind == "test":
            scores.setdefault(int(dimension), {})[name] = each
        else:
            auxiliary[name][int(dimension)] = each
    return FoldResult({name: facts[name] for name in CACHED}, scores, auxiliary)


def _cache(path: Path, result: FoldResult) -> None:
    if not is_rank_zero():
        return
    scores = {
        f"test/{precision}/{dimension}": found
        for dimension, by_precision in result.scores.items()
        for precision, found in by_precision.items()
    }
    for name, by_dimension in result.auxiliary.items():
        scores |= {f"auxiliary/{name}/{d}": found for d, found in by_dimension.items()}
    save_scores(path, scores, result.facts | {"auxiliary": list(result.auxiliary)})
