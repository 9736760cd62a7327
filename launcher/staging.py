"""Local inputs become channels of a workspace."""

import shutil
from pathlib import Path

from job.spec import JobSpec
from job.workspace import Workspace, link_or_copy, write_atomically, write_error


def stage(workspace: Workspace, spec: JobSpec, inputs: dict[str, Path]) -> None:
    """Fill the channels and the job's spec."""
    for name, source in inputs.items():
        fill_channel(source, workspace.channel_folder(name))
    workspace.job_spec.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(workspace.job_spec, spec.to_json())


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
        raise write_error(msg, error) from None


def _holds(path: Path, folder: Path) -> bool:
    return folder.resolve().is_relative_to(path.resolve())
