"""Workbooks: the rows of their one sheet."""

import sys
import zipfile
from xml.sax.saxutils import escape

import pytest

from job.core.errors import DataError
from job.data.sources import open_source
from job.spec.schema import DataSpec

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"


def write_workbook(path, sheets):
    """Write texts as a spreadsheet program does, so far as a reader asks."""
    names = [*sheets]
    listed = "".join(
        f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, name in enumerate(names, 1)
    )
    related = "".join(
        f'<Relationship Id="r{n}" Type="{OFFICE}/worksheet" Target="worksheets/s{n}.xml"/>'
        for n in range(1, len(names) + 1)
    )
    typed = "".join(
        f'<Override PartName="/xl/worksheets/s{n}.xml" ContentType="{TYPE}.worksheet+xml"/>'
        for n in range(1, len(names) + 1)
    )
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.'
        f'relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType="{TYPE}.sheet.'
        f'main+xml"/>{typed}</Types>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="a" '
        f'Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>{listed}'
        "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">{related}'
        "</Relationships>",
    }
    for number, rows in enumerate(sheets.values(), start=1):
        lines = [
            f'<row r="{n}">{"".join(cell(text, at, n) for at, text in enumerate(row))}</row>'
            for n, row in enumerate(rows, start=1)
        ]
        data = f"<sheetData>{''.join(lines)}</sheetData>"
        parts[f"xl/worksheets/s{number}.xml"] = f'<worksheet xmlns="{MAIN}">{data}</worksheet>'
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}')
    return path


def cell(value, column, row):
    name = f"{chr(ord('A') + column)}{row}"
    return f'<c r="{name}" t="inlineStr"><is><t>{escape(value)}</t></is></c>' if value else ""


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
