"""The source of an image as an archive: the files that Docker would send to its engine."""

import hashlib
import io
import json
import os
import posixpath
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from job.core.errors import StorageError

# Docker sends them even if they are ignored.
ALWAYS_SENT = ("Dockerfile", ".dockerignore")
WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class Source:
    """A ZIP archive; its fingerprint depends on names and contents only."""

    archive: bytes
    files: int
    fingerprint: str

    def digest_with(self, arguments: dict[str, str]) -> str:
        """Return twelve hexadecimal digits for the source and the arguments of its build."""
        text = json.dumps([self.fingerprint, arguments], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_source(folder: Path) -> Source:
    """Archive a checkout without what its `.dockerignore` excludes.

    Raises `StorageError` for symbolic links: what they point to may be outside the checkout.
    """
    data, digest, files = io.BytesIO(), hashlib.sha256(), 0
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(_selected(folder)):
            path = folder / name
            if path.is_symlink():
                msg = f"`{path}` is a symbolic link; replace it, or exclude it in `.dockerignore`."
                raise StorageError(msg)
            content, mode = path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644
            entry = zipfile.ZipInfo(name)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, mode << 16
            archive.writestr(entry, content)
            digest.update(f"{name}\0{mode}\0{len(content)}\0".encode() + content)
            files += 1
    return Source(data.getvalue(), files, digest.hexdigest())


def _selected(folder: Path) -> Iterator[str]:
    """Yield the names of the files that are sent, relative to the folder."""
    rules = _Rules(folder / ".dockerignore")
    for parent, folders, files in os.walk(folder):
        within = Path(parent).relative_to(folder)
        # A linked folder would be skipped without an error if it stayed among the folders.
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        folders[:] = [
            name
            for name in folders
            if name not in links and rules.may_hold_files((within / name).as_posix())
        ]
        for name in ((within / each).as_posix() for each in files + links):
            if name in ALWAYS_SENT or not rules.ignore(name):
                yield name


class _Rules:
    """The patterns of a `.dockerignore`: the last that matches a path or a parent of it decides.

    Its patterns are git's, except that git's match at every depth and Docker's from the folder.
    """

    def __init__(self, path: Path) -> None:
        from pathspec import PathSpec

        patterns = list(_patterns(path))
        rooted = [f"!/{each[1:]}" if each.startswith("!") else f"/{each}" for each in patterns]
        self._compiled = PathSpec.from_lines("gitignore", rooted).patterns
        self._included = [each[1:] for each in patterns if each.startswith("!")]

    def ignore(self, name: str) -> bool:
        parents = [f"{parent.as_posix()}/" for parent in PurePosixPath(name).parents[:-1]]
        ignored = False
        for pattern in self._compiled:
            if any(pattern.match_file(path) for path in (name, *parents)):
                ignored = bool(pattern.include)
        return ignored

    def may_hold_files(self, folder: str) -> bool:
        """Return false for ignored folders in which no `!` pattern can match: `.git`, `.venv`."""
        return not self.ignore(folder) or any(
            WILDCARDS & set(each) or each.startswith(f"{folder}/") for each in self._included
        )


def _patterns(path: Path) -> Iterator[str]:
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        if line.startswith("#") or not line.strip():
            continue
        sign = "!" if line.strip().startswith("!") else ""
        # Docker cleans a pattern like a path, and ignores a slash at its start or end.
        cleaned = posixpath.normpath(line.strip().removeprefix("!").strip()).lstrip("/")
        if cleaned != ".":
            yield f"{sign}{cleaned}"
