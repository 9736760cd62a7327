"""Assign each test to a tier: `make test-fast`, `test` or only `test-all`.

A test is `slow` if its code, its fixtures or a helper that they call starts a process or a server,
or trains. This module detects that; a test that takes over a second for another reason needs the
marker. `exhaustive` tests are many cases and long suites, for which there is no time at each
change; README's statements are tested without them.
"""

import inspect
from functools import cache
from pathlib import Path

from hypothesis import settings

# For tests that set no number of examples.
settings.register_profile("fast", max_examples=20)

TESTS = Path(__file__).parent
# Names in tests of modules and classes that start processes and servers.
COSTLY = {
    *("subprocess", "Popen", "Process", "S3", "Hub", "SageMaker", "stack_server", "TCPStore"),
    "llm_server",
}
# Every function of these modules trains.
TRAINING = {
    *(
        "job.folds",
        "job.pipeline",
        "job.training.refit",
        "job.training.train",
        "job.training.trainer",
    ),
}
SLOW_PATHS = ("job/distributed/test_torchrun.py", "job/storage/test_stores.py")
# Interruptions in every phase, fuzzed files, each exit code by a command, SageMaker jobs by the
# dozen, runs of several processes and hosts, and the tests of the doubles. `make test` runs one job
# on SageMaker, one from S3, and processes that train and search together.
EXHAUSTIVE_PATHS = (
    *("benchmarks", "chaos", "doubles", "fuzz", "test_exit_codes.py"),
    *("job/distributed/test_heartbeat.py", "job/distributed/test_torchrun.py"),
    *("job/test_several_processes.py", "launcher/test_instances.py", "launcher/test_terminal.py"),
    "launcher/backends/sagemaker/test_sdk.py",
    # Of the image: several hosts, documents, builds on AWS and pushes.
    *("docker/test_cloud_build.py", "docker/test_documents.py", "docker/test_hosts.py"),
    "docker/test_push.py",
)
EXHAUSTIVE_FIXTURES = {
    *("article", "denied", "endings", "from_hub", "killed", "launchers", "second", "wrong_token"),
}
# Files with whole runs. They start first, so that at the end no worker is busy alone.
LONGEST = (
    *("chaos/test_chaos.py", "launcher/backends/sagemaker/test_sagemaker.py"),
    *("job/test_several_processes.py", "job/test_pipeline.py", "launcher/test_remote.py"),
    *("job/model/test_shapes.py", "job/model/test_architectures.py"),
    *(
        "launcher/backends/process/test_process.py",
        "launcher/test_instances.py",
        "launcher/test_terminal.py",
        "test_exit_codes.py",
    ),
)
# Run only by their marker, not in a tier. The Makefile has the same list.
APART = ("docker", "browser", "sdk", "aws", "gpu", "llm", "serve")


def pytest_collection_modifyitems(items):
    """Mark every test with its tiers; sort the longest files first."""
    for item in items:
        if is_below(item, EXHAUSTIVE_PATHS) or uses_long_runs(item):
            item.add_marker("exhaustive")
        own = {mark.name for mark in item.iter_markers()}
        if own & {"exhaustive", *APART} or is_below(item, SLOW_PATHS) or is_costly(item):
            item.add_marker("slow")
    items.sort(key=rank)


def is_below(item, paths):
    return any(item.path.is_relative_to(TESTS / path) for path in paths)


def uses_long_runs(item):
    return is_below(item, ["launcher"]) and not EXHAUSTIVE_FIXTURES.isdisjoint(item.fixturenames)


def rank(item):
    path = item.path.relative_to(TESTS).as_posix()
    return LONGEST.index(path) if path in LONGEST else len(LONGEST)


def is_costly(item):
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    waiting = [item.function, *(each.func for defined in fixtures for each in defined)]
    seen = set()
    while waiting:
        function = inspect.unwrap(waiting.pop())
        if function not in seen:
            seen.add(function)
            is_expensive, called = inspect_calls(function)
            if is_expensive:
                return True
            waiting += called
    return False


@cache
def inspect_calls(function):
    """Return whether a function uses anything costly, and the test functions it may call."""
    if not function.__code__.co_filename.startswith(str(TESTS)):
        return False, []
    names = used_names(function.__code__)
    known = [function.__globals__[name] for name in names if name in function.__globals__]
    parts = [part for each in known if inspect.isclass(each) for part in vars(each).values()]
    functions = [each for each in (*known, *parts) if inspect.isfunction(each)]
    trains = any(each.__module__ in TRAINING for each in known if inspect.isfunction(each))
    return trains or not names.isdisjoint(COSTLY | TRAINING), functions


def used_names(code):
    """Return the names that a function uses, those of inner functions included."""
    names = set(code.co_names)
    for inner in filter(inspect.iscode, code.co_consts):
        names |= used_names(inner)
    return names
