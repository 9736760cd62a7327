"""Reading files: every format gives the same rows, and a broken file is named with its line."""

import csv
import gzip
import io
import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job.errors import DataError
from job.records import SURPLUS, Record, file_format, list_files, read_records

# All that the formats quote or escape: separators, quotes, letters beyond ASCII and beyond 16 bits.
ROWS = [
    {"question": "Where is Größe, in cm?", "context": 'It says "42"; not 43.'},
    {"question": "いくらですか", "context": "tab\there, 🙂 there"},
    {"question": "plain", "context": "text"},
]
KNOWN = "`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.parquet` (text formats also with `.gz`)"


def as_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_table(rows, delimiter):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# Name → content, and the number that a user would give the first row.
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


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path):
    return list(read_records(path))


def refusal(path):
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "FILE")


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "bom"])
@pytest.mark.parametrize("suffix", ["", ".gz"], ids=["file", "gz"])
@pytest.mark.parametrize("name", TEXT_FILES)
def test_every_text_format_reads_to_the_same_rows(tmp_path, name, suffix, start):
    """Format, compression and a byte order mark change nothing; numbers are those of an editor."""
    content, first = TEXT_FILES[name]
    path = write(tmp_path / f"{name}{suffix}", start + content)
    expected = [Record(str(path), first + n, fields) for n, fields in enumerate(ROWS)]
    assert read(path) == expected


def test_parquet_reads_to_the_same_rows_over_several_batches(tmp_path):
    """Parquet rows are numbered from 1 right through, however many batches they come in."""
    path = tmp_path / "rows.parquet"
    rows = ROWS * 3000
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert read(path) == [Record(str(path), n, row) for n, row in enumerate(rows, start=1)]


def test_lists_keep_their_shape(tmp_path):
    """A list-valued field is a list in JSON lines and in Parquet alike."""
    rows = [{"query": "q", "pos": ["a", "b"], "neg": []}]
    lines, parquet = write(tmp_path / "a.jsonl", as_lines(rows)), tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    assert [record.fields for record in read(lines) + read(parquet)] == rows * 2


def test_a_folder_reads_as_its_data_files_in_the_order_of_names(tmp_path):
    """Folders are read to the bottom; hidden files and files of no data format are passed over."""
    first = write(tmp_path / "a.csv", "question,context\nq1,c1\n")
    second = write(tmp_path / "b" / "part.jsonl.gz", '{"question": "q2", "context": "c2"}\n')
    third = write(tmp_path / "c.json", '[{"question": "q3", "context": "c3"}]')
    write(tmp_path / ".hidden.jsonl", '{"question": "no", "context": "no"}\n')
    write(tmp_path / "README.md", "# no rows\n")
    assert read(tmp_path) == [
        Record(str(first), 2, {"question": "q1", "context": "c1"}),
        Record(str(second), 1, {"question": "q2", "context": "c2"}),
        Record(str(third), 1, {"question": "q3", "context": "c3"}),
    ]


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path):
    """The number of a row is its line in the editor, blank lines included."""
    lines = write(tmp_path / "a.jsonl", '\n{"question": "q1"}\n   \n\r\n{"question": "q2"}')
    table = write(tmp_path / "a.csv", "question,context\n\nq1,c1\r\n\r\nq2,c2")
    assert [(r.row, r.fields["question"]) for r in read(lines)] == [(2, "q1"), (5, "q2")]
    assert [(r.row, r.fields["question"]) for r in read(table)] == [(3, "q1"), (5, "q2")]


def test_a_ragged_csv_row_shows_what_it_lacks_and_what_it_has_too_much(tmp_path):
    """Missing fields read as nothing, surplus ones are kept apart; neither shifts a column."""
    path = write(tmp_path / "a.csv", "question,context\nshort\nq,c,x,y\n")
    assert [(record.row, record.fields) for record in read(path)] == [
        (2, {"question": "short", "context": None}),
        (3, {"question": "q", "context": "c", SURPLUS: ["x", "y"]}),
    ]


def test_a_csv_field_may_span_lines_and_be_longer_than_pythons_default(tmp_path):
    """Exported documents hold newlines and exceed csv's own limit of 128 KiB."""
    text = "line one\nline two " + "x" * 200_000
    path = write(tmp_path / "a.csv", f'question,context\nq,"{text}"\n')
    assert [record.fields for record in read(path)] == [{"question": "q", "context": text}]


