"""Results of the article's recipe and of ours, and the tables that compare them."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

METRIC = "ndcg@10"
PHASES = ("start", "score base", "train", "score tuned")
ARTICLE, FLOAT32 = "article", "article, float32"
ON_VALIDATION = "article, chosen on validation"


@dataclass
class Outcome:
    """The result of one side with one seed.

    `scores[row][dimension]` lists nDCG@10 in the order of `queries`.
    """

    seconds: dict[str, float]
    counts: dict[str, float]
    queries: list[str]
    # The group of each query; only the article's side fills it in.
    groups: list[int] = field(default_factory=list)
    scores: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    # Seconds since the start, and the validation score of the model at that time; the article's
    # side has only that of its chosen checkpoint, at its end.
    validated: list[tuple[float, float]] = field(default_factory=list)


def lift(outcomes: list[tuple[Outcome, Outcome]], ours: str, theirs: str, dimension: int):
    """Compare two rows, paired by query, over all seeds.

    Queries that occur with several seeds, and their groups, form one group.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    from job.evaluation.significance import GroupedQueries

    differences, labels, names = [], [], []
    for number, (ours_by_row, theirs_by_row) in enumerate(outcomes):
        assert ours_by_row.queries == theirs_by_row.queries
        differences += np.subtract(
            ours_by_row.scores[ours][dimension], theirs_by_row.scores[theirs][dimension]
        ).tolist()
        labels += [f"{number}/{group}" for group in theirs_by_row.groups]
        names += ours_by_row.queries
    edges = [np.unique(values, return_inverse=True)[1] for values in (labels, names)]
    size = edges[0].max() + 1, edges[1].max() + 1
    links = coo_array(
        (np.ones(len(names)), (edges[0], size[0] + edges[1])), shape=(sum(size), sum(size))
    )
    groups = connected_components(links, directed=False)[1][edges[0]]
    return GroupedQueries(groups, 1_000, 0).lift(np.array(differences))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report_on(found: dict[str, list[Outcome]], *, with_times: bool = True) -> None:
    """Print the quality, the costs and the ratios; `found[side]` has one outcome per seed."""
    rows = {row: side for side, outcomes in found.items() for row in outcomes[0].scores}
    dimensions = sorted(next(iter(found.values()))[0].scores[next(iter(rows))], reverse=True)
    ours = [side for side in found if not side.startswith(ARTICLE)]
    theirs = [side for side in found if side.startswith(ARTICLE)]

    def median(row: str, dimension: int) -> float:
        return statistics.median(
            statistics.fmean(outcome.scores[row][dimension]) for outcome in found[rows[row]]
        )

    order = sorted(rows, key=lambda row: (row != "base", not row.startswith(ARTICLE)))
    print(f"\n{METRIC} by dimension, medians over the seeds\n")
    lines = [[row, *(f"{median(row, d):.3f}" for d in dimensions)] for row in order]
    print(table(["row", *map(str, dimensions)], lines))
    if ARTICLE in found:
        print("\nOurs minus the article's, paired by query, 95 % interval over groups of queries\n")
        lines = []
        for side in ours:
            pairs = list(zip(found[side], found[ARTICLE], strict=True))
            for reference in (ARTICLE, ON_VALIDATION):
                lifts = [lift(pairs, side, reference, d) for d in dimensions]
                cells = [f"{x.lift:+.3f} [{x.ci[0]:+.3f}, {x.ci[1]:+.3f}]" for x in lifts]
                lines.append([f"{side} − {reference}", *cells])
        print(table(["difference", *map(str, dimensions)], lines))
    if with_times:
        totals = print_costs(found)
        for reference in theirs:
            for side in ours:
                ratio = totals[reference] / totals[side]
                print(f"{reference}: {ratio:.1f} times as long as {side}")
        for side in ours if ARTICLE in found else ():
            print(as_good_as(found[ARTICLE], found[side], side))
    for side in ours if 64 in dimensions else ():
        share = median(side, 64) / median(side, dimensions[0])
        print(f"{side}: 64 dimensions keep {share:.1%} of the {METRIC} at {dimensions[0]}")


def as_good_as(theirs: list[Outcome], ours: list[Outcome], side: str) -> str:
    """Say after what share of the article's time a side is as good on validation as its end."""
    shares = []
    for their, our in zip(theirs, ours, strict=True):
        ((total, quality),) = their.validated
        reached = [seconds for seconds, score in our.validated if score >= quality]
        shares.append(min(reached, default=float("inf")) / total)
    found = ", ".join(f"{share:.1%}" for share in shares)
    return f"{side}: as good as the article's end after {found} of its time (by seed)"


def print_costs(found: dict[str, list[Outcome]]) -> dict[str, float]:
    """Print medians over the seeds; return the total seconds of each side."""

    def median(side: str, read: Callable[[Outcome], float]) -> float:
        return statistics.median(map(read, found[side]))

    totals = {side: median(side, lambda outcome: sum(outcome.seconds.values())) for side in found}
    counts = list(next(iter(found.values()))[0].counts)
    head = ["side", "whole run, s", *(f"{phase}, s" for phase in PHASES), *counts]
    lines = []
    for side, total in totals.items():
        seconds = [median(side, lambda o, p=phase: o.seconds[p]) for phase in PHASES]
        numbers = [median(side, lambda o, c=count: o.counts[c]) for count in counts]
        cells = [f"{s:.1f}" for s in (total, *seconds)] + [f"{number:,.0f}" for number in numbers]
        lines.append([side, *cells])
    print("\nCosts, medians over the seeds\n")
    print(table(head, lines) + "\n")
    return totals
