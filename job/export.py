"""`export`: a finished run's model in another format, measured on the run's test set."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq

from job.data.dataset import Queries
from job.evaluation.significance import GroupedQueries
from job.exports.build import Step, export_model, merged
from job.exports.kinds import Kind, require_packages
from job.exports.measure import TestSet
from job.exports.write import CALIBRATION
from job.report.document import Report
from job.report.exports import SEEN, export_lines
from job.report.model_card import write_card
from job.report.write import write_report
from job.serving.test_set import read_test_set
from job.spec.parse import build_spec
from job.spec.schema import JobSpec
from job.storage.arrow_tables import IntArray
from job.storage.stores import FolderStore, Store, open_store
from job.storage.workspace import MANIFEST, explained, manifest_entries, write_atomically
from job.stored_run import read_stored_report

CARD = "model/README.md"


def export_run(folder: Path, kind: Kind, store: str, echo: Callable[[str], object]) -> None:
    """Export the model of a run (a folder) to `exports`/NAME, and add the result to its report.

    `store` is where the run is published: the folder, or its URI in S3.
    """
    require_packages([kind])
    # Before minutes of measuring: can the folder be written to?
    with explained(folder / "exports"), TemporaryDirectory(prefix="exports-", dir=folder):
        pass
    report = read_stored_report(folder)
    spec = build_spec(report.spec)
    test = _test_set(folder, report, spec)
    found = export_model(
        folder / "model",
        folder / "exports",
        [kind],
        test,
        _calibration(folder, "test" if report.data.folds else "train"),
        _step(echo),
        trust_code=spec.model.trust_remote_code,
    )
    report = report.model_copy(update={"exports": merged([*report.exports, *found])})
    write_report(report, folder / "report")
    # The card keeps the license that it has.
    write_card(folder / "model", spec.model, folder / "model", report)
    _publish(folder, kind, open_store(store, spec.output.kms_key))
    for line in export_lines(found):
        echo(line)
    if report.has_seen_test:
        echo(SEEN)
    echo(f"Export: {folder / 'exports' / kind.name}")


def _test_set(folder: Path, report: Report, spec: JobSpec) -> TestSet:
    queries, corpus = read_test_set(folder / "data")
    evaluation, advice = spec.evaluation, report.recommendation
    groups = _groups(folder / "per_query.parquet", queries)
    return TestSet.of(
        queries,
        corpus,
        by_group=GroupedQueries(groups, evaluation.permutations, spec.data.seed),
        dimensions=tuple(map(int, report.comparison)),
        precisions=evaluation.precisions,
        recommended=(advice.dimension, advice.precision),
        retention=evaluation.retention,
        batch_size=evaluation.batch_size,
    )


def _groups(path: Path, queries: Queries) -> IntArray:
    """Return the group of each query; each is its own in runs that did not store them."""
    names = pq.read_schema(path).names if path.is_file() else []
    if not {"query_id", "group"} <= {*names}:
        return np.arange(len(queries))
    table = pq.read_table(path, columns=["query_id", "group"])
    known = dict(zip(table["query_id"].to_pylist(), table["group"].to_pylist(), strict=True))
    return np.array([known[query] for query in queries.ids.to_pylist()], dtype=np.int64)


def _calibration(folder: Path, split: str) -> list[str]:
    """Read documents that were trained on; with folds, all rows are in the file of the test."""
    path = folder / "data" / f"{split}.jsonl"
    with explained(path, "read"), path.open(encoding="utf-8") as lines:
        return [json.loads(line)["positive"] for line in islice(lines, CALIBRATION)]


def _step(echo: Callable[[str], object]) -> Step:
    @contextmanager
    def step() -> Iterator[dict[str, object]]:
        facts: dict[str, object] = {}
        yield facts
        echo(f"Measured: {facts['name']}")

    return step


def _publish(folder: Path, kind: Kind, store: Store) -> None:
    """Upload what has changed, then the manifest with it; a local run is there already."""
    text = store.read(MANIFEST)
    if text is None:
        return
    own = [f"exports/{kind.name}/", "report/", CARD]
    files = {
        path.relative_to(folder).as_posix(): path
        for part in own
        for path in sorted((folder / part).rglob("*") if part.endswith("/") else [folder / part])
        if path.is_file()
    }
    kept = {n: e for n, e in json.loads(text).items() if not n.startswith(own[0])}
    manifest = json.dumps(kept | manifest_entries(files.items()), indent=2) + "\n"
    if isinstance(store, FolderStore):
        write_atomically(folder / MANIFEST, manifest)
    else:
        store.put(files)
        store.write(MANIFEST, manifest)
