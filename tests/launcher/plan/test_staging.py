"""Staging copies local inputs to channels, complete and without stale files."""

from pathlib import Path

import pytest

from job.core.errors import StorageError
from launcher.plan.staging import files_to_upload, fill_channel


@pytest.fixture
def channel(tmp_path):
    return tmp_path / "ml" / "input" / "data" / "data"


def write(path, text="text"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def tree(folder):
    """Return the text of every file in a folder, by path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in files}


@pytest.mark.parametrize("name", ["pairs.jsonl", "Größe 😀.csv.gz", ".hidden.jsonl", "no suffix"])
def test_a_file_keeps_its_name_in_the_channel(tmp_path, channel, name):
    """Its suffix is the format, so the name must not change."""
    fill_channel(write(tmp_path / "in" / name), channel)
    assert tree(channel) == {name: "text"}


def test_staged_files_are_hard_links_if_possible(tmp_path, channel):
    """On the same file system, staging takes no space."""
    one = write(tmp_path / "one" / "pairs.jsonl")
    deep = write(tmp_path / "folder" / "deep" / "pairs.jsonl")
    fill_channel(one, channel)
    assert (channel / "pairs.jsonl").samefile(one)
    fill_channel(tmp_path / "folder", channel)
    assert (channel / "deep" / "pairs.jsonl").samefile(deep)


def test_links_are_followed(tmp_path, channel):
    """The Hub cache consists of symbolic links, which would be broken in a container."""
    blob = write(tmp_path / "blobs" / "3fa2", "linked")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "pairs.jsonl").symlink_to("../blobs/3fa2")
    (snapshot / "more").symlink_to(blob.parent, target_is_directory=True)

    fill_channel(snapshot, channel)
    assert tree(channel) == {"pairs.jsonl": "linked", "more/3fa2": "linked"}
    fill_channel(snapshot / "pairs.jsonl", channel)
    assert tree(channel) == {"pairs.jsonl": "linked"}
    assert not any(path.is_symlink() for path in channel.rglob("*"))


def test_staging_again_replaces_what_was_there(tmp_path, channel):
    """No file of an earlier data set remains."""
    fill_channel(write(tmp_path / "old" / "old.jsonl", "old").parent, channel)
    fill_channel(write(tmp_path / "new" / "new.jsonl", "new"), channel)
    assert tree(channel) == {"new.jsonl": "new"}
    assert tree(tmp_path / "old") == {"old.jsonl": "old"}


def test_a_folder_that_contains_the_channel_is_staged_without_it(tmp_path, monkeypatch):
    """`--data .` next to `runs/` copies the data, and does not recurse forever."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pairs.jsonl")
    channel = tmp_path / "runs" / "name" / ".work" / "input" / "data" / "data"
    fill_channel(Path(), channel)
    assert tree(channel) == {"pairs.jsonl": "text"}


def test_a_missing_file_is_a_one_line_error(tmp_path, channel):
    """A deleted source or a broken link never gives an incomplete channel."""
    folder = write(tmp_path / "in" / "pairs.jsonl").parent
    (folder / "broken.jsonl").symlink_to("nowhere")
    for source, part in ((tmp_path / "gone.jsonl", "No such file"), (folder, "broken.jsonl")):
        with pytest.raises(StorageError) as caught:
            fill_channel(source, channel)
        line = str(caught.value)
        assert line.startswith(f"`{source}` cannot be staged to `{channel}`: ")
        assert (part in line, "\n" in line) == (True, False)


def test_folders_behind_links_are_staged_and_uploaded_but_not_without_end(tmp_path, channel):
    write(tmp_path / "shared" / "one.jsonl")
    source = write(tmp_path / "in" / "deep" / "two.jsonl").parent.parent
    for name in ("top", "deep/below"):
        (source / name).symlink_to(tmp_path / "shared")
    (source / "deep" / "up").symlink_to("..")
    (source / "loop").symlink_to(".")
    fill_channel(source, channel)
    expected = ["deep/below/one.jsonl", "deep/two.jsonl", "top/one.jsonl"]
    assert sorted(tree(channel)) == expected
    assert sorted(files_to_upload(source, tmp_path / "runs")) == expected


def test_a_link_to_nothing_is_not_left_out_of_an_upload(tmp_path):
    source = write(tmp_path / "in" / "pairs.jsonl").parent
    (source / "broken.jsonl").symlink_to("nowhere")
    with pytest.raises(StorageError, match=r"broken\.jsonl` is a link to nothing"):
        files_to_upload(source, tmp_path / "runs")
