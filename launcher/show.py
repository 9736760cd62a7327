"""Reports and lists of runs, on the terminal."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.runs import Run

METRIC = "ndcg@10"


def show_report(console: Console, report: Mapping[str, Any], folder: Path) -> None:
    """Print the comparison, the verdict and where the report lies."""
    console.print(comparison_table(report))
    verdict = report["verdict"]
    console.print(f"[bold]{escape(verdict['sentence'])}[/bold]", soft_wrap=True)
    recommended = report["recommendation"]
    console.print(
        f"Deploy {recommended['dimension']} dimensions: {escape(recommended['reason'])}",
        soft_wrap=True,
    )
    cost = report["cost"]
    seconds = sum(report["seconds"].values())
    price = "cost unknown" if cost["usd"] is None else f"${cost['usd']:.4f}"
    console.print(f"Took {seconds:.0f} s, {price} ({escape(cost['basis'])})", soft_wrap=True)
    console.print(f"Report: {folder / 'report' / 'report.md'}", soft_wrap=True, markup=False)


def comparison_table(report: Mapping[str, Any]) -> Table:
    title = f"{report['job_name']}: nDCG@10 on {report['data']['queries']['test']} test queries"
    table = Table(title=escape(title), title_justify="left")
    for heading in ("dim", "BM25", "base", "tuned", "lift", "95 % interval", "p", "kept"):
        table.add_column(heading, justify="right")
    bm25 = f"{report['scores']['bm25'][METRIC]:.3f}"
    for dimension, precisions in report["comparison"].items():
        lift = precisions["float32"]
        base, tuned = (
            f"{report['scores'][model][dimension]['float32'][METRIC]:.3f}"
            for model in ("base", "tuned")
        )
        low, high = lift["ci"]
        p_value = "<.001" if lift["p_value"] < 0.001 else f"{lift['p_value']:.3f}"
        table.add_row(
            dimension,
            bm25,
            base,
            tuned,
            f"{lift['lift']:+.3f}",
            escape(f"[{low:+.3f}, {high:+.3f}]"),
            p_value,
            f"{lift['retention']['share']:.1%}",
        )
    return table


def runs_table(runs: Iterable[Run]) -> Table:
    table = Table()
    for heading in ("name", "state", "when (UTC)", "base → tuned", "improved"):
        table.add_column(heading, overflow="fold")
    for run in runs:
        change, improved = "", ""
        if run.is_finished and run.has_report:
            report = run.report()
            dimension = str(report["verdict"]["dimension"])
            base, tuned = (
                report["scores"][model][dimension]["float32"][METRIC] for model in ("base", "tuned")
            )
            change = f"{base:.3f} → {tuned:.3f} at {dimension}"
            improved = "yes" if report["verdict"]["improved"] else "no"
        table.add_row(
            escape(run.name), run.state, f"{run.changed:%Y-%m-%d %H:%M}", change, improved
        )
    return table
