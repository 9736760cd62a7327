"""What a comparison needs beyond reports: scores of single queries, and other tested runs."""

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from job.core.errors import StorageError
from job.report.compare_runs import Evidence, Group
from launcher.runs.run import Run, list_runs, preload

if TYPE_CHECKING:
    from job.report.paired_runs import PerQuery

PER_QUERY = "per_query.parquet"


def compared_group(fingerprint: str, runs: Mapping[str, Run], output: str) -> Group:
    """Return the group of these runs, which have one test set, with all that is known of them."""
    group = Group(fingerprint, {name: run.report() for name, run in runs.items()})
    tested = {run.store.uri: run.name for run in runs.values()}
    tested |= {run.store.uri: run.name for run in _tested_on(fingerprint, output)}
    found = _differences(group, runs) if len(runs) > 1 else Evidence()
    evidence = replace(found, tested=tuple(tested.values()), output=output)
    return replace(group, evidence=evidence)


def _tested_on(fingerprint: str, output: str) -> list[Run]:
    """Return the finished runs of an output that have this test set."""
    runs = [run for run in list_runs(output) if run.is_finished]
    with suppress(StorageError):
        preload(runs)
    return [run for run in runs if _test_set(run) == fingerprint]


def _test_set(run: Run) -> str | None:
    try:
        report = run.stored_report
    except StorageError:
        # A damaged report of a run that is not compared is no reason to fail.
        return None
    return report.data.fingerprint.get("test") if report else None


def _differences(group: Group, runs: Mapping[str, Run]) -> Evidence:
    dimension = group.common_dimension
    if dimension is None:
        return Evidence(note="The runs have no dimension in common to be tested at.")
    try:
        from job.report.paired_runs import differences_from
    except ModuleNotFoundError as error:
        return Evidence(
            note=f"The runs are not tested against each other: the package `{error.name}` is "
            "missing; run `pip install 'embedtune[data]'`."
        )
    ranked = [name for name, _ in group.ranked]
    scores = {name: _scores(runs[name], int(dimension)) for name in ranked}
    known = {name: found for name, found in scores.items() if found is not None}
    if len(known) < len(scores) or len({len(found.values) for found in known.values()}) > 1:
        missing = [name for name in ranked if name not in known] or ranked
        return Evidence(
            note="The runs are not tested against each other: there is no fitting "
            f"`{PER_QUERY}` of {', '.join(missing)}."
        )
    note = None
    if all(found.groups is None for found in known.values()):
        note = "Runs of older versions store no groups of queries: each query counts as one."
    found = differences_from(ranked[0], known)
    return Evidence(found, int(dimension), note)


def _scores(run: Run, dimension: int) -> "PerQuery | None":
    from job.report.paired_runs import read_per_query

    stored = [entry for entry in run.store.files() if entry.name == PER_QUERY]
    if not stored:
        return None
    with tempfile.TemporaryDirectory() as folder:
        run.store.get(stored, Path(folder))
        return read_per_query(Path(folder) / PER_QUERY, dimension)
