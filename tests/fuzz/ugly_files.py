"""A table of ugly files, as exports, editors, transfers and strangers produce them.

A case has a function that creates its file in a folder and returns the argument of
`embedtune check`, the exit code, and what is expected: the number of used rows, or a part of the
error.
"""

import csv
import gzip
import io
import json
import os
import socket
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

HEADER = "question,context\n"


class Case(NamedTuple):
    make: Callable[[Path], str]
    code: int
    expected: str


def texts(count=40, stem="w"):
    """Make pairs without near-duplicates, with characters beyond ASCII."""
    return [
        {
            "question": f"Größe {stem}{n} wo{n} wann{n}?",
            "context": f"{stem}{n} „liegt“{n} dort{n} für 5 € im Regal{n}.",
        }
        for n in range(count)
    ]


def plain(count=40):
    """Make pairs without near-duplicates, in ASCII."""
    return [
        {"question": f"where{n} is item{n}?", "context": f"item{n} lies{n} on shelf{n}."}
        for n in range(count)
    ]


def as_lines(rows, **options):
    return "".join(json.dumps(row, **({"ensure_ascii": False} | options)) + "\n" for row in rows)


def as_table(rows, delimiter=",", line_end="\r\n"):
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=line_end)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def as_parquet(table):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def with_rows(*more, count=40):
    """Return good rows and some more as JSON lines."""
    return as_lines([*plain(count), *more])


