"""The image's locks: hashes for everything, the versions of constraints.txt, nothing forgotten."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "container" / "locks"
NAMES = ("build", "demo", "torch", "torch-cpu", "train")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
# Where the image runs, whatever this machine is.
IMAGE = {"python_version": "3.11", "python_full_version": "3.11.0", "sys_platform": "linux",
         "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}  # fmt: skip


def revisions(text):
    """Read `name==version` lines, by the name that pip compares."""
    return {canonicalize_name(n): v for n, v in re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", text)}


def locked(*names):
    found = {}
    for name in names:
        found |= revisions((LOCKS / f"{name}.txt").read_text("utf-8"))
    return found


CONSTRAINTS = revisions((ROOT / "constraints.txt").read_text("utf-8"))


def closure(requirements):
    """Name everything that requirements bring to the image, as the packages here tell."""
    found, waiting = set(), [(Requirement(text), "") for text in requirements]
    while waiting:
        wanted, extra = waiting.pop()
        name = canonicalize_name(wanted.name)
        if wanted.marker and not wanted.marker.evaluate(IMAGE | {"extra": extra}):
            continue
        known = {(name, extra) for extra in (wanted.extras or {""})} - found
        found |= known
        for _, each in known:
            waiting += [(Requirement(text), each) for text in metadata.requires(name) or ()]
    return {name for name, _ in found}


def required(*extras):
    """List the direct requirements of the project and of some extras, its own left out."""
    optional = PROJECT["project"]["optional-dependencies"]
    lines = PROJECT["project"]["dependencies"] + [line for e in extras for line in optional[e]]
    return [line for line in lines if not line.startswith("embedtune")]


@pytest.mark.parametrize("name", NAMES)
def test_every_locked_package_has_hashes(name):
    """Each entry is one exact version and at least one SHA-256; nothing else is in the file."""
    text = (LOCKS / f"{name}.txt").read_text("utf-8")
    entry = r"[a-z0-9][\w.-]*==[\w.+!]+( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(rf"(# .*\n)*({entry})+", text)


def test_these_are_all_the_locks():
    assert sorted(path.stem for path in LOCKS.iterdir()) == list(NAMES)


def test_the_image_has_the_versions_that_are_tested():
    """What a lock and constraints.txt both name, they name in one version (`make lock`)."""
    agreed = {
        name: CONSTRAINTS.get(name, v) for name, v in locked("build", "train", "demo").items()
    }
    assert locked("build", "train", "demo") == agreed
    assert locked("torch")["torch"] == CONSTRAINTS["torch"]
    assert locked("torch-cpu") == {"torch": f"{CONSTRAINTS['torch']}+cpu"}


def test_nothing_that_the_job_needs_is_missing_from_the_locks():
    """pip resolves nothing in the image, so the locks hold the dependencies' dependencies too."""
    wanted = closure(required("data", "train", "demo")) - {"torch"}
    assert wanted - locked("train", "demo").keys() == set()
    assert closure(PROJECT["build-system"]["requires"]) <= locked("build").keys()


def test_a_lock_allows_what_pyproject_asks_for():
    """A lower bound that was raised without `make lock` is seen here."""
    versions = locked("build", "train", "demo", "torch")
    wanted = [*required("data", "train", "demo"), *PROJECT["build-system"]["requires"]]
    for requirement in map(Requirement, wanted):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_dockerfile_installs_nothing_without_a_hash():
    """But for another CUDA line, of which the Dockerfile says so, and our own wheel."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    installs = [
        line.split("&&")[0] for line in re.findall(r"pip (?:[^&]*? )?install ([^&;]*)", text)
    ]
    hashed = [line for line in installs if "--require-hashes" in line]
    own = [line for line in installs if "--no-index" in line]
    torch = [line for line in installs if '"$@"' in line]
    assert (len(installs), len(hashed), len(own), len(torch)) == (4, 2, 1, 1)
    assert text.count("set -- --no-deps --require-hashes --requirement /run/locks/") == 2
