"""compare.html: runs side by side, each group tested on questions and documents of its own."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job.report_document import Report

if TYPE_CHECKING:
    from markupsafe import Markup

# Where results are put changes none of them.
APART = ("output.", "version")
# A setting that a run's image did not know.
MISSING = "–"


@dataclass(frozen=True)
class Group:
    """Runs of one test set, by their names."""

    fingerprint: str
    reports: Mapping[str, Report]

    @property
    def dimensions(self) -> list[str]:
        """All that at least one run has, large to small."""
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
        """Where the first run was judged."""
        return next(iter(self.reports.values())).main

    @property
    def ranked(self) -> list[tuple[str, Report]]:
        """The runs that have the main dimension, the highest first."""
        runs = self.at(self.main).items()
        return sorted(runs, key=lambda run: -run[1].ndcg("tuned", self.main))

    @property
    def differences(self) -> dict[str, list[str]]:
        """Each run's value of the spec's fields in which they differ."""
        specs = [_settings(report) for report in self.reports.values()]
        fields = dict.fromkeys(field for spec in specs for field in spec)
        values = {field: [spec.get(field, MISSING) for spec in specs] for field in fields}
        return {
            field: found
            for field, found in values.items()
            if len(set(found)) > 1 and not field.startswith(APART)
        }


def _settings(report: Report) -> dict[str, str]:
    """Flatten a spec; `auto` is shown as what it became."""
    settings = dict(_flat(report.spec))
    for field, resolved in report.training.recipe.items():
        settings[f"training.{field}"] = f"auto: {json.dumps(resolved.value)}"
    return settings


def _flat(section: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for field, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{field}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{path}{field}", text


def to_compare_html(groups: Mapping[str, Mapping[str, Report]]) -> str:
    """Write the page; `groups` holds reports by their test set's fingerprint and the run's name."""
    from job.templating import render

    gathered = [Group(fingerprint, reports) for fingerprint, reports in groups.items()]
    return render("compare.html", groups=gathered, draw=_draw)


def _draw(group: Group, *words: str) -> "Markup":
    from job.compare_plot import draw_group
    from job.templating import safe

    return safe(draw_group(group, *words))
