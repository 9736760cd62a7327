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

from article import evaluators

from job.data import load_dataset
from job.evaluate import choose_dimensions, metric_key, score
from job.machine import choose_machine
from job.model import load_model
from job.spec import DataSpec, EvaluationSpec, ModelSpec


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="builtin:aws-docs")
    parser.add_argument("--model", default="builtin:minilm")
    parser.add_argument("--limit", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    # In bfloat16 ranks would differ by its rounding.
    model = load_model(ModelSpec(base=options.model), choose_machine("auto", "float32"))
    dataset = load_dataset(DataSpec(source=options.data, limit=options.limit), {})
    spec = EvaluationSpec()
    dimensions = choose_dimensions(spec, model.width).all

    def ours():
        scores = score(model, dataset.test, dataset.corpus, dimensions, spec.batch_size)
        return [scores[d].mean("ndcg@10") for d in dimensions]

    def theirs():
        judges = evaluators(
            dataset.test, dataset.corpus, dimensions, model.machine, spec.batch_size
        )
        found = judges(model.encoder)
        return [found[metric_key(d)] for d in dimensions]

    ours()  # the first pass compiles kernels for either
    seconds, found = {ours: [], theirs: []}, {}
    for number in range(options.rounds):
        for work in (ours, theirs) if number % 2 else (theirs, ours):
            started = time.perf_counter()
            found[work] = work()
            seconds[work].append(time.perf_counter() - started)
    texts = len(dataset.test) + len(dataset.corpus)
    medians = {work: statistics.median(values) for work, values in seconds.items()}
    gap = max(abs(a - b) for a, b in zip(found[ours], found[theirs], strict=True))
    print(f"{options.model} on {options.data}: {texts} texts, dimensions {list(dimensions)}")
    print(f"library  {medians[theirs]:7.2f} s  {texts * len(dimensions):7d} texts encoded")
    print(f"ours     {medians[ours]:7.2f} s  {texts:7d} texts encoded")
    print(f"ratio    {medians[theirs] / medians[ours]:7.2f}   largest nDCG@10 gap {gap:.5f}")


if __name__ == "__main__":
    main()
