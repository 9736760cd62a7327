"""Recognize splits by the names of files, folders and keys."""

import re
from collections.abc import Sequence
from pathlib import Path

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_of(name: str, *, whole: bool = False) -> str | None:
    """Return the split that a name, or with `whole=False` one of its parts, is called."""
    if whole:
        return SPLITS.get(name.strip().lower())
    found = {SPLITS[part] for part in re.split(r"[-._ /\\]+", name.lower()) if part in SPLITS}
    return found.pop() if len(found) == 1 else None


def file_splits(files: Sequence[Path], root: Path) -> dict[Path, str | None]:
    """Return the split of each file by its name or its folders; empty if there is only one split.

    The rule is that of `datasets`: `pairs_train-0001.jsonl` and `train/a.jsonl` are both `train`.
    """
    splits = {}
    for file in files:
        folders = str(file.relative_to(root).parent) if root.is_dir() else ""
        splits[file] = split_of(file.name) or split_of(folders)
    return splits if len({split for split in splits.values() if split}) > 1 else {}
