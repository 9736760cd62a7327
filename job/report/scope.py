"""The scope of the results, in numbers and sentences: questions, documents, training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev

import numpy as np

from job.core.formatting import RESCORED, change, counted, interval, precision_label, share
from job.data.dataset import Dataset, Queries
from job.evaluation.metrics import DEPTH, METRIC, ByVector, Scores
from job.evaluation.quantization import RESCORE_MULTIPLIER
from job.evaluation.results import Segment
from job.evaluation.scope import CorpusSizes, OneFold, Scope, SeedLifts
from job.evaluation.seed_lifts import combine_seeds
from job.evaluation.significance import GroupedQueries
from job.report.document import Report
from job.training.seeds import SeedResult

# The index whose size the report shows first.
TARGET_DOCUMENTS = 10_000_000
# A target of so many times the corpus is far larger.
FAR_LARGER = 10
# Fewer queries give an interval that is too wide to say anything.
MIN_QUERIES = 10


@dataclass(frozen=True)
class Trainings:
    """The trainings of a run, if there are several: by seed, or by fold."""

    seeds: Sequence[SeedResult] = ()
    folds: Sequence[OneFold] = ()


ONE = Trainings()


def add_scope(
    report: Report,
    dataset: Dataset,
    base: ByVector,
    tuned: ByVector,
    corpus: CorpusSizes,
    trainings: Trainings = ONE,
) -> Report:
    full = max(tuned)
    before, after = (scores[full]["float32"] for scores in (base, tuned))
    seeds = None
    if trainings.seeds:
        values = {each.seed: each.scores[full].metrics[METRIC] for each in trainings.seeds}
        validation = {each.seed: each.validation for each in trainings.seeds}
        groups = dataset.test.groups
        seeds = combine_seeds(before.metrics[METRIC], values, validation, groups)
    sentence = _several(seeds, full) if seeds else _training(report)
    if trainings.folds:
        sentence = _folds(trainings.folds, full)
    scope = Scope(
        estimand=dataset.facts["overlap"]["estimand"],
        dimension=full,
        by_source=lifts_by_source(dataset.test, before, after),
        corpus=corpus,
        corpus_sentence=corpus_sentence(corpus),
        training=sentence,
        seeds=seeds,
        folds=list(trainings.folds),
    )
    return report.model_copy(update={"scope": scope})


def _several(found: SeedLifts, dimension: int) -> str:
    stored = next(each for each in found.seeds if each.seed == found.chosen)
    return (
        f"Mean lift of {len(found.seeds)} trainings at {dimension} dimensions: "
        f"{change(found.lift)} {interval(found.ci)}; this interval covers other questions and "
        f"other trainings (standard deviation between seeds: {found.seed_deviation:.3f}). The "
        f"stored model has seed {stored.seed}, the best on validation, and the lift "
        f"{change(stored.lift)}; the other intervals of this report are of this model and cover "
        "other questions only."
    )


def _folds(found: Sequence[OneFold], dimension: int) -> str:
    lifts = [each.lift for each in found]
    return (
        f"{len(found)} trainings, each tested on pairs that it was not trained on; "
        f"together every pair is a test row once. The lift at {dimension} dimensions varies "
        f"between them from {change(min(lifts))} to {change(max(lifts))} (standard deviation "
        f"{stdev(lifts):.3f}), by their queries and by their training.{_without_gain(found)} The "
        "intervals cover other questions, not other trainings."
    )


def _without_gain(found: Sequence[OneFold]) -> str:
    without = [number for number, each in enumerate(found, 1) if not each.improved_on_validation]
    if not without:
        return ""
    numbers = ", ".join(map(str, without))
    return (
        f" In {counted(len(without), 'fold')} ({numbers}) no checkpoint beat the base model on "
        "validation: the base model was tested there."
    )


def _training(report: Report) -> str:
    if not report.training.steps:
        return "The intervals cover other questions; nothing was trained."
    return (
        "The intervals cover other questions, not another training: the model was trained once "
        f"(`training.seed` {report.spec['training']['seed']}), and another seed gives other scores."
    )


def lifts_by_source(queries: Queries, base: Scores, tuned: Scores) -> list[Segment]:
    """Return the lifts of queries about seen and unseen sources, if there are enough of both."""
    if queries.seen is None:
        return []
    before, after = base.metrics[METRIC], tuned.metrics[METRIC]
    parts = {"seen in training": queries.seen, "not seen in training": ~queries.seen}
    if min(int(mask.sum()) for mask in parts.values()) < MIN_QUERIES:
        return []
    segments = []
    for name, mask in parts.items():
        lift = GroupedQueries(queries.groups[mask], 1, 0).lift(after[mask] - before[mask])
        segments.append(
            Segment(
                by="source",
                name=name,
                queries=int(mask.sum()),
                base=float(np.mean(before[mask])),
                tuned=float(np.mean(after[mask])),
                lift=lift.lift,
                ci=lift.ci,
            )
        )
    return segments


def corpus_sentence(found: CorpusSizes) -> str:
    """Say among how many documents the share kept was measured, and what follows for more."""
    *smaller, whole = found.measured
    vectors = f"{found.dimension} dimensions as {precision_label(found.precision)}"
    if (found.dimension, found.precision) == (found.full_dimension, "float32"):
        return f"All scores are measured among {whole.documents:,} documents.{_caution(found)}"
    comma = "," if "," in vectors else ""
    measured = f"{vectors}{comma} keep {share(whole.share)} among {whole.documents:,} documents"
    if smaller:
        others = (f"{share(each.share)} among {each.documents:,}" for each in reversed(smaller))
        measured += f", {' and '.join(others)}{_slope(found)}"
    return f"{measured}.{_caution(found)}{_rescoring(found)}"


def _slope(found: CorpusSizes) -> str:
    if found.per_doubling is None or found.ci is None:
        return ""
    points = f"{100 * found.per_doubling:+z.1f} points"
    low, high = (100 * bound for bound in found.ci)
    change = f"{points} [{low:+z.1f}, {high:+z.1f}] with each doubling of the corpus"
    return f": {change}" if high < 0 else f" ({change}: no loss is shown)"


def _caution(found: CorpusSizes) -> str:
    documents = found.measured[-1].documents
    if FAR_LARGER * documents > TARGET_DOCUMENTS:
        return ""
    doublings = math.log2(TARGET_DOCUMENTS / documents)
    return (
        f" An index of {TARGET_DOCUMENTS:,} documents is {doublings:.0f} doublings larger, where "
        "nothing was measured: expect lower scores, and smaller vectors to keep less. Your own "
        "documents as `data.corpus` make the measurement hold for your index."
    )


def _rescoring(found: CorpusSizes) -> str:
    if not found.precision.endswith(RESCORED):
        return ""
    candidates, documents = RESCORE_MULTIPLIER * DEPTH, found.measured[-1].documents
    part = min(1.0, candidates / documents)
    if part < 0.01:
        return ""
    return (
        f" Rescoring ranks the best {min(candidates, documents)} documents again, {part:.0%} of "
        "this corpus; in a larger one that is a smaller part, and it corrects less."
    )
