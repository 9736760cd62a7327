"""Reports, lists of runs and findings, on the terminal.

80 columns are enough for all of them, and no name or number is broken in two: text wraps at spaces
only, and a name that is too long gets a line to itself. A pipe gets each row on one line.
"""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from job.core.errors import EXIT_CODES
from job.core.formatting import (
    change,
    escape_to_one_line,
    interval,
    precision_label,
    score,
    share,
    usd,
)
from job.report.compare_runs import Group
from job.report.document import METRIC, Report, Stored
from launcher.aws.pricing import Price
from launcher.containers.image import Image
from launcher.plan.checks import CheckResult
from launcher.runs.run import Run

# The report for people.
PAGE = "report.html"
METRIC_NAME = "nDCG@10"
GAP = "  "
TABLE_WIDTH = 80
# Intervals and p-values.
UNBROKEN = re.compile(r"\[[-+\d.%, ]+\]|\bp [<=] [\d.]+")
NO_BREAK = "\u00a0"
STATE_COLORS = {
    "ok": "green",
    "missing": "red",
    "unknown": "yellow",
    "doubtful": "yellow",
    "skipped": "dim",
}


def show(parts: Iterable[Table | Text]) -> None:
    """Print tables and lines; a line that is too long is left to the terminal, in one piece."""
    console = Console(highlight=False)
    # On a narrower terminal, a table is cut rather than its numbers.
    console.width = max(console.width, TABLE_WIDTH)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))


def decision_lines(report: Report, folder: Path) -> list[Table | Text]:
    """Show a report on a terminal: the decision in three lines, then the comparison."""
    verdict, advice, cost = report.verdict, report.recommendation, report.cost
    found = report.headline
    numbers = f"{score(found.before)} → {score(found.after)}, {change(found.lift)}"
    outcome = "Improved" if verdict.improved else "Not improved"
    full = next(iter(report.comparison.values())).float32.bytes_per_vector
    # Without a gain, the sentence does not begin with an advice to deploy.
    opening = "Deploy" if advice.sentence.startswith("Deploy") else "If you deploy it:"
    vectors = f"{advice.dimension} dimensions as {precision_label(advice.precision)}"
    size = f"{advice.bytes_per_vector} bytes instead of {full}"
    price = "cost unknown" if cost.usd is None else usd(cost.usd)
    seconds, where = sum(report.seconds.values()), report.environment.device
    return [
        *wrapped(f"{outcome}: {METRIC_NAME} {numbers} {interval(found.ci)}", "bold"),
        *wrapped(f"{opening} {vectors}, {size}"),
        *wrapped(f"Took {seconds:.0f} s on {where}, {price}"),
        *(wrapped(f"Synthetic test questions, by {verdict.test_by}") if verdict.test_by else ()),
        *(wrapped(_stored(report.stored)) if report.stored else ()),
        Text(),
        *wrapped(_title(report), "italic"),
        comparison_table(report),
        *_one_piece("Report:", str(folder / PAGE)),
    ]


def _stored(found: Stored) -> str:
    """Return which model is stored, if the job was asked for one of all pairs."""
    return {
        "tested": "Stored: a tested model, not one of all pairs (the report says why)",
        "refit": f"Stored: not the tested model, but one of all {found.pairs} pairs",
        "fold": "Stored: the model of one fold, not one of all pairs (the report says why)",
        "average": f"Stored: the average of the folds' models, of {found.pairs} pairs",
    }[found.kind]


def _title(report: Report) -> str:
    return f"{report.job_name}: {METRIC_NAME} on {report.data.queries['test']} test queries"


def report_lines(report: Report, folder: Path) -> list[Table | Text]:
    """Show a report in a pipe: the comparison, then all sentences, and the report's path."""
    cost, seconds = report.cost, sum(report.seconds.values())
    price = "cost unknown" if cost.usd is None else usd(cost.usd)
    return [
        *wrapped(_title(report), "italic"),
        comparison_table(report),
        *wrapped(report.verdict.sentence, "bold"),
        *wrapped(report.recommendation.sentence),
        *(wrapped(report.stored.sentence) if report.stored else ()),
        *(wrapped(report.scope.corpus_sentence) if report.scope else ()),
        *wrapped(f"Took {seconds:.0f} s, {price} ({cost.basis})"),
        *_one_piece("Report:", str(folder / PAGE)),
    ]


