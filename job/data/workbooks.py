"""Read Excel and OpenDocument workbooks: one sheet, whose first line is the header."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from job.core.errors import DataError
from job.data.formats.layout import Record
from job.data.tables import SURPLUS, refuse_duplicate_columns

WORKBOOKS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")


def read_workbook(file: Path) -> Iterator[Record]:
    """Yield the rows of the only sheet with rows; several such sheets are refused."""
    try:
        import python_calamine as calamine
    except ModuleNotFoundError:
        msg = f"`{file}` is a workbook: `pip install 'embedtune[excel]'` to read it, or export it "
        raise DataError(msg + "as CSV in UTF-8.") from None
    try:
        book = calamine.load_workbook(file)
        sheets = {name: book.get_sheet_by_name(name).to_python() for name in book.sheet_names}
    except (calamine.CalamineError, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        msg = f"`{file}` is not a readable workbook: {reason.rstrip('.')}. Save it again."
        raise DataError(msg) from None
    filled = {name: rows for name, rows in sheets.items() if len(rows) > 1}
    if len(filled) > 1:
        listed = ", ".join(f"`{name}`" for name in filled)
        msg = f"`{file}` has several sheets with rows: {listed}. Save the one with the pairs alone."
        raise DataError(msg)
    for rows in filled.values():
        yield from _records(file, rows)


def _records(file: Path, rows: Sequence[Sequence[object]]) -> Iterator[Record]:
    names = [str(name) for name in rows[0]]
    refuse_duplicate_columns(file, names)
    named = [number for number, name in enumerate(names) if name.strip()]
    for line, values in enumerate(rows[1:], start=2):
        if any(value != "" for value in values):
            fields = {names[n]: None if values[n] == "" else values[n] for n in named}
            rest = [value for n, value in enumerate(values) if n not in named and value != ""]
            yield Record(str(file), line, fields | ({SURPLUS: rest} if rest else {}))
