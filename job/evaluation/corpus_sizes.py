"""Measure in samples of the corpus what smaller vectors keep; nothing is encoded again.

More documents mean more that lie close to an answer, and small vectors tell these apart worse. So a
share kept among a thousand documents is not the share kept among millions.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from job.data.dataset import Dataset
from job.data.query_groups import effective_groups, group_sizes
from job.evaluation.evaluate import SampledSearch, Vectors, sample_corpus, score_vectors
from job.evaluation.exact_search import TILE_ROWS
from job.evaluation.jackknife import (
    group_sums,
    jackknife,
    number_groups,
    quantile,
    standard_errors,
)
from job.evaluation.metrics import METRIC, ByVector
from job.evaluation.quantization import stored_as
from job.evaluation.results import CONFIDENCE, Interval
from job.evaluation.scope import AtSize, CorpusSizes
from job.storage.arrow_tables import FloatArray, IntArray
from job.storage.mapped_arrays import empty_matrix

# Shares of the corpus, besides all of it.
SHARES = (0.25, 0.5)
# Sizes closer than this ratio are one size: relevant documents are always in the sample.
MIN_RATIO = 1.25


class Measured(NamedTuple):
    """nDCG@10 of each query by smaller vectors and by full ones, among so many documents."""

    documents: int
    values: FloatArray
    full: FloatArray


def measure_sizes(
    vectors: Vectors | None, tuned: ByVector, dataset: Dataset, point: tuple[int, str], seed: int
) -> CorpusSizes:
    """Measure the vectors at `point`, a dimension and precision, in samples and in all documents.

    `vectors` are the tuned model's, of the test queries and the whole corpus; `tuned` holds the
    scores among all documents. None, if each fold has other vectors, measures no samples.
    """
    queries, corpus = dataset.test, dataset.corpus
    dimension, precision = point
    full = max(tuned)
    found: list[Measured] = []
    for share in SHARES:
        if vectors is None:
            break
        sample = sample_corpus(queries, corpus, round(share * len(corpus)), seed)
        if len(corpus) < MIN_RATIO * len(sample.corpus):
            continue
        if found and len(sample.corpus) < MIN_RATIO * found[-1].documents:
            continue
        found.append(_measure(vectors, sample, point, full))
    whole = (tuned[d][name].metrics[METRIC] for d, name in (point, (full, "float32")))
    found.append(Measured(len(corpus), *whole))
    slope, ci = slope_per_doubling(found, queries.groups)
    return CorpusSizes(
        dimension=dimension,
        precision=precision,
        full_dimension=full,
        measured=[_at_size(each) for each in found],
        per_doubling=slope,
        ci=ci,
    )


def _measure(
    vectors: Vectors, sample: SampledSearch, point: tuple[int, str], full: int
) -> Measured:
    rows = torch.from_numpy(sample.positions)
    chosen = empty_matrix(len(rows), vectors.corpus.shape[1])
    for start in range(0, len(rows), TILE_ROWS):
        chosen[start : start + TILE_ROWS] = vectors.corpus[rows[start : start + TILE_ROWS]]
    part = Vectors(vectors.queries, chosen, vectors.device)
    scores = score_vectors(part, sample.queries, [full], ())
    small = score_vectors(part, sample.queries, [point[0]], [stored_as(point[1])])
    return Measured(
        len(rows),
        small[point[0]][point[1]].metrics[METRIC],
        scores[full]["float32"].metrics[METRIC],
    )


def _at_size(found: Measured) -> AtSize:
    ndcg, full = float(found.values.mean()), float(found.full.mean())
    share = ndcg / full if full else 1.0
    return AtSize(documents=found.documents, ndcg=ndcg, full_ndcg=full, share=share)


def slope_per_doubling(
    measured: Sequence[Measured], groups: IntArray
) -> tuple[float | None, Interval | None]:
    """Return the change of the share kept with each doubling of the corpus, and its interval.

    The slope is that of least squares over log2 of the sizes; the interval is a jackknife over
    groups of queries, which are the same queries at each size.
    """
    members = number_groups(groups)
    sums = [[group_sums(part, members) for part in (m.values, m.full)] for m in measured]
    if len(measured) < 2 or any(not full.sum() for _, full in sums):
        return None, None
    doublings = np.array([math.log2(m.documents) for m in measured])
    centered = doublings - doublings.mean()
    weights = centered / (centered**2).sum()
    slope = float(weights @ [small.sum() / full.sum() for small, full in sums])
    sizes = group_sizes(groups).astype(float)
    if effective_groups(sizes) <= 1 or any((full >= full.sum()).any() for _, full in sums):
        return slope, None
    shares = [jackknife(small[None], full).deviations[0] for small, full in sums]
    error = float(standard_errors(weights @ np.stack(shares)))
    half = quantile((1 + CONFIDENCE) / 2, sizes) * error
    return slope, (slope - half, slope + half)
