"""Width and coverage of intervals: one split against pooled folds.

`python tests/benchmarks/folds_simulation.py [REPETITIONS]`. Queries are those of the demo run of
`simulation.py`; a training adds a shift of its own to all queries (the standard deviation between
trainings), and noise to each of them. Two truths: the mean lift, over all questions, of the models
that were trained, and that of all trainings of the kind. The first is what a report says.
"""

import sys

import numpy as np
import simulation

from job.evaluation.significance import GroupedQueries

FOLDS = 5
TEST_SHARE = 0.1
PAIRS = (300, 1_000, 3_000, 6_000)
# Standard deviations between trainings, of the mean and of a query's nDCG@10 (job/LOG.md).
BETWEEN_TRAININGS = (0.0, 0.004)
BETWEEN_QUERIES = 0.15
REPETITIONS = 2_000
FLIPS = 100


def draw(count, layout, between, random):
    """Return the lifts of the queries, (trainings, n), their groups, and each training's shift."""
    world, groups = simulation.demo(), simulation.LAYOUTS[layout](count)
    test = world.draw(groups, random)
    lifts = test[simulation.FULL] - test[simulation.BASE]
    shifts = random.normal(0, between, FOLDS)
    noise = random.normal(0, BETWEEN_QUERIES, (FOLDS, count))
    return lifts + shifts[:, None] + noise, groups, shifts


def once(count, layout, between, random):
    """Return the interval of one split and that of pooled folds, each with its two truths."""
    lifts, groups, shifts = draw(count, layout, between, random)
    world = simulation.demo()
    truth = world.truth(simulation.FULL) - world.truth(simulation.BASE)
    order = random.permutation(groups.max() + 1)[groups]
    part = np.argsort(order, kind="stable")[: round(TEST_SHARE * count)]
    fold = order % FOLDS
    pooled = lifts[fold, np.arange(count)]
    weights = np.bincount(fold, minlength=FOLDS) / count
    single = GroupedQueries(groups[part], FLIPS, 0).lift(lifts[0, part]).ci
    whole = GroupedQueries(groups, FLIPS, 0).lift(pooled).ci
    return (single, truth + shifts[0], truth), (whole, truth + weights @ shifts, truth)


def simulate(count, layout, between, repetitions, seed=0):
    """Return (width, share that misses the models' lift, share that misses the procedure's)."""
    random = np.random.default_rng(seed)
    found = {"one split": [], "folds": []}
    for _ in range(repetitions):
        results = once(count, layout, between, random)
        for kind, ((low, high), *truths) in zip(found, results, strict=True):
            missed = [not low <= truth <= high for truth in truths]
            found[kind].append([high - low, *missed])
    return {kind: np.mean(rows, axis=0) for kind, rows in found.items()}


def main(repetitions):
    print(f"{repetitions} data sets each; a test share of {TEST_SHARE:g}, {FOLDS} folds\n")
    print("| pairs | groups | between trainings | kind | width | misses the models' lift |"
          " misses the procedure's |")  # fmt: skip
    print("|---:|:---|---:|:---|---:|---:|---:|")
    for count in PAIRS:
        for layout in ("single", "uneven"):
            for between in BETWEEN_TRAININGS:
                rows = simulate(count, layout, between, repetitions)
                for kind, (width, models, procedure) in rows.items():
                    print(
                        f"| {count} | {layout} | {between:g} | {kind} | {width:.4f} | "
                        f"{models:.1%} | {procedure:.1%} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else REPETITIONS)
