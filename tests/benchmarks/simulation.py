"""Simulate test sets with a known truth: how often are the report's conclusions wrong?

`python tests/benchmarks/simulation.py [REPETITIONS [WORLD …]]` prints a table of error rates, by
the rules of the product ("after") and by those it had until 2026-11-28 ("before"). Each world is a
population of queries whose means are the truth; test sets are drawn from it with replacement.
"""

import csv
import math
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from scipy.stats import t

from job.evaluation.base_vs_tuned import Point
from job.evaluation.quantization import bytes_per_vector
from job.evaluation.recommendation import choose
from job.evaluation.results import Retention
from job.evaluation.significance import GroupedQueries
from job.spec.schema import EvaluationSpec

# nDCG@10 of each query of a demo run (2026-11-28, 149 queries), by model, dimension and precision.
DEMO = Path(__file__).with_name("demo_per_query.csv")
QUERIES = (30, 50, 150, 500)
REPETITIONS = 5_000
# Sign flips of each test set; the product's default is 10,000.
FLIPS = 400
# The probability that a query equals the shared draw of its group.
TOGETHER = 0.6
# nDCG@10 of a query with one answer, by its rank; entry 0: not in the top 10.
GAINS = np.array([0.0, *(1 / np.log2(np.arange(2, 12)))])
BASE, FULL = ("base", 384, "float32"), ("tuned", 384, "float32")
MAIN = ("base", 128, "float32"), ("tuned", 128, "float32")


# Groups of n queries


def single(count):
    """Each query is its own group."""
    return np.arange(count)


def uneven(count):
    """Groups of 1 to 4 queries."""
    return np.repeat(np.arange(count), np.resize([1, 2, 3, 4], count))[:count]


def one_large(count):
    """One group holds 41 % of the queries; the others are alone."""
    return np.maximum(0, np.arange(count) - round(0.41 * count))


LAYOUTS = {"single": single, "uneven": uneven, "one large": one_large}


# Worlds


@dataclass(frozen=True)
class World:
    """A population: nDCG@10 of each query (rows) by model, dimension and precision (columns)."""

    columns: tuple
    population: np.ndarray

    def truth(self, column):
        return self.population[:, self.columns.index(column)].mean()

    def draw(self, groups, random):
        """Draw a test set; queries of one group resemble each other."""
        own = random.integers(len(self.population), size=len(groups))
        shared = random.integers(len(self.population), size=groups.max() + 1)[groups]
        rows = np.where(random.random(len(groups)) < TOGETHER, shared, own)
        return dict(zip(self.columns, self.population[rows].T, strict=True))


@cache
def demo():
    """Return the queries of the demo run."""
    with DEMO.open() as file:
        head, *rows = csv.reader(file)
    columns = tuple((m, int(d), p) for m, d, p in (name.split() for name in head))
    return World(columns, np.array(rows, dtype=float))


def without_gain_at_full_width(world):
    """Exchange base and tuned at full width in half of the queries; 128 dimensions still gain."""
    exchanged = world.population.copy()
    old = exchanged[:, world.columns.index(BASE)].copy()
    exchanged[:, world.columns.index(BASE)] = world.population[:, world.columns.index(FULL)]
    for number, (model, dimension, _) in enumerate(world.columns):
        if model == "tuned" and dimension == 384:
            exchanged[:, number] = old
    return replace(world, population=np.concatenate([world.population, exchanged]))


BEFORE = np.array([0.25, 0.35, *[0.4 / 9] * 9])
AFTER = np.array([0.10, 0.50, *[0.4 / 9] * 9])
SMALL = tuple(("tuned", d, p) for d in (384, 256, 128) for p in ("int8", "int8_rescored", "binary"))


@cache
def made_up(changed=0.35, rows=20_000):
    """Make a population of which a share changes; most differences are 0, the others skewed."""
    random = np.random.default_rng(7)
    base = random.choice(GAINS, p=BEFORE, size=rows)
    tuned = redrawn(base, changed, AFTER, random)
    short = redrawn(base, 0.3, BEFORE, random)
    columns = {BASE: base, FULL: tuned, MAIN[0]: short, MAIN[1]: redrawn(tuned, 0.2, AFTER, random)}
    columns |= {name: redrawn(tuned, 0.1, AFTER, random) for name in SMALL}
    return World(tuple(columns), np.stack(list(columns.values()), axis=1))


