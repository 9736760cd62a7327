"""Reports and lists of runs, on the terminal."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from job.core.errors import EXIT_CODES
from job.core.formatting import (
    change,
    escape_keeping_lines,
    escape_to_one_line,
    interval,
    score,
    share,
    usd,
)
from job.report.compare import Group
from job.report.document import METRIC, Report
from launcher.containers.image import Image
from launcher.runs.runs import Run

# Of a report, what is for people.
PAGE = "report.html"


def _plain(text: str) -> str:
    """Show a report's own texts as they are: neither markup nor a terminal's commands."""
    return escape(escape_to_one_line(text))


def show_report(console: Console, report: Report, folder: Path) -> None:
    """Print the comparison, the verdict and where the report lies: in `folder`."""
    console.print(comparison_table(report))
    console.print(f"[bold]{_plain(report.verdict.sentence)}[/bold]", soft_wrap=True)
    console.print(_plain(report.recommendation.sentence), soft_wrap=True)
    cost, seconds = report.cost, sum(report.seconds.values())
    price = "cost unknown" if cost.usd is None else usd(cost.usd)
    console.print(f"Took {seconds:.0f} s, {price} ({_plain(cost.basis)})", soft_wrap=True)
    console.print(f"Report: {folder / PAGE}", soft_wrap=True, markup=False)


def comparison_table(report: Report) -> Table:
    title = f"{report.job_name}: nDCG@10 on {report.data.queries['test']} test queries"
    table = Table(title=_plain(title), title_justify="left")
    for heading in ("dim", "BM25", "base", "tuned", "lift", "95 % interval", "p", "kept"):
        table.add_column(heading, justify="right")
    for dimension, precisions in report.comparison.items():
        found = precisions.float32
        table.add_row(
            dimension,
            score(report.scores.bm25[METRIC]),
            score(report.ndcg("base", dimension)),
            score(report.ndcg("tuned", dimension)),
            change(found.lift),
            _plain(interval(found.ci)),
            "<.001" if found.p_value < 0.001 else f"{found.p_value:.3f}",
            share(found.retention.share),
        )
    return table


def runs_table(runs: Iterable[Run]) -> Table:
    table = Table()
    for heading in ("name", "state", "when (UTC)", "base → tuned", "improved"):
        table.add_column(heading, overflow="fold")
    for run in runs:
        scores, improved = "", ""
        if run.is_finished and (report := run.found):
            before, after = report.ndcg("base", report.main), report.ndcg("tuned", report.main)
            scores = f"{score(before)} → {score(after)} at {report.main}"
            improved = "yes" if report.verdict.improved else "no"
        when = f"{run.changed:%Y-%m-%d %H:%M}"
        table.add_row(_plain(run.name), run.state, when, scores, improved)
    return table


def status_table(run: Run) -> Table:
    """Tabulate where a run is, how far it came and what the launcher knows of its end."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    launch, receipt = run.launch or {}, run.receipt or {}
    names = ("backend", "container", "pid", "job")
    job = " ".join(str(launch[name]) for name in names if name in launch)
    code = receipt.get("exit_code")
    facts = {
        "name": run.name,
        "state": run.state,
        "job": job,
        "launched": launch.get("started"),
        "last line": _last_line(run),
        "exit code": None if code is None else f"{code}, {EXIT_CODES.get(code, 'unknown')}",
        "seconds": receipt.get("seconds"),
        "usd": receipt.get("usd"),
        "results": run.place.uri,
    }
    for name, value in facts.items():
        if value not in (None, ""):
            table.add_row(name, _plain(str(value)))
    return table


def image_table(name: str, image: Image) -> Table:
    """Tabulate an image's layers, from the base upwards."""
    shown = f"{image.bytes / 1e6:,.0f} MB, {image.platform}, {image.id}"
    labels = "\n".join(f"{key}: {value}" for key, value in sorted(image.labels.items()))
    table = Table(title=_plain(f"{name}: {shown}"), title_justify="left", expand=True)
    table.caption, table.caption_justify = escape(escape_keeping_lines(labels)), "left"
    table.add_column("MB", justify="right", no_wrap=True)
    table.add_column("made by", no_wrap=True, overflow="ellipsis", ratio=1)
    for layer in image.layers:
        if layer.bytes:
            made_by = _plain(layer.made_by) or "the base image"
            table.add_row(f"{layer.bytes / 1e6:,.2f}", made_by)
    return table


def _last_line(run: Run) -> str:
    path = run.workspace.failure
    if not path.is_file():
        path = run.workspace.logs / "job.log"
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    return lines[-1] if lines else ""


def side_by_side(group: Group) -> Table:
    """Tabulate runs of one test set: nDCG@10 and lift at each dimension that one of them has."""
    reports = group.reports.values()
    title = f"nDCG@10 on test set {group.fingerprint}: {group.test_set}"
    table = Table(title=title, title_justify="left")
    table.add_column("dim", justify="right")
    for name in group.reports:
        table.add_column(name, justify="right", overflow="fold")
    for dimension in group.dimensions:
        table.add_row(dimension, *(_lifted(report, dimension) for report in reports))
    table.add_row("base", *(_plain(report.spec["model"]["base"]) for report in reports))
    table.add_row("improved", *("yes" if r.verdict.improved else "no" for r in reports))
    table.add_row("seconds", *(f"{sum(report.seconds.values()):.0f}" for report in reports))
    return table


def _lifted(report: Report, dimension: str) -> str:
    if dimension not in report.comparison:
        return ""
    found = report.comparison[dimension].float32
    lift = _plain(f"{change(found.lift)} {interval(found.ci)}")
    return f"{score(report.ndcg('tuned', dimension))} ({lift})"
