"""Runs compared: ranked by validation, tested against each other, and shown in compare.html."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from job.core.formatting import score, visible
from job.report.document import Report
from job.report.plotting import (
    BASE,
    PAPER,
    RUNS,
    add_axes,
    canvas,
    dimension_axis,
    in_both_widths,
    legend_of,
)
from job.report.templating import render, safe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from job.report.paired_runs import Difference

# The seventh run repeats the first colour, with another marker.
MARKERS = "osD^vPX"
BASES = ("--", ":", "-.")
LEGEND_ROW = 18
# The middle of longer names is cut: run names often differ in their end.
NAME_CHARACTERS = 36
# nDCG@10 by dimension.
Curve = Mapping[str, float]
# Fields that do not change the results.
IGNORED_FIELDS = ("output.", "version")
# A model without a gain is called improved with about this probability (measured: up to 3.2 %).
FALSE_GAIN = 0.025
# The value of a field that the run's image did not have.
MISSING = "–"


@dataclass(frozen=True)
class Evidence:
    """What is known of runs with one test set beyond their reports."""

    # Of each run from the first in rank, at `dimension`; empty if the scores of single queries are
    # not known, as `note` explains.
    differences: Sequence["Difference"] = ()
    dimension: int | None = None
    note: str | None = None
    # Names of the finished runs in `output` that were tested on this test set.
    tested: Sequence[str] = ()
    output: str = ""


@dataclass(frozen=True)
class Group:
    """Reports of runs with the same test set, by run name."""

    fingerprint: str
    reports: Mapping[str, Report]
    evidence: Evidence = Evidence()

    @property
    def dimensions(self) -> list[str]:
        """The dimensions that at least one run has, large to small."""
        found = {dimension for report in self.reports.values() for dimension in report.comparison}
        return sorted(found, key=int, reverse=True)

    def at(self, dimension: str) -> dict[str, Report]:
        return {
            run: report for run, report in self.reports.items() if dimension in report.comparison
        }

    @property
    def test_set(self) -> str:
        data = next(iter(self.reports.values())).data
        return f"{data.queries['test']:,} queries, {data.corpus:,} documents"

    @property
    def main(self) -> str:
        """The main dimension of the first run."""
        return next(iter(self.reports.values())).main

    @property
    def shares_validation(self) -> bool:
        """Whether all runs were validated by the same search, so that their scores compare."""
        return len({_validation(report) for report in self.reports.values()}) == 1

    @property
    def ranked(self) -> list[tuple[str, Report]]:
        """All runs, highest score on validation first; as given if validation sets differ.

        The test set does not rank: the run that is best on it is partly the luckiest on it.
        """
        runs = list(self.reports.items())
        if not self.shares_validation:
            return runs
        return sorted(runs, key=lambda run: -run[1].training.best_validation)

    @property
    def common_dimension(self) -> str | None:
        """The main dimension if all runs have it, else the largest that all have."""
        shared = [d for d in self.dimensions if len(self.at(d)) == len(self.reports)]
        return self.main if self.main in shared else next(iter(shared), None)

    @property
    def sentences(self) -> list[str]:
        """What the ranking, the differences and the number of tested runs say."""
        return [self._ranking(), *self._differences(), *self._tested_runs()]

    def _ranking(self) -> str:
        if len(self.reports) == 1:
            return ""
        if not self.shares_validation:
            return (
                "The runs are not ranked, as their validation queries differ; the test set "
                "should not choose among them."
            )
        (best, first), (_, second), *_ = self.ranked
        value = first.training.best_validation
        if value == second.training.best_validation:
            return f"The first runs are tied on validation: nDCG@10 {score(value)}."
        return f"Best on validation: {best}, nDCG@10 {score(value)}; the test set does not rank."

    def _differences(self) -> Iterator[str]:
        if self.evidence.note:
            yield self.evidence.note
        if not self.evidence.differences:
            return
        first = self.ranked[0][0]
        distinct = [d for d in self.evidence.differences if d.ci[0] > 0 or d.ci[1] < 0]
        at = f"at {self.evidence.dimension} dimensions"
        if not distinct:
            yield f"On the test set, no run is shown to differ from {first} {at}."
        for found in distinct:
            verb = "better" if found.lift > 0 else "worse"
            yield f"On the test set, {found.run} is {verb} than {first} {at}."

    def _tested_runs(self) -> Iterator[str]:
        count = len(self.evidence.tested)
        if count < 2:
            return
        by_chance = 1 - (1 - FALSE_GAIN) ** count
        yield (
            f"{count} runs in `{self.evidence.output}` were tested on this test set. Of {count} "
            f"runs without any gain, at least one is called improved with a probability of up to "
            f"about {by_chance:.0%}: confirm the run you choose on new queries (`data.test`)."
        )

    @property
    def differences(self) -> dict[str, list[str]]:
        """The spec fields in which the runs differ, with each run's value."""
        specs = [_settings(report) for report in self.reports.values()]
        fields = dict.fromkeys(field for spec in specs for field in spec)
        values = {field: [spec.get(field, MISSING) for spec in specs] for field in fields}
        return {
            field: found
            for field, found in values.items()
            if len(set(found)) > 1 and not field.startswith(IGNORED_FIELDS)
        }


