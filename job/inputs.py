"""Download the data and the base model of a run from S3 and the Hub.

Afterwards every input is a local file or folder, read by the same code whatever its source. The
resolved versions are saved with the checkpoints: if a branch or an S3 object changes, a resumed run
must not continue on other data.
"""

import fnmatch
import gzip
import hashlib
import json
import shutil
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.core.errors import DataError, ModelError, TrainingError
from job.data.origin import write_origin
from job.data.readers import explain_read_errors, file_format
from job.data.rows import require_data
from job.generation import language_models
from job.generation.documents import kind_of
from job.model.encoder import find_locally
from job.runtime.logs import tell
from job.spec.generation_section import local_model
from job.spec.schema import DataSpec, JobSpec, ModelSpec
from job.storage import hub
from job.storage.stores import S3, Entry, S3Store, safe_join
from job.storage.workspace import DATA_CHANNELS, Workspace, link_or_copy, write_atomically

GIGA = 1e9
ARCHIVES = (".tar.gz", ".tgz")
CHUNK = 2**20


@dataclass(frozen=True)
class Fetched:
    """A local file or folder, and `facts` that identify its source and version."""

    path: Path
    facts: dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """The local inputs of a run: data by role (a channel's name), and the base model's folder."""

    channels: dict[str, Path]
    model: Path
    # The `inputs` section of report.json, by role.
    facts: dict[str, dict[str, Any]]


def fetch_inputs(
    spec: JobSpec, workspace: Workspace, resolved: dict[str, dict[str, Any]] | None = None
) -> Inputs:
    """Fetch the inputs that the spec names and no channel provides; save their versions.

    With `resolved`, the facts that the first host determined, fetch exactly those versions.
    """
    require_data(spec.data, workspace.channels())
    revisions = read_resolved_revisions(workspace) if resolved is None else resolved
    fetched = fetch_data(spec, workspace, revisions)
    model = fetch_model(spec.model, workspace, revisions)
    facts = {role: found.facts for role, found in fetched.items()} | {"model": model.facts}
    if resolved is None:
        workspace.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(workspace.revisions, json.dumps(facts, indent=2) + "\n")
    channels = workspace.channels() | {role: found.path for role, found in fetched.items()}
    return Inputs(channels, model.path, facts)


