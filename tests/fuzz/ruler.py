"""Compare the result of a check with that of a slow, simple reader of the same files.

The slow reader uses Python's `json`, `csv`, `gzip` and pyarrow, but no code of `job/`.
"""

import csv
import gzip
import io
import json
import math
import re
import signal
import unicodedata
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import job.check
from job.__main__ import main
from job.core.errors import EXIT_CODES
from job.data.dataset import Dataset, write_splits

# A case takes a tenth of a second; one that takes this long hangs.
HANG_SECONDS = 60
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# Settings with which a small file is enough.
LENIENT = ["--set", "data.min_test_queries=1"]


class Hang(BaseException):
    pass


@contextmanager
def watched(seconds=None):
    """Raise `Hang` if the block takes too long."""

    def end(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds or HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Ending:
    code: int
    output: str
    error: str
    dataset: Dataset | None


def check(path, *settings) -> Ending:
    """Run `python -m job check` in this process; return its output and the dataset it inspected."""
    seen: list[Dataset] = []
    inspect = job.check.inspect_dataset

    def inspected(*given):
        seen.append(inspect(*given))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch, watched():
        patch.setattr(job.check, "inspect_dataset", inspected)
        done = CliRunner().invoke(main, ["check", str(path), *LENIENT, *settings])
    return Ending(done.exit_code, done.stdout, done.stderr, seen[0] if seen else None)


def summary(ending: Ending) -> str:
    facts = ending.dataset.facts
    return f"{facts['used']} of {facts['rows']}"


def fault_of(ending: Ending) -> str | None:
    """Return what is wrong with an ending for any input: exit code, error lines, characters."""
    if ending.code not in EXIT_CODES or ending.code == 1:
        return f"exit code {ending.code}: {ending.error}"
    lines = ending.error.removesuffix("\n").split("\n") if ending.error else []
    if ending.code and not (len(lines) == 1 and lines[0].startswith("Error: ")):
        return f"the error is not one line: {ending.error}"
    if not ending.code and lines:
        return f"output on stderr despite success: {ending.error}"
    if found := CONTROL.search(ending.output + ending.error):
        return f"a control character: {found[0]!r}"
    return None


# The slow reader.


def read_slowly(path: Path) -> list[dict[str, Any]]:
    """Read all rows of a file or folder; a damaged file may raise any exception."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return [row for file in files for row in read_slowly(file)]
    if path.suffix.lower() == ".parquet":
        return pq.read_table(path).to_pylist()
    data = path.read_bytes()
    packed = path.suffix == ".gz"
    text = decoded(gzip.decompress(data) if packed else data)
    suffix = Path(path.stem if packed else path.name).suffix.lower()
    if suffix in (".csv", ".tsv"):
        return table_rows(text, suffix)
    if suffix == ".json":
        return json_rows(text)
    return line_rows(text)


def decoded(data):
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    return data.decode("utf-16" if wide else "utf-8").removeprefix("\ufeff")


def line_rows(text):
    lines = [line for line in text.split("\n") if line.strip()]
    first = lines[0].strip() if lines else ""
    if first == "{" or (first[:1] == "[" and not is_list_row(first)):
        return document_rows(json.loads(text))
    return document_rows([json.loads(line) for line in lines])


def is_list_row(line):
    """Whether a line is a row of texts, and no list of rows."""
    try:
        return any(not isinstance(value, list | dict) for value in json.loads(line))
    except json.JSONDecodeError:
        return False


def json_rows(text):
    try:
        return document_rows(json.loads(text))
    except json.JSONDecodeError:
        return line_rows(text)


def document_rows(document):
    if isinstance(document, dict):
        values = [*document.values()]
        if all(isinstance(value, dict) for value in values):
            return values
        lists = [value for value in values if isinstance(value, list) and value]
        if not any(isinstance(rows[0], dict) for rows in lists):
            return [dict(zip(document, row, strict=True)) for row in zip(*values, strict=True)]
        (document,) = [rows for rows in lists if isinstance(rows[0], dict)]
    if document and isinstance(document[0], list):
        return [dict(zip(("question", "context"), row, strict=False)) for row in document]
    assert all(isinstance(row, dict) for row in document)
    return document


def table_rows(text, suffix):
    header, _, rest = text.partition("\n")
    if said := re.fullmatch(r"sep=(.)\r?", header):
        delimiter, text = said[1], rest
    else:
        delimiter = likely_delimiter(text, "\t" if suffix == ".tsv" else ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = next(reader, [])
    rows = []
    for values in filter(None, reader):
        row = dict.fromkeys(names) | dict(zip(names, values, strict=False))
        rows.append(row | {"too many": True} if len(values) > len(names) else row)
    return rows


def likely_delimiter(text, usual):
    """Find what most of the first lines have as often as the header, the usual one if several."""
    lines = [f"{line}\n" for line in text.split("\n")][:20]
    found = {}
    for delimiter in ",;\t|":
        try:
            widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            continue
        widths = widths[:-1] if len(lines) == 20 and len(widths) > 2 else widths
        if widths and widths[0] > 1:
            share = widths.count(widths[0]) / len(widths)
            found[delimiter] = (share, delimiter == usual, widths[0])
    return max(found, key=found.get, default=usual)


def read_beir_slowly(folder: Path) -> list[dict[str, Any]]:
    """Read the relevant pairs of the qrels with their texts."""
    texts = []
    for name in ("queries", "corpus"):
        lines = line_rows((folder / f"{name}.jsonl").read_bytes().decode("utf-8-sig"))
        pairs = [(str(line["_id"]), line.get("text")) for line in lines]
        # A document is its title and its text.
        titles = [line.get("title") if name == "corpus" else None for line in lines]
        named = [
            (key, f"{title} {text}" if title and isinstance(text, str) else text)
            for (key, text), title in zip(pairs, titles, strict=True)
        ]
        assert len({key for key, _ in named}) == len({(key, repr(text)) for key, text in named})
        texts.append(dict(named))
    rows = []
    for file in sorted((folder / "qrels").glob("*.tsv")):
        for row in judgement_rows(file.read_bytes().decode("utf-8-sig")):
            assert math.isfinite(float(row["score"]))
            if float(row["score"]) > 0:
                answer = texts[1].get(row["corpus-id"])
                rows.append({"question": texts[0].get(row["query-id"]), "context": [answer]})
    return rows


def judgement_rows(text: str) -> list[dict[str, Any]]:
    """Read qrels; without a header, as TREC has them, their first line is a judgement."""
    lines = [line.strip("\r").split("\t") for line in text.split("\n") if line.strip()]
    if lines and len(lines[0]) in (3, 4) and lines[0][-1].isdecimal():
        assert {len(line) for line in lines} == {len(lines[0])}
        names = ("query-id", "corpus-id", "score")
        return [dict(zip(names, (line[0], *line[-2:]), strict=True)) for line in lines]
    return table_rows(text, ".tsv")


# Slow cleaning.


def same(text):
    if len(text) > 100_000:
        return text  # long texts are unique in the tests; normalizing them would take hours
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def is_text(value):
    if not isinstance(value, str):
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


TEXTS = ("text", "contents", "content", "passage", "document", "page_content", "context")


def text_of(value):
    """Return the text of what may be an object with a title."""
    if not isinstance(value, dict):
        return value
    text = next((value[key] for key in TEXTS if isinstance(value.get(key), str)), None)
    if text is None:
        return value
    return f"{value['title']} {text}" if value.get("title") else text


def several(value):
    return (value or [None]) if isinstance(value, list) else [value]


def unrolled(rows, anchor, positive):
    """Pair each question of a row with each of its contexts."""
    for row in rows:
        for question in several(row.get(anchor)):
            for answer in several(row.get(positive)):
                yield row, text_of(question), text_of(answer)


def clean_slowly(rows, anchor, positive):
    """Return the usable pairs, in order, and the number of unusable ones."""
    used, dropped, seen = [], 0, set()
    for row, question, answer in unrolled(rows, anchor, positive):
        good = is_text(question) and is_text(answer) and "too many" not in row
        good = good and min(len(question.strip()), len(answer.strip())) >= 3
        identity = (same(question), same(answer)) if good else ()
        if good and identity[0] != identity[1] and identity not in seen:
            seen.add(identity)
            used.append((question.strip(), answer.strip()))
        else:
            dropped += 1
    return used, dropped


def read_written(folder: Path, name: str) -> list[dict[str, Any]]:
    """Read a JSON lines file that a run wrote."""
    text = (folder / f"{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def find_fault(path: Path, ending: Ending, folder: Path) -> str | None:
    """Return what is wrong with an ending, including a wrong dataset; None if nothing is."""
    if fault := fault_of(ending):
        return fault
    if ending.dataset is None:
        return None
    try:
        is_beir = (path / "qrels").is_dir()
        rows = read_beir_slowly(path) if is_beir else read_slowly(path)
    except Exception as error:  # noqa: BLE001  a damaged file may raise anything in a simple reader
        return f"success, but the slow reader fails: {error!r}"
    return wrong_dataset(rows, ending.dataset, folder)


def wrong_dataset(rows, dataset: Dataset, folder: Path) -> str | None:
    """Compare a dataset with the rows of its files: used, dropped and written rows."""
    facts = dataset.facts
    columns = facts["columns"]
    beir = columns["anchor"] == "queries.text"
    names = ("question", "context") if beir else (columns["anchor"], columns["positive"])
    used, dropped = clean_slowly(rows, *names)
    write_splits(dataset, folder)
    splits = [read_written(folder, name) for name in ("train", "validation", "test")]
    used_pairs = Counter((row["anchor"], row["positive"]) for split in splits for row in split)
    rejected = read_written(folder, "rejected")
    reasons = Counter(row["reason"] for row in rejected)
    dropped_rows, dropped_documents = (
        Counter({why: d["rows"] for why, d in facts[key].items()})
        for key in ("dropped", "dropped_documents")
    )
    documents = {row["text"] for row in read_written(folder, "corpus")}
    faults = {
        "rows": facts["rows"] != sum(len(several(row.get(names[0]))) for row in rows),
        "texts": used_pairs != Counter(used),
        "used": facts["used"] != len(used),
        "rejected": sum(dropped_rows.values()) != dropped,
        "reasons": reasons != dropped_rows + dropped_documents,
        "sizes": list(facts["splits"].values()) != [len(split) for split in splits],
        # Texts that are equal when normalized are one document.
        "corpus": {same(text) for text in documents} < {same(answer) for _, answer in used},
    }
    wrong = [name for name, is_wrong in faults.items() if is_wrong]
    return f"a wrong dataset: {wrong}, {facts}" if wrong else None
