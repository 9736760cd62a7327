"""Walking a folder: through links, without end, and never without what it cannot open."""

import pytest

from job.core.folders import files_below, is_loop


@pytest.fixture
def folder(tmp_path):
    for path in ("data/one/a.txt", "data/two/b.txt", "shared/c.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("text", "utf-8")
    return tmp_path / "data"


def names(folder):
    return sorted(file.relative_to(folder).as_posix() for file in files_below(folder))


def test_folders_behind_links_are_walked(folder):
    (folder / "link").symlink_to("../shared")
    assert names(folder) == ["link/c.txt", "one/a.txt", "two/b.txt"]


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_to_a_folder_that_contains_it_is_not_followed(folder, target):
    link = folder / "loop"
    link.symlink_to(target)
    assert is_loop(link)
    assert names(folder) == ["one/a.txt", "two/b.txt"]


def test_folders_that_link_to_each_other_end(folder):
    (folder / "one" / "two").symlink_to("../two")
    (folder / "two" / "one").symlink_to("../one")
    assert names(folder) == ["one/a.txt", "one/two/b.txt", "two/b.txt", "two/one/a.txt"]


def test_a_folder_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(files_below(tmp_path / "gone"))
