"""Runs, in a local folder or in S3: finds them, and reads their state and results."""

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
# launch.json lies in the workspace, receipt.json in the run's folder: see `launcher.runs.records`.
LAUNCH, RECEIPT = "launch.json", "receipt.json"
# A run with one of these exit codes, or none, is resumed when launched again.
RESUMABLE = (None, 0, *(e.exit_code for e in (Interrupted, Stopped, TimeLimit)))
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A run: `folder` is on this machine; `store` holds its results, there or in S3."""

    folder: Path
    published: Store | None = None
    # Set by `launcher.lookup`, from the backend; also whether store or backend did not answer.
    is_active: bool = False
    status: str = ""
    is_unknown: bool = False

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def store(self) -> Store:
        return self.published or FolderStore(self.folder)

    @property
    def is_remote(self) -> bool:
        return self.store.uri.startswith(S3)

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder / WORKSPACE)

    @cached_property
    def manifest(self) -> dict[str, dict[str, Any]] | None:
        """Size and digest of each result by name, or None before the run has finished."""
        text = self.store.read(MANIFEST)
        if text is None:
            return None
        try:
            return {
                str(name): {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])}
                for name, entry in json.loads(text).items()
            }
        except (ValueError, TypeError, AttributeError, KeyError):
            msg = f"`{self.store.uri}/{MANIFEST}` is damaged: expected files with size and digest."
            raise StorageError(msg) from None

    @cached_property
    def _finished(self) -> datetime | None:
        return self.store.modified_at(MANIFEST)

    @property
    def is_finished(self) -> bool:
        return self._finished is not None

    @property
    def state(self) -> str:
        """`finished`, `running`, `failed`, `unfinished` (resumed when launched again) or `unknown`.

        If store or backend did not answer, only the receipt can tell.
        """
        if self.is_finished:
            return "finished"
        if self.is_active or self.workspace.is_locked():
            return "running"
        code = (self.receipt or {}).get("exit_code")
        if self.is_unknown and code in (None, 0):
            return "unknown" if code is None else "finished"
        return "unfinished" if code in RESUMABLE else "failed"

    @cached_property
    def changed(self) -> datetime:
        """When the run finished, or else when it last changed."""
        changed = self._finished
        if self.is_remote:
            changed = changed or self.store.modified_at("spec.json")
        return changed or datetime.fromtimestamp(self.folder.stat().st_mtime, UTC)

    @property
    def launch(self) -> dict[str, Any] | None:
        """The launch record of this machine: the backend and the request."""
        return _read(self.workspace.root / LAUNCH)

    @property
    def receipt(self) -> dict[str, Any] | None:
        """The backend's facts about the ended job, or None before it ends."""
        return _read(self.folder / RECEIPT)

    @cached_property
    def stored_report(self) -> Report | None:
        """The report, or None if there is none yet."""
        text = self.store.read(REPORT)
        return None if text is None else Report.read(text, f"{self.store.uri}/{REPORT}")

    def report(self) -> Report:
        """Return the report; raises `StorageError` if there is none."""
        if self.stored_report is None:
            msg = f"The run `{self.name}` is {self.state} and has no report in `{self.store.uri}`."
            raise StorageError(msg)
        return self.stored_report

    def fetch_report(self) -> Path:
        """Copy only the report to this machine; returns its folder."""
        if self.is_remote:
            store = self.store.join("report")
            store.get(store.files(), self.folder / "report")
        return self.folder / "report"


def _read(path: Path) -> dict[str, Any] | None:
    document: dict[str, Any] | None
    try:
        document = json.loads(path.read_text("utf-8")) if path.is_file() else None
    except ValueError:
        msg = f"`{path}` is damaged: it is not JSON. Delete it; it only describes the last attempt."
        raise StorageError(msg) from None
    return document


def list_runs(output: str) -> list[Run]:
    """List the runs of an output, latest first; for S3 also those that only this machine has."""
    return latest_first([*(local_runs(output) | stored_runs(output)).values()])


def local_runs(output: str) -> dict[str, Run]:
    """Return the runs that this machine has, by name."""
    root = local_folder(output)
    folders = [folder for folder in root.iterdir() if folder.is_dir()] if root.is_dir() else []
    # Other folders may be there too.
    local = [f for f in folders if (f / WORKSPACE).is_dir() or (f / MANIFEST).is_file()]
    return {folder.name: local_run(folder) for folder in local}


def stored_runs(output: str) -> dict[str, Run]:
    """Return the runs in S3, by name; none if the output is a local folder."""
    if not output.startswith(S3):
        return {}
    root, store = local_folder(output), open_store(output)
    candidates = [Run(root / name, store.join(name)) for name in store.folders()]
    are_runs = _in_parallel(lambda run: run.store.modified_at("spec.json") is not None, candidates)
    return {run.name: run for run, is_run in zip(candidates, are_runs, strict=True) if is_run}


