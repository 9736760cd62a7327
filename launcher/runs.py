"""Runs in a local output folder: which there are, how far they came, what they found."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from job.errors import StorageError
from job.workspace import MANIFEST, Workspace
from launcher.plan import WORKSPACE


@dataclass(frozen=True)
class Run:
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder / WORKSPACE)

    @property
    def is_finished(self) -> bool:
        return (self.folder / MANIFEST).is_file()

    @property
    def state(self) -> str:
        """`finished`, `running`, `failed` or `unfinished` (launching it again takes it up)."""
        if self.is_finished:
            return "finished"
        if self.workspace.is_locked():
            return "running"
        return "failed" if self._exit_code not in (None, 10) else "unfinished"

    @property
    def changed(self) -> datetime:
        path = self.folder / MANIFEST if self.is_finished else self.folder
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)

    @property
    def _exit_code(self) -> int | None:
        path = self.folder / "receipt.json"
        return json.loads(path.read_text("utf-8"))["exit_code"] if path.is_file() else None

    @property
    def has_report(self) -> bool:
        return (self.folder / "report" / "report.json").is_file()

    def report(self) -> dict[str, Any]:
        """Read the report; raises `StorageError` where the run has none."""
        path = self.folder / "report" / "report.json"
        if not self.has_report:
            msg = f"The run `{self.name}` is {self.state} and has no report in `{self.folder}`."
            raise StorageError(msg)
        report: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return report


def list_runs(output: Path) -> list[Run]:
    """List the runs below an output folder, the latest first."""
    if not output.is_dir():
        return []
    folders = (folder for folder in output.iterdir() if folder.is_dir())
    runs = [Run(f) for f in folders if (f / WORKSPACE).is_dir() or (f / MANIFEST).is_file()]
    return sorted(runs, key=lambda run: run.changed, reverse=True)


def find_run(output: Path, name: str | None) -> Run:
    """Find a run by name, or the latest finished one."""
    if name:
        run = Run(output / name)
        if not run.folder.is_dir():
            msg = f"There is no run `{name}` in `{output}`; `embedtune ls` lists the runs."
            raise StorageError(msg)
        return run
    finished = [run for run in list_runs(output) if run.is_finished]
    if not finished:
        msg = f"There is no finished run in `{output}`. Start one with `embedtune launch`."
        raise StorageError(msg)
    return finished[0]
