"""Read CSV and TSV: find the delimiter, check that there is a header, yield records."""

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

# Exported documents exceed Python's default limit of 128 KiB.
csv.field_size_limit(MAX_LINE_BYTES)
# Key of a record's fields beyond the header's columns.
SURPLUS = "\0surplus"
DELIMITERS = ",;\t|"
# Lines to read to find the delimiter and to check the header.
FIRST_LINES = 20
# A text of fewer words counts as a sentence only by its last character.
SENTENCE_WORDS = 6
SENTENCE_END = re.compile(r"[.!?…。！？؟]['\")»”]?$")
# One "word" of that many characters is a text, as scripts without spaces have.
LONG_WORD = 16


def read_table(file: Path, encoding: str, named: Sequence[str] = ()) -> Iterator[Record]:
    """Yield the rows below the header; `named` are the columns that the spec names."""
    lines = read_lines(file, encoding)
    start = list(islice(lines, FIRST_LINES))
    skipped = 0
    if start and (separator := re.fullmatch(r"sep=(.)\r?\n?", start[0])):
        # Excel's own line that names the delimiter.
        delimiter, start, skipped = separator[1], start[1:], 1
    else:
        delimiter = find_delimiter(start, "\t" if ".tsv" in file.name.lower() else ",")
    # Not strict, csv would read the rest of the file as one field after an unclosed quote.
    reader = csv.reader(chain(start, lines), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        _require_header(file, names, start, delimiter, named)
        refuse_duplicate_columns(file, names)
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
    """Return the delimiter that splits the header and most rows into the same number of fields.

    The suffix only decides ties: in many European locales a CSV has semicolons.
    """
    scores = {}
    for delimiter in DELIMITERS:
        counts = [len(row) for row in _loosely(lines, delimiter)]
        if counts and counts[0] > 1:
            alike = sum(count == counts[0] for count in counts) / len(counts)
            scores[delimiter] = (alike, delimiter == usual, counts[0])
    return max(scores, key=lambda delimiter: scores[delimiter], default=usual)


def _loosely(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """Parse the first rows, without the last one, which may be incomplete."""
    try:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error:
        return []
    return rows[:-1] if len(rows) > 2 and len(lines) == FIRST_LINES else rows


def _require_header(
    file: Path, names: Sequence[str], lines: Sequence[str], delimiter: str, named: Sequence[str]
) -> None:
    """Refuse a first line of texts: as column names, the first row would be lost."""
    rows = [row for row in _loosely(lines, delimiter)[1:] if len(row) == len(names)]
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    cells = [(name.strip(), column) for name, column in zip(names, columns, strict=True) if name]
    values = {value.strip() for row in rows for value in row}
    texts = [name for name, _ in cells if _is_sentence(name)]
    # Names in the spec are believed if they are questions, as in exports of forms.
    believed = set(named) & set(names) and all(name.endswith("?") for name in texts)
    repeated = any(name in values for name in texts)
    if len(cells) > 1 and (repeated or (not believed and _are_values(cells))):
        _refuse_without_header(file, names, rows or [list(names)], delimiter)


def _are_values(cells: Sequence[tuple[str, Sequence[str]]]) -> bool:
    """Tell whether the cells of the first line look like those below them."""
    texts = [_is_sentence(name) for name, _ in cells]
    alike = [_is_like(name, column) for name, column in cells]
    return (any(texts) and all(map(any, zip(texts, alike, strict=True)))) or (
        len(cells) > 1 and all(alike) and all(_size(name) > 2 for name, _ in cells)
    )


def _is_like(name: str, column: Sequence[str]) -> bool:
    """Tell whether a cell has the digits of the others in its column, or a similar length."""
    shapes = [re.sub(r"\d+", "0", value.strip()) for value in column if value.strip()]
    if re.search(r"\d", name):
        return not shapes or shapes.count(re.sub(r"\d+", "0", name)) * 2 > len(shapes)
    sizes = [_size(shape) for shape in shapes]
    return bool(sizes) and median(sizes) / 2 <= _size(name) <= median(sizes) * 2


def _size(text: str) -> float:
    """Count words; in scripts without spaces, one word is about two characters."""
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
    msg = f"`{file}` has no header line: its first line contains texts "
    msg += f"({', '.join(repr(text[:40]) for text in first[:3])}), which would be taken for "
    raise DataError(msg + f"column names. Add the line `{shown}` at its top: `{command}`.")


def guess_names(rows: Sequence[Sequence[str]]) -> list[str]:
    """Name columns by their values: the question, its context, then negatives."""
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
    """Tell whether a column contains numbers, ids or labels rather than texts."""
    return all(len(value.split()) < 2 and len(value) < LONG_WORD for value in column)


def refuse_duplicate_columns(file: Path, names: Sequence[str]) -> None:
    """Refuse columns with the same name: the last one would silently replace the others."""
    counts = Counter(name for name in names if name.strip())
    if duplicates := [name for name, count in counts.items() if count > 1]:
        msg = f"`{file}` has the column `{duplicates[0]}` twice. Rename or remove one of them."
        raise DataError(msg)