def _validation(report: Report) -> tuple[object, ...]:
    """Return what decides a score on validation, besides the model."""
    spec = report.spec
    limit = spec.get("evaluation", {}).get("validation_corpus_limit")
    seed = spec.get("data", {}).get("seed")
    return report.data.fingerprint.get("validation"), report.data.corpus, limit, seed, report.main


def _settings(report: Report) -> dict[str, str]:
    """Flatten a spec; `auto` is replaced by the resolved value."""
    settings = dict(_flat(report.spec))
    for field, resolved in report.training.hyperparameters.items():
        settings[f"training.{field}"] = f"auto: {json.dumps(resolved.value)}"
    return settings


def _flat(section: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for field, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{field}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{path}{field}", text


def to_compare_html(groups: Sequence[Group]) -> str:
    return render(
        "compare.html",
        groups=groups,
        sections=[(f"group-{n}", f"Test set {name}") for n, name in enumerate(groups, 1)],
        draw=lambda group, *names: safe(in_both_widths(partial(_figure, group), *names)),
    )


def _figure(group: Group, width: float) -> "Figure":
    bases = base_curves(group)
    above = LEGEND_ROW * (len(bases) + len(group.reports)) + 30
    figure = canvas(width, above + 320)
    axes = add_axes(figure, (44, above, 12, 48))
    dimensions = group.dimensions[::-1]
    style: dict[str, Any] = {"markersize": 7, "markeredgewidth": 1.5, "linewidth": 1.5}
    hollow: dict[str, Any] = {"marker": "o", "color": BASE, "markerfacecolor": PAPER}
    for number, (label, curve) in enumerate(bases.items()):
        own, lines = sorted(curve, key=int), BASES[number % len(BASES)]
        positions, scores = [dimensions.index(d) for d in own], [curve[d] for d in own]
        axes.plot(positions, scores, lines, label=_shortened(label), **hollow, **style)
    for number, (run, report) in enumerate(group.reports.items()):
        # Shift the runs apart, so that their intervals do not overlap.
        shift = 0.5 * ((number + 1) / (len(group.reports) + 1) - 0.5)
        colour, marker = RUNS[number % len(RUNS)], MARKERS[number % len(MARKERS)]
        own = sorted(report.comparison, key=int)
        shifted = [dimensions.index(d) + shift for d in own]
        scores = [report.ndcg("tuned", d) for d in own]
        axes.plot(shifted, scores, label=_shortened(run), marker=marker, color=colour, **style)
        intervals = [report.comparison[d].float32.score_ci for d in own]
        axes.vlines(shifted, *zip(*intervals, strict=True), color=colour, linewidth=1.5)
    dimension_axis(axes, dimensions, 0.5)
    legend_of(axes, axes.get_lines(), columns=1, above=26)
    return figure


def base_curves(group: Group) -> dict[str, Curve]:
    """Return the base models' nDCG@10 by dimension: one curve for base models that agree."""
    curves: dict[str, dict[str, float]] = {}
    for run, report in group.reports.items():
        own = {dimension: report.ndcg("base", dimension) for dimension in report.comparison}
        agreeing = [c for c in curves.values() if all(c.get(d, own[d]) == own[d] for d in own)]
        if agreeing:
            agreeing[0].update(own)
        else:
            curves[f"base of {run}"] = own
    if len(curves) > 1:
        return dict(curves)
    # A single curve needs no run name.
    return dict(zip(["base"], curves.values(), strict=True))


def _shortened(name: str) -> str:
    line, half = " ".join(visible(name).split()), NAME_CHARACTERS // 2
    return line if len(line) <= NAME_CHARACTERS else f"{line[:half]}…{line[1 - half :]}"
