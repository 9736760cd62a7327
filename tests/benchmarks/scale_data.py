"""Measure reading, grouping, splitting and writing of large data sets.

    python tests/benchmarks/scale_data.py

Generates Parquet folders of pairs in a temporary folder, prepares each in a separate process like a
job, and prints a Markdown table of seconds and memory by stage.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[2]))

SIZES = (10_000, 100_000, 1_000_000)
MIB = 2**20
FILES = 8
BLOCK = 10_000
WORDS = 50_000
# Mean number of words; a text has from half as many to half as many again.
QUESTION_WORDS, CONTEXT_WORDS = 12, 60
# Shares of contexts that repeat the one before, exactly or nearly.
REPEATED, NEAR = 0.05, 0.02
# The functions of `job.data.dataset` that are measured, in order, and their names in the table.
STAGES = {
    "collect_rows": "read, clean",
    "group_texts": "group",
    "split_codes": "split",
    "_facts": "count",
    "_build": "build",
    "write_splits": "write",
}


def make_pairs(folder: Path, rows: int, seed: int = 42) -> None:
    """Write Parquet files of questions and contexts, with word frequencies like a language's."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for number, share in enumerate(np.array_split(np.arange(rows), FILES)):
        starts = range(0, len(share), BLOCK)
        blocks = [_block(random, min(BLOCK, len(share) - start)) for start in starts]
        table = pa.concat_tables(blocks)
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=2 * BLOCK)


def _block(random: np.random.Generator, rows: int) -> pa.Table:
    questions = list(_texts(random, rows, QUESTION_WORDS))
    contexts = list(_texts(random, rows, CONTEXT_WORDS))
    draws = random.random(rows)
    for row in range(1, rows):
        if draws[row] < REPEATED:
            contexts[row] = contexts[row - 1]
        elif draws[row] < REPEATED + NEAR:
            *words, _ = contexts[row - 1].split()
            contexts[row] = " ".join([*words, f"else{row}"])
    return pa.table({"question": questions, "context": contexts})


def _texts(random: np.random.Generator, count: int, words: int) -> Iterator[str]:
    lengths = random.integers(words // 2, words + words // 2, count, endpoint=True)
    # Zipf's law: the first word is n times as frequent as the n-th.
    weights = np.cumsum(1 / np.arange(3, WORDS + 3))
    drawn = np.searchsorted(weights, random.random(lengths.sum()) * weights[-1])
    vocabulary = np.array([_word(number) for number in range(WORDS)], dtype=object)
    for text in np.split(vocabulary[drawn], np.cumsum(lengths)[:-1]):
        yield " ".join(text).capitalize()


def _word(number: int) -> str:
    """Spell a number in syllables, so that frequent words are short."""
    syllables = [c + v for c in "bdfgklmnprst" for v in "aeiou"]
    word = ""
    while True:
        number, rest = divmod(number, len(syllables))
        word += syllables[rest]
        if not number:
            return word


class Memory:
    """The peak memory of this process since `restart`, in MiB."""

    def __init__(self) -> None:
        self._private = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def restart(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._private = 0

    def peaks(self) -> tuple[float, float]:
        """Return the peak resident memory, and its part that is not a mapped file."""
        return _status("VmHWM"), max(self._private, _status("RssAnon"))

    def _watch(self) -> None:
        while True:
            self._private = max(self._private, _status("RssAnon"))
            time.sleep(0.02)


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def measure(source: Path, folder: Path) -> list[dict[str, object]]:
    """Prepare the pairs like a job; return seconds and peak memory of each stage."""
    from job.data import dataset
    from job.spec.schema import DataSpec

    memory, stages = Memory(), []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        memory.restart()
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        resident, private = memory.peaks()
        stages.append({"stage": name, "seconds": seconds, "resident": resident, "private": private})

    def metered(name: str, function):
        def run(*values):
            with stage(name):
                return function(*values)

        return run

    for function, name in STAGES.items():
        setattr(dataset, function, metered(name, getattr(dataset, function)))
    prepared = dataset.load_dataset(DataSpec(source=str(source)), {})
    dataset.write_splits(prepared, folder / "splits")
    print(json.dumps(prepared.facts), file=sys.stderr)
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--folder", type=Path, help="for the generated pairs (default: temporary)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.measure:
            print(json.dumps(measure(options.measure, Path(temporary))))
            return
        folder = options.folder or Path(temporary)
        print("| pairs | stage | seconds | µs/pair | resident MiB | of which private MiB |")
        print("|---|---|---|---|---|---|", flush=True)
        for size in options.sizes:
            _print_rows(size, folder / str(size))


def _print_rows(size: int, source: Path) -> None:
    if not source.exists():
        make_pairs(source, size)
    command = [sys.executable, __file__, "--measure", str(source)]
    stages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    total = {
        "stage": "all",
        "seconds": sum(row["seconds"] for row in stages),
        "resident": max(row["resident"] for row in stages),
        "private": max(row["private"] for row in stages),
    }
    for row in [*stages, total]:
        seconds, per_pair = row["seconds"], row["seconds"] / size * 1e6
        memory = f"{row['resident']:.0f} | {row['private']:.0f}"
        print(f"| {size:,} | {row['stage']} | {seconds:.1f} | {per_pair:.0f} | {memory} |")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
