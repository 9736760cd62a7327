"""Run the stage in a folder: a second start reuses its pairs, or else the answers so far."""

from collections.abc import Callable, Sequence
from pathlib import Path

from job.core.errors import DataError
from job.generation.chunks import Splitter, corpus_rows
from job.generation.facts import Generation
from job.generation.generate import generate
from job.generation.journal import Journal
from job.generation.language_models import Host
from job.generation.plan import make_plan
from job.generation.results import (
    CORPUS,
    DOCUMENT,
    FACTS,
    PAIRS,
    REJECTED,
    SYNTHETIC_TEST,
    Generated,
    pair_rows,
    rejected_rows,
    require_kept,
    write_facts,
    write_rows,
)
from job.generation.round_trip import Search
from job.runtime.logs import tell
from job.spec.schema import DataSpec, JobSpec

JOURNAL = "journal.jsonl"


def generate_once(
    source: Path,
    spec: JobSpec,
    folder: Path,
    splitter: Callable[[], Splitter],
    searches: Callable[[], Sequence[Search]],
    write_page: Callable[[Generated, Path], None],
    host: Host,
) -> Generation:
    """Write pairs and facts to a folder, unless an earlier start did; return the facts.

    Raises `DataError` if the documents are not those of the earlier start.
    """
    plan = make_plan(source, spec, splitter)
    if (folder / FACTS).is_file():
        Journal(folder / JOURNAL, plan.documents)
        tell("generate", "reusing the pairs from an earlier start of this run")
        return Generation.model_validate_json((folder / FACTS).read_text("utf-8"))
    # Before anything is paid for.
    if shortage := plan.shortage(spec):
        raise DataError(shortage)
    found = generate(plan, spec, folder / JOURNAL, searches, host)
    columns = spec.data.columns
    # Real questions are a better test; the synthetic ones then stand beside them.
    synthetic = ("test",) if spec.data.test else ()
    others = [split for split in ("train", "validation", "test") if split not in synthetic]
    write_rows(folder / PAIRS, pair_rows(found, columns, others))
    write_rows(folder / SYNTHETIC_TEST, pair_rows(found, columns, synthetic))
    write_rows(folder / CORPUS, corpus_rows(plan.chunks))
    write_rows(folder / REJECTED, rejected_rows(found))
    write_page(found, folder / "pairs.html")
    require_kept(found, folder / REJECTED)
    write_facts(found.facts, folder / FACTS)
    return found.facts


def data_of_pairs(spec: DataSpec) -> DataSpec:
    """Return the section `data` by which the written pairs are read: they have their own splits."""
    columns = spec.columns.model_copy(update={"document": DOCUMENT})
    changes = {"source": spec.documents, "documents": None, "split": "train", "columns": columns}
    return spec.model_copy(update=changes)