def comparison_table(report: Report) -> Table:
    table = number_table("dim", "BM25", "base", "tuned", "lift", "95 % interval", "p", "kept")
    for dimension, precisions in report.comparison.items():
        found = precisions.float32
        table.add_row(
            dimension,
            score(report.scores.bm25[METRIC]),
            score(report.ndcg("base", dimension)),
            score(report.ndcg("tuned", dimension)),
            change(found.lift),
            escape(interval(found.ci)),
            "<.001" if found.p_value < 0.001 else f"{found.p_value:.3f}",
            share(found.retention.share),
        )
    return table


def run_lines(runs: Iterable[Run]) -> list[Text]:
    """List runs, one line each, or two if their names are too long for one."""
    rows = [["NAME", "STATE", "WHEN (UTC)", "BASE → TUNED", "IMPROVED"]]
    for run in runs:
        scores, improved = "", ""
        if run.state == "finished" and (report := run.stored_report):
            found = report.headline
            scores = f"{score(found.before)} → {score(found.after)} at {found.dimension}"
            improved = "yes" if report.verdict.improved else "no"
        rows.append([run.name, run.state, f"{run.changed:%Y-%m-%d %H:%M}", scores, improved])
    return _named_rows(rows)


def status_lines(run: Run) -> list[Text]:
    """List where a run is, how far it got and what the launcher knows about its end."""
    launch, receipt = run.launch or {}, run.receipt or {}
    names = ("backend", "container", "pid", "job")
    code = receipt.get("exit_code")
    return _facts(
        {
            "name": run.name,
            "state": run.state,
            "status": run.status,
            "job": " ".join(str(launch[name]) for name in names if name in launch),
            "launched": launch.get("started"),
            "last line": _last_line(run),
            "exit code": None if code is None else f"{code}, {EXIT_CODES.get(code, 'unknown')}",
            "seconds": receipt.get("seconds"),
            "usd": _cost(receipt),
            "warm pool": _warm_pool(run.name, receipt.get("warm_pool")),
            "results": run.store.uri,
        }
    )


def image_lines(name: str, image: Image) -> list[Text]:
    """List what an image is, and its layers from the base upwards.

    A terminal shows the beginning of each layer's command, a pipe all of it.
    """
    size = f"{image.bytes / 1e6:,.0f} MB"
    facts = {"image": name, "id": image.id, "size": size, "platform": image.platform}
    layers = [layer for layer in image.layers if layer.bytes]
    sizes = ["MB", *(f"{layer.bytes / 1e6:,.2f}" for layer in layers)]
    commands = ["MADE BY", *(layer.made_by or "the base image" for layer in layers)]
    rows = zip([text.rjust(max(map(len, sizes))) for text in sizes], commands, strict=True)
    lines = [Text(escape_to_one_line(GAP.join(row))) for row in rows]
    for line in lines:
        line.truncate(_width(), overflow="ellipsis")
    labels = dict(sorted(image.labels.items()))
    return [*_facts(facts), Text(), *(_facts(labels) if labels else ()), Text(), *lines]


def check_lines(findings: Iterable[CheckResult]) -> list[Text]:
    """List findings: what was checked, its state, and what was found."""
    rows: list[list[str | Text]] = [["CHECK", "STATE"]]
    rows += [[each.name, Text(each.state, STATE_COLORS[each.state])] for each in findings]
    return _with_texts(rows, ["FOUND", *(each.found for each in findings)])


def _cost(receipt: Mapping[str, Any]) -> object:
    usd, basis = receipt.get("usd"), receipt.get("price_basis")
    if usd is None or basis is None:
        return usd
    return f"{usd} ({Price(usd, basis).source})"


def _warm_pool(name: str, pool: Mapping[str, Any] | None) -> str | None:
    if not pool:
        return None
    cost = "" if pool["usd"] is None else f", {pool['usd']} USD"
    to_end = f"; to end it: embedtune stop {name} --pool" if pool["status"] == "Available" else ""
    return f"{pool['status']}, {pool['billable_seconds']} s billed{cost}{to_end}"


def _last_line(run: Run) -> str:
    path = run.workspace.failure
    if not path.is_file():
        path = run.workspace.logs / "job.log"
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    return lines[-1] if lines else ""