def test_the_header_alone_decides_between_comma_and_semicolon(tmp_path):
    """Semicolons in the texts do not make a file one of semicolons."""
    path = write(tmp_path / "a.csv", "question,context\na;b;c,d;e\n")
    assert [record.fields for record in read(path)] == [{"question": "a;b;c", "context": "d;e"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.tsv"])
@pytest.mark.parametrize("content", ["", "\n\n"], ids=["empty", "blank"])
def test_an_empty_file_has_no_rows(tmp_path, name, content):
    """Nothing in, nothing out; that this is too little is judged where rows are needed."""
    assert read(write(tmp_path / name, content)) == []


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
def test_the_suffix_below_gz_says_the_format(name, expected):
    """Only the last suffix counts, and Parquet brings its own compression."""
    assert file_format(Path(name)) == expected


def test_a_file_of_unknown_format_is_refused_with_the_known_ones(tmp_path):
    """A suffix that says no format is not guessed at."""
    path = write(tmp_path / "pairs.txt", "q\tc\n")
    assert refusal(path) == f"`FILE` has a suffix that says no format; expected {KNOWN}."


def test_a_folder_without_data_files_is_refused_with_the_known_formats(tmp_path):
    """An empty folder, or one of other files only, is an error and not an empty data set."""
    write(tmp_path / "README.md", "# nothing here\n")
    with pytest.raises(DataError) as caught:
        list_files(tmp_path)
    assert str(caught.value) == f"The folder `{tmp_path}` holds no data file; expected {KNOWN}."


LINE = '{"question": "q", "context": "c"}\n'
BROKEN_JSON = [
    pytest.param(
        "a.jsonl",
        LINE * 2 + '{"question": "q", \n',
        "`FILE` line 3 is not valid JSON: Expecting property name enclosed in double quotes. "
        'Found \'{"question": "q",\'.',
        id="line",
    ),
    pytest.param(
        "a.json",
        LINE * 2 + "{'question': 1}\n",
        "`FILE` line 3 is not valid JSON: Expecting property name enclosed in double quotes. "
        "Found \"{'question': 1}\".",
        id="line of json lines in json",
    ),
    pytest.param(
        "a.jsonl",
        LINE + "\n" + '["q", "c"]\n',
        '`FILE` row 3 is a list; expected an object such as {"question": …, "context": …}.',
        id="line that is no object",
    ),
    pytest.param(
        "a.jsonl.gz",
        "[" * 100_000,
        f"`FILE` line 1 is not valid JSON: nested too deeply. Found '{'[' * 60}'.",
        id="deep line",
    ),
    pytest.param(
        "a.json",
        '[\n{"question": "q"},\n{"question" "c"}\n]',
        "`FILE` is not valid JSON, line 3: Expecting ':' delimiter.",
        id="list",
    ),
    pytest.param(
        "a.json",
        "[" * 100_000,
        "`FILE` is not valid JSON, nested too deeply.",
        id="deep list",
    ),
    pytest.param("a.json", "", "`FILE` is not valid JSON, line 1: Expecting value.", id="empty"),
    pytest.param(
        "a.json",
        '[{"question": "q"}, "text"]',
        '`FILE` row 2 is a str; expected an object such as {"question": …, "context": …}.',
        id="list of text",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN_JSON)
def test_broken_json_is_named_with_its_line(tmp_path, name, content, message):
    """The user reads which line of which file is broken, and what stands there."""
    assert refusal(write(tmp_path / name, content)) == message


@pytest.mark.parametrize(
    "content",
    ["{}", "null", '"text"', "7", '{"a": [1, 2], "b": []}', '{"a": [{}], "b": [{}]}'],
)
def test_json_without_one_list_of_rows_is_refused(tmp_path, content):
    """Where no list of objects stands, or more than one, none is chosen."""
    assert refusal(write(tmp_path / "a.json", content)) == (
        "`FILE` holds no list of rows; expected a list of objects or JSON lines."
    )


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("content", "byte", "line"),
    [
        ("q,c\nok,ok\nGröße,c\n".encode("latin-1"), "f6", 3),
        ("q,c\nok,ok\n".encode("utf-16"), "ff", 1),
    ],
    ids=["latin-1", "utf-16"],
)
def test_another_encoding_is_named_with_its_first_wrong_byte(tmp_path, name, content, byte, line):
    """Nothing is guessed about encodings: the byte, its line and the cure are named."""
    # JSON lines are parsed as they come, so their lines before the wrong byte must be right.
    content = content if "json" not in name else content.replace(b"q,c\nok,ok\n", b"{}\n{}\n")
    path = write(tmp_path / name, content)
    assert refusal(path) == (
        f"`FILE` is not UTF-8: byte 0x{byte} in line {line}. Save it as UTF-8."
    )


def test_csv_with_the_line_ends_of_old_macs_is_refused(tmp_path):
    """A carriage return alone ends no line; the csv module says so, and the user reads it."""
    path = write(tmp_path / "a.csv", "question,context\rq,c\r")
    assert re.fullmatch(r"`FILE` line \d is not valid CSV: new-line character .*\.", refusal(path))


ANEW = " Write or fetch it anew, or remove it."
CUT_OFF = "`FILE` is a damaged or cut-off gzip file (after line 0). Fetch it again."


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:5], CUT_OFF),
        (lambda data: data[:-10], CUT_OFF),
        (lambda data: data[:12] + b"\xff" * 8 + data[20:], CUT_OFF),
        (
            lambda data: b'{"q' + data[3:],
            "`FILE` cannot be read: Not a gzipped file (b'{\"')." + ANEW,
        ),
        (
            lambda data: data[:-8] + bytes(8),
            "`FILE` cannot be read: CRC check failed 0x0 != CRC." + ANEW,
        ),
    ],
    ids=["header", "end", "middle", "not gzip", "checksum"],
)
def test_a_damaged_gzip_file_is_a_data_error(tmp_path, damage, message):
    """An interrupted download is told from a wrong file, and neither is a traceback."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(damage(gzip.compress(LINE.encode(), mtime=0)))
    assert re.sub(r"0x[0-9a-f]{8}", "CRC", refusal(path)) == message


def test_a_cut_off_gzip_file_says_how_far_it_could_be_read(tmp_path):
    """The rows before the cut come first, then the error: nothing passes for the whole file."""
    path = tmp_path / "a.jsonl.gz"
    text = "".join(f'{{"question": "{n}"}}\n' for n in range(5000))
    path.write_bytes(gzip.compress(text.encode(), mtime=0)[:-2000])
    rows, records = [], read_records(path)
    with pytest.raises(DataError) as caught:
        rows.extend(records)
    assert len(rows) > 100
    assert str(caught.value) == (
        f"`{path}` is a damaged or cut-off gzip file (after line {len(rows)}). Fetch it again."
    )


@pytest.mark.parametrize("kept", [0, 4, 100, -1], ids=["empty", "magic", "start", "all but one"])
def test_a_cut_off_parquet_file_is_a_data_error(tmp_path, kept):
    """A Parquet file without its footer is named, on one line."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    path.write_bytes(path.read_bytes()[:kept])
    assert re.fullmatch(
        r"`FILE` is not a readable Parquet file: .+[^.]\. Write it anew\.", refusal(path)
    )


