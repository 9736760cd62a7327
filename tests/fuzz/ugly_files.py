"""A corpus of ugly files, made by code: what exports, editors, transfers and strangers leave.

Each entry makes its file in a folder and returns what a user would type after `embedtune check`.
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

import pyarrow as pa
import pyarrow.parquet as pq

HEADER = "question,context\n"


def texts(count=40, stem="w"):
    """Make pairs of which no two are alike, with letters beyond ASCII."""
    return [
        {
            "question": f"Größe {stem}{n} wo{n} wann{n}?",
            "context": f"{stem}{n} „liegt“{n} dort{n} für 5 € im Regal{n}.",
        }
        for n in range(count)
    ]


def plain(count=40):
    """Make such pairs of ASCII alone."""
    return [
        {"question": f"where{n} is item{n}?", "context": f"item{n} lies{n} on shelf{n}."}
        for n in range(count)
    ]


def as_lines(rows, **options):
    return "".join(json.dumps(row, **({"ensure_ascii": False} | options)) + "\n" for row in rows)


def as_table(rows, delimiter=",", line_end="\r\n"):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=line_end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_parquet(table):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def with_rows(*more, count=40):
    """Add rows to good ones."""
    return as_lines([*plain(count), *more])


def workbook():
    """Make what a spreadsheet saves by default."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
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
    """Give good pairs beside a column of every odd type."""
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
    return as_parquet(
        pa.Table.from_arrays([question, context, context], ["question", "context", "context"])
    )


def beyond_the_calendar():
    """Give a moment after the year 9999, which Python has no value for."""
    question, context = good_columns()
    late = pa.array([2**60] * len(question), pa.timestamp("ms"))
    return as_parquet(pa.table({"question": question, "context": context, "late": late}))


def broken_text_in_parquet():
    """Give a column of texts that holds bytes which are none."""
    question, context = good_columns()
    buffer = pa.array([b"\xff\xfe abc"] * len(question), pa.binary())
    broken = pa.Array.from_buffers(pa.string(), len(buffer), buffer.buffers())
    return as_parquet(pa.table({"question": question, "context": context, "note": broken}))