def compare_lines(group: Group) -> list[Table | Text]:
    """Show runs of one test set: the numbered runs, their scores, and what these say."""
    rows = [["   RUN", "VALIDATION", "IMPROVED", "SECONDS", "BASE MODEL"]]
    table = number_table("dim", "run", "base", "tuned", "lift", "95 % interval")
    for number, (name, report) in enumerate(group.ranked, 1):
        validation = score(report.training.best_validation)
        improved = "yes" if report.verdict.improved else "no"
        seconds = f"{sum(report.seconds.values()):.0f}"
        base = report.spec["model"]["base"]
        rows.append([f"{number:>2} {name}", validation, improved, seconds, base])
    numbers = {name: str(number) for number, (name, _) in enumerate(group.ranked, 1)}
    for dimension in group.dimensions:
        present = group.at(dimension)
        for name, report in ((n, r) for n, r in group.ranked if n in present):
            found = report.comparison[dimension].float32
            table.add_row(
                dimension,
                numbers[name],
                score(report.ndcg("base", dimension)),
                score(report.ndcg("tuned", dimension)),
                change(found.lift),
                escape(interval(found.ci)),
            )
        table.add_section()
    title = f"nDCG@10 on test set {group.fingerprint}: {group.test_set}"
    told = (line for sentence in group.sentences if sentence for line in wrapped(sentence))
    return [*wrapped(title, "italic"), *_named_rows(rows), table, *_paired(group, numbers), *told]


def _paired(group: Group, numbers: Mapping[str, str]) -> list[Table | Text]:
    """Show the differences from the first run, if they are known."""
    evidence = group.evidence
    if not evidence.differences:
        return []
    table = number_table("run", "minus run 1", "95 % interval")
    for found in evidence.differences:
        table.add_row(numbers[found.run], change(found.lift), escape(interval(found.ci)))
    title = f"Test nDCG@10 at {evidence.dimension} dimensions, paired by query; all intervals hold "
    return [*wrapped(title + "together (max-t)", "italic"), table]


def number_table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _named_rows(rows: Sequence[Sequence[str]]) -> list[Text]:
    """Align rows in columns; if they are too wide, each name gets a line above its row."""
    lines = _in_columns(rows)
    if max(line.cell_len for line in lines) <= _width():
        return lines
    names = [Text(escape_to_one_line(row[0])) for row in rows]
    rest = _in_columns([["  ", *row[1:]] for row in rows])
    return [line for pair in zip(names, rest, strict=True) for line in pair]


def _one_piece(name: str, path: str) -> list[Text]:
    """Write a path beside its name, or below it if they are too long for one line."""
    line = Text(escape_to_one_line(f"{name} {path}"))
    return [line] if line.cell_len <= _width() else [Text(name), line[len(name) + 1 :]]


def _facts(facts: Mapping[str, object]) -> list[Text]:
    """List the facts that are known, each value beside its name."""
    known = {name: str(value) for name, value in facts.items() if value not in (None, "")}
    return _with_texts([[name] for name in known], list(known.values()))


def _with_texts(rows: Sequence[Sequence[str | Text]], texts: Sequence[str]) -> list[Text]:
    """Align rows in columns; the text at the end of each is wrapped at spaces, below itself.

    A text with a word that is too long for its column begins on the next line.
    """
    heads = _in_columns(rows)
    indent = max(head.cell_len for head in heads) + len(GAP)
    lines = []
    for head, text in zip(heads, texts, strict=True):
        fits = max(map(len, text.split()), default=0) <= _width() - indent
        first, *others = wrapped(text, indent=indent if fits else len(GAP))
        if fits:
            head.pad_right(indent - head.cell_len)
            lines += [head.append_text(first[indent:]), *others]
        else:
            lines += [head, first, *others]
    return lines


def _in_columns(rows: Sequence[Sequence[str | Text]]) -> list[Text]:
    cells = [
        [c if isinstance(c, Text) else Text(escape_to_one_line(c)) for c in row] for row in rows
    ]
    widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        for cell, width in zip(row, widths, strict=True):
            cell.pad_right(width - cell.cell_len)
        line = Text(GAP).join(row)
        line.rstrip()
        lines.append(line)
    return lines


def wrapped(text: str, style: str = "", indent: int = 0) -> list[Text]:
    """Wrap text to the terminal's width: at spaces, but not at those inside an interval."""
    joined = UNBROKEN.sub(lambda found: found[0].replace(" ", NO_BREAK), escape_to_one_line(text))
    width = max(_width() - indent, 1)
    lines = textwrap.wrap(joined, width, break_long_words=False, break_on_hyphens=False)
    spaces = " " * indent
    return [Text(spaces + line.replace(NO_BREAK, " "), style) for line in lines or [""]]


def _width() -> int:
    """Return the terminal's columns; a pipe has no limit, unless `COLUMNS` sets one."""
    return shutil.get_terminal_size((sys.maxsize, 0)).columns
