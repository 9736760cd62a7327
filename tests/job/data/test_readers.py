"""Reading files: every format gives the same rows (for broken files see `tests/fuzz`)."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz.ugly_files import as_lines, as_table

from job.core.errors import DataError
from job.data.readers import SURPLUS, Record, file_format, read_records

# Everything that formats quote or escape: separators, quotes, characters beyond ASCII and 16 bits.
ROWS = [
    {"question": "Where is Größe, in cm?", "context": 'It says "42"; not 43.'},
    {"question": "いくらですか", "context": "tab\there, 🙂 there"},
    {"question": "plain", "context": "text"},
]


# Name → content, and the line or row number of the first row.
TEXT_FILES = {
    "rows.jsonl": (as_lines(ROWS), 1),
    "rows.ndjson": (as_lines(ROWS), 1),
    "lines.json": (as_lines(ROWS), 1),
    "list.json": (json.dumps(ROWS, indent=2), 1),
    "wrapped.json": (json.dumps({"version": 2, "data": ROWS}), 1),
    "commas.csv": (as_table(ROWS, ","), 2),
    "semicolons.csv": (as_table(ROWS, ";"), 2),
    "rows.tsv": (as_table(ROWS, "\t"), 2),
}


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path):
    return list(read_records(path))


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "bom"])
@pytest.mark.parametrize("suffix", ["", ".gz"], ids=["file", "gz"])
@pytest.mark.parametrize("name", TEXT_FILES)
def test_every_text_format_reads_to_the_same_rows(tmp_path, name, suffix, start):
    """Format, compression and byte order mark change nothing; row numbers are lines."""
    content, first = TEXT_FILES[name]
    path = write(tmp_path / f"{name}{suffix}", start + content)
    expected = [Record(str(path), first + n, fields) for n, fields in enumerate(ROWS)]
    assert read(path) == expected


def test_parquet_reads_to_the_same_rows_over_several_batches(tmp_path):
    """Parquet rows are numbered from 1 across all batches."""
    path = tmp_path / "rows.parquet"
    rows = ROWS * 3000
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert read(path) == [Record(str(path), n, row) for n, row in enumerate(rows, start=1)]


def test_a_folder_reads_as_its_data_files_in_the_order_of_names(tmp_path):
    """Subfolders are read, too; hidden files (copies of sync tools) and other files are skipped."""
    first = write(tmp_path / "a.csv", "question,context\nq1,c1\n")
    second = write(tmp_path / "b" / "part.jsonl.gz", '{"question": "q2", "context": "c2"}\n')
    third = write(tmp_path / "c.json", '[{"question": "q3", "context": "c3"}]')
    for hidden in (".hidden.jsonl", ".ipynb_checkpoints/a-checkpoint.jsonl"):
        write(tmp_path / hidden, '{"question": "no", "context": "no"}\n')
    write(tmp_path / "README.md", "# no rows\n")
    assert read(tmp_path) == [
        Record(str(first), 2, {"question": "q1", "context": "c1"}),
        Record(str(second), 1, {"question": "q2", "context": "c2"}),
        Record(str(third), 1, {"question": "q3", "context": "c3"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '\n{"question": "q1"}\n   \n\r\n{"question": "q2"}', [(2, "q1"), (5, "q2")]),
        ("a.csv", "question,context\n\nq1,c1\r\n\r\nq2,c2", [(3, "q1"), (5, "q2")]),
        ("b.csv", 'question,context\n"q\n1",c1\nq2,"c\n\n2"\n', [(2, "q\n1"), (4, "q2")]),
    ],
)
def test_the_number_of_a_row_is_its_first_line(tmp_path, name, content, expected):
    """Blank lines and line breaks within fields count, as in an editor."""
    rows = read(write(tmp_path / name, content))
    assert [(row.row, row.fields["question"]) for row in rows] == expected


LONG = "line one\nline two " + "x" * 200_000


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        ("short\n", {"question": "short", "context": None}),
        ("q,c,x,y\n", {"question": "q", "context": "c", SURPLUS: ["x", "y"]}),
        (f'q,"{LONG}"\n', {"question": "q", "context": LONG}),
        ("a;b;c,d;e\n", {"question": "a;b;c", "context": "d;e"}),
    ],
    ids=["too few fields", "too many", "longer than Python's default", "semicolons in texts"],
)
def test_csv_fields_stay_in_their_columns(tmp_path, lines, fields):
    """Missing fields are None, surplus fields are separate; the header decides the delimiter."""
    path = write(tmp_path / "a.csv", f"question,context\n{lines}")
    assert [record.fields for record in read(path)] == [fields]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jsonl", ".jsonl"),
        ("v1.2.json", ".json"),
        ("part.0001.csv.gz", ".csv"),
        ("a.parquet", ".parquet"),
        ("a.parquet.gz", None),
        ("a.gz", None),
        ("a.txt", None),
        ("jsonl", None),
    ],
)
def test_the_suffix_before_gz_is_the_format(name, expected):
    """Only the last suffix counts; Parquet is not gzipped, as it compresses its content."""
    assert file_format(Path(name)) == expected


def test_a_subfolder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    """Otherwise its rows would be missing without a message."""
    inner = write(tmp_path / "inner" / "b.jsonl", as_lines(ROWS)).parent
    write(tmp_path / "a.jsonl", as_lines(ROWS))
    scan = os.scandir

    def scandir(path):
        if str(path) == str(inner):
            raise PermissionError(13, "Permission denied", str(inner))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="Permission denied") as caught:
        read(tmp_path)
    assert f"`{inner}`" in str(caught.value)