def dictionary_parquet():
    """Give pairs whose texts are stored as numbers of a dictionary."""
    columns = (column.dictionary_encode() for column in good_columns())
    return parquet_of(*columns)


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
    """Make every odd text a question and a context once."""
    return [
        {"question": f"about {name}: {text}", "context": f"told of {name}: {text}"}
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

ENCODINGS = {
    "UTF-8 with a BOM": "utf-8-sig",
    "UTF-16 with a BOM": "utf-16",
    "UTF-16 LE without": "utf-16-le",
    "UTF-16 BE without": "utf-16-be",
    "UTF-32 with a BOM": "utf-32",
    "UTF-32 BE without": "utf-32-be",
    "Latin-1": "latin-1",
    "cp1252": "cp1252",
    "cp037": "cp037",
    "Shift-JIS": "shift_jis",
}


def encoded(rows, encoding):
    """Encode rows; what the encoding lacks is replaced, as exports do."""
    return rows.encode(encoding, "replace")


def gzipped(data):
    return gzip.compress(data.encode() if isinstance(data, str) else data, mtime=0)


GOOD = as_lines(plain())

# Name of the case → (name of the file, its content).
CONTENTS: dict[str, tuple[str, Callable[[], str | bytes]]] = {
    # Encodings.
    **{
        f"{name} in {suffix}": (f"a.{suffix}", lambda m=make, e=encoding: encoded(m(texts()), e))
        for name, encoding in ENCODINGS.items()
        for suffix, make in (("csv", as_table), ("jsonl", as_lines))
    },
    "ASCII as UTF-16 LE without a BOM": ("a.csv", lambda: as_table(plain()).encode("utf-16-le")),
    "a BOM before each line": (
        "a.jsonl",
        lambda: "".join(f"\ufeff{line}\n" for line in as_lines(texts()).splitlines()),
    ),
    "two BOMs": ("a.csv", lambda: "\ufeff\ufeff" + as_table(texts())),
    # Lines.
    "a NUL between lines": ("a.jsonl", lambda: GOOD + "\0\n" + GOOD),
    "a NUL in a CSV's text": ("a.csv", lambda: as_table(plain()) + "what\0ever?,it\0is\r\n"),
    "a line of 10 MB": (
        "a.jsonl",
        lambda: with_rows({"question": "how long?", "context": "very " * 2_000_000}),
    ),
    "a word of 10 MB": (
        "a.csv",
        lambda: as_table([*plain(), {"question": "how long?", "context": "x" * 10_000_000}]),
    ),
    "a hundred thousand marks on a letter": (
        "a.jsonl",
        lambda: with_rows({"question": "how high?", "context": "a" + "\u0301\u0327" * 50_000}),
    ),
    "CR-only CSV": ("a.csv", lambda: as_table(plain(), line_end="\r")),
    "CR-only JSON lines": ("a.jsonl", lambda: GOOD.replace("\n", "\r")),
    "CR LF JSON lines": ("a.jsonl", lambda: GOOD.replace("\n", "\r\n")),
    "lines ended by U+2028": ("a.jsonl", lambda: GOOD.replace("\n", "\u2028")),
    "no last line end": ("a.jsonl", lambda: GOOD.rstrip("\n")),
    "blank lines everywhere": ("a.jsonl", lambda: "\n\n" + GOOD.replace("\n", "\n \n\r\n")),
    # JSON.
    "nested too deeply to read": (
        "a.jsonl",
        lambda: GOOD + '{"question": ' + nested(100_000) + "}\n",
    ),
    "nested too deeply to read, in a list": ("a.json", lambda: nested(100_000)),
    **{
        f"nested {depth} deep": (
            "a.jsonl",
            lambda d=depth: (
                GOOD
                + f'{{"question": {nested(d)}, "context": "deep below", "more": {nested(d)}}}\n'
            ),
        )
        for depth in (10, 500)
    },
    "keys named twice": (
        "a.jsonl",
        lambda: GOOD + '{"question": "one", "question": "which one?", "context": "the last"}\n',
    ),
    "a number too long": ("a.jsonl", lambda: GOOD + '{"question": ' + "7" * 5000 + "}\n"),
    "a number just short enough": (
        "a.jsonl",
        lambda: GOOD + '{"question": ' + "7" * 4300 + ', "context": "a long number"}\n',
    ),
    "NaN as a row": ("a.jsonl", lambda: GOOD + "NaN\n"),
    "comments": ("a.jsonl", lambda: "// pairs\n" + GOOD),
    "single quotes": ("a.jsonl", lambda: str(plain()[0]) + "\n"),
    "a list of rows under the wrong name": ("a.jsonl", lambda: json.dumps(plain())),
    "JSON lines under the wrong name": ("a.json", lambda: GOOD),
    "a list of rows": ("a.json", lambda: json.dumps(plain(), indent=1)),
    "a wrapped list of rows": ("a.json", lambda: json.dumps({"data": plain(), "n": 1})),
    "columns as lists": (
        "a.json",
        lambda: json.dumps({key: [row[key] for row in plain()] for key in plain()[0]}),
    ),
    "a list that ends too early": ("a.json", lambda: json.dumps(plain())[:-20]),
    "a last line that ends too early": ("a.jsonl", lambda: GOOD[:-20]),
    "every kind of value": (
        "a.jsonl",
        lambda: as_lines([*plain(), *MIXED], ensure_ascii=True),
    ),
    "every odd text": ("a.jsonl", lambda: as_lines([*plain(), *odd_rows()])),
    "every odd text in a table": ("a.csv", lambda: as_table([*plain(), *odd_rows()])),
    "columns with odd names": (
        "a.jsonl",
        lambda: as_lines(
            [row | {"": 1, "\x1b[31m": 2, "a\nb": 3, "\0surplus": None} for row in plain()]
        ),
    ),
    "a column named like our mark for surplus": (
        "a.jsonl",
        lambda: as_lines([row | {"\0surplus": ["x"]} for row in plain()]),
    ),
    "half a character in a column's name": (
        "a.jsonl",
        lambda: as_lines([row | {"\ud800": 1} for row in plain()], ensure_ascii=True),
    ),
    "no column of a known name but odd ones": (
        "a.jsonl",
        lambda: as_lines([{"\x1b]0;q\x07": "a", "\ud800": "b"}], ensure_ascii=True),
    ),
    # Tables.
    "too few and too many fields": (
        "a.csv",
        lambda: as_table(plain()) + "alone\r\n,\r\n,,\r\nwhat is it?,one,two\r\n,,,\r\n",
    ),
    "a quote that never closes": ("a.csv", lambda: as_table(plain()) + '"what,is it?\r\n'),
    "a quote inside a field": ("a.csv", lambda: as_table(plain()) + 'say "hi" twice,to "me"\r\n'),
    "text after a quote": ("a.csv", lambda: as_table(plain()) + '"what" then?,nothing\r\n'),
    "semicolons": ("a.csv", lambda: as_table(texts(), ";")),
    "tabs under the name of commas": ("a.csv", lambda: as_table(texts(), "\t")),
    "pipes": ("a.csv", lambda: as_table(texts(), "|")),
    "a TSV": ("a.tsv", lambda: as_table(texts(), "\t")),
    "a spreadsheet's sep=;": ("a.csv", lambda: "sep=;\r\n" + as_table(plain(), ";")),
    "a spreadsheet's sep=, with a BOM": ("a.csv", lambda: "\ufeffsep=,\r\n" + as_table(texts())),
    "a column named twice": (
        "a.csv",
        lambda: "question,context,context\r\n" + "what is it?,first,second\r\n" * 40,
    ),
    "a column named twice but for spaces": (
        "a.csv",
        lambda: "question,context,context \r\n" + "what is it?,first,second\r\n" * 40,
    ),
    "columns without a name": (
        "a.csv",
        lambda: (
            "question,context,,\r\n"
            + "".join(f"{row['question']},{row['context']},,\r\n" for row in plain())
        ),
    ),
    "no header": ("a.csv", lambda: as_table(plain()).partition("\r\n")[2]),
    "a title above the header": ("a.csv", lambda: "Our pairs 2024\r\n\r\n" + as_table(plain())),
    "a blank line above the header": ("a.csv", lambda: "\r\n" + as_table(plain())),
    "only a header": ("a.csv", lambda: HEADER),
    "a header of 100,000 columns": (
        "a.csv",
        lambda: ",".join(f"c{n}" for n in range(100_000)) + "\n1,2\n",
    ),
    "scores beside the pairs": ("a.csv", lambda: "question,context,score\r\nwhat?,it,0.3\r\n"),
    # Files under a wrong name, or damaged.
    "a workbook named .csv": ("a.csv", workbook),
    "a workbook named .jsonl": ("a.jsonl", workbook),
    "an old workbook named .csv": (
        "a.csv",
        lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(64),
    ),
    "Parquet named .csv": ("a.csv", dictionary_parquet),
    "JSON lines named .parquet": ("a.parquet", lambda: GOOD),
    "gzip without its suffix": ("a.jsonl", lambda: gzipped(GOOD)),
    "gzip": ("a.jsonl.gz", lambda: gzipped(GOOD)),
    "gzip of a table": ("a.csv.gz", lambda: gzipped(as_table(texts()))),
    "gzip of gzip": ("a.jsonl.gz", lambda: gzipped(gzipped(GOOD))),
    "no gzip": ("a.jsonl.gz", lambda: GOOD),
    "an empty gzip": ("a.jsonl.gz", lambda: gzipped("")),
    "half of a gzip": ("a.jsonl.gz", lambda: gzipped(GOOD)[:-200]),
    "gzip with trailing garbage": ("a.jsonl.gz", lambda: gzipped(GOOD) + b"garbage"),
    "gzip with trailing zeros": ("a.jsonl.gz", lambda: gzipped(GOOD) + bytes(512)),
    "two gzips in a row": ("a.jsonl.gz", lambda: gzipped(GOOD) + gzipped(with_rows(count=60))),
    "an empty file": ("a.jsonl", lambda: ""),
    "an empty table": ("a.csv", lambda: ""),
    "an empty Parquet": ("a.parquet", lambda: ""),
    "no suffix": ("pairs", lambda: GOOD),
    "a suffix in capitals": ("PAIRS.JSONL", lambda: GOOD),
    "zeros": ("a.jsonl", lambda: bytes(10_000)),
    "bytes of all values": ("a.csv", lambda: bytes(range(256)) * 40),
    # Parquet.
    "Parquet with odd columns": ("a.parquet", odd_parquet),
    "Parquet with dictionaries": ("a.parquet", dictionary_parquet),
    "Parquet with a column named twice": ("a.parquet", duplicate_columns),
    "Parquet with a moment beyond the calendar": ("a.parquet", beyond_the_calendar),
    "Parquet with bytes for text": ("a.parquet", broken_text_in_parquet),
    "Parquet with bytes for contexts": (
        "a.parquet",
        lambda: parquet_of(pa.array(["what is it?"] * 40), pa.array([b"bytes"] * 40)),
    ),
    "Parquet with lists of contexts": (
        "a.parquet",
        lambda: parquet_of(
            pa.array([row["question"] for row in plain()]),
            pa.array([[row["context"], None, ""] for row in plain()]),
        ),
    ),
    "Parquet with structs for contexts": (
        "a.parquet",
        lambda: parquet_of(pa.array(["what is it?"] * 40), pa.array([{"text": "it"}] * 40)),
    ),
    "Parquet without columns": ("a.parquet", lambda: as_parquet(pa.table({}))),
    "Parquet of one blank row": ("a.parquet", lambda: parquet_of(pa.array([""]), pa.array([""]))),
    "half of a Parquet": ("a.parquet", lambda: odd_parquet()[:-300]),
    "a Parquet without its middle": (
        "a.parquet",
        lambda: odd_parquet()[:40] + odd_parquet()[400:],
    ),
    # Numbers of rows.
    "one row": ("a.jsonl", lambda: as_lines(plain(1))),
    "two rows": ("a.jsonl", lambda: as_lines(plain(2))),
    "one row of nothing": ("a.jsonl", lambda: "{}\n"),
    "very many identical rows": ("a.jsonl", lambda: as_lines(plain(1)) * 100_000),
    "very many identical rows in a table": (
        "a.csv",
        lambda: HEADER + "what is it?,it is this\n" * 20_000,
    ),
}


def write_content(name):
    file, make = CONTENTS[name]

    def write(folder: Path) -> str:
        content = make()
        data = content.encode("utf-8") if isinstance(content, str) else content
        (folder / file).write_bytes(data)
        return file

    return write


# Folders, and what is no file.


def beir(documents, queries, qrels):
    def write(folder):
        (folder / "beir" / "qrels").mkdir(parents=True)
        (folder / "beir" / "corpus.jsonl").write_text(as_lines(documents, ensure_ascii=True))
        (folder / "beir" / "queries.jsonl").write_text(as_lines(queries, ensure_ascii=True))
        for split, lines in qrels.items():
            text = "query-id\tcorpus-id\tscore\n" + "".join(f"{line}\n" for line in lines)
            (folder / "beir" / "qrels" / f"{split}.tsv").write_text(text)
        return "beir"

    return write


DOCUMENTS = [{"_id": f"d{n}", "title": "", "text": row["context"]} for n, row in enumerate(plain())]
QUERIES = [{"_id": f"q{n}", "text": row["question"]} for n, row in enumerate(plain())]
QRELS = [f"q{n}\td{n}\t1" for n in range(40)]


def fifo(folder):
    os.mkfifo(folder / "a.jsonl")
    return "a.jsonl"


def fifo_in_a_folder(folder):
    (folder / "data").mkdir()
    os.mkfifo(folder / "data" / "a.jsonl")
    (folder / "data" / "b.jsonl").write_text(GOOD)
    return "data"


def listening_socket(folder):
    here = Path.cwd()
    os.chdir(folder)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("a.jsonl")
    finally:
        os.chdir(here)
    return "a.jsonl"


def device(folder):
    (folder / "a.jsonl").symlink_to("/dev/zero")
    return "a.jsonl"


def folder_named_like_a_file(folder):
    (folder / "a.jsonl").mkdir()
    return "a.jsonl"


def full_folder_named_like_a_file(folder):
    (folder / "a.csv").mkdir()
    (folder / "a.csv" / "b.jsonl").write_text(GOOD)
    return "a.csv"


def link_to_itself(folder):
    (folder / "a.jsonl").symlink_to("a.jsonl")
    return "a.jsonl"


def folder_that_holds_itself(folder):
    (folder / "data").mkdir()
    (folder / "data" / "b.jsonl").write_text(GOOD)
    (folder / "data" / "again").symlink_to(".")
    return "data"


def link_to_nothing(folder):
    (folder / "a.jsonl").symlink_to("nowhere.jsonl")
    return "a.jsonl"


def name_that_is_no_unicode(folder):
    name = os.fsdecode(b"gr\xf6\xdfe.jsonl")
    (folder / name).write_text(GOOD)
    return name


def name_that_is_no_unicode_in_a_folder(folder):
    (folder / "data").mkdir()
    (folder / "data" / os.fsdecode(b"gr\xf6\xdfe.jsonl")).write_text(with_rows({"question": 1}))
    return "data"


def mixed_folder(folder):
    """Give files of several formats with other columns."""
    (folder / "data").mkdir()
    (folder / "data" / "a.jsonl").write_text(GOOD)
    (folder / "data" / "b.csv").write_text("query,answer\nwho else?,somebody else\n")
    return "data"


def typed(text):
    return lambda _: text


PLACES: dict[str, Callable[[Path], str]] = {
    "a FIFO": fifo,
    "a FIFO in a folder": fifo_in_a_folder,
    "a socket": listening_socket,
    "a device": device,
    "a folder named like a file": folder_named_like_a_file,
    "a full folder named like a file": full_folder_named_like_a_file,
    "a link to itself": link_to_itself,
    "a folder that holds itself": folder_that_holds_itself,
    "a link to nothing": link_to_nothing,
    "a name that is no Unicode": name_that_is_no_unicode,
    "a name that is no Unicode in a folder": name_that_is_no_unicode_in_a_folder,
    "a folder of other columns": mixed_folder,
    "nothing": typed(""),
    "a space": typed(" "),
    "a NUL": typed("a\0b"),
    "a name of 300 characters": typed("x" * 300 + ".jsonl"),
    "a path of 5,000 characters": typed("x/" * 2500 + "a.jsonl"),
    "a file as a folder": lambda folder: write_content("gzip")(folder) + "/a.jsonl",
    "no bucket": typed("s3://"),
    "no repository": typed("hf://"),
    "no repository of data sets": typed("hf://datasets/"),
    "an unknown built-in": typed("builtin:"),
    "a scheme that is not known": typed("ftp://host/a.jsonl"),
    # BEIR.
    "BEIR": beir(DOCUMENTS, QUERIES, {"test": QRELS}),
    "BEIR with a missing document": beir(DOCUMENTS[:-1], QUERIES, {"test": QRELS}),
    "BEIR with a missing query": beir(DOCUMENTS, QUERIES[:-1], {"test": QRELS}),
    "BEIR with a document of no id": beir([*DOCUMENTS, {"text": "x y z"}], QUERIES, {"t": QRELS}),
    "BEIR with a query of no id": beir(DOCUMENTS, [*QUERIES, {"text": "x y z"}], {"t": QRELS}),
    "BEIR with two documents of one id": beir(
        [*DOCUMENTS, {"_id": "d0", "text": "another text altogether"}], QUERIES, {"test": QRELS}
    ),
    "BEIR with a document twice": beir([*DOCUMENTS, DOCUMENTS[0]], QUERIES, {"test": QRELS}),
    "BEIR with two queries of one id": beir(
        DOCUMENTS, [*QUERIES, {"_id": "q0", "text": "another question?"}], {"test": QRELS}
    ),
    "BEIR with ids that differ by a space": beir(
        [*DOCUMENTS, {"_id": "d 0", "text": "with a space"}, {"_id": "d_0", "text": "without it"}],
        QUERIES,
        {"test": [*QRELS, "q1\td 0\t1", "q2\td_0\t1"]},
    ),
    "BEIR with half a character in an id": beir(
        [*DOCUMENTS, {"_id": "\ud800", "text": "of half a character"}],
        [*QUERIES, {"_id": "\udc00", "text": "asked by half a character"}],
        {"test": QRELS},
    ),
    "BEIR with a judgement twice": beir(DOCUMENTS, QUERIES, {"test": [*QRELS, QRELS[0]]}),
    **{
        f"BEIR with the score {score}": beir(
            DOCUMENTS, QUERIES, {"test": [*QRELS, f"q0\td1\t{score}"]}
        )
        for score in ("0", "-1", "0.5", "nan", "inf", "high", "", "1,0", "0x1")
    },
    "BEIR with numbers for texts": beir(
        [*DOCUMENTS, {"_id": "n", "text": 5}], QUERIES, {"test": [*QRELS, "q0\tn\t1"]}
    ),
    "BEIR without judgements": beir(DOCUMENTS, QUERIES, {}),
    "BEIR with no judgement": beir(DOCUMENTS, QUERIES, {"test": []}),
    "BEIR with an unknown split": beir(DOCUMENTS, QUERIES, {"test": QRELS, "more": QRELS}),
}

CASES: dict[str, Callable[[Path], str]] = {name: write_content(name) for name in CONTENTS} | PLACES
