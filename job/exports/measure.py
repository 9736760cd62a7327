"""Score and time a model on this machine's CPU, and compare an export with the original."""

import hashlib
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from job.data.dataset import Corpus, Queries
from job.evaluation.evaluate import Vectors, sample_corpus, score_vectors
from job.evaluation.metrics import METRIC, Scores
from job.evaluation.results import CONFIDENCE
from job.evaluation.significance import GroupedQueries
from job.exports.results import Compared, Export, Speed
from job.model.encode import embed_texts
from job.model.encoder import Model
from job.storage.workspace import sha256

# What is measured, beside the files of an export.
FACTS = "export.json"
# The corpus to search: a CPU embeds it once for each export. Relevant documents always stay in it.
DOCUMENTS = 2_000
SEED = 42
# Queries sent one at a time, and those before them that start everything up.
TIMED, WARM_UP = 50, 3
# Vectors that differ by less are equal up to rounding.
EQUAL = 0.9999


@dataclass(frozen=True)
class TestSet:
    """The test set of a run, and the vectors by which its exports are compared."""

    queries: Queries
    # Up to `DOCUMENTS` of `corpus_size` documents.
    corpus: Corpus
    corpus_size: int
    by_group: GroupedQueries
    dimensions: tuple[int, ...]
    precisions: tuple[str, ...]
    # Dimension and precision.
    recommended: tuple[int, str]
    retention: float
    batch_size: int

    @classmethod
    def of(cls, queries: Queries, corpus: Corpus, **rest: object) -> "TestSet":
        part = sample_corpus(queries, corpus, DOCUMENTS, SEED)
        return cls(part.queries, part.corpus, len(corpus), **rest)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Measured:
    vectors: Vectors
    # By dimension and precision.
    scores: Mapping[int, Mapping[str, Scores]]
    speed: Speed

    def means(self) -> dict[str, dict[str, float]]:
        return {
            str(dimension): {precision: found.mean(METRIC) for precision, found in each.items()}
            for dimension, each in self.scores.items()
        }


def measure(model: Model, test: TestSet) -> Measured:
    """Embed the test set and score it; time single queries, and the documents in batches."""
    texts = test.queries.texts.to_pylist()
    seconds = []
    for text in (texts * (WARM_UP + 1))[: TIMED + WARM_UP]:
        started = time.perf_counter()
        embed_texts(model, [text], "query", 1)
        seconds.append(time.perf_counter() - started)
    middle, high = np.percentile(np.array(seconds[WARM_UP:]) * 1000, [50, 95])
    started = time.perf_counter()
    documents = embed_texts(model, test.corpus.texts.to_pylist(), "document", test.batch_size)
    rate = len(test.corpus) / (time.perf_counter() - started)
    queries = embed_texts(model, texts, "query", test.batch_size)
    # Values that are no numbers count as zero: no such text is found.
    vectors = Vectors(_numbers(queries), _numbers(documents))
    scores = score_vectors(vectors, test.queries, test.dimensions, test.precisions)
    speed = Speed(p50_ms=float(middle), p95_ms=float(high), documents_per_second=rate)
    return Measured(vectors, scores, speed)


def _numbers(vectors: torch.Tensor) -> torch.Tensor:
    return vectors.nan_to_num(posinf=0, neginf=0)


def compare(name: str, folder: Path, found: Measured, original: Measured, test: TestSet) -> Export:
    """Compare an export with the original by the vectors of full width and the recommended ones."""
    cosine = min(
        float((a * b).sum(dim=1).min())
        for a, b in (
            (found.vectors.queries, original.vectors.queries),
            (found.vectors.corpus, original.vectors.corpus),
        )
    )
    points = dict.fromkeys([(max(test.dimensions), "float32"), test.recommended])
    compared = [
        _compare(point, found, original, test, is_equal=cosine >= EQUAL) for point in points
    ]
    keeps = all(each.at_least >= test.retention for each in compared)
    return Export(
        name=name,
        bytes=folder_bytes(folder),
        sha256=folder_digest(folder),
        speed=found.speed,
        cosine=cosine,
        scores=found.means(),
        compared=compared,
        keeps=keeps,
        sentence=_sentence(name, compared, test.retention, keeps=keeps),
    )


def _compare(
    point: tuple[int, str], found: Measured, original: Measured, test: TestSet, *, is_equal: bool
) -> Compared:
    dimension, precision = point
    new, old = (m.scores[dimension][precision].metrics[METRIC] for m in (found, original))
    # Without a changed query, a bound says how many could have changed. Here none can.
    bound = 1.0 if is_equal else float(test.by_group.retention_bounds(new[None], old)[0])
    return Compared(
        dimension=dimension,
        precision=precision,
        original=float(old.mean()),
        export=float(new.mean()),
        lift=test.by_group.lift(new - old),
        at_least=bound,
    )


def _sentence(name: str, compared: list[Compared], retention: float, *, keeps: bool) -> str:
    worst = min(compared, key=lambda each: each.at_least)
    share = worst.export / worst.original if worst.original else 1.0
    vectors = f"{worst.dimension} dimensions as {worst.precision.replace('_', ', ')}"
    if keeps and worst.at_least == 1:
        return f"`{name}` has the original's vectors, up to rounding."
    kept = f"{worst.at_least:.1%} (lower {CONFIDENCE:.0%} bound; measured: {share:.1%})"
    if keeps:
        return f"`{name}` keeps at least {kept} of the original's nDCG@10 at {vectors}."
    return (
        f"`{name}` is not shown to keep {retention:.0%} of the original's nDCG@10 at {vectors}: "
        f"at least {kept}."
    )


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def folder_digest(folder: Path) -> str:
    """Hash the names and contents of an export's files."""
    found = sorted((path.relative_to(folder).as_posix(), sha256(path)) for path in _files(folder))
    return hashlib.sha256(repr(found).encode("utf-8")).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.name != FACTS)


def machine_name() -> str:
    """Return the name of this machine's CPU, as its system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def threads() -> int:
    return torch.get_num_threads()
