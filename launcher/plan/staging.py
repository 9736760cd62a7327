"""Local inputs become channels of a workspace."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from job.spec.schema import JobSpec, ModelSpec
from job.storage.s3 import explained, s3_client
from job.storage.stores import S3Store
from job.storage.workspace import Workspace, explain_os_error, link_or_copy, write_atomically

GIGA = 1e9


def stage(workspace: Workspace, spec: JobSpec, inputs: dict[str, Path]) -> None:
    """Fill the channels and the job's spec."""
    for name, source in inputs.items():
        fill_channel(source, workspace.channel_folder(name))
    workspace.job_spec.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(workspace.job_spec, spec.to_json())
    # An earlier start may have had several hosts.
    workspace.resource_config.unlink(missing_ok=True)


def fill_channel(source: Path, folder: Path) -> None:
    """Put a file, or what a folder holds, into a channel, replacing what was there."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if source.is_file():
            link_or_copy(source, folder / source.name)
        else:
            shutil.copytree(
                source,
                folder,
                # `--data .` beside `runs/`: a channel cannot hold itself.
                ignore=lambda parent, names: {n for n in names if _holds(Path(parent, n), folder)},
                copy_function=link_or_copy,
                dirs_exist_ok=True,
            )
    except OSError as error:
        msg = f"`{source}` cannot be staged to `{folder}`"
        raise explain_os_error(msg, error) from None


def _holds(path: Path, folder: Path) -> bool:
    return folder.resolve().is_relative_to(path.resolve())


def upload(place: S3Store, source: str, model: ModelSpec, run: Path) -> None:
    """Bring a local file or folder to a channel in S3, or the Hub's model if it is that.

    What else was there goes. A folder may hold that of the `run`, which is left out.
    """
    path = Path(source) if Path(source).exists() else _from_hub(model)
    files = {path.name: path} if path.is_file() else dict(_files_below(path, run))
    place.put(files)
    with explained(place.uri, "written"):
        for stale in {entry.name for entry in place.files()} - files.keys():
            s3_client().delete_object(Bucket=place.bucket, Key=f"{place.key}/{stale}")


def _files_below(path: Path, run: Path) -> Iterator[tuple[str, Path]]:
    parts = (part for part in sorted(path.iterdir()) if not _holds(part, run))
    for part in parts:
        for each in sorted(part.rglob("*")) if part.is_dir() else (part,):
            if each.is_file():
                yield each.relative_to(path).as_posix(), each


def _from_hub(model: ModelSpec) -> Path:
    """Fetch a model into the Hub's cache here, for a job that cannot reach the Hub."""
    from job.storage.hub import download_model, resolve

    commit = resolve(model.base, "model", model.revision)
    limit = model.max_download_gb * GIGA
    return download_model(model.base, commit, limit, trust_code=model.trust_remote_code)
