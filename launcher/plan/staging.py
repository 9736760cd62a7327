"""Copies local inputs to the channels of a workspace, or to S3."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from job.core.errors import StorageError
from job.core.folders import files_below, is_loop
from job.spec.schema import JobSpec, ModelSpec
from job.storage.s3 import explained, s3_client
from job.storage.stores import S3Store
from job.storage.workspace import Workspace, explain_os_error, link_or_copy, write_atomically

GIGA = 1e9


def stage(workspace: Workspace, spec: JobSpec, inputs: dict[str, Path]) -> None:
    """Copy the inputs to their channels, and write the job's spec."""
    for name, source in inputs.items():
        fill_channel(source, workspace.channel_folder(name))
    workspace.job_spec.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(workspace.job_spec, spec.to_json())
    # It may be left over from a launch with several hosts.
    workspace.resource_config.unlink(missing_ok=True)


def fill_channel(source: Path, folder: Path) -> None:
    """Replace a channel's contents by a file, or by the contents of a folder."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if source.is_file():
            link_or_copy(source, folder / source.name)
        else:
            shutil.copytree(
                source,
                folder,
                # With `--data .`, the folder contains `runs/`: do not copy the channel into itself.
                ignore=lambda parent, names: {
                    n
                    for n in names
                    if _contains(Path(parent, n), folder) or is_loop(Path(parent, n))
                },
                copy_function=link_or_copy,
                dirs_exist_ok=True,
            )
    except OSError as error:
        msg = f"`{source}` cannot be staged to `{folder}`"
        raise explain_os_error(msg, error) from None


def _contains(path: Path, folder: Path) -> bool:
    return folder.resolve().is_relative_to(path.resolve())


def upload(store: S3Store, source: str, model: ModelSpec, run: Path) -> None:
    """Upload a local file or folder, or else the base model from the Hub, to a channel in S3.

    Other objects in the channel are deleted. The folder of the `run` is not uploaded, if the
    source contains it.
    """
    path = Path(source) if Path(source).exists() else _from_hub(model)
    files = {path.name: path} if path.is_file() else files_to_upload(path, run)
    store.put(files)
    with explained(store.uri, "written"):
        for stale in {entry.name for entry in store.files()} - files.keys():
            s3_client().delete_object(Bucket=store.bucket, Key=f"{store.key}/{stale}")


def files_to_upload(path: Path, run: Path) -> dict[str, Path]:
    """Return the files below a folder by their names in a store, without those of the `run`."""
    return dict(_files_below(path, run))


def _files_below(path: Path, run: Path) -> Iterator[tuple[str, Path]]:
    parts = (part for part in sorted(path.iterdir()) if not _contains(part, run))
    for part in parts:
        is_folder = part.is_dir() and not is_loop(part)
        for each in sorted(files_below(part)) if is_folder else (part,):
            if each.is_symlink() and not each.exists():
                msg = f"`{each}` is a link to nothing. Mend or delete it."
                raise StorageError(msg)
            if each.is_file():
                yield each.relative_to(path).as_posix(), each


def _from_hub(model: ModelSpec) -> Path:
    """Download a model to the local Hub cache, for a job without access to the Hub."""
    from job.storage.hub import download_model, resolve

    commit = resolve(model.base, "model", model.revision)
    limit = model.max_download_gb * GIGA
    return download_model(model.base, commit, limit, trust_code=model.trust_remote_code)
