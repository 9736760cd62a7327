"""Which tests run when: `make test-fast`, `make test` or only `make test-all`.

A test is `slow` if it, a fixture of it or a helper that one of them calls comes by what starts a
process or a server or trains. That is looked up here, so nobody has to say it; what takes more than
a second for another reason says it with the marker. `exhaustive` are many cases and long suites:
what the README states is tested without them.
"""

import inspect
from functools import cache
from pathlib import Path

from hypothesis import settings

# Where a test says no number of its own.
settings.register_profile("fast", max_examples=20)

TESTS = Path(__file__).parent
# Modules and classes by which processes and servers are started, as the tests name them.
COSTLY = {"subprocess", "Popen", "Process", "S3", "Hub", "SageMaker", "stack_server", "TCPStore"}
# Any function of these trains.
TRAINING = {"job.pipeline", "job.training.train", "job.training.trainer"}
SLOW_PATHS = ("job/distributed/test_torchrun.py", "job/storage/test_stores.py")
# Interruptions in every phase, fuzzed files, each exit code by a command, SageMaker jobs by the
# dozen, runs of several hosts, and the tests of the doubles. `make test` runs one job on SageMaker,
# one of two processes, and one from S3.
EXHAUSTIVE_PATHS = (
    *("benchmarks", "chaos", "doubles", "fuzz", "test_exit_codes.py"),
    *("job/distributed/test_heartbeat.py", "launcher/test_instances.py"),
    "launcher/backends/sagemaker/test_sdk.py",
)
EXHAUSTIVE_FIXTURES = {"article", "denied", "endings", "from_hub", "launchers", "wrong_token"}
# Whole runs in each: begun late, one of them would keep a worker long after the other has ended.
LONGEST = (
    *("chaos/test_chaos.py", "launcher/backends/sagemaker/test_sagemaker.py"),
    *("job/test_several_processes.py", "job/test_pipeline.py", "launcher/test_remote.py"),
    *(
        "launcher/backends/process/test_process.py",
        "launcher/test_instances.py",
        "test_exit_codes.py",
    ),
)
# Run by name alone, or in a way of their own.
APART = {"aws", "browser", "docker", "sdk"}


def pytest_collection_modifyitems(items):
    """Mark every test by what it needs; the files that take longest come first."""
    for item in items:
        if lies_in(item, EXHAUSTIVE_PATHS) or uses_long_runs(item):
            item.add_marker("exhaustive")
        own = {mark.name for mark in item.iter_markers()}
        if own & {"exhaustive", *APART} or lies_in(item, SLOW_PATHS) or is_costly(item):
            item.add_marker("slow")
    items.sort(key=rank)


def lies_in(item, paths):
    return any(item.path.is_relative_to(TESTS / path) for path in paths)


def uses_long_runs(item):
    return lies_in(item, ["launcher"]) and not EXHAUSTIVE_FIXTURES.isdisjoint(item.fixturenames)


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
            costs, called = look_at(function)
            if costs:
                return True
            waiting += called
    return False


@cache
def look_at(function):
    """Say whether a function comes by what is costly, and what of the tests it may call."""
    if not function.__code__.co_filename.startswith(str(TESTS)):
        return False, []
    names = named_in(function.__code__)
    known = [function.__globals__[name] for name in names if name in function.__globals__]
    parts = [part for each in known if inspect.isclass(each) for part in vars(each).values()]
    functions = [each for each in (*known, *parts) if inspect.isfunction(each)]
    trains = any(each.__module__ in TRAINING for each in known if inspect.isfunction(each))
    return trains or not names.isdisjoint(COSTLY | TRAINING), functions


def named_in(code):
    """Name what a function uses of its module and imports, in inner functions as well."""
    names = set(code.co_names)
    for inner in filter(inspect.iscode, code.co_consts):
        names |= named_in(inner)
    return names
