"""Staging: local inputs become channels, whole, in their shape, and without stale leftovers."""

from pathlib import Path

import pytest

from job.core.errors import StorageError
from launcher.plan.staging import fill_channel


@pytest.fixture
def channel(tmp_path):
    return tmp_path / "ml" / "input" / "data" / "data"


def write(path, text="text"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def tree(folder):
    """Map every file below a folder to its text."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in files}


@pytest.mark.parametrize("name", ["pairs.jsonl", "Größe 😀.csv.gz", ".hidden.jsonl", "no suffix"])
def test_a_file_keeps_its_name_in_the_channel(tmp_path, channel, name):
    """Its suffix says the format, so the name must not change."""
    fill_channel(write(tmp_path / "in" / name), channel)
    assert tree(channel) == {name: "text"}


def test_a_staged_file_takes_no_space_where_links_are_possible(tmp_path, channel):
    """On one file system a file and the files of a folder are hard links of the originals."""
    one = write(tmp_path / "one" / "pairs.jsonl")
    deep = write(tmp_path / "folder" / "deep" / "pairs.jsonl")
    fill_channel(one, channel)
    assert (channel / "pairs.jsonl").samefile(one)
    fill_channel(tmp_path / "folder", channel)
    assert (channel / "deep" / "pairs.jsonl").samefile(deep)


def test_links_are_followed(tmp_path, channel):
    """The Hub's cache is a folder of links; a channel that held them would be empty elsewhere."""
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
    """No file of an earlier data set is left to be trained on."""
    fill_channel(write(tmp_path / "old" / "old.jsonl", "old").parent, channel)
    fill_channel(write(tmp_path / "new" / "new.jsonl", "new"), channel)
    assert tree(channel) == {"new.jsonl": "new"}
    assert tree(tmp_path / "old") == {"old.jsonl": "old"}


def test_a_folder_that_holds_the_channel_is_staged_without_it(tmp_path, monkeypatch):
    """`--data .` beside `runs/` takes the data that lies there, and does not copy without end."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pairs.jsonl")
    channel = tmp_path / "runs" / "name" / ".work" / "input" / "data" / "data"
    fill_channel(Path(), channel)
    assert tree(channel) == {"pairs.jsonl": "text"}


def test_what_is_only_promised_is_named_in_one_line(tmp_path, channel):
    """A source that vanished, a broken link in a folder: no channel with a hole."""
    folder = write(tmp_path / "in" / "pairs.jsonl").parent
    (folder / "broken.jsonl").symlink_to("nowhere")
    for source, part in ((tmp_path / "gone.jsonl", "No such file"), (folder, "broken.jsonl")):
        with pytest.raises(StorageError) as caught:
            fill_channel(source, channel)
        line = str(caught.value)
        assert line.startswith(f"`{source}` cannot be staged to `{channel}`: ")
        assert (part in line, "\n" in line) == (True, False)
