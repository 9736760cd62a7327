"""Which tests run when: `make test-fast`, `make test` or only `make test-all`.

A test is `slow` if it, a fixture of it or a helper that one of them calls comes by what starts a
process or a server or trains. That is looked up here, so nobody has to say it; what takes more than
a second for another reason says it with the marker. `exhaustive` are many cases and long suites:
what the README states is tested without them.
"""

import inspect
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

# Where a test says no number of its own.
settings.register_profile("fast", max_examples=20)

TESTS = Path(__file__).parent
# Modules and classes by which processes and servers are started, as the tests name them.
COSTLY = {"subprocess", "Process", "S3", "Hub", "SageMaker", "stack_server"}
# Any function of these trains.
TRAINING = {"job.pipeline", "job.train", "job.trainer"}
SLOW_PATHS = ("benchmarks", "fuzz", "job/test_supervisor.py")
EXHAUSTIVE_PATHS = ("chaos", "launcher/test_interruptions.py")
# Run by name alone, or in a way of their own.
APART = {"aws", "browser", "docker", "sdk"}


def pytest_collection_modifyitems(items):
    """Mark every test by what it needs."""
    for item in items:
        own = {mark.name for mark in item.iter_markers()}
        if lies_in(item, EXHAUSTIVE_PATHS):
            item.add_marker("exhaustive")
            own.add("exhaustive")
        if own & {"exhaustive", *APART} or lies_in(item, SLOW_PATHS) or is_costly(item):
            item.add_marker(pytest.mark.slow)


def lies_in(item, paths):
    return any(item.path.is_relative_to(TESTS / path) for path in paths)


def is_costly(item):
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    functions = [item.function, *(each.func for defined in fixtures for each in defined)]
    return any(costs(inspect.unwrap(function)) for function in functions)


@cache
def costs(function):
    """Say whether a function of the tests, or one that it calls, is costly."""
    code = getattr(function, "__code__", None)
    if code is None or not code.co_filename.startswith(str(TESTS)):
        return False
    names = named_in(code)
    known = [function.__globals__[name] for name in names if name in function.__globals__]
    called = [
        part
        for value in known
        for part in (vars(value).values() if inspect.isclass(value) else [value])
        if part is not function
    ]
    return bool(
        names & (COSTLY | TRAINING)
        or any(inspect.isfunction(v) and v.__module__ in TRAINING for v in known)
        or any(costs(inspect.unwrap(v)) for v in called if inspect.isfunction(v))
    )


def named_in(code):
    """Name what a function uses of its module and imports, in inner functions as well."""
    names = set(code.co_names)
    for inner in filter(inspect.iscode, code.co_consts):
        names |= named_in(inner)
    return names
