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
    text = (gzip.decompress(data) if packed else data).decode("utf-8").removeprefix("\ufeff")
    suffix = Path(path.stem if packed else path.name).suffix.lower()
    if suffix in (".csv", ".tsv"):
        return table_rows(text, suffix)
    if suffix == ".json":
        return json_rows(text)
    return line_rows(text)


def line_rows(text):
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    assert all(isinstance(row, dict) for row in rows)
    return rows


def json_rows(text):
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        return line_rows(text)
    if isinstance(document, dict):
        lists = [value for value in document.values() if isinstance(value, list) and value]
        (document,) = [rows for rows in lists if isinstance(rows[0], dict)]
    assert all(isinstance(row, dict) for row in document)
    return document


def table_rows(text, suffix):
    header = text.partition("\n")[0]
    delimiter = "\t" if suffix == ".tsv" else max(",;", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = next(reader, [])
    rows = []
    for values in filter(None, reader):
        row = dict.fromkeys(names) | dict(zip(names, values, strict=False))
        rows.append(row | {"too many": True} if len(values) > len(names) else row)
    return rows


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
        for row in table_rows(file.read_bytes().decode("utf-8-sig"), ".tsv"):
            assert math.isfinite(float(row["score"]))
            if float(row["score"]) > 0:
                answer = texts[1].get(row["corpus-id"])
                rows.append({"question": texts[0].get(row["query-id"]), "context": [answer]})
    return rows


# Slow cleaning.


def same(text):
    if len(text) > 100_000:
        return text  # long texts are unique in the tests; normalizing them would take hours
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def is_text(value):
    if not isinstance(value, str):
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def clean_slowly(rows, anchor, positive):
    """Return the usable pairs, in order, and the number of unusable ones."""
    used, dropped, seen = [], 0, set()
    for row in rows:
        question, context = row.get(anchor), row.get(positive)
        for answer in (context or [None]) if isinstance(context, list) else [context]:
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
        "rows": facts["rows"] != len(rows),
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
