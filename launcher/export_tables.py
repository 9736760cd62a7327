"""The exports of a report, on a terminal: one row for each, by the recommended vectors."""

from rich.table import Table
from rich.text import Text

from job.core.formatting import change, one_decimal, precision_label, score, share
from job.report.document import Exports, Report, Speed
from job.report.exports import ORIGINAL, label, title
from launcher.tables import number_table, wrapped


def export_tables(report: Report) -> list[Table | Text]:
    """Show each export's score, speed and size, then what it keeps; nothing without exports."""
    return [part for found in report.exports for part in _exports(found)]


def _exports(found: Exports) -> list[Table | Text]:
    vectors = found.exports[0].compared[-1]
    table = number_table("export", "nDCG@10", "change", "at least", "p50 ms", "docs/s", "MB")
    original = found.original
    speed = _speed(original.speed, original.bytes)
    table.add_row(ORIGINAL, score(vectors.original), "", "", *speed)
    for export in found.exports:
        point = export.compared[-1]
        kept = change(point.lift.lift), share(point.at_least)
        speed = _speed(export.speed, export.bytes)
        # On two lines, so that 80 columns are enough for the numbers.
        table.add_row(label(export).replace(" ", "\n", 1), score(point.export), *kept, *speed)
    where = f"{vectors.dimension} dimensions as {precision_label(vectors.precision)}"
    told = (line for export in found.exports for line in wrapped(export.sentence))
    return [*wrapped(f"{title(found)}, {where}", "italic"), table, *told]


def _speed(speed: Speed, size: int) -> list[str]:
    return [*map(one_decimal, (speed.p50_ms, speed.documents_per_second, size / 1e6))]
