"""Which tests run when: `make test-fast`, `make test` or only `make test-all`.

A test is fast unless it trains, starts a process or a server, or takes more than a second: then it
is `slow`, by its own marker or by these tables. `exhaustive` are the many cases and the long suites
that only `make test-all` runs; what the README states is tested without them.
"""

from pathlib import Path

import pytest
from hypothesis import settings

# Where a test says no number of its own.
settings.register_profile("fast", max_examples=20)
# Fixtures behind which a server, a process or a trained run stands.
SLOW_FIXTURES = {
    *("account", "browser", "hub", "s3", "server", "stack_account"),
    *("containers", "desk", "endings", "image", "repository", "shell", "start", "whole"),
    *("run_job", "scored", "task", "tiny_spec", "trained", "trained_run"),
}
# Paths below tests/ whose tests do one of these all over.
SLOW_PATHS = (
    *("aws", "browser", "chaos", "docker", "doubles", "sdk"),
    *("fuzz/test_as_a_user.py", "job/test_crew.py", "job/test_several_processes.py"),
    *("launcher/test_process.py", "test_exit_codes.py", "test_readme_commands.py"),
)
EXHAUSTIVE_PATHS = ("chaos", "launcher/test_interruptions.py")
# Run by name alone, or in a way of their own.
APART = ("aws", "browser", "docker", "sdk")


def pytest_collection_modifyitems(items):
    """Mark every test by what it needs."""
    tests = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(tests)
        own = {mark.name for mark in item.iter_markers()}
        if any(path.is_relative_to(each) for each in EXHAUSTIVE_PATHS):
            item.add_marker("exhaustive")
        is_slow = (
            own & {"exhaustive", *APART}
            or SLOW_FIXTURES & set(item.fixturenames)
            or any(path.is_relative_to(each) for each in (*SLOW_PATHS, *EXHAUSTIVE_PATHS))
        )
        if is_slow:
            item.add_marker(pytest.mark.slow)
