"""Writes report.html, report.md, report.json and per_query.parquet."""

from collections.abc import Mapping
from pathlib import Path

from job.data.dataset import Dataset
from job.evaluation.metrics import METRICS, Scores
from job.report.document import Report
from job.report.render import to_html, to_markdown
from job.storage.workspace import write_atomically


def write_report(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "report.html", to_html(report))
    write_atomically(folder / "report.md", to_markdown(report))
    write_atomically(folder / "report.json", report.to_json())


def write_per_query(
    path: Path, dataset: Dataset, scores: Mapping[str, Mapping[int, Mapping[str, Scores]]]
) -> None:
    """Write one row per query, model, dimension and precision: metrics, rank, top ten ids.

    `rank` is the rank of the best relevant document, null beyond 100; BM25 has dimension 0.
    Queries of one `group` share texts or documents, and are not independent.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = len(dataset.test)
    tables = [
        pa.table(
            {
                "query_id": dataset.test.ids,
                "group": dataset.test.groups,
                "model": [model] * count,
                "dimension": [dimension] * count,
                "precision": [precision] * count,
                "rank": [rank or None for rank in result.rank.tolist()],
                **{metric: result.metrics[metric] for metric in METRICS},
                "top_ids": [dataset.corpus.ids.take(top).to_pylist() for top in result.top],
            }
        )
        for model, by_dimension in scores.items()
        for dimension, by_precision in by_dimension.items()
        for precision, result in by_precision.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(tables, promote_options="permissive"), path)
