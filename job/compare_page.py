"""compare.html: runs side by side, each group tested on questions and documents of its own."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from job.wording import spoken

if TYPE_CHECKING:
    from markupsafe import Markup

Report = Mapping[str, Any]

METRIC = "ndcg@10"
# Where results are put changes none of them.
APART = ("output.", "version")
# What a run does not have.
MISSING = "–"


@dataclass(frozen=True)
class Found:
    """What a run found at a dimension: both models' nDCG@10, and the lift between them.

    Reports of earlier images have no interval of the tuned model's own score.
    """

    run: str
    base: float
    tuned: float
    tuned_ci: tuple[float, float] | None
    lift: float
    ci: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class Group:
    """Runs of one test set."""

    fingerprint: str
    reports: Mapping[str, Report]
    # By run and dimension.
    found: Mapping[str, Mapping[int, Found]]
    # Each run's value of the spec's fields in which they differ.
    differences: Mapping[str, list[str]]

    @property
    def dimensions(self) -> list[int]:
        """All that at least one run has, large to small."""
        return sorted({d for found in self.found.values() for d in found}, reverse=True)

    def at(self, dimension: int) -> list[Found]:
        return [found[dimension] for found in self.found.values() if dimension in found]

    @property
    def test_set(self) -> str:
        data = next(iter(self.reports.values()))["data"]
        return f"{data['queries']['test']:,} queries, {data['corpus']:,} documents"

    @property
    def main(self) -> int:
        """Where the first run was judged."""
        return int(next(iter(self.reports.values()))["verdict"]["dimension"])

    @property
    def ranked(self) -> list[Found]:
        """The runs that have the main dimension, the highest first."""
        return sorted(self.at(self.main), key=lambda found: -found.tuned)


def gather(fingerprint: str, reports: Mapping[str, Report]) -> Group:
    found = {run: dict(_found(run, report)) for run, report in reports.items()}
    return Group(fingerprint, reports, found, _differences(reports))


def _found(run: str, report: Report) -> Iterator[tuple[int, Found]]:
    for dimension, compared in report["comparison"].items():
        base, tuned = (
            report["scores"][model][dimension]["float32"][METRIC] for model in ("base", "tuned")
        )
        lift = compared["float32"]
        own = tuple(lift["score_ci"]) if "score_ci" in lift else None
        yield (
            int(dimension),
            Found(run, base, tuned, own, lift["lift"], tuple(lift["ci"]), lift["p_value"]),
        )


def _differences(reports: Mapping[str, Report]) -> dict[str, list[str]]:
    specs = [_settings(report) for report in reports.values()]
    fields = dict.fromkeys(field for spec in specs for field in spec)
    values = {field: [spec.get(field, MISSING) for spec in specs] for field in fields}
    return {
        field: found
        for field, found in values.items()
        if len(set(found)) > 1 and not field.startswith(APART)
    }


def _settings(report: Report) -> dict[str, str]:
    """Flatten a spec; `auto` is shown as what it became."""
    settings = dict(_flat(report["spec"]))
    for field, resolved in report["training"].get("recipe", {}).items():
        settings[f"training.{field}"] = f"auto: {json.dumps(resolved['value'])}"
    return settings


def _flat(section: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for field, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{field}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{path}{field}", text


def recommended(report: Report) -> str:
    """Name the vectors to deploy; reports of earlier images know float32 only."""
    advice = report["recommendation"]
    return f"{advice['dimension']} × {spoken(advice.get('precision', 'float32'))}"


def to_compare_html(groups: Mapping[str, Mapping[str, Report]]) -> str:
    """Write the page; `groups` holds reports by their test set's fingerprint and the run's name."""
    from job.page import render

    gathered = [gather(fingerprint, reports) for fingerprint, reports in groups.items()]
    return render(
        "compare.html", groups=gathered, draw=_draw, recommended=recommended, missing=MISSING
    )


def _draw(group: Group, *words: str) -> "Markup":
    from markupsafe import Markup

    from job.compare_plot import draw_group

    # Matplotlib has escaped what is the user's.
    return Markup(draw_group(group, *words))  # noqa: S704
