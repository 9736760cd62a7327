"""Measure evaluation and mining on large corpora, ours and the library's.

    python tests/benchmarks/scale.py

Vectors are random, in clusters like those of a model. Each measurement runs in a separate process.
Prints a Markdown table of seconds and of the additional memory that the work takes.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lookup import lookup_encoder
from scale_data import Memory

sys.path.insert(0, str(Path(__file__).parents[2]))

from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from job.data.dataset import Queries
from job.evaluation.evaluate import Vectors, score_vectors
from job.evaluation.exact_search import Transform, search
from job.evaluation.metrics import METRIC
from job.storage.mapped_arrays import empty_matrix
from job.training.hard_negatives import CANDIDATES

SIZES = (10_000, 100_000, 1_000_000)
WIDTH, DIMENSIONS = 384, (384, 256, 128, 64)
CLUSTERS = 2_000
# Real mining has as many questions as documents, so its time grows with their square. Only MINED
# questions are measured; the time for all is proportional.
QUESTIONS, MINED = 1_000, 2_000
# A search may take this much memory beyond the vectors, whatever their number.
MAX_EXTRA_MIB = 1_024
# The library's miner holds the scores of all MINED questions at once: 8 GB at a million documents.
LARGEST_FOR_THE_MINER = 100_000


def make_vectors(rows: int, seed: int) -> torch.Tensor:
    """Draw vectors around shared centers, block by block, into a matrix like that of `encode`."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(0).normal(size=(CLUSTERS, WIDTH)).astype(np.float32)
    vectors = empty_matrix(rows, WIDTH)
    for start in range(0, rows, 10_000):
        block = vectors[start : start + 10_000]
        noise = random.normal(size=block.shape).astype(np.float32)
        drawn = centers[random.integers(CLUSTERS, size=len(block))]
        block.copy_(torch.from_numpy(drawn + 0.7 * noise))
    return vectors


def make_queries(count: int, documents: int) -> tuple[torch.Tensor, Queries]:
    """Draw queries near one relevant document each."""
    random = np.random.default_rng(2)
    relevant = random.integers(documents, size=count)
    corpus = make_vectors(documents, 1)
    noise = torch.from_numpy(random.normal(size=(count, WIDTH)).astype(np.float32))
    names = [str(number) for number in range(count)]
    queries = Queries(names, names, np.arange(count + 1), relevant, np.arange(count))
    return corpus[torch.from_numpy(relevant)] + 1.5 * noise, queries


Work = Callable[[], list[float]]


def evaluate(documents: int, count: int, precisions: tuple[str, ...]) -> Work:
    query_vectors, queries = make_queries(count, documents)
    vectors = Vectors(query_vectors, make_vectors(documents, 1))

    def work() -> list[float]:
        scores = score_vectors(vectors, queries, DIMENSIONS, precisions)
        return [scores[dimension]["float32"].mean(METRIC) for dimension in DIMENSIONS]

    return work


def evaluate_by_library(documents: int, count: int) -> Work:
    query_vectors, queries = make_queries(count, documents)
    vectors = {"q": query_vectors, "d": make_vectors(documents, 1)}

    class Evaluator(InformationRetrievalEvaluator):
        def embed_inputs(self, _, sentences, **__):
            rows = torch.tensor([int(text[1:]) for text in sentences])
            return vectors[sentences[0][0]][rows][:, : self.truncate_dim]

    # Ids of equal length sort like positions.
    ids = [f"d{position:08}" for position in range(documents)]
    evaluators = [
        Evaluator(
            {f"q{number}": f"q{number}" for number in range(count)},
            dict(zip(ids, ids, strict=True)),
            {f"q{number}": {ids[position]} for number, position in enumerate(queries.documents)},
            truncate_dim=dimension,
            write_csv=False,
        )
        for dimension in DIMENSIONS
    ]
    model = lookup_encoder(query_vectors)
    return lambda: [evaluator(model)["cosine_ndcg@10"] for evaluator in evaluators]


def mine(documents: int, count: int) -> Work:
    questions, corpus = make_vectors(count, 3), make_vectors(documents, 1)

    def work() -> list[float]:
        search(questions, corpus, [Transform(depth=CANDIDATES)])
        return []

    return work


def mine_by_library(documents: int, count: int) -> Work:
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    table = torch.cat([make_vectors(documents, 1), make_vectors(count, 3)])
    texts = [str(row) for row in range(len(table))]
    model = lookup_encoder(table)
    pairs = Dataset.from_dict({"anchor": texts[documents:], "positive": texts[:count]})

    def work() -> list[float]:
        options = {"corpus": texts[:documents], "range_max": CANDIDATES, "verbose": False}
        mine_hard_negatives(pairs, model, batch_size=8_192, **options)
        return []

    return work


WORKS = {
    "evaluation, float32": lambda n: evaluate(n, QUESTIONS, ()),
    "evaluation, float32, int8, binary": lambda n: evaluate(n, QUESTIONS, ("int8", "binary")),
    "the library's evaluator, float32": lambda n: evaluate_by_library(n, QUESTIONS),
    "mining": lambda n: mine(n, MINED),
    "the library's miner": lambda n: mine_by_library(n, MINED),
}


def measure(name: str, documents: int) -> dict[str, object]:
    work = WORKS[name](documents)
    memory = Memory()
    memory.restart()
    before = memory.peaks()[1]
    started = time.perf_counter()
    ndcg = work()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "mib": memory.peaks()[1] - before, "ndcg": ndcg}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--measure", choices=WORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.sizes[0])))
        return
    print(f"{QUESTIONS:,} queries, {MINED:,} for mining; width {WIDTH}; at {DIMENSIONS}.\n")
    print("| work | documents | seconds | µs/document | MiB beyond the vectors | nDCG@10 |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in WORKS:
        for documents in options.sizes:
            if name != "the library's miner" or documents <= LARGEST_FOR_THE_MINER:
                _print_row(name, documents)


def _print_row(name: str, documents: int) -> None:
    command = [sys.executable, __file__, "--measure", name, "--sizes", str(documents)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    measured = json.loads(done.stdout.splitlines()[-1])
    seconds, mib = measured["seconds"], measured["mib"]
    per_document = seconds / documents * 1e6
    numbers = f"{seconds:.1f} | {per_document:.0f} | {mib:.0f}"
    quality = " ".join(f"{value:.6f}" for value in measured["ndcg"])
    print(f"| {name} | {documents:,} | {numbers} | {quality} |", flush=True)
    if "library" not in name and mib > MAX_EXTRA_MIB:
        sys.exit(f"`{name}` takes more than the {MAX_EXTRA_MIB} MiB that a search may take.")


if __name__ == "__main__":
    main()
