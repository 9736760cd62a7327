"""The table of exports: the same rows in every view of a report."""

from collections.abc import Iterator, Sequence

from job.core.formatting import change, interval, one_decimal, precision_label, score, share
from job.exports.results import Compared, Export, Exports, Speed

HEADS = ("export", "vectors", "nDCG@10", "change", "95 % interval", "at least", "p50 ms", "p95 ms",
         "docs/s", "MB")  # fmt: skip
# The positions of the columns that hold text.
TEXT = (0, 1)
ORIGINAL = "float32 (PyTorch)"
# Of a model that was trained on the test pairs, too (`training.refit`, `evaluation.folds`).
SEEN = (
    "The exported model has seen the test queries, so its nDCG@10 is too high for new questions. "
    "The change counts: it compares two formats of the same weights."
)


def title(found: Exports) -> str:
    """Return what the exports were measured on, and among which documents."""
    of_all = f" of {found.corpus}" if found.documents < found.corpus else ""
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    return (
        f"Exports, measured on {found.machine}, {threads}: {found.queries} test queries among "
        f"{found.documents}{of_all} documents"
    )


def label(export: Export) -> str:
    return export.name if export.keeps else f"{export.name} (not proven)"


def rows(found: Exports) -> list[list[str]]:
    """Return a row for the original and for each export, at each of the compared vectors."""
    first = found.exports[0].compared
    table = [
        [
            ORIGINAL,
            _vectors(each),
            score(each.original),
            *("", "", ""),
            *(_speed(found.original.speed, found.original.bytes) if n == 0 else [""] * 4),
        ]
        for n, each in enumerate(first)
    ]
    return table + [row for export in found.exports for row in _export_rows(export)]


def _export_rows(export: Export) -> Iterator[list[str]]:
    for n, each in enumerate(export.compared):
        speed = _speed(export.speed, export.bytes) if n == 0 else [""] * 4
        yield [
            label(export),
            _vectors(each),
            score(each.export),
            change(each.lift.lift),
            interval(each.lift.ci),
            share(each.at_least),
            *speed,
        ]


def export_lines(exports: Sequence[Exports]) -> list[str]:
    """Return the table as aligned lines, and a sentence for each export."""
    lines = []
    for found in exports:
        table = [list(HEADS), *rows(found)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines.append(title(found))
        lines += [
            "  ".join(
                cell.ljust(width) if n in TEXT else cell.rjust(width)
                for n, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        lines += [export.sentence for export in found.exports]
    return lines


def _vectors(found: Compared) -> str:
    return f"{found.dimension} {precision_label(found.precision)}"


def _speed(speed: Speed, size: int) -> list[str]:
    numbers = (speed.p50_ms, speed.p95_ms, speed.documents_per_second, size / 1e6)
    return [*map(one_decimal, numbers)]