def redrawn(values, share, probabilities, random):
    new = random.choice(GAINS, p=probabilities, size=len(values))
    return np.where(random.random(len(values)) < share, new, values)


@cache
def nearly_kept(kept=0.988, rows=20_000, *, alike=True):
    """Make nine smaller vectors that each keep 98.8 %: answers fall from rank 1 to rank 2.

    `alike`: as in the demo, some answers rise too, and the vectors fail on similar queries.
    Otherwise they fail independently and nothing rises: the worst case for several bounds.
    """
    random = np.random.default_rng(8)
    reference = random.choice(GAINS, p=[0.05, 0.6, 0.2, *[0.15 / 8] * 8], size=rows)
    base = redrawn(reference, 0.5, BEFORE, random)
    columns = {BASE: base, FULL: reference, MAIN[0]: base, MAIN[1]: reference * 0}
    difficulty = random.random(rows)
    for name in SMALL:
        own = np.where(random.random(rows) < 0.5 * alike, difficulty, random.random(rows))
        values = np.where((own > 1 - 0.05 * alike) & (reference > 0), 1.0, reference)
        surplus = values.sum() - kept * reference.sum()
        first = np.flatnonzero(values == 1)
        fallen = first[np.argsort(own[first])][: round(surplus / (1 - GAINS[2]))]
        values[fallen] = GAINS[2]
        columns[name] = values
    return World(tuple(columns), np.stack(list(columns.values()), axis=1))


@cache
def smaller_vectors_without_gain(rows=20_000):
    """Make a gain at full width only: all smaller vectors equal the base model on average."""
    world = made_up()
    random = np.random.default_rng(9)
    base = world.population[:, world.columns.index(BASE)]
    population = world.population.copy()
    for number, name in enumerate(world.columns):
        if name in (*SMALL, MAIN[1]):
            half = random.permutation(rows) < rows // 2
            other = redrawn(base, 0.3, AFTER, random)
            # Exchanged with equal probability, so that no difference has a preferred sign.
            population[:, number] = np.where(half, base, other)
    shift = population.mean(axis=0)
    return balanced(replace(world, population=population), shift)


def balanced(world, means):
    """Let answers of small vectors fall from rank 1 until no vector is better than the base."""
    random = np.random.default_rng(10)
    population, base = world.population.copy(), means[world.columns.index(BASE)]
    for number, name in enumerate(world.columns):
        surplus = means[number] - base
        if name in (*SMALL, MAIN[1]) and surplus > 0:
            first = np.flatnonzero(population[:, number] == 1)
            count = math.ceil(surplus * len(population) / (1 - GAINS[2]))
            population[random.permutation(first)[:count], number] = GAINS[2]
    return replace(world, population=population)


@cache
def near_the_ceiling(truth=0.95, rows=20_000):
    """Make a model whose nDCG@10 is 0.95: 5 % of the queries score 0, the others 1."""
    random = np.random.default_rng(11)
    values = np.where(random.random(rows) < truth, 1.0, 0.0)
    columns = {BASE: values, FULL: values, MAIN[0]: values, MAIN[1]: values}
    return World(tuple(columns), np.stack(list(columns.values()), axis=1))


# The rules before


def interval_before(values, weights):
    """Return the jackknife interval with as many degrees of freedom as groups, minus 1."""
    groups = values.shape[-1]
    totals = values.sum(axis=-1, keepdims=True)
    without = (totals - values) / np.maximum(weights.sum() - weights, 1e-9)
    deviations = without - without.mean(axis=-1, keepdims=True)
    error = np.sqrt((groups - 1) / groups * (deviations**2).sum(axis=-1))
    half = t_quantile(0.975, groups - 1) * error
    ratio = totals[..., 0] / max(weights.sum(), 1e-9)
    return ratio - half, ratio + half


@cache
def t_quantile(probability, freedom):
    return float(t.ppf(probability, freedom))