def test_a_broken_file_in_a_folder_is_the_one_that_is_named(tmp_path):
    """The message names the file inside the folder, not the folder."""
    write(tmp_path / "a.jsonl", LINE)
    broken = write(tmp_path / "b.jsonl", LINE + "oops\n")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"`{broken}` line 2 is not valid JSON: Expecting value. Found 'oops'."
    )


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_number_too_long_to_be_read_is_a_data_error(tmp_path, name):
    """Whatever a line holds, it is the line that is blamed and not our code."""
    path = write(tmp_path / name, '[{"question": ' + "1" * 5000 + "}]")
    assert "a number is too long" in refusal(path)


def test_a_quote_that_never_closes_is_a_data_error(tmp_path):
    """One stray quote must not turn the rest of the file into one field."""
    path = write(tmp_path / "a.csv", 'question,context\nq1,c1\n"q2,c2\nq3,c3\n')
    assert "is not valid CSV" in refusal(path)


def test_a_row_of_several_lines_is_known_by_its_first(tmp_path):
    """The number of a row is the line where it begins, where an editor jumps to."""
    path = write(tmp_path / "a.csv", 'question,context\n"q\n1",c1\nq2,"c\n\n2"\n')
    assert [record.row for record in read(path)] == [2, 4]


def test_files_in_hidden_folders_are_passed_over(tmp_path):
    """Notebooks and sync tools keep copies of files in hidden folders; they are no rows."""
    kept = write(tmp_path / "a.jsonl", LINE)
    write(tmp_path / ".ipynb_checkpoints" / "a-checkpoint.jsonl", LINE)
    assert list_files(tmp_path) == [kept]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        (
            "a.csv",
            b"PK\x03\x04rest",
            "a workbook or another ZIP archive; export it as CSV in UTF-8",
        ),
        ("a.tsv", b"\xd0\xcf\x11\xe0", "an old workbook; export it as CSV in UTF-8"),
        ("a.json", b"PAR1rest", "Parquet; end its name in `.parquet`"),
        (
            "a.jsonl",
            gzip.compress(b"{}", mtime=0),
            "compressed once more than its name says; unpack it",
        ),
        (
            "a.jsonl.gz",
            gzip.compress(b"{}", mtime=0),
            "compressed once more than its name says; unpack it",
        ),
    ],
)
def test_a_file_that_is_no_text_is_named_for_what_it_is(tmp_path, name, content, what):
    """\"Save it as UTF-8\" helps nobody whose file is a workbook."""
    assert refusal(write(tmp_path / name, content)) == f"`FILE` is {what}."


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_wide_characters_without_a_mark_are_told_by_their_zero_bytes(tmp_path, name, encoding):
    """English in UTF-16 is valid UTF-8 to every decoder, with a zero byte in each letter."""
    assert refusal(write(tmp_path / name, "question,context\n".encode(encoding))) == (
        "`FILE` is not UTF-8: its first line holds zero bytes, as UTF-16 does. Save it as UTF-8."
    )