def read_resolved_revisions(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """Return the versions that this run's checkpoints were trained on; empty if there are none."""
    if not (workspace.revisions.is_file() and workspace.has_checkpoints):
        return {}
    revisions: dict[str, dict[str, Any]]
    try:
        revisions = json.loads(workspace.revisions.read_text("utf-8"))
    except ValueError:
        msg = f"`{workspace.revisions}` is damaged, so it is unknown which data and model the "
        msg += "checkpoints in that folder were trained on. "
        raise TrainingError(msg + "Delete the folder to start training again.") from None
    return revisions


def fetch_data(
    spec: JobSpec, workspace: Workspace, revisions: dict[str, dict[str, Any]]
) -> dict[str, Fetched]:
    """Fetch the data that the spec names in S3 or on the Hub; return it by role."""
    data = spec.data
    sources = [data.source, data.validation, data.test, data.corpus, spec.evaluation.out_of_domain]
    sources.append(data.documents)
    limit = data.max_download_gb * GIGA
    fetched = {}
    for role, uri in zip(DATA_CHANNELS, sources, strict=True):
        if uri is None or workspace.channel(role):
            continue
        folder, pinned = workspace.fetched / role, revisions.get(role, {})
        if uri.startswith(S3):
            # The filter keeps BEIR's qrels, too: they are `.tsv` files.
            wanted = _is_document if role == "documents" else _is_data
            fetched[role] = _from_s3(uri, folder, pinned, limit, "data", wanted)
        elif reference := hub_reference(uri):
            # `data.subset`, `split` and `revision` do not apply to out-of-domain data.
            settings = (
                DataSpec(max_download_gb=data.max_download_gb) if role == "out_of_domain" else data
            )
            fetched[role] = _data_from_hub(role, reference, settings, folder, pinned)
    return fetched


def _is_data(name: str) -> bool:
    return file_format(Path(name)) is not None


def _is_document(name: str) -> bool:
    return kind_of(Path(name)) is not None


def hub_reference(uri: str) -> hub.Reference | None:
    """Parse a Hub data set; return None for a path.

    A name with the suffix of a data file or a document is a path, even if no such file exists.
    """
    # `exists` raises if a folder is not accessible.
    with explain_read_errors(uri):
        is_path = not uri.startswith(hub.SCHEME) and (Path(uri).exists() or kind_of(Path(uri)))
    return None if is_path else hub.parse_reference(uri)


def fetch_model(
    spec: ModelSpec,
    workspace: Workspace,
    revisions: Mapping[str, Mapping[str, Any]],
    only: str = "*",
    role: str = "model",
) -> Fetched:
    """Fetch a model, or only its files that match `only`; the channel of the `role` wins."""
    folder, pinned = workspace.fetched / role, dict(revisions.get(role, {}))
    limit = spec.max_download_gb * GIGA
    if (channel := workspace.channel(role)) is not None:
        return Fetched(_model_from_channel(channel, folder, limit), {"uri": spec.base})
    if spec.base.startswith(S3):
        found = _from_s3(spec.base, folder, pinned, limit, "model", lambda n: _is_model(n, only))
        is_file = not found.path.is_dir()
        path = _unpack(found.path, found.path.parent, limit) if is_file else found.path
        return Fetched(path, found.facts)
    if (local := find_locally(spec.base)) is not None:
        return Fetched(local, {"uri": spec.base})
    commit = pinned.get("commit") or hub.resolve(spec.base, "model", spec.revision)
    trust = spec.trust_remote_code
    path = hub.download_model(spec.base, commit, limit, only=only, trust_code=trust)
    return Fetched(path, {"uri": spec.base, "commit": commit})


def fetch_language_model(
    field: str, version: Mapping[str, Any], spec: JobSpec, workspace: Workspace
) -> language_models.Fetched:
    """Fetch the local model of `generation.llm` or `judge`, in the version given, if any."""
    base, revision = local_model(spec.generation.models[field]) or ("", None)
    wanted = spec.model.model_copy(update={"base": base, "revision": revision})
    found = fetch_model(wanted, workspace, {field: version}, role=field)
    return language_models.Fetched(wanted, found.path, found.facts)


def _data_from_hub(
    role: str, reference: hub.Reference, spec: DataSpec, folder: Path, pinned: dict[str, Any]
) -> Fetched:
    repository = reference.repository
    # `data.validation` and `data.test` default to the split of that name.
    split = reference.split or (role if role in ("validation", "test") else spec.split)
    commit = pinned.get("commit") or hub.resolve(
        repository, "dataset", reference.revision or spec.revision
    )
    limit = spec.max_download_gb * GIGA
    cached, names = hub.download_data(reference, commit, spec.subset, split, limit)
    shutil.rmtree(folder, ignore_errors=True)
    # The Hub's cache may contain other splits, so the wanted files get a separate folder.
    for name, target_name in names.items():
        if file_format(Path(name)) is None:
            msg = f"The format of `{name}` in the Hub data set `{repository}` is not supported. "
            raise DataError(msg + "Save the rows as Parquet or JSONL.")
        target = safe_join(folder, target_name)
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(cached / name, target)
    write_origin(folder, repository)
    facts = {"uri": repository, "commit": commit, "subset": spec.subset, "split": split}
    return Fetched(folder, facts)


def _from_s3(
    uri: str,
    folder: Path,
    pinned: dict[str, Any],
    limit: float,
    kind: str,
    wanted: Callable[[str], bool],
) -> Fetched:
    """Fetch an object, or the wanted objects below a prefix; skip files that exist already.

    Each version of the listing has a separate folder, so an existing file is never outdated.
    """
    if pinned and _path_of(folder, pinned).exists():
        return Fetched(_path_of(folder, pinned), pinned)
    store = S3Store(uri)
    if single := store.as_file():
        store, entries = single[0], [single[1]]
    else:
        entries = [entry for entry in store.files() if wanted(entry.name)]
    error = ModelError if kind == "model" else DataError
    if not entries:
        msg = f"`{uri}` contains no {kind}: no object has that key or a suitable key below it. "
        raise error(msg + "Check the bucket and the prefix.")
    size = sum(entry.size for entry in entries)
    hub.check_size(uri, size, limit, kind)
    listing = json.dumps([(entry.name, entry.size, entry.tag) for entry in entries])
    version = hashlib.sha256(listing.encode("utf-8")).hexdigest()[:16]
    file = entries[0].name if single else None
    facts = {"uri": uri, "version": version, "file": file, "files": len(entries), "bytes": size}
    if pinned and pinned["version"] != version:
        msg = f"`{uri}` has changed since this run started. Start a new run with another `--name`."
        raise error(msg)
    _fetch_missing(store, entries, folder / version)
    if kind == "data":
        write_origin(folder, uri)
    return Fetched(_path_of(folder, facts), facts)


def _fetch_missing(store: S3Store, entries: list[Entry], folder: Path) -> None:
    for other in folder.parent.glob("*"):
        if other.name != folder.name:
            shutil.rmtree(other, ignore_errors=True)
    paths = {e: safe_join(folder, e.name) for e in entries}
    missing = [e for e, p in paths.items() if not p.is_file() or p.stat().st_size != e.size]
    tell("fetch", store.uri, files=len(entries), missing=len(missing))
    store.get(missing, folder)


def _path_of(folder: Path, facts: dict[str, Any]) -> Path:
    return folder / str(facts["version"]) / str(facts["file"] or "")


def _is_model(name: str, only: str) -> bool:
    return fnmatch.fnmatch(name, only) and not any(
        fnmatch.fnmatch(name, pattern) for pattern in hub.OTHER_WEIGHTS
    )


def _model_from_channel(channel: Path, folder: Path, limit: float) -> Path:
    """Return the folder of the model in a channel, which has its files or one archive of them."""
    files = list(channel.iterdir())
    if len(files) == 1 and files[0].is_file():
        folder.mkdir(parents=True, exist_ok=True)
        return _unpack(files[0], folder, limit)
    return find_locally(str(channel)) or channel


def _unpack(path: Path, parent: Path, limit: float) -> Path:
    """Unpack the archive of a model, as SageMaker stores it, below `parent`; return its folder."""
    if not path.name.endswith(ARCHIVES):
        msg = f"`{path.name}` is not a model. Name a model's folder, or its `model.tar.gz`."
        raise ModelError(msg)
    folder = parent / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        # Read to the end, to verify gzip's checksum: tar treats some damage as the archive's end.
        with gzip.open(path) as compressed:
            while compressed.read(CHUNK):
                pass
        with tarfile.open(path) as archive:
            members = [m for m in archive if _is_model(m.name, "*")]
            hub.check_size(path.name, sum(m.size for m in members), limit, "model")
            # The filter refuses devices, and names and links that point outside the folder.
            archive.extractall(folder, members, filter="data")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = str(error).splitlines()[0].rstrip(".")
        msg = f"The archive `{path.name}` cannot be unpacked: {reason}. Create it again."
        raise ModelError(msg) from None
    inner = [found.parent for found in folder.rglob("modules.json")]
    return min(inner, key=lambda found: len(found.parts), default=folder)
