"""A comparison reads the scores of single queries, and counts the other runs of the test set."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reports

from job.report.document import Report
from launcher.runs.comparison import compared_group
from launcher.runs.run import Run

DIMENSION = 32


def finish(folder, gain=0.0, validation=0.6, test="f1", *, groups=True):
    """Write a finished run: its report, the scores of 40 queries, and a manifest."""
    document = reports.improved(
        training__best_validation=validation,
        data__fingerprint={"train": "t", "validation": "v", "test": test},
        verdict__dimension=DIMENSION,
    )
    (folder / "report").mkdir(parents=True)
    text = Report.model_validate(document).to_json()
    (folder / "report" / "report.json").write_text(text, "utf-8")
    values = np.random.default_rng(1).random(40) / 2
    rows = {"model": ["tuned"] * 40, "dimension": [DIMENSION] * 40, "precision": ["float32"] * 40}
    rows |= {"group": np.arange(40)} if groups else {}
    pq.write_table(pa.table(rows | {"ndcg@10": values + gain}), folder / "per_query.parquet")
    (folder / "manifest.json").write_text("{}", "utf-8")
    return Run(folder)


def test_each_run_is_tested_against_the_best_on_validation(tmp_path):
    """All queries gain 0.1; of four finished runs three have this test set, one a broken report."""
    runs = {
        name: finish(tmp_path / name, gain, validation)
        for name, gain, validation in (("a", 0.1, 0.5), ("b", 0.0, 0.7))
    }
    finish(tmp_path / "c")
    finish(tmp_path / "d", test="f2")
    finish(tmp_path / "e").folder.joinpath("report", "report.json").write_text("{", "utf-8")
    group = compared_group("f1", runs, str(tmp_path))
    (found,) = group.evidence.differences
    assert (found.run, found.lift) == ("a", pytest.approx(0.1))
    assert sorted(group.evidence.tested) == ["a", "b", "c"]
    assert (group.evidence.dimension, group.evidence.note) == (DIMENSION, None)
    assert [name for name, _ in group.ranked] == ["b", "a"]


@pytest.mark.parametrize(
    ("removed", "note"),
    [("per_query.parquet", "there is no fitting"), (None, "each query counts as one")],
)
def test_runs_without_scores_or_groups_of_queries_are_noted(tmp_path, removed, note):
    runs = {name: finish(tmp_path / name, groups=False) for name in ("a", "b")}
    if removed:
        (tmp_path / "b" / removed).unlink()
    assert note in compared_group("f1", runs, str(tmp_path)).evidence.note