def sums(values, groups):
    return np.bincount(groups, weights=values)


def lift_before(new, old, groups):
    return interval_before(sums(new - old, groups), np.bincount(groups).astype(float))


def recommended_before(test, groups, target):
    """Choose the smallest vectors whose own lower bound meets the target; the best float32 ones
    of the test set are the reference."""
    float32 = [c for c in test if c[0] == "tuned" and c[2] == "float32"]
    best = max(float32, key=lambda c: (test[c].mean(), c[1]))
    reference = sums(test[best], groups)
    others = [c for c in test if c[0] == "tuned" and c != best]
    lows = interval_before(np.stack([sums(test[c], groups) for c in others]), reference)[0]
    sufficient = [best, *(c for c, low in zip(others, lows, strict=True) if low >= target)]
    return min(sufficient, key=lambda c: (bytes_per_vector(c[1], c[2]), -test[c].mean()))


# The rules after


@dataclass(frozen=True)
class Judged:
    """The product's conclusions from one test set."""

    test: dict
    by_group: GroupedQueries

    def points(self):
        """Return what `compute_points` returns, without the intervals, which take most time."""
        names = [c for c in self.test if c[0] == "tuned"]
        values = np.stack([self.test[c] for c in names])
        bounds = self.by_group.retention_bounds(values, self.test[FULL])
        bounds[names.index(FULL)] = 1.0
        return [
            Point.model_construct(
                dimension=dimension,
                precision=precision,
                bytes_per_vector=bytes_per_vector(dimension, precision),
                ndcg=float(found.mean()),
                at_least=0.0,
                retention=Retention.model_construct(at_least=float(bound)),
            )
            for (_, dimension, precision), found, bound in zip(names, values, bounds, strict=True)
        ]

    def misses_retention(self, column, truth):
        low, high = self.by_group.retention(self.test[column], self.test[FULL]).ci
        return not low <= truth <= high

    def lift(self, new, old=BASE):
        return self.by_group.lift(self.test[new] - self.test[old])


def repeated(world, groups, repetitions, seed=0):
    """Yield test sets and what the product concludes from them."""
    for repetition in range(repetitions):
        random = np.random.default_rng([seed, len(groups), repetition])
        test = world.draw(groups, random)
        yield test, Judged(test, GroupedQueries(groups, FLIPS, repetition))


def lifts(world, groups, repetitions):
    """Count intervals that miss the true lift, and bounds that exclude it."""
    truth = world.truth(FULL) - world.truth(BASE)
    errors = Counter()
    for test, judged in repeated(world, groups, repetitions):
        low, high = lift_before(test[FULL], test[BASE], groups)
        errors["lift not covered", "before"] += not low <= truth <= high
        found = judged.lift(FULL)
        errors["lift not covered", "after"] += not found.ci[0] <= truth <= found.ci[1]
        errors["lift bound too high", "before"] += low > truth
        errors["lift bound too high", "after"] += found.bounds[0] > truth
        errors["lift bound too low", "before"] += high < truth
        errors["lift bound too low", "after"] += found.bounds[1] < truth
    return errors


def scores(world, groups, repetitions):
    """Count lower bounds of nDCG@10 that are above the truth."""
    truth, errors = world.truth(FULL), Counter()
    for test, judged in repeated(world, groups, repetitions):
        sizes = np.bincount(groups).astype(float)
        low = interval_before(sums(test[FULL], groups), sizes)[0]
        errors["score bound too high", "before"] += low > truth
        low = judged.by_group.mean_interval(test[FULL])[0]
        errors["score bound too high", "after"] += low > truth
    return errors