def latest_first(runs: list[Run]) -> list[Run]:
    times = dict(zip(runs, _in_parallel(lambda run: run.changed, runs), strict=True))
    return sorted(runs, key=lambda run: times[run], reverse=True)


def local_run(folder: Path) -> Run:
    """Return the run of a local folder; its spec says whether its results go to S3."""
    spec = Run(folder).workspace.job_spec
    try:
        output = str(json.loads(spec.read_text("utf-8"))["output"]["uri"])
    except (OSError, ValueError, KeyError, TypeError):
        # No spec yet, or a damaged one: a launch with that name will report it.
        return Run(folder)
    return Run(folder, open_store(output).join(folder.name) if output.startswith(S3) else None)


def preload(runs: Iterable[Run]) -> None:
    """Read in parallel what a list of runs shows."""
    _in_parallel(lambda run: (run.is_finished, run.stored_report, run.changed), list(runs))


def _in_parallel(work: Callable[[Run], T], runs: list[Run]) -> list[T]:
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(work, runs))


def find_run(output: str, name: str | None) -> Run:
    """Find a run by its name or `s3://` URI, or the latest finished one."""
    if name and name.startswith(S3):
        store = open_store(name)
        return _existing(Run(local_folder(name) / store.uri.rpartition("/")[2], store))
    if name:
        folder = local_folder(output) / name
        if output.startswith(S3):
            return _existing(Run(folder, open_store(output).join(name)))
        if not folder.is_dir():
            msg = f"There is no run `{name}` in `{output}`; `embedtune ls` lists the runs."
            raise StorageError(msg)
        return local_run(folder)
    finished = (run for run in list_runs(output) if run.is_finished)
    if (latest := next(finished, None)) is None:
        msg = f"There is no finished run in `{output}`. Start one with `embedtune launch`."
        raise StorageError(msg)
    return latest


def _existing(run: Run) -> Run:
    if run.store.modified_at("spec.json") is None:
        msg = f"There is no run at `{run.store.uri}`; `embedtune ls --output s3://…` lists them."
        raise StorageError(msg)
    return run


def by_test_set(runs: list[Run]) -> dict[str, dict[str, Run]]:
    """Group runs by the fingerprint of their test set, since only these can be compared.

    In a group the key is a run's name, or its URI if several runs have that name.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.report().data.fingerprint["test"], []).append(run)
    return {fingerprint: _labelled(group) for fingerprint, group in groups.items()}


def _labelled(runs: list[Run]) -> dict[str, Run]:
    names = Counter(run.name for run in runs)
    return {run.name if names[run.name] == 1 else run.store.uri: run for run in runs}


def fetch_results(run: Run, folder: Path, *, with_model: bool) -> list[str]:
    """Copy a finished run's results to a folder, verified by the manifest; returns their names.

    Files that differ from the manifest never reach the folder. Files that are already there and
    correct are not copied again.
    """
    if run.manifest is None:
        msg = f"The run `{run.name}` is {run.state}: it has no manifest to verify files."
        raise StorageError(msg)
    skipped = () if with_model else ("model/", "model_proven/", "exports/")
    wanted = {n: entry for n, entry in run.manifest.items() if not n.startswith(skipped)}
    targets = {name: safe_join(folder, name) for name in wanted}
    missing = [name for name in wanted if not _matches(targets[name], wanted[name])]
    stored = {entry.name: entry for entry in run.store.files()} if missing else {}
    _require_none(run, "missing", [name for name in missing if name not in stored])
    changed = [n for n in missing if stored[n].size != wanted[n]["bytes"]]
    _require_none(run, "of another size", changed)
    _copy([stored[name] for name in missing], run, wanted, folder)
    return list(wanted)


def _copy(entries: list[Entry], run: Run, wanted: dict[str, dict[str, Any]], folder: Path) -> None:
    temporary = folder / ".fetch"
    try:
        run.store.get(entries, temporary)
        copies = {entry.name: temporary / entry.name for entry in entries}
        wrong = [name for name, path in copies.items() if not _matches(path, wanted[name])]
        _require_none(run, "altered", wrong)
        for name, path in copies.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _matches(path: Path, entry: dict[str, Any]) -> bool:
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    with path.open("rb") as handle:
        return bool(hashlib.file_digest(handle, "sha256").hexdigest() == entry["sha256"])


def _require_none(run: Run, what: str, names: list[str]) -> None:
    if names:
        shown = ", ".join(f"`{name}`" for name in names[:5]) + (", …" if len(names) > 5 else "")
        msg = (
            f"{len(names)} of the run's files in `{run.store.uri}` are {what}, compared with its "
            f"manifest: {shown}. Nothing was fetched; do not use the stored files."
        )
        raise StorageError(msg)
