"""Logs of a run's containers; with several hosts each line starts with the host's name."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from operator import itemgetter

from launcher.backends.docker.hosts import Host
from launcher.live.output import lines_copied
from launcher.live.view import View


@contextmanager
def stream_logs(hosts: list[Host], *options: str, view: View) -> Iterator[None]:
    """Show the logs while the `with` block runs, up to their last lines."""
    with ExitStack() as logs:
        for host in hosts:
            prefix = f"{host.name}: " if len(hosts) > 1 else ""
            logs.enter_context(
                _stream_log(["docker", "logs", *options, host.container], prefix, view)
            )
        yield


@contextmanager
def _stream_log(command: list[str], prefix: str, view: View) -> Iterator[None]:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as client:
        assert client.stdout is not None
        with lines_copied(client.stdout, lambda line: view.print_line(prefix + line)):
            try:
                yield
            except BaseException:
                client.terminate()
                raise


def merged_logs(hosts: list[Host]) -> str:
    """Return the log lines of all hosts, ordered by time."""
    lines = []
    for host in hosts:
        for line in log_of(host, "--timestamps").rstrip().split("\n"):
            time, _, message = line.partition(" ")
            lines.append((time, f"{host.name}: {message}\n"))
    # Timestamps have a fixed length, so they sort as strings.
    return "".join(line for _, line in sorted(lines, key=itemgetter(0)))


def log_of(host: Host, *options: str) -> str:
    """Return a host's log."""
    client = ["docker", "logs", *options, host.container]
    done = subprocess.run(client, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode("utf-8", "replace")
