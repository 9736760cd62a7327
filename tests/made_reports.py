"""Reports of runs that never ran: made-up scores of real data, judged by the real code."""

import numpy as np
import torch

from job.baseline import Baseline, PromptChoice
from job.compare import GroupedQueries, compare
from job.evaluate import Dimensions, Validation, Vectors, bound_corpus
from job.hybrid import hybrid_search
from job.machine import Machine
from job.model import Prompts
from job.ranking import METRICS, Scores
from job.recipe import Recipe
from job.report import Results, Weights, build_report, job_cost
from job.spec import EvaluationSpec, JobSpec, ResolvedTraining
from job.train import Training
from job.where import look_where

DIMENSIONS = Dimensions((64, 32, 16), 32)
HERE = {"model": {"uri": "builtin:minilm"}}
SECONDS = {"data": 1.25, "train": 1798.75, "score tuned": 0.04}
BASE = {64: 0.60, 32: 0.55, 16: 0.40}
BETTER = {64: 0.90, 32: 0.88, 16: 0.70}
# Shares of float32's scores that codes alone keep.
KEEPS = {"int8": 0.97, "binary": 0.8}
RESOLVED = ResolvedTraining(epochs=5, batch_size=32, mini_batch_size=16, learning_rate=1e-4)
TRUNCATION = {
    "max_tokens": 64,
    "queries": {"texts": 40, "cut": 0, "longest": 7},
    "documents": {"texts": 400, "cut": 60, "longest": 70},
}
WEIGHTS = Weights("0123456789abcdef", "fedcba9876543210")
RECIPE = Recipe(
    RESOLVED,
    {
        "learning_rate": "22,713,216 parameters",
        "mini_batch_size": "a batch needs about 3.0 GiB, more than is free",
    },
)


def scores_around(mean, count, seed):
    """Draw each query's metrics; ranks and documents do not matter to a report."""
    values = np.clip(np.random.default_rng(seed).normal(mean, 0.05, size=count), 0, 1)
    metrics = {metric: values * (1 - 0.01 * number) for number, metric in enumerate(METRICS)}
    return Scores(metrics, np.ones(count, np.int64), np.tile(np.arange(10), (count, 1)))


def smaller(scores, keeps):
    """Make the scores of other precisions, which keep a share of each query's and, rescored, more.

    The first query loses a little more than the others: intervals are no points.
    """
    found = {"float32": scores}
    uneven = 1 - 0.01 * (np.arange(len(scores.rank)) == 0)
    for precision, share in keeps.items():
        for name, kept in ((precision, share), (f"{precision}_rescored", (1 + share) / 2)):
            metrics = {metric: values * kept * uneven for metric, values in scores.metrics.items()}
            found[name] = Scores(metrics, scores.rank, scores.ranked)
    return found


def make_report(
    dataset,
    after=None,
    *,
    before=BASE,
    best_step=20,
    retention=0.99,
    keeps=KEEPS,
    price=None,
    prompts=None,
    recipe=RECIPE,
    preset="balanced",
    inputs=HERE,
    others=None,
    history=(),
    stopped_early=None,
):
    """Make the report of a run that scored so, on average, at each dimension."""
    count = len(dataset.test)
    base = {d: scores_around(before[d], count, seed=d) for d in DIMENSIONS.all}
    tuned = {d: scores_around((after or before)[d], count, seed=d + 1) for d in base}
    if best_step == 0:
        tuned = base
    base = {d: {"float32": scores} for d, scores in base.items()}
    tuned = {d: smaller(scores, keeps) for d, scores in tuned.items()}
    evaluation = EvaluationSpec(
        retention=retention, permutations=1000, precisions=["float32", *keeps]
    )
    search = bound_corpus(dataset.validation, dataset.corpus, 5000, seed=0)
    choice = prompts or PromptChoice(Prompts(), Prompts(), 0.5, 0.5)
    bm25 = scores_around(0.31, count, seed=0)
    by_group = GroupedQueries(dataset.test.groups, evaluation.permutations, 0)
    results = Results(
        machine=Machine("cpu", "float32", "as the spec says"),
        inputs=inputs,
        dataset=dataset,
        base=Baseline(
            bm25=bm25,
            test=base,
            prompts=choice,
            tuned_prompts=choice.used,
            vectors=Vectors(torch.zeros(count, 64), torch.zeros(len(dataset.corpus), 64)),
            corpus_vectors=torch.zeros(len(dataset.corpus), 64),
            validation=Validation(search, DIMENSIONS, 64, 0.5),
        ),
        training=Training(None, 30, 0, best_step, recipe, 0.5, 0.6, list(history), stopped_early),
        tuned_prompts=choice.used,
        tuned=tuned,
        comparison=compare(base, tuned, by_group, DIMENSIONS),
        hybrid=hybrid_search(bm25, base, tuned, dataset.test, by_group),
        where=look_where(
            dataset.test,
            dataset.corpus,
            base[DIMENSIONS.main]["float32"],
            tuned[DIMENSIONS.main]["float32"],
            bm25,
        ),
        truncation=TRUNCATION,
        others=others or {},
    )
    spec = JobSpec(preset=preset, evaluation=evaluation.model_dump())
    return build_report("my-run", spec, results, WEIGHTS, SECONDS, job_cost(SECONDS, price))