def test_a_column_named_twice_is_refused(tmp_path):
    """The last would win in silence, whichever was meant; columns without a name do not matter."""
    table = write(tmp_path / "a.csv", "question,context,context\nq,c1,c2\n")
    parquet = tmp_path / "a.parquet"
    columns = [pa.array([text]) for text in ("q", "c1", "c2")]
    names = ["question", "context", "context"]
    pq.write_table(pa.Table.from_arrays(columns, names), parquet)
    expected = "`FILE` has the column `context` twice; rename one of them."
    assert [refusal(table), refusal(parquet)] == [expected] * 2
    assert len(read(write(tmp_path / "b.csv", "question,context,,\nq,c,,\n"))) == 1


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**60], pa.timestamp("ms")),
        pa.array([0], pa.timestamp("s", tz="Nowhere/Land")),
        pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers()),
    ],
    ids=["year", "time zone", "bytes"],
)
def test_a_parquet_value_that_python_has_none_for_is_a_data_error(tmp_path, column):
    """A year beyond 9999, a time zone of nowhere, bytes where text was promised."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"question": ["q"], "odd": column}), path)
    assert re.fullmatch(
        r"`FILE` is not a readable Parquet file: .+[^.]\. Write it anew\.", refusal(path)
    )


def test_what_is_neither_file_nor_folder_is_refused(tmp_path):
    """A FIFO is not waited for."""
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError) as caught:
        list_files(tmp_path / "a.jsonl")
    assert str(caught.value) == (
        f"`{tmp_path / 'a.jsonl'}` is neither a file nor a folder; save the rows as a file."
    )


def test_a_name_that_is_no_utf_8_is_refused(tmp_path):
    """No report, nor the list of dropped rows, could hold it."""
    write(tmp_path / os.fsdecode(b"gr\xf6\xdfe.jsonl"), LINE)
    with pytest.raises(DataError) as caught:
        list_files(tmp_path)
    assert str(caught.value) == (
        "The name `gr\\xf6\\xdfe.jsonl` is not UTF-8; rename that file or folder."
    )


def test_a_folder_that_cannot_be_looked_into_is_no_empty_one(tmp_path, monkeypatch):
    """Its rows would be missing in silence."""
    write(tmp_path / "a.jsonl", LINE)
    inner = write(tmp_path / "inner" / "b.jsonl", LINE).parent
    scan = os.scandir

    def scandir(path):
        if str(path) == str(inner):
            raise PermissionError(13, "Permission denied", str(inner))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert (
        str(caught.value)
        == f"`{inner}` cannot be read: Permission denied. Make it readable, or remove it."
    )
