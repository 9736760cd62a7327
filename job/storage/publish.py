"""The results go to their destination and to the Hub; the manifest, written last, ends it."""

import json
from collections.abc import Iterator
from pathlib import Path

from job.runtime.logs import tell, warn
from job.spec.schema import JobSpec
from job.storage.hub import Push
from job.storage.stores import Store
from job.storage.workspace import MANIFEST, Workspace, check_same_spec, sha256, write_atomically


def write_manifest(workspace: Workspace) -> None:
    """List every file of the result with its size and digest; its presence says "complete"."""
    entries = {
        name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for name, path in result_files(workspace)
    }
    write_atomically(workspace.results / MANIFEST, json.dumps(entries, indent=2) + "\n")


def result_files(workspace: Workspace) -> Iterator[tuple[str, Path]]:
    """Yield the name in the result folder and the place in the workspace of each result."""
    for root, prefix in ((workspace.results, ""), (workspace.model, "model/")):
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.name != MANIFEST:
                yield prefix + path.relative_to(root).as_posix(), path


def upload(workspace: Workspace, destination: Store) -> None:
    """Put the results into their place, the report first, the model last; `complete` ends it."""
    files = dict(result_files(workspace))
    report = {name: path for name, path in files.items() if name.startswith("report/")}
    model = {name: path for name, path in files.items() if name.startswith("model/")}
    destination.put(report)
    destination.put({n: path for n, path in files.items() if n not in report | model})
    destination.put(model)


def complete(workspace: Workspace, destination: Store) -> None:
    """Write the manifest, which says that everything is there."""
    destination.write(MANIFEST, (workspace.results / MANIFEST).read_text("utf-8"))


def push_model(workspace: Workspace, push: Push, run: str, *, always: bool) -> None:
    """Push the model with its card, the report and the logs beside it, if it was improved."""
    report = json.loads((workspace.report / "report.json").read_text("utf-8"))
    if not (report["verdict"]["improved"] or always):
        text = f"the model was not improved, so it was not pushed to `{push.repository}`; "
        warn("hub", text + "`output.hub_always=true` pushes it all the same")
        return
    kept = [f for f in result_files(workspace) if f[0].startswith(("model/", "report/", "logs/"))]
    files = {name.removeprefix("model/"): path for name, path in kept}
    commit = push.results(files, run)
    tell("hub", f"the model is in `{push.repository}`, commit {commit[:12]}, tag `{run}`")


def reserve(destination: Store, spec: JobSpec) -> None:
    """Refuse, before any work is done, the place of another job or one that cannot be written."""
    if (earlier := destination.read("spec.json")) is None:
        destination.write("spec.json", spec.to_json())
    else:
        check_same_spec(earlier, destination.uri, spec)


def is_complete(destination: Store) -> bool:
    return destination.read(MANIFEST) is not None
