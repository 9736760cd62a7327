"""Workbooks: the rows of their one sheet."""

import sys

import pytest
from workbook_files import write_workbook

from job.core.errors import DataError
from job.data.sources import open_source
from job.spec.schema import DataSpec

ROWS = [
    ["question", "context", "negative"],
    ["Where?", "Here & now.", "No."],
    ["How?", "Warm.", ""],
]


def opened(path):
    return [(r.row, r.anchor, r.positives, r.negatives) for r in open_source(path, DataSpec()).rows]


@pytest.mark.parametrize("others", [{}, {"Notes": []}, {"Notes": [["a title alone"]]}])
def test_a_workbook_gives_the_rows_of_its_sheet(tmp_path, others):
    path = write_workbook(tmp_path / "a.xlsx", {"Pairs": ROWS, **others})
    assert opened(str(path)) == [
        (2, "Where?", ["Here & now."], ["No."]),
        (3, "How?", ["Warm."], [None]),
    ]


def test_several_sheets_of_rows_are_refused(tmp_path):
    """Whichever were read, the others would be missing in silence."""
    path = write_workbook(tmp_path / "a.xlsx", {"One": ROWS, "Two": ROWS})
    with pytest.raises(DataError, match="several sheets with rows: `One`, `Two`"):
        opened(str(path))


def test_a_workbook_without_its_reader_or_damaged_is_told_in_a_line(tmp_path, monkeypatch):
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(DataError, match="is not a readable workbook"):
        opened(str(path))
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(DataError, match=r"pip install 'embedtune\[excel\]'"):
        opened(str(path))
