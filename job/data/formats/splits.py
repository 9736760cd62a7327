"""Recognize splits by the names of files, folders and keys."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout", "heldout"), "test"),
    # The test set, as for `datasets`; the validation set if there is another test set.
    **dict.fromkeys(("eval", "evaluation"), "eval"),
}
HELD_OUT = re.compile(r"(hold|held)[-._ ]?out", re.IGNORECASE)


def split_of(name: str, *, whole: bool = False) -> str | None:
    """Return the split that a name, or with `whole=False` one of its parts, is called."""
    found = _splits_in(name, whole=whole)
    return found and found.replace("eval", "test")


def splits_of(names: Iterable[str], *, whole: bool = False) -> list[str | None]:
    """Return the split of each name; which one `eval` is depends on the others."""
    found = [_splits_in(name, whole=whole) for name in names]
    meant = "validation" if "test" in found and "validation" not in found else "test"
    return [meant if split == "eval" else split for split in found]


def _splits_in(name: str, *, whole: bool) -> str | None:
    plain = HELD_OUT.sub("holdout", name.strip().lower())
    if whole:
        return SPLITS.get(plain)
    found = {SPLITS[part] for part in re.split(r"[-._ /\\]+", plain) if part in SPLITS}
    return found.pop() if len(found) == 1 else None


def file_splits(files: Sequence[Path], root: Path) -> dict[Path, str | None]:
    """Return the split of each file by its name or its folders; empty if there is only one split.

    The rule is that of `datasets`: `pairs_train-0001.jsonl` and `train/a.jsonl` are both `train`.
    """
    names = []
    for file in files:
        folders = str(file.relative_to(root).parent) if root.is_dir() else ""
        names.append(file.name if _splits_in(file.name, whole=False) else folders)
    splits = dict(zip(files, splits_of(names), strict=True))
    return splits if len({split for split in splits.values() if split}) > 1 else {}
