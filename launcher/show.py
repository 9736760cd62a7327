"""Reports and lists of runs, on the terminal."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from job.errors import EXIT_CODES
from job.wording import on_its_lines, on_one_line
from launcher.image import Image
from launcher.runs import Run, labelled

METRIC = "ndcg@10"


def _plain(text: str) -> str:
    """Show a report's own texts as they are: neither markup nor a terminal's commands."""
    return escape(on_one_line(text))


def show_report(console: Console, report: Mapping[str, Any], folder: Path) -> None:
    """Print the comparison, the verdict and where the report lies: in `folder`."""
    console.print(comparison_table(report))
    verdict = report["verdict"]
    console.print(f"[bold]{_plain(verdict['sentence'])}[/bold]", soft_wrap=True)
    advice = report["recommendation"]
    # Reports of earlier images have no sentence.
    plain = f"Deploy {advice['dimension']} dimensions: {advice['reason']}"
    console.print(_plain(advice.get("sentence", plain)), soft_wrap=True)
    cost = report["cost"]
    seconds = sum(report["seconds"].values())
    price = "cost unknown" if cost["usd"] is None else f"${cost['usd']:.4f}"
    console.print(f"Took {seconds:.0f} s, {price} ({_plain(cost['basis'])})", soft_wrap=True)
    console.print(f"Report: {report_page(folder)}", soft_wrap=True, markup=False)


def report_page(folder: Path) -> Path:
    """Find the page for people; runs of earlier images have a text alone."""
    page = folder / "report.html"
    return page if page.is_file() else folder / "report.md"


def comparison_table(report: Mapping[str, Any]) -> Table:
    title = f"{report['job_name']}: nDCG@10 on {report['data']['queries']['test']} test queries"
    table = Table(title=_plain(title), title_justify="left")
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
            _plain(f"[{low:+.3f}, {high:+.3f}]"),
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
        if run.is_finished and (report := run.found):
            dimension = str(report["verdict"]["dimension"])
            base, tuned = (
                report["scores"][model][dimension]["float32"][METRIC] for model in ("base", "tuned")
            )
            change = f"{base:.3f} → {tuned:.3f} at {dimension}"
            improved = "yes" if report["verdict"]["improved"] else "no"
        table.add_row(
            _plain(run.name), run.state, f"{run.changed:%Y-%m-%d %H:%M}", change, improved
        )
    return table


def status_table(run: Run) -> Table:
    """Tabulate where a run is, how far it came and what the launcher knows of its end."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    launch, receipt = run.launch or {}, run.receipt or {}
    job = " ".join(
        str(launch[key]) for key in ("backend", "container", "pid", "job") if key in launch
    )
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
    table.caption, table.caption_justify = escape(on_its_lines(labels)), "left"
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


def side_by_side(fingerprint: str, runs: Iterable[Run]) -> Table:
    """Tabulate runs of one test set: nDCG@10 and lift at each dimension that one of them has."""
    reports = {label: run.report() for label, run in labelled(runs).items()}
    some = next(iter(reports.values()))
    title = (
        f"nDCG@10 on test set {fingerprint}: {some['data']['queries']['test']} queries, "
        f"{some['data']['corpus']} documents"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("dim", justify="right")
    for name in reports:
        table.add_column(name, justify="right", overflow="fold")
    dimensions = {dimension for report in reports.values() for dimension in report["comparison"]}
    for dimension in sorted(dimensions, key=int, reverse=True):
        cells = [_lifted(report, dimension) for report in reports.values()]
        table.add_row(dimension, *cells)
    table.add_row("base", *(_plain(r["spec"]["model"]["base"]) for r in reports.values()))
    table.add_row(
        "improved", *("yes" if r["verdict"]["improved"] else "no" for r in reports.values())
    )
    seconds = (sum(report["seconds"].values()) for report in reports.values())
    table.add_row("seconds", *(f"{number:.0f}" for number in seconds))
    return table


def _lifted(report: Mapping[str, Any], dimension: str) -> str:
    if dimension not in report["comparison"]:
        return ""
    tuned = report["scores"]["tuned"][dimension]["float32"][METRIC]
    lift = report["comparison"][dimension]["float32"]
    low, high = lift["ci"]
    return f"{tuned:.3f} ({lift['lift']:+.3f} " + _plain(f"[{low:+.3f}, {high:+.3f}])")
