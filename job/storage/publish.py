"""Publish the results to their destination and the Hub; the manifest is written last."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from job.runtime.logs import tell, warn
from job.spec.schema import JobSpec
from job.storage.hub import Push
from job.storage.stores import Store
from job.storage.workspace import (
    MANIFEST,
    Workspace,
    check_same_spec,
    manifest_entries,
    write_atomically,
)

# Parts of the results that a Hub repository gets.
PUSHED = ("model/", "report/", "logs/", "exports/")


def write_manifest(workspace: Workspace) -> None:
    """Write the size and SHA-256 of every result file; the manifest marks a complete result."""
    entries = manifest_entries(result_files(workspace))
    write_atomically(workspace.results / MANIFEST, json.dumps(entries, indent=2) + "\n")


def result_files(workspace: Workspace) -> Iterator[tuple[str, Path]]:
    """Yield each result's name in the result folder and its path in the workspace."""
    for root, prefix in ((workspace.results, ""), (workspace.model, "model/")):
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.name != MANIFEST:
                yield prefix + path.relative_to(root).as_posix(), path


def upload(workspace: Workspace, destination: Store) -> None:
    """Upload the results, the report first and the model last; then call `complete`."""
    tell("publish", "start", to=destination.uri)
    files = dict(result_files(workspace))
    report = {name: path for name, path in files.items() if name.startswith("report/")}
    model = {name: path for name, path in files.items() if name.startswith("model/")}
    destination.put(report)
    destination.put({n: path for n, path in files.items() if n not in report | model})
    destination.put(model)
    tell("publish", "done")


def complete(workspace: Workspace, destination: Store) -> None:
    """Upload the manifest, which marks the results as complete."""
    destination.write(MANIFEST, (workspace.results / MANIFEST).read_text("utf-8"))


def delete_results(workspace: Workspace) -> None:
    """Empty the folders of the results, and keep the folders, which may be mounts."""
    for folder in (workspace.results, workspace.model):
        for path in folder.iterdir() if folder.is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def push_model(workspace: Workspace, push: Push, run: str, *, always: bool) -> None:
    """Push model, card, report and logs if the verdict is "improved" or `always` is set."""
    report = json.loads((workspace.report / "report.json").read_text("utf-8"))
    if not (report["verdict"]["improved"] or always):
        text = f"the model was not improved, so it was not pushed to `{push.repository}`; "
        warn("hub", text + "`output.hub_always=true` pushes it anyway")
        return
    chosen = [f for f in result_files(workspace) if f[0].startswith(PUSHED)]
    files = {name.removeprefix("model/"): path for name, path in chosen}
    tell("hub", f"pushing the model to `{push.repository}`", files=len(files))
    commit = push.results(files, run)
    tell("hub", f"the model is in `{push.repository}`, commit {commit[:12]}, tag `{run}`")


def reserve(destination: Store, spec: JobSpec) -> None:
    """Write the spec to the destination, to prove before any work that it is writable and ours.

    Raises `SpecError` if it holds the results of another spec.
    """
    if (earlier := destination.read("spec.json")) is None:
        destination.write("spec.json", spec.to_json())
    else:
        check_same_spec(earlier, destination.uri, spec)


def is_complete(destination: Store) -> bool:
    return destination.read(MANIFEST) is not None