def workbook():
    """Make a file in the default format of spreadsheets."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", "<row><c><v>question</v></c></row>" * 100)
    return buffer.getvalue()


def nested(depth):
    return "[" * depth + "]" * depth


def parquet_of(question, context, more=None):
    columns = {"question": question, "context": context} | (more or {})
    return as_parquet(pa.table(columns))


def good_columns():
    rows = plain()
    return (pa.array([row[key] for row in rows]) for key in ("question", "context"))


def odd_parquet():
    """Return Parquet with good pairs and a column of every odd type."""
    question, context = good_columns()
    count = len(question)
    odd = {
        "list": pa.array([["a", None]] * count),
        "struct": pa.array([{"a": {"b": [1]}}] * count),
        "map": pa.array([[("a", 1)]] * count, pa.map_(pa.string(), pa.int64())),
        "decimal": pa.array([Decimal("1.10")] * count, pa.decimal128(38, 10)),
        "bytes": pa.array([b"\xff\x00"] * count),
        "date": pa.array([date(2024, 1, 1)] * count),
        "time": pa.array([time(1, 2, 3)] * count),
        "moment": pa.array([datetime(2024, 1, 1, tzinfo=UTC)] * count),
        "nanoseconds": pa.array([1] * count, pa.timestamp("ns")),
        "duration": pa.array([timedelta(1)] * count),
        "nothing": pa.nulls(count),
        "half": pa.array([float("nan")] * count, pa.float32()),
        "dictionary": pa.array(["x"] * count).dictionary_encode(),
        "": pa.array(["no name"] * count),
        "a\nb\x1b[31m": pa.array(["odd name"] * count),
    }
    return as_parquet(pa.table({"question": question, "context": context} | odd))


def duplicate_columns():
    question, context = good_columns()
    names = ["question", "context", "context"]
    return as_parquet(pa.Table.from_arrays([question, context, context], names))


def with_odd_column(odd):
    """Return Parquet with good pairs and a column of one odd value."""
    return parquet_of(*good_columns(), {"odd": pa.concat_arrays([odd] * 40)})


def bytes_as_text():
    return pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())


def dictionary_parquet():
    """Return Parquet with dictionary-encoded texts."""
    return parquet_of(*(column.dictionary_encode() for column in good_columns()))


def contexts(column):
    return parquet_of(pa.array(["what is it?"] * len(column)), column)


ODD_TEXTS = {
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 who is who?",
    "right to left": "\u202eשלום עולם\u202c مرحبا",
    "zero width": "a\u200bb\u200cc\u200dd\ufeffe",
    "control": "bell\x07 escape\x1b[31mred\x9b1A nul\x00 end",
    "line breaks": "one\ntwo\r\nthree\u2028four\u2029five\x0bsix\x85seven",
    "marks": "a" + "\u0301\u0327" * 500,
    "wide": "Ｗｉｄｅ　ｔｅｘｔ with ﬁne ligatures",
    "unassigned": "\U000e0fff \U0010ffff \ufffe",
    "markup": "<script>alert(1)</script> | `x` **b** [l](http://e)",
    "formula": '=HYPERLINK("http://e","x")',
}


def odd_rows():
    """Make a row of each odd text, as question and context."""
    return [
        {"question": f"about {name}: {text}", "context": f"expected of {name}: {text}"}
        for name, text in ODD_TEXTS.items()
    ]


MIXED = [
    {"question": None, "context": "null as a question"},
    {"question": "null as a context", "context": None},
    {"question": 5, "context": "a number as a question"},
    {"question": "a number as a context", "context": 5.5},
    {"question": "true as a context", "context": True},
    {"question": "an object as a context", "context": {"text": "inside"}},
    {"question": "a list of one", "context": ["the only answer there is"]},
    {"question": "a list of two", "context": ["the first answer of two", "the second one of two"]},
    {"question": "a list of none", "context": []},
    {"question": "a list of lists", "context": [["too deep"]]},
    {"question": "a list with gaps", "context": [None, "", "the answer between gaps", 3]},
    {"question": ["a list", "as a question"], "context": "whose answer is this"},
    {"question": "NaN as a context", "context": float("nan")},
    {"question": "Infinity as a context", "context": float("inf")},
    {"question": "a long number as a context", "context": 10**300},
    {"question": "half a character \ud83d", "context": "in a question"},
    {"question": "half a character", "context": "in a context \udc00"},
    {"question": "   \u3000\t", "context": "only spaces as a question"},
    {"question": "\u200b\u200b\u200b\u200b", "context": "only zero-width spaces as a question"},
    {"question": "same text", "context": "SAME  TEXT"},
    {"question": "hi", "context": "too short a question"},
    {"context": "no question at all"},
    {"question": "no context at all"},
    {},
]


def gzipped(data):
    return gzip.compress(data.encode() if isinstance(data, str) else data, mtime=0)


GOOD = as_lines(plain())
PACKED = gzipped(GOOD)
TABLE = as_table(plain())
# What is expected of several files: a count, or a part of an error.
ALL, EMPTY, NO_QUESTION = "40 of 40", "has no rows", "no column for `data.columns.anchor`"
NO_HEADER = "has no header line"
ZEROS, DAMAGED = "zero bytes", "damaged or truncated gzip file"
NO_LIST, PARQUET = "must contain exactly one list", "not a readable Parquet file"
NOWHERE, NO_DATA = "is neither an existing path", "contains no data file"

ENCODINGS = {
    "utf-8-sig": ALL,
    "utf-16": ALL,
    "utf-16-le": ZEROS,
    "utf-16-be": ZEROS,
    "utf-32": "not UTF-8: byte 0xff in line 1",
    "utf-32-be": ZEROS,
    "latin-1": "not UTF-8: byte 0xf6 in line",
    "cp1252": "not UTF-8: byte 0xf6 in line",
    "cp037": "not UTF-8: byte 0x",
    "shift_jis": "not UTF-8: byte 0x81 in line",
}

# Name of the case → (name of the file, its content or a function that makes it, what is expected).
FILES: dict[str, tuple[str, str | bytes | Callable[[], str | bytes], str]] = {
    # Encodings; characters that one lacks are replaced, as exports do.
    **{
        f"{encoding} in {suffix}": (
            f"a.{suffix}",
            make(texts()).encode(encoding, "replace"),
            expected,
        )
        for encoding, expected in ENCODINGS.items()
        for suffix, make in (("csv", as_table), ("jsonl", as_lines))
    },
    "two BOMs": ("a.csv", "\ufeff\ufeff" + as_table(texts()), NO_QUESTION),
    # Lines.
    "a NUL between lines": ("a.jsonl", GOOD + "\0\n" + GOOD, "line 41 is not valid JSON"),
    "a NUL in a CSV's text": ("a.csv", TABLE + "what\0ever?,it\0is\r\n", "41 of 41"),
    "a line of 10 MB": (
        "a.jsonl",
        lambda: with_rows({"question": "how long?", "context": "very " * 2_000_000}),
        "41 of 41",
    ),
    "CR-only CSV": ("a.csv", as_table(plain(), line_end="\r"), "line 1 is not valid CSV"),
    "CR-only JSON lines": ("a.jsonl", GOOD.replace("\n", "\r"), "line 1 is not valid JSON"),
    "blank lines everywhere": ("a.jsonl", "\n\n" + GOOD.replace("\n", "\n \n\r\n"), ALL),
    # JSON.
    "too deep": ("a.jsonl", GOOD + '{"question": ' + nested(100_000), "line 41 is not valid JSON"),
    "too deep, in a list": ("a.json", nested(100_000), "nested too deeply"),
    "a number too long": ("a.jsonl", GOOD + '{"n": ' + "7" * 5000 + "}\n", "a number is too long"),
    "NaN as a row": ("a.jsonl", GOOD + "NaN\n", "row 41 is a number"),
    "a list as a row": ("a.jsonl", GOOD + '\n["q", "c"]\n', "row 42 is a list"),
    "single quotes": ("a.jsonl", str(plain()[0]) + "\n", "Found \"{'question': 'where0"),
    "a list of rows under the wrong name": ("a.jsonl", json.dumps(plain()), ALL),
    "JSON lines under the wrong name": ("a.json", GOOD, ALL),
    "a list of rows": ("a.json", json.dumps(plain(), indent=1), ALL),
    "a wrapped list of rows": ("a.json", json.dumps({"data": plain(), "n": 1}), ALL),
    "columns as lists": (
        "a.json",
        json.dumps({key: [row[key] for row in plain()] for key in ("question", "context")}),
        ALL,
    ),
    "rows as lists": ("a.jsonl", "".join(f"{json.dumps([*r.values()])}\n" for r in plain()), ALL),
    "rows of a table by their numbers": (
        "a.json",
        json.dumps({str(number): row for number, row in enumerate(plain())}),
        ALL,
    ),
    "two lists of rows": ("a.json", '{"a": [{}], "b": [{}]}', NO_LIST),
    "a list that ends too early": ("a.json", json.dumps(plain())[:-20], "not valid JSON, line 1"),
    "nothing in JSON": ("a.json", "", "not valid JSON, line 1"),
    "a last line that ends too early": ("a.jsonl", GOOD[:-20], "line 40 is not valid JSON"),
    "every kind of value": ("a.jsonl", as_lines([*plain(), *MIXED], ensure_ascii=True), "48 of 65"),
    "every odd text": ("a.jsonl", as_lines([*plain(), *odd_rows()]), "50 of 50"),
    "a column named like our mark for surplus": (
        "a.jsonl",
        as_lines([row | {"\0surplus": None} for row in plain()]),
        "more fields than the header names: 40",
    ),
    "no column of a known name but odd ones": (
        "a.jsonl",
        as_lines([{"\x1b]0;q\x07": "a", "\ud800": "b"}], ensure_ascii=True),
        r"Its columns: `\x1b]0;q\x07`, `\ud800`",
    ),
    # Tables.
    "too few and too many fields": (
        "a.csv",
        TABLE + "alone\r\n,\r\n,,\r\nwhat is it?,one,two\r\n,,,\r\n",
        "40 of 45",
    ),
    "a quote that never closes": ("a.csv", TABLE + '"what,is it?\r\n', "line 42 is not valid CSV"),
    "a quote inside a field": ("a.csv", TABLE + 'say "hi" twice,to "me"\r\n', "41 of 41"),
    "semicolons": ("a.csv", as_table(texts(), ";"), ALL),
    "tabs under the name of commas": ("a.csv", as_table(texts(), "\t"), ALL),
    "a TSV": ("a.tsv", as_table(texts(), "\t"), ALL),
    "a spreadsheet's sep=;": ("a.csv", "sep=;\r\n" + as_table(plain(), ";"), ALL),
    "a column named twice": ("a.csv", "question,context,context\n", "the column `context` twice"),
    "columns without a name": ("a.csv", TABLE.replace("\r\n", ",,\r\n"), ALL),
    "no header": ("a.csv", TABLE.partition("\r\n")[2], NO_HEADER),
    "only a header": ("a.csv", HEADER, EMPTY),
    # Files under a wrong name, or damaged.
    "a workbook named .csv": ("a.csv", workbook(), "Excel workbook or another ZIP archive"),
    "an old workbook": (
        "a.tsv",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(64),
        "old Excel workbook",
    ),
    "Parquet named .csv": ("a.csv", dictionary_parquet(), "a Parquet file; rename it"),
    "JSON lines named .parquet": ("a.parquet", GOOD, PARQUET),
    "gzip without its suffix": ("a.jsonl", PACKED, "a gzip file without the suffix `.gz`"),
    "gzip": ("a.jsonl.gz", PACKED, ALL),
    "gzip of a table": ("a.csv.gz", gzipped(as_table(texts())), ALL),
    "no gzip": ("a.jsonl.gz", GOOD, "Not a gzipped file"),
    "the start of a gzip": ("a.jsonl.gz", PACKED[:5], f"{DAMAGED} (after line 0)"),
    "half of a gzip": ("a.jsonl.gz", PACKED[:-200], DAMAGED),
    "a gzip of another checksum": ("a.jsonl.gz", PACKED[:-8] + bytes(8), "CRC check failed"),
    "gzip with trailing garbage": ("a.jsonl.gz", PACKED + b"garbage", "Not a gzipped file"),
    "gzip with trailing zeros": ("a.jsonl.gz", PACKED + bytes(512), ALL),
    "an empty file": ("a.jsonl", "", EMPTY),
    "an empty Parquet": ("a.parquet", "", PARQUET),
    "no suffix": ("pairs", GOOD, "The suffix of `pairs` is not supported"),
    "a suffix in capitals": ("PAIRS.JSONL", GOOD, ALL),
    "bytes of all values": ("a.csv", bytes(range(256)) * 40, ZEROS),
    # Parquet.
    "Parquet with odd columns": ("a.parquet", odd_parquet(), ALL),
    "Parquet with dictionaries": ("a.parquet", dictionary_parquet(), ALL),
    "Parquet with a column named twice": (
        "a.parquet",
        duplicate_columns(),
        "the column `context` twice",
    ),
    # Values that Python cannot represent.
    **{
        f"Parquet with {name}": ("a.parquet", with_odd_column(odd), PARQUET)
        for name, odd in {
            "a moment beyond the calendar": pa.array([2**60], pa.timestamp("ms")),
            "a time zone of nowhere": pa.array([0], pa.timestamp("s", tz="Nowhere/Land")),
            "bytes for text": bytes_as_text(),
        }.items()
    },
    "Parquet with lists of contexts": (
        "a.parquet",
        as_parquet(pa.Table.from_pylist([r | {"context": [r["context"], None]} for r in plain()])),
        ALL,
    ),
    "Parquet with bytes for contexts": (
        "a.parquet",
        contexts(pa.array([b"bytes"] * 40)),
        "context is not text: 40",
    ),
    "Parquet without columns": ("a.parquet", as_parquet(pa.table({})), EMPTY),
    "half of a Parquet": ("a.parquet", odd_parquet()[:-300], PARQUET),
    "a Parquet without its middle": (
        "a.parquet",
        odd_parquet()[:40] + odd_parquet()[400:],
        "cannot be read",
    ),
    # Numbers of rows.
    "one row": ("a.jsonl", as_lines(plain(1)), "has 0 test queries from 1 usable rows (1 read)"),
    "one row of nothing": ("a.jsonl", "{}\n", "Its columns: (no columns)"),
}

# BEIR.

DOCUMENTS = [{"_id": f"d{n}", "title": "", "text": row["context"]} for n, row in enumerate(plain())]
QUERIES = [{"_id": f"q{n}", "text": row["question"]} for n, row in enumerate(plain())]
QRELS = [f"q{n}\td{n}\t1" for n in range(40)]
ANOTHER = "another text altogether"
BAD_QREL = "line 42 is not a valid qrels line"


def writer(files, argument):
    """Return a function that writes files by name, and returns the argument of `check`."""

    def write(folder):
        for name, content in files.items():
            data = content() if callable(content) else content
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
        return argument

    return write


def beir(documents=(), queries=(), qrels=(), leave_out=0, splits=("test",), cleaned=QRELS):
    """Return a function that writes a BEIR folder with these additions."""
    lines = [*cleaned, *qrels]
    content = "".join(f"{line}\n" for line in ["query-id\tcorpus-id\tscore", *lines])
    files = {f"beir/qrels/{split}.tsv": content for split in splits}
    files["beir/corpus.jsonl"] = as_lines([*DOCUMENTS, *documents], ensure_ascii=True)
    files["beir/queries.jsonl"] = as_lines([*QUERIES, *queries][leave_out:], ensure_ascii=True)
    return writer(files, "beir")


FOLDERS = {
    "BEIR": (beir(), ALL),
    "BEIR with a missing document": (beir(qrels=["q0\tlost\t1"]), "40 of 41"),
    "BEIR with a missing query": (beir(leave_out=1), "39 of 40"),
    "BEIR with a document of no id": (beir([{"text": "x y z"}]), "row 41 has no `_id`"),
    "BEIR with two documents of one id": (
        beir([{"_id": "d0", "text": ANOTHER}]),
        "`beir/corpus.jsonl` row 41 has the id 'd0' of an earlier row",
    ),
    "BEIR with a document twice": (beir(DOCUMENTS[:1]), ALL),
    "BEIR with ids that differ by a space": (
        beir(
            [{"_id": "d 0", "text": "with a space"}, {"_id": "d_0", "text": "without it"}],
            qrels=["q1\td 0\t1", "q2\td_0\t1"],
        ),
        "42 of 42",
    ),
    "BEIR with half a character in an id": (
        beir([{"_id": "\ud800", "text": ANOTHER}], [{"_id": "\udc00", "text": "asked by half?"}]),
        ALL,
    ),
    "BEIR with numbers for texts": (beir([{"_id": "n", "text": 5}], (), ["q0\tn\t1"]), "40 of 41"),
    **{
        f"BEIR with the score {score}": (beir(qrels=[f"q0\td1\t{score}"]), expected)
        for score, expected in {
            **dict.fromkeys(("0", "-1"), ALL),
            "0.5": "41 of 41",
            **dict.fromkeys(("nan", "inf", "high", "", "1,0", "0x1"), BAD_QREL),
        }.items()
    },
    "BEIR with a qrels line of one field": (beir(qrels=["q1"]), BAD_QREL),
    "BEIR with empty qrels": (beir(cleaned=()), "no document is relevant"),
    "BEIR without qrels": (beir(splits=()), "has no `qrels/*.tsv`"),
    "BEIR with an unknown split": (
        beir(splits=("test", "more")),
        "`beir/qrels/more.tsv` is not a known split",
    ),
}

# Paths that are not regular files, and invalid names.


def fifo(folder):
    os.mkfifo(folder / "a.jsonl")
    return "a.jsonl"


def fifo_in_a_folder(folder):
    (folder / "data").mkdir()
    os.mkfifo(folder / "data" / "a.jsonl")
    return writer({"data/b.jsonl": GOOD}, "data")(folder)


def listening_socket(folder):
    here = Path.cwd()
    os.chdir(folder)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("a.jsonl")
    finally:
        os.chdir(here)
    return "a.jsonl"


def link(to, argument="a.jsonl", files=()):
    """Return a function that makes a link, and files next to it."""

    def make(folder):
        writer(dict(files), argument)(folder)
        (folder / ("data/again" if files else argument)).symlink_to(to)
        return argument

    return make


def empty_folder(folder):
    (folder / "a.jsonl").mkdir()
    return "a.jsonl"


def typed(text):
    return lambda _: text


NO_UNICODE = os.fsdecode(b"gr\xf6\xdfe.jsonl")
IRREGULAR = "neither a regular file nor a folder"
PLACES = {
    "a FIFO": (fifo, IRREGULAR),
    "a FIFO in a folder": (fifo_in_a_folder, ALL),
    "a socket": (listening_socket, IRREGULAR),
    "a device": (link("/dev/zero"), IRREGULAR),
    "a folder named like a file": (empty_folder, NO_DATA),
    "a folder without data files": (
        writer({"data/README.md": "# no rows\n"}, "data"),
        NO_DATA,
    ),
    "a link to itself": (link("a.jsonl"), NOWHERE),
    "a folder that holds itself": (link(".", "data", {"data/b.jsonl": GOOD}), ALL),
    "a name that is no Unicode in a folder": (
        writer({f"data/{NO_UNICODE}": GOOD}, "data"),
        r"The name `data/gr\xf6\xdfe.jsonl` is not UTF-8",
    ),
    "a broken file in a folder": (
        writer({"data/a.jsonl": GOOD, "data/b.jsonl": GOOD + "oops\n"}, "data"),
        "`data/b.jsonl` line 41 is not valid JSON",
    ),
    "a space": (typed(" "), NOWHERE),
    "an unknown built-in": (typed("builtin:"), "Use `builtin:aws-docs`"),
    "a scheme that is not known": (typed("ftp://host/a.jsonl"), NOWHERE),
}
# These are errors of the spec, not of a file.
NAMES = {
    "a name that is no Unicode": (writer({NO_UNICODE: GOOD}, NO_UNICODE), "not valid UTF-8"),
    "nothing": (typed(""), "`data.source`: is empty"),
    "a NUL": (typed("a\0b"), "zero byte"),
    "a name of 300 characters": (typed("x" * 300 + ".jsonl"), "4095 bytes"),
    "no bucket": (typed("s3://"), "has no valid bucket name"),
}


def cases():
    made = {
        name: (writer({file: data}, file), expected)
        for name, (file, data, expected) in FILES.items()
    }
    for name, (make, expected) in (made | FOLDERS | PLACES).items():
        yield name, Case(make, 0 if expected[:1].isdigit() else 4, expected)
    for name, (make, expected) in NAMES.items():
        yield name, Case(make, 3, expected)


CASES = dict(cases())
