"""Runs, in a local output folder or in S3: which there are, how far they came, what they found."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from job.core.errors import Interrupted, Stopped, StorageError, TimeLimit
from job.report.document import Report
from job.storage.s3 import PARALLEL
from job.storage.stores import S3, Entry, FolderStore, Store, open_store, safe_join
from job.storage.workspace import MANIFEST, Workspace
from launcher.plan.plan import WORKSPACE, local_folder

REPORT = "report/report.json"
# In the workspace, what was launched; in the run's folder, what the backend knew afterwards.
LAUNCH, RECEIPT = "launch.json", "receipt.json"
# With these codes, or none, launching the run's name again takes it up.
RESUMABLE = (None, 0, *(e.exit_code for e in (Interrupted, Stopped, TimeLimit)))
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """`folder` is the run's own on this machine, `place` where its results are: there or in S3."""

    folder: Path
    published: Store | None = None
    # As its backend said when `launcher.lookup` last asked.
    is_at_work: bool = False

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def place(self) -> Store:
        return self.published or FolderStore(self.folder)

    @property
    def is_remote(self) -> bool:
        return self.place.uri.startswith(S3)

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder / WORKSPACE)

    @cached_property
    def manifest(self) -> dict[str, dict[str, Any]] | None:
        """Size and digest of each result by name; nothing before the run has finished."""
        text = self.place.read(MANIFEST)
        if text is None:
            return None
        try:
            return {
                str(name): {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])}
                for name, entry in json.loads(text).items()
            }
        except (ValueError, TypeError, AttributeError, KeyError):
            msg = f"`{self.place.uri}/{MANIFEST}` is damaged: it lists no files with their digests."
            raise StorageError(msg) from None

    @cached_property
    def is_finished(self) -> bool:
        return self.place.modified_at(MANIFEST) is not None

    @property
    def state(self) -> str:
        """`finished`, `running`, `failed` or `unfinished` (launching it again takes it up)."""
        if self.is_finished:
            return "finished"
        if self.is_at_work or self.workspace.is_locked():
            return "running"
        code = (self.receipt or {}).get("exit_code")
        return "unfinished" if code in RESUMABLE else "failed"

    @property
    def changed(self) -> datetime:
        """When it finished, or else when it was last worked on."""
        found = self.place.modified_at(MANIFEST)
        if self.is_remote:
            found = found or self.place.modified_at("spec.json")
        return found or datetime.fromtimestamp(self.folder.stat().st_mtime, UTC)

    @property
    def launch(self) -> dict[str, Any] | None:
        """What `embedtune launch` noted on this machine: the backend and what it was asked."""
        return _read(self.workspace.root / LAUNCH)

    @property
    def receipt(self) -> dict[str, Any] | None:
        """What the backend knew when the job had ended; nothing before that."""
        return _read(self.folder / RECEIPT)

    @cached_property
    def found(self) -> Report | None:
        """The report, where there is one yet."""
        text = self.place.read(REPORT)
        return None if text is None else Report.read(text, f"{self.place.uri}/{REPORT}")

    def report(self) -> Report:
        """Read the report; raises `StorageError` where the run has none."""
        if self.found is None:
            msg = f"The run `{self.name}` is {self.state} and has no report in `{self.place.uri}`."
            raise StorageError(msg)
        return self.found

    def fetch_report(self) -> Path:
        """Copy the report, and nothing else, to this machine; returns its folder."""
        if self.is_remote:
            place = self.place.join("report")
            place.get(place.files(), self.folder / "report")
        return self.folder / "report"


def _read(path: Path) -> dict[str, Any] | None:
    found: dict[str, Any] | None
    try:
        found = json.loads(path.read_text("utf-8")) if path.is_file() else None
    except ValueError:
        msg = f"`{path}` is damaged: it is no JSON. Delete it; it only tells of the last try."
        raise StorageError(msg) from None
    return found


def list_runs(output: str) -> list[Run]:
    """List the runs below an output and, for one in S3, those begun here, the latest first."""
    root = local_folder(output)
    folders = [folder for folder in root.iterdir() if folder.is_dir()] if root.is_dir() else []
    # Others may lie beside them.
    begun = [f for f in folders if (f / WORKSPACE).is_dir() or (f / MANIFEST).is_file()]
    runs = {folder.name: begun_here(folder) for folder in begun}
    if output.startswith(S3):
        place = open_store(output)
        names = place.folders()
        found = [Run(root / name, place.join(name)) for name in names]
        are_runs = _in_parallel(lambda run: run.place.modified_at("spec.json") is not None, found)
        runs |= {run.name: run for run, is_run in zip(found, are_runs, strict=True) if is_run}
    listed = list(runs.values())
    when = dict(zip(runs, _in_parallel(lambda run: run.changed, listed), strict=True))
    return sorted(listed, key=lambda run: when[run.name], reverse=True)


