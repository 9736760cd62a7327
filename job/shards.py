"""Channels that SageMaker has dealt out to the hosts: the conductor gets all of their files."""

import json
from collections.abc import Iterator
from itertools import chain, repeat
from os import environ
from pathlib import Path

from job import crew
from job.errors import MachineError
from job.workspace import Workspace

DEALT_OUT = "ShardedByS3Key"


def collect_shards(workspace: Workspace) -> None:
    """Bring the other hosts' part of each channel that was dealt out to this host."""
    names = _dealt_out(workspace)
    if not names or crew.hosts() == 1:
        return
    crew.ask(_hand_in, names)
    begun: set[Path] = set()
    while pieces := [piece for piece in crew.gather(None) if piece]:
        crew.share(value=True)
        for channel, name, part in pieces:
            target = workspace.channel_folder(channel) / name
            _write(target, part, again=target in begun)
            begun.add(target)
    crew.share(value=False)


def _dealt_out(workspace: Workspace) -> list[str]:
    path = workspace.input_config
    try:
        channels = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return [
            name
            for name, channel in sorted(channels.items())
            if channel.get("S3DistributionType") == DEALT_OUT
        ]
    except (OSError, ValueError, AttributeError) as error:
        msg = (
            f"`{path}` is none of SageMaker's input configurations ({error}). Start the job "
            "through SageMaker, or delete that file."
        )
        raise MachineError(msg) from None


def _write(target: Path, part: bytes, *, again: bool) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab" if again else "wb") as handle:
            handle.write(part)
    except OSError as error:
        msg = (
            f"The part of another host cannot be written to `{target}` ({error.strerror}). Give "
            "each host the whole channel: `FullyReplicated`."
        )
        raise MachineError(msg) from None


def _hand_in(own: crew.Mate, names: list[str]) -> None:
    speaks = environ["GROUP_RANK"] != "0" and environ["LOCAL_RANK"] == "0"
    pieces = _pieces(own.workspace, names) if speaks else iter(())
    for piece in chain(pieces, repeat(None)):
        crew.gather(piece)
        if not crew.share():
            return


def _pieces(workspace: Workspace, names: list[str]) -> Iterator[tuple[str, str, bytes]]:
    for channel in names:
        for name, part in crew.pieces(workspace.channel_folder(channel)):
            yield channel, name, part
