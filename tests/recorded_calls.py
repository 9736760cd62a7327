"""Compares the AWS calls of a test session with `tests/infra/calls.txt`.

A call that is not in the file fails the session; after a complete run (`make test-all`), so does a
call in the file that no test has made. `tests/infra/test_policies.py` compares the file with the
policies of the stack. `RENEW=1` adds new calls to it; after a complete run it removes old ones.
"""

import os
import tempfile
from pathlib import Path

import aws_calls
import pytest
from tiers import APART

CALLS = Path(__file__).parent / "infra" / "calls.txt"
# The marker expression of `make test-all`.
COMPLETE = f"not ({' or '.join(APART)})"


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        # A worker of pytest-xdist, whose controller has set the variables.
        aws_calls.install()
        return
    config.recorded_calls = tempfile.TemporaryDirectory("-aws-calls")
    aws_calls.start(config.recorded_calls.name)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        return
    with session.config.recorded_calls as folder:
        found = aws_calls.recorded(folder)
    complete = is_complete(session)
    if "RENEW" in os.environ:
        calls = found.keys() | (set() if complete else known())
        CALLS.write_text("".join(f"{call}\n" for call in sorted(calls)), "utf-8")
    messages = [
        f"`{call}` is not in {CALLS}: {min(found[call])}" for call in found.keys() - known()
    ]
    if complete:
        unused = sorted(known() - found.keys())
        messages += [f"`{call}` in {CALLS} is called by no test" for call in unused]
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    for message in sorted(messages):
        reporter.write_line(f"AWS calls: {message}", red=True)
    if messages and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def known():
    return set(CALLS.read_text("utf-8").splitlines())


def is_complete(session):
    """Whether all tests of `make test-all` ran and passed."""
    option = session.config.option
    chosen = option.keyword or session.config.args_source.name == "ARGS"
    return option.markexpr == COMPLETE and not chosen and session.exitstatus == 0
