"""CSV and its relatives: what separates the fields, whether there is a header, rows as records."""

import csv
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from statistics import median
from typing import NoReturn

from job.core.errors import DataError
from job.data.formats.layout import Record
from job.data.text_files import MAX_LINE_BYTES, read_lines

# Python's default limit of 128 KiB is below what exported documents reach.
csv.field_size_limit(MAX_LINE_BYTES)
# Key under which csv puts the fields that the header has no name for.
SURPLUS = "\0surplus"
DELIMITERS = ",;\t|"
# Lines that say what separates the fields, and whether the first one is a header.
FIRST_LINES = 20
# Names of columns have fewer words; a text of fewer is told by how it ends.
SENTENCE_WORDS = 6
SENTENCE_END = re.compile(r"[.!?…。！？؟]['\")»”]?$")
# Scripts without spaces write so much in one word.
LONG_WORD = 16


def read_table(file: Path, encoding: str, named: Sequence[str] = ()) -> Iterator[Record]:
    """Yield the rows below the header; `named` are columns that the user knows of."""
    lines = read_lines(file, encoding)
    start = list(islice(lines, FIRST_LINES))
    skipped = 0
    if start and (told := re.fullmatch(r"sep=(.)\r?\n?", start[0])):
        # Excel's own way to say it.
        delimiter, start, skipped = told[1], start[1:], 1
    else:
        delimiter = find_delimiter(start, "\t" if ".tsv" in file.name.lower() else ",")
    # Strict: a quote that never closes would swallow the rest of the file.
    reader = csv.reader(chain(start, lines), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        _require_header(file, names, start, delimiter, named)
        refuse_doubles(file, names)
        line = reader.line_num + 1 + skipped
        for values in reader:
            if values:
                fields = dict.fromkeys(names) | dict(zip(names, values, strict=False))
                surplus = {SURPLUS: values[len(names) :]} if len(values) > len(names) else {}
                yield Record(str(file), line, fields | surplus)
            line = reader.line_num + 1 + skipped
    except csv.Error as error:
        msg = f"`{file}` line {reader.line_num + skipped} is not valid CSV: {error}."
        raise DataError(msg) from None


def find_delimiter(lines: Sequence[str], usual: str) -> str:
    """Find what separates the fields of the header, and of the rows as often.

    Whatever the suffix: spreadsheets in half of Europe write semicolons and call it CSV.
    """
    scores = {}
    for delimiter in DELIMITERS:
        counts = [len(row) for row in _loosely(lines, delimiter)]
        if counts and counts[0] > 1:
            alike = sum(count == counts[0] for count in counts) / len(counts)
            scores[delimiter] = (alike, delimiter == usual, counts[0])
    return max(scores, key=lambda delimiter: scores[delimiter], default=usual)


def _loosely(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """Read the first rows, of which the last may be cut off."""
    try:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error:
        return []
    return rows[:-1] if len(rows) > 2 and len(lines) == FIRST_LINES else rows


def _require_header(
    file: Path, names: Sequence[str], lines: Sequence[str], delimiter: str, named: Sequence[str]
) -> None:
    """Refuse a first line that holds texts: taken for names, it would be lost as a row."""
    rows = [row for row in _loosely(lines, delimiter)[1:] if len(row) == len(names)]
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    cells = [(name.strip(), column) for name, column in zip(names, columns, strict=True) if name]
    values = {value.strip() for row in rows for value in row}
    texts = [name for name, _ in cells if _is_sentence(name)]
    # What the user names is believed, unless it says more than a name: a form asks questions.
    believed = set(named) & set(names) and all(name.endswith("?") for name in texts)
    repeated = any(name in values for name in texts)
    if len(cells) > 1 and (repeated or (not believed and _are_values(cells))):
        _refuse_without_header(file, names, rows or [list(names)], delimiter)


def _are_values(cells: Sequence[tuple[str, Sequence[str]]]) -> bool:
    """Whether the cells of a first line are such as stand below them."""
    texts = [_is_sentence(name) for name, _ in cells]
    alike = [_is_like(name, column) for name, column in cells]
    return (any(texts) and all(map(any, zip(texts, alike, strict=True)))) or (
        len(cells) > 1 and all(alike) and all(_size(name) > 2 for name, _ in cells)
    )


def _is_like(name: str, column: Sequence[str]) -> bool:
    """Whether a cell is a number or an id as the others of its column, or about as long."""
    shapes = [re.sub(r"\d+", "0", value.strip()) for value in column if value.strip()]
    if re.search(r"\d", name):
        return not shapes or shapes.count(re.sub(r"\d+", "0", name)) * 2 > len(shapes)
    sizes = [_size(shape) for shape in shapes]
    return bool(sizes) and median(sizes) / 2 <= _size(name) <= median(sizes) * 2


def _size(text: str) -> float:
    """Count words; scripts without spaces write one in about two letters."""
    words = text.split()
    return max(len(words), len(text) / 2 if not text.isascii() and len(words) < 2 else 0)


def _is_sentence(text: str) -> bool:
    words = text.split()
    if SENTENCE_END.search(text):
        return len(words) > 2 or len(text) >= LONG_WORD or not text.isascii()
    return len(words) >= SENTENCE_WORDS


def _refuse_without_header(
    file: Path, first: Sequence[str], rows: Sequence[Sequence[str]], delimiter: str
) -> NoReturn:
    header = delimiter.join(guess_names([first, *rows]))
    shown = header.replace("\t", r"\t")
    target = shlex.quote(f"with_header{''.join(file.suffixes[-1:])}")
    source = shlex.quote(str(file))
    read = f"gzip -dc {source}" if file.suffix == ".gz" else f"cat {source}"
    if file.suffix == ".gz":
        target = shlex.quote("with_header" + Path(file.stem).suffix)
    command = f"(printf '{shown}\\n'; {read}) > {target} && embedtune check {target}"
    msg = f"`{file}` has no header line: its first line holds texts "
    msg += f"({', '.join(repr(text[:40]) for text in first[:3])}), which would be lost as names "
    raise DataError(msg + f"of columns. Add the line `{shown}` at its top: `{command}`.")


def guess_names(rows: Sequence[Sequence[str]]) -> list[str]:
    """Name columns by what they hold: the one that asks, the one that answers, wrong answers."""
    columns = [[value.strip() for value in column] for column in zip(*rows, strict=True)]
    texts = [n for n, column in enumerate(columns) if not _is_short(column)]
    if len(texts) < 2:
        texts = list(range(len(columns)))

    def asks(number: int) -> tuple[float, float]:
        column = columns[number]
        marks = sum(value.endswith(("?", "？", "؟")) for value in column) / len(column)
        return marks, -sum(map(len, column)) / len(column)

    question = max(texts, key=asks)
    others = [number for number in texts if number != question]
    names = {question: "question"}
    for number, other in enumerate(others):
        names[other] = (
            "context" if number == 0 else "negative" + ("" if number == 1 else f"_{number}")
        )
    return [names.get(n) or ("id" if n == 0 else f"column_{n + 1}") for n in range(len(columns))]


def _is_short(column: Sequence[str]) -> bool:
    """Whether a column holds numbers, ids or marks rather than texts."""
    return all(len(value.split()) < 2 and len(value) < LONG_WORD for value in column)


def refuse_doubles(file: Path, names: Sequence[str]) -> None:
    """Refuse two columns of one name, of which the last would win in silence."""
    counts = Counter(name for name in names if name.strip())
    if doubles := [name for name, count in counts.items() if count > 1]:
        msg = f"`{file}` has the column `{doubles[0]}` twice; rename one of them."
        raise DataError(msg)
