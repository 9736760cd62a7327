"""The image's locks: complete, with hashes, and with the versions of constraints.txt."""

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
# The image's platform, independent of this machine.
IMAGE = {"python_version": "3.11", "python_full_version": "3.11.0", "sys_platform": "linux",
         "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}  # fmt: skip


def revisions(text):
    """Map the normalized names of `name==version` lines to versions."""
    return {canonicalize_name(n): v for n, v in re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", text)}


def locked(*names):
    found = {}
    for name in names:
        found |= revisions((LOCKS / f"{name}.txt").read_text("utf-8"))
    return found


CONSTRAINTS = revisions((ROOT / "constraints.txt").read_text("utf-8"))


def closure(requirements):
    """Return all direct and indirect requirements, from the metadata of installed packages."""
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
    """Return the direct requirements of the project and of some extras, without embedtune."""
    optional = PROJECT["project"]["optional-dependencies"]
    lines = PROJECT["project"]["dependencies"] + [line for e in extras for line in optional[e]]
    return [line for line in lines if not line.startswith("embedtune")]


@pytest.mark.parametrize("name", NAMES)
def test_every_locked_package_has_hashes(name):
    """Each entry is an exact version with at least one SHA-256; the file has nothing else."""
    text = (LOCKS / f"{name}.txt").read_text("utf-8")
    entry = r"[a-z0-9][\w.-]*==[\w.+!]+( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(rf"(# .*\n)*({entry})+", text)


def test_there_are_no_other_locks():
    assert sorted(path.stem for path in LOCKS.iterdir()) == list(NAMES)


def test_the_image_has_the_versions_that_are_tested():
    """A package in a lock and in constraints.txt has the same version in both (`make lock`)."""
    agreed = {
        name: CONSTRAINTS.get(name, v) for name, v in locked("build", "train", "demo").items()
    }
    assert locked("build", "train", "demo") == agreed
    assert locked("torch")["torch"] == CONSTRAINTS["torch"]
    assert locked("torch-cpu") == {"torch": f"{CONSTRAINTS['torch']}+cpu"}


def test_the_locks_contain_all_indirect_requirements():
    """pip resolves nothing in the image, so the locks must be complete."""
    wanted = closure(required("data", "train", "exports", "demo")) - {"torch"}
    assert wanted - locked("train", "demo").keys() == set()
    assert closure(PROJECT["build-system"]["requires"]) <= locked("build").keys()


def test_locked_versions_satisfy_pyproject():
    """This fails if a lower bound was raised without `make lock`."""
    versions = locked("build", "train", "demo", "torch")
    wanted = [*required("data", "train", "exports", "demo"), *PROJECT["build-system"]["requires"]]
    for requirement in map(Requirement, wanted):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_dockerfile_installs_nothing_without_a_hash():
    """The exceptions are our wheel, and a torch from another index, as the Dockerfile explains."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    installs = [
        line.split("&&")[0] for line in re.findall(r"pip (?:[^&]*? )?install ([^&;]*)", text)
    ]
    hashed = [line for line in installs if "--require-hashes" in line]
    own = [line for line in installs if "--no-index" in line]
    torch = [line for line in installs if '"$@"' in line]
    assert (len(installs), len(hashed), len(own), len(torch)) == (4, 2, 1, 1)
    assert text.count("set -- --no-deps --require-hashes --requirement /run/locks/") == 2