def begun_here(folder: Path) -> Run:
    """Say where a local run's results go: its own spec tells."""
    spec = Run(folder).workspace.job_spec
    try:
        output = str(json.loads(spec.read_text("utf-8"))["output"]["uri"])
    except (OSError, ValueError, KeyError, TypeError):
        # None yet, or a damaged one: a launch under that name will tell.
        return Run(folder)
    return Run(folder, open_store(output).join(folder.name) if output.startswith(S3) else None)


def preload(runs: Iterable[Run]) -> None:
    """Read what a list of runs shows, of all at once."""
    _in_parallel(lambda run: (run.is_finished, run.found), list(runs))


def _in_parallel(work: Callable[[Run], T], runs: list[Run]) -> list[T]:
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(work, runs))


def find_run(output: str, name: str | None) -> Run:
    """Find a run by its name or its `s3://` address, or the latest finished one."""
    if name and name.startswith(S3):
        place = open_store(name)
        return _existing(Run(local_folder(name) / place.uri.rpartition("/")[2], place))
    if name:
        here = local_folder(output) / name
        if output.startswith(S3):
            return _existing(Run(here, open_store(output).join(name)))
        if not here.is_dir():
            msg = f"There is no run `{name}` in `{output}`; `embedtune ls` lists the runs."
            raise StorageError(msg)
        return begun_here(here)
    finished = (run for run in list_runs(output) if run.is_finished)
    if (latest := next(finished, None)) is None:
        msg = f"There is no finished run in `{output}`. Start one with `embedtune launch`."
        raise StorageError(msg)
    return latest


def _existing(run: Run) -> Run:
    if run.place.modified_at("spec.json") is None:
        msg = f"There is no run at `{run.place.uri}`; `embedtune ls --output s3://…` lists them."
        raise StorageError(msg)
    return run


def by_test_set(runs: list[Run]) -> dict[str, dict[str, Report]]:
    """Gather reports whose scores can be compared, by the fingerprint of their test set.

    In each group a run bears its name, or its place where two are called alike.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.report().data.fingerprint["test"], []).append(run)
    return {fingerprint: _labelled(group) for fingerprint, group in groups.items()}


def _labelled(runs: list[Run]) -> dict[str, Report]:
    names = Counter(run.name for run in runs)
    return {run.name if names[run.name] == 1 else run.place.uri: run.report() for run in runs}


def fetch_results(run: Run, folder: Path, *, with_model: bool) -> list[str]:
    """Copy a finished run's results here, each proven by the manifest; returns their names.

    Nothing that differs from the manifest reaches the folder. What is there already and right is
    not copied again.
    """
    if run.manifest is None:
        msg = f"The run `{run.name}` is {run.state}: without a manifest nothing can be verified."
        raise StorageError(msg)
    left_out = () if with_model else ("model/",)
    wanted = {n: entry for n, entry in run.manifest.items() if not n.startswith(left_out)}
    targets = {name: safe_join(folder, name) for name in wanted}
    missing = [name for name in wanted if not _is_right(targets[name], wanted[name])]
    stored = {entry.name: entry for entry in run.place.files()} if missing else {}
    _refuse(run, "missing", [name for name in missing if name not in stored])
    changed = [n for n in missing if stored[n].size != wanted[n]["bytes"]]
    _refuse(run, "of another size", changed)
    _copy([stored[name] for name in missing], run, wanted, folder)
    return list(wanted)


def _copy(entries: list[Entry], run: Run, wanted: dict[str, dict[str, Any]], folder: Path) -> None:
    beside = folder / ".fetch"
    try:
        run.place.get(entries, beside)
        copies = {entry.name: beside / entry.name for entry in entries}
        wrong = [name for name, path in copies.items() if not _is_right(path, wanted[name])]
        _refuse(run, "altered", wrong)
        for name, path in copies.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _is_right(path: Path, entry: dict[str, Any]) -> bool:
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    with path.open("rb") as handle:
        return bool(hashlib.file_digest(handle, "sha256").hexdigest() == entry["sha256"])


def _refuse(run: Run, what: str, names: list[str]) -> None:
    if names:
        shown = ", ".join(f"`{name}`" for name in names[:5]) + (", …" if len(names) > 5 else "")
        msg = (
            f"{len(names)} of the run's files in `{run.place.uri}` are {what}, as its manifest "
            f"tells: {shown}. Nothing was fetched; do not use what is stored there."
        )
        raise StorageError(msg)
