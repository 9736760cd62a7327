"""What is uploaded for a build on AWS: what Docker would send, and nothing else."""

import io
import os
import zipfile
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths
from hypothesis import given, settings
from hypothesis import strategies as st

from job.core.errors import StorageError
from launcher.containers.source import read_source

CHECKOUT = Path(__file__).parents[3]
FILES = ("a", "b/a", "b/b/a", "c/b/x.pyc", "c/x.py", ".git/config", "d e/f", "Dockerfile")
NAMES = ("a", "b", "c", "x.py", "*", "?", "*.pyc", "[bc]", ".git", "d e")


def names(folder):
    with zipfile.ZipFile(io.BytesIO(read_source(folder).archive)) as archive:
        return set(archive.namelist())


def write(folder, *files):
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    write(folder, *FILES)
    return folder


# docker-py, like Docker before BuildKit, does not look into ignored folders for `!*`; and unlike
# Docker it does not ignore a folder's files by `**/folder`. So these are tested by example.
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
plain = st.lists(st.sampled_from(["a", "b", "c", "x.py"]), min_size=1, max_size=2).map("/".join)
lines = paths | paths.map("/{}".format) | plain.map("!{}".format)


@settings(max_examples=40, deadline=None)
@given(patterns=st.lists(lines, max_size=5))
def test_the_files_are_those_that_docker_would_send(folder, patterns):
    """Docker's own Python client is the reference for the meaning of patterns."""
    (folder / ".dockerignore").write_text("\n".join(["# all but", "", *patterns]))
    sent = exclude_paths(str(folder), [*patterns])
    expected = {name for name in sent if (folder / name).is_file()}
    assert names(folder) == expected | {"Dockerfile", ".dockerignore"}


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        ("**/b", {"a", "c/x.py", "d e/f", ".git/config"}),
        ("**/*.py*", {"a", "b/a", "b/b/a", "d e/f", ".git/config"}),
        ("*\n!*/x.py", {"c/x.py"}),
        ("*\n!c/\n**/b", {"c/x.py"}),
        ("*\n  !c/./x.py  \n#!a", {"c/x.py"}),
        ("*", set()),
    ],
)
def test_patterns_match_at_every_depth_only_with_two_stars(folder, patterns, left):
    """The last pattern that matches a file or a folder above it decides (`.dockerignore` files)."""
    (folder / ".dockerignore").write_text(patterns)
    assert names(folder) == left | {"Dockerfile", ".dockerignore"}


def test_our_own_source_has_what_the_dockerfile_copies_and_no_git_data():
    """Neither caches nor folders of results are uploaded."""
    found = names(CHECKOUT)
    assert {"Dockerfile", "pyproject.toml", "infra/stack.yaml", "job/pipeline.py"} < found
    copied = (
        "job/",
        "launcher/",
        "container/locks/",
        "container/entrypoint.sh",
        "infra/stack.yaml",
    )
    others = {name for name in found if "/" in name and not name.startswith(copied)}
    assert others == set()
    assert not [name for name in found if "__pycache__" in name]


def test_the_fingerprint_depends_on_names_contents_and_permissions_only(tmp_path):
    write(tmp_path, "Dockerfile", "job/a.py")
    first = read_source(tmp_path)
    os.utime(tmp_path / "job/a.py", (1, 1))
    assert read_source(tmp_path) == first
    (tmp_path / "job/a.py").chmod(0o755)
    executable = read_source(tmp_path)
    (tmp_path / "job/a.py").rename(tmp_path / "job/b.py")
    renamed = read_source(tmp_path)
    (tmp_path / "job/b.py").write_text("other")
    sources = (first, executable, renamed, read_source(tmp_path))
    assert len({source.fingerprint for source in sources}) == 4
    assert {source.files for source in sources} == {2}


@pytest.mark.parametrize("name", ["file", "folder"])
def test_a_symbolic_link_is_refused_unless_it_is_ignored(tmp_path, name):
    """Its target may be a file that nobody wants to upload."""
    write(tmp_path, "Dockerfile", "outside/secret")
    (tmp_path / "outside").rename(tmp_path.with_name(f"{tmp_path.name}-outside"))
    target = tmp_path.with_name(f"{tmp_path.name}-outside")
    (tmp_path / name).symlink_to(target / "secret" if name == "file" else target)
    with pytest.raises(StorageError, match=f"/{name}` is a symbolic link"):
        read_source(tmp_path)
    (tmp_path / ".dockerignore").write_text(name)
    assert names(tmp_path) == {"Dockerfile", ".dockerignore"}
