"""Helpers for tests with servers: a running S3, clients in a fresh interpreter, waiting."""

import inspect
import json
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from s3_server import S3

from job.storage.s3 import _clients


@contextmanager
def served_s3(*buckets, **settings):
    """Serve S3 to this process and its children; moto allows one server at a time."""
    with S3() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in (server.environment | settings).items():
            patch.setenv(name, value)
        for bucket in buckets:
            server.bucket(bucket)
        forget_client()
        yield server
        forget_client()


@contextmanager
def emptied(server):
    """Reset a server for one test: an empty bucket `box`, no faults, no recorded requests.

    Creating a client takes 0.3 s, so it is kept, unless the test created another or the server
    was stopped.
    """
    server._store.reset()
    server.bucket("box")
    for remains in (server.requests, server._faults, server._regions):
        remains.clear()
    before = server._server, dict(_clients)
    yield server
    server.start()
    if (server._server, _clients) != before:
        forget_client()


def forget_client():
    """Make the next request create a new client from the environment."""
    for client in _clients.values():
        client.close()
    _clients.clear()


def in_client(environment, function, *arguments):
    """Call a function in a fresh interpreter and return its result; it must import what it needs.

    The Hub's clients read the endpoint when they are imported.
    """
    call = f"{function.__name__}(*json.loads({json.dumps(arguments)!r}))"
    code = f"import json\n{inspect.getsource(function)}\nprint(json.dumps({call}))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def wait_until(condition, seconds=300):
    """Wait until a condition is true; return its value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition never became true"
        time.sleep(0.02)
    return found


def files_of(folder):
    """Read all files of a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