def recommendations(world, groups, repetitions, target=0.99):
    """Count recommended vectors that keep less than the target, and bounds above the truth.

    "One vector's bound" and "one vector's interval": those that are wrong most often.
    """
    kept = {c: world.truth(c) / world.truth(FULL) for c in world.columns if c[0] == "tuned"}
    spec, errors = EvaluationSpec(retention=target), Counter()
    by_vector, missed = Counter(), Counter()
    for test, judged in repeated(world, groups, repetitions):
        found = recommended_before(test, groups, target)
        errors["false recommendation", "before"] += kept[found] < target
        errors["bytes", "before"] += bytes_per_vector(found[1], found[2])
        points = judged.points()
        wrong = [
            p for p in points if p.retention.at_least > kept["tuned", p.dimension, p.precision]
        ]
        point = choose(points, spec)[0]
        name = ("tuned", point.dimension, point.precision)
        errors["false recommendation", "after"] += kept[name] < target
        errors["bytes", "after"] += point.bytes_per_vector
        errors["bound of the recommended vectors", "after"] += point in wrong
        errors["any of the bounds", "after"] += bool(wrong)
        by_vector.update((p.dimension, p.precision) for p in wrong)
        missed.update(c for c in kept if c != FULL and judged.misses_retention(c, kept[c]))
    errors["one vector's bound", "after"] = max(by_vector.values(), default=0)
    errors["one vector's interval", "after"] = max(missed.values(), default=0)
    return errors


def verdicts(world, groups, repetitions, target=0.99):
    """Count "improved" and "deploy" where no gain is true.

    Before, the main dimension decided on both; "deploy" was said of the recommended vectors.
    """
    truth = {c: world.truth(c) - world.truth(BASE) for c in world.columns if c[0] == "tuned"}
    spec, errors = EvaluationSpec(retention=target), Counter()
    for test, judged in repeated(world, groups, repetitions):
        main = lift_before(test[MAIN[1]], test[MAIN[0]], groups)[0] > 0
        found = recommended_before(test, groups, target)
        errors["false improved", "before"] += main and truth[FULL] <= 1e-9
        errors["false deploy", "before"] += main and truth[found] <= 1e-9
        improved = judged.lift(FULL).is_gain
        errors["false improved", "after"] += improved and truth[FULL] <= 1e-9
        if improved:
            point = choose(judged.points(), spec)[0]
            chosen = ("tuned", point.dimension, point.precision)
            errors["false deploy", "after"] += truth[chosen] <= 1e-9 and judged.lift(chosen).is_gain
    return errors


SIMULATIONS = {
    "demo": lambda: (lifts, demo()),
    "made up": lambda: (lifts, made_up()),
    "8 % change": lambda: (lifts, made_up(0.08)),
    "demo's scores": lambda: (scores, demo()),
    "near the ceiling": lambda: (scores, near_the_ceiling()),
    "demo's vectors, 99 %": lambda: (recommendations, demo()),
    "demo's vectors, 94.9 %": lambda: (recommendations, demo(), 0.949),
    "nine keep 98.8 %": lambda: (recommendations, nearly_kept()),
    "nine keep 98.8 %, worst case": lambda: (recommendations, nearly_kept(alike=False)),
    "only 128 gains": lambda: (verdicts, without_gain_at_full_width(demo())),
    "only 384 gains": lambda: (verdicts, smaller_vectors_without_gain(), 0.5),
}


def simulate(name, layout, count, repetitions):
    """Return the error rates of one world and one test-set size, by kind and rule."""
    measure, world, *target = SIMULATIONS[name]()
    errors = measure(world, LAYOUTS[layout](count), repetitions, *target)
    return {key: found / repetitions for key, found in errors.items()}


def main(repetitions, *names):
    started = time.perf_counter()
    print(f"{repetitions} test sets each; shares in %, bytes per vector as they are\n")
    print("| world | groups | queries | error | before | after |\n|:---|:---|---:|:---|---:|---:|")
    for name in names or SIMULATIONS:
        for layout in LAYOUTS:
            for count in QUERIES:
                found = simulate(name, layout, count, repetitions)
                for kind in dict.fromkeys(key[0] for key in found):
                    one = 1 if kind == "bytes" else 100
                    rates = [found.get((kind, rule)) for rule in ("before", "after")]
                    cells = ["" if rate is None else f"{one * rate:.1f}" for rate in rates]
                    print(
                        f"| {name} | {layout} | {count} | {kind} | {' | '.join(cells)} |",
                        flush=True,
                    )
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else REPETITIONS, *sys.argv[2:])
