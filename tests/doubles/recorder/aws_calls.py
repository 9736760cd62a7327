"""Records which AWS operations launcher and job call, with a botocore event hook.

`tests/recorded_calls.py` starts it and compares the calls with `tests/infra/calls.txt`. The folder
of this file is in PYTHONPATH, so that processes that tests start record their calls as well. Each
process writes to a file of its own: `launcher s3:GetObject tests/test_x.py::test_y`.
"""

import importlib.abc
import importlib.util
import os
import sys
import threading
from pathlib import Path

VARIABLE = "RECORDED_AWS_CALLS"
MODULE = "botocore.handlers"
ROOT = Path(__file__).parents[3]
# Deploying and deleting the stack needs more rights than the policies grant.
ADMINISTRATION = {"stack_parameters", "deploy_stack", "delete_stack"}


def start(folder):
    """Record to `folder`, in this process and in those that it starts."""
    os.environ[VARIABLE] = str(folder)
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    install()


def install():
    """Hook into botocore once it is imported; does nothing unless the variable is set."""
    if VARIABLE not in os.environ:
        return
    if MODULE in sys.modules:
        add_handler(sys.modules[MODULE])
    else:
        sys.meta_path.insert(0, Finder())


def recorded(folder):
    """Return the tests that made each call: `{"job s3:GetObject": {test, …}}`."""
    found = {}
    for path in Path(folder).iterdir():
        for line in path.read_text("utf-8").splitlines():
            who, operation, test = line.split(" ", 2)
            found.setdefault(f"{who} {operation}", set()).add(test)
    return found


class Finder(importlib.abc.MetaPathFinder):
    """Adds the handler to botocore's own when that module is imported."""

    def find_spec(self, name, path=None, target=None):
        del path, target
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def run_and_add(module):
            run(module)
            add_handler(module)

        spec.loader.exec_module = run_and_add
        return spec


def add_handler(module):
    seen = set()

    def record(model, **_):
        call = (caller(), f"{model.service_model.signing_name}:{model.name}")
        if call[0] and call not in seen:
            seen.add(call)
            test = os.environ.get("PYTEST_CURRENT_TEST", "-").rpartition(" (")[0]
            path = Path(os.environ[VARIABLE], str(os.getpid()))
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{' '.join(call)} {test}\n")

    module.BUILTIN_HANDLERS.append(("before-call", record))


def caller():
    """Return who makes the current call: launcher or job; None for tests and administrators."""
    frames = list(stack(sys._getframe()))
    if any("s3transfer" in frame.f_code.co_filename for frame in frames):
        # A thread of boto3's transfers works for the thread that waits for it.
        main = sys._current_frames().get(threading.main_thread().ident)
        frames += stack(main)
    parts = [part_of(frame.f_code.co_filename) for frame in frames]
    if "launcher" in parts:
        names = {f.f_code.co_name for f, part in zip(frames, parts, strict=True) if part}
        return None if names & ADMINISTRATION else "launcher"
    return "job" if "job" in parts else None


def stack(frame):
    while frame:
        yield frame
        frame = frame.f_back


def part_of(path):
    """Return `job` or `launcher` for a file of ours."""
    for part in ("job", "launcher"):
        if path.startswith(f"{ROOT / part}{os.sep}"):
            return part
    return None
