"""Our evaluation against the library's, side by side: `make bench`.

Both score the same model on the same queries and corpus at the same dimensions, in turns, in one
process; printed are the medians, their ratio, the texts encoded and the largest difference.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from sentence_transformers.sentence_transformer.evaluation import (
    InformationRetrievalEvaluator,
    SequentialEvaluator,
)

from job.data import load_dataset
from job.evaluate import choose_dimensions, score
from job.machine import choose_machine
from job.model import load_model
from job.spec import DataSpec, EvaluationSpec, ModelSpec


def library_scores(model, dataset, dimensions, batch_size):
    """Score with one evaluator a dimension, as the article does."""
    corpus_ids = dataset.corpus.ids.to_pylist()
    query_ids = dataset.test.ids.to_pylist()
    relevant = {
        query: {corpus_ids[d] for d in dataset.test.relevant(i)}
        for i, query in enumerate(query_ids)
    }
    evaluators = [
        InformationRetrievalEvaluator(
            dict(zip(query_ids, dataset.test.texts.to_pylist(), strict=True)),
            dict(zip(corpus_ids, dataset.corpus.texts.to_pylist(), strict=True)),
            relevant,
            truncate_dim=dimension,
            batch_size=batch_size,
            name=f"dim_{dimension}",
            score_functions=None,
        )
        for dimension in dimensions
    ]
    found = SequentialEvaluator(evaluators)(model.encoder)
    return {d: found[f"dim_{d}_cosine_ndcg@10"] for d in dimensions}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="builtin:aws-docs")
    parser.add_argument("--model", default="builtin:minilm")
    parser.add_argument("--limit", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    # In bfloat16 the library would also compare vectors in it, which moves ranks.
    model = load_model(ModelSpec(base=options.model), choose_machine("auto", "float32"))
    dataset = load_dataset(DataSpec(source=options.data, limit=options.limit), {})
    spec = EvaluationSpec()
    dimensions = choose_dimensions(spec, model.width).all

    def ours():
        scores = score(model, dataset.test, dataset.corpus, dimensions, spec.batch_size)
        return {d: scores[d].mean("ndcg@10") for d in dimensions}

    def theirs():
        return library_scores(model, dataset, dimensions, spec.batch_size)

    ours()  # the first pass compiles kernels for either
    seconds, found = {ours: [], theirs: []}, {}
    for number in range(options.rounds):
        for work in (ours, theirs) if number % 2 else (theirs, ours):
            started = time.perf_counter()
            found[work] = work()
            seconds[work].append(time.perf_counter() - started)
    texts = len(dataset.test) + len(dataset.corpus)
    medians = {work: statistics.median(values) for work, values in seconds.items()}
    difference = max(abs(found[ours][d] - found[theirs][d]) for d in dimensions)
    print(f"{options.model} on {options.data}: {texts} texts, dimensions {list(dimensions)}")
    print(f"library  {medians[theirs]:7.2f} s  {texts * len(dimensions):7d} texts encoded")
    print(f"ours     {medians[ours]:7.2f} s  {texts:7d} texts encoded")
    print(f"ratio    {medians[theirs] / medians[ours]:7.2f}   largest nDCG@10 gap {difference:.5f}")


if __name__ == "__main__":
    main()
