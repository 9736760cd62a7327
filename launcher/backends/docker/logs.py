"""What the containers of a run say; with several hosts each line after its host's name."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from operator import itemgetter
from threading import Thread
from typing import IO, TextIO

import click

from launcher.backends.docker.hosts import Host


@contextmanager
def shown(hosts: list[Host], *options: str, to: TextIO) -> Iterator[None]:
    """Show the logs, to their last lines, beside what is done meanwhile."""
    with ExitStack() as logs:
        for host in hosts:
            prefix = f"{host.name}: " if len(hosts) > 1 else ""
            logs.enter_context(_shown(["docker", "logs", *options, host.container], prefix, to))
        yield


@contextmanager
def _shown(command: list[str], prefix: str, to: TextIO) -> Iterator[None]:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as client:
        assert client.stdout is not None
        reader = Thread(target=_copy, args=(client.stdout, prefix, to), daemon=True)
        reader.start()
        try:
            yield
        except BaseException:
            client.terminate()
            raise
        finally:
            reader.join()


def _copy(pipe: IO[bytes], prefix: str, to: TextIO) -> None:
    for line in pipe:
        click.echo(prefix + line.decode("utf-8", "replace").rstrip("\n"), file=to)


def all_lines(hosts: list[Host]) -> str:
    """Return what all hosts have said, in the order of time."""
    lines = []
    for host in hosts:
        for line in log_of(host, "--timestamps").rstrip().split("\n"):
            when, _, said = line.partition(" ")
            lines.append((when, f"{host.name}: {said}\n"))
    # The times are all equally long, so their order is that of their letters.
    return "".join(said for _, said in sorted(lines, key=itemgetter(0)))


def log_of(host: Host, *options: str) -> str:
    """Return what a host has said."""
    client = ["docker", "logs", *options, host.container]
    done = subprocess.run(client, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode("utf-8", "replace")
