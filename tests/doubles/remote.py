"""What tests of servers share: a served S3, clients in a fresh interpreter, waiting."""

import inspect
import json
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from s3_server import S3

from job.storage.s3 import s3_client


@contextmanager
def served_s3(*buckets, **settings):
    """Serve S3 to this process and those that it starts; moto has room for one at a time."""
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
    """Lend a server to one test: with an empty bucket `box`, and no fault or request of another.

    A client costs 0.3 s to make, so it stays, unless the test made its own or the server died.
    """
    server._store.reset()
    server.bucket("box")
    for remains in (server.requests, server._faults, server._regions):
        remains.clear()
    before = server._server, s3_client.cache_info().misses
    yield server
    server.start()
    if (server._server, s3_client.cache_info().misses) != before:
        forget_client()


def forget_client():
    """Let the next request make a client of what the environment then says."""
    if s3_client.cache_info().currsize:
        s3_client().close()
    s3_client.cache_clear()


def in_client(environment, function, *arguments):
    """Call a function, which imports all it needs, in a fresh interpreter; returns its result.

    The Hub's clients read where it is when they are imported.
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
    """Wait for what happens soon; return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.02)
    return found


def files_of(folder):
    """Read all that a folder holds, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
