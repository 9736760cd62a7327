"""Folders on disk and in S3 under one interface: inputs come from them, results go to them.

Light to import: boto3 is loaded when S3 is first asked for.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from job.core.errors import SpecError, StorageError
from job.storage import s3
from job.storage.workspace import explained, link_or_copy, write_atomically

S3 = "s3://"


@dataclass(frozen=True)
class Entry:
    """A file of a place; `tag` changes when its content does."""

    name: str
    size: int
    tag: str


def safe_join(folder: Path, name: str) -> Path:
    """Return the path of a name that somebody else chose; it must not lead out of the folder."""
    plain = PurePosixPath(name)
    # Two spellings of one name (`a//b`, `./b`) would be one file.
    spelled = name == plain.as_posix() and name != "."
    if not spelled or plain.is_absolute() or ".." in plain.parts or "\0" in name:
        msg = f"The name {name!r} would be written outside `{folder}`; it was refused."
        raise StorageError(msg)
    path = folder / plain
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        msg = f"The name {name!r} leads out of `{folder}` over a link; it was refused."
        raise StorageError(msg)
    return path


class FolderStore:
    """A folder. Every method, as those of `S3Store`, raises `StorageError` where it fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = str(folder)

    def join(self, name: str) -> "FolderStore":
        """Return the place of a folder in it."""
        return FolderStore(self.folder / name)

    def files(self) -> list[Entry]:
        """List all files below it, by name; none where it does not exist."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        found = ((path.relative_to(self.folder).as_posix(), path.stat()) for path in paths)
        return [Entry(name, facts.st_size, str(facts.st_mtime_ns)) for name, facts in found]

    def folders(self) -> list[str]:
        """Name the folders directly in it."""
        with explained(self.folder, "read"):
            there = self.folder.iterdir() if self.folder.is_dir() else ()
            return sorted(path.name for path in there if path.is_dir())

    def modified_at(self, name: str) -> datetime | None:
        """Say when a file was last written; nothing where there is no such file."""
        path = self.folder / name
        return datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.is_file() else None

    def read(self, name: str) -> str | None:
        """Read a small text; nothing where there is no such file."""
        path = self.folder / name
        with explained(path, "read"):
            return path.read_text("utf-8") if path.is_file() else None

    def write(self, name: str, text: str) -> None:
        """Write a small text, whole or not at all."""
        path = self.folder / name
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)

    def put(self, files: Mapping[str, Path]) -> None:
        """Store files under these names."""
        for name, source in files.items():
            target = self.folder / name
            with explained(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                link_or_copy(source, target)

    def get(self, entries: Iterable[Entry], folder: Path) -> None:
        """Copy files to a local folder, whole or not at all."""
        for entry in entries:
            target = safe_join(folder, entry.name)
            with explained(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                beside = target.with_name(f".{target.name}.copy")
                shutil.copyfile(self.folder / entry.name, beside)
                beside.replace(target)


class S3Store:
    """A prefix of a bucket; `kms_key` encrypts what is written, else the bucket's rule holds."""

    def __init__(self, uri: str, kms_key: str | None = None) -> None:
        self.uri = uri.rstrip("/")
        self.bucket, self.key = split_uri(uri)
        self._prefix = f"{self.key}/" if self.key else ""
        self._kms_key = kms_key
        encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key}
        self._encryption = encryption if kms_key else {}

    def join(self, name: str) -> "S3Store":
        return S3Store(f"{self.uri}/{name}", self._kms_key)

    def files(self) -> list[Entry]:
        # Consoles mark a folder by an empty object that ends in a slash.
        found = [f for page in self._pages() for f in page.get("Contents", [])]
        return [
            Entry(f["Key"][len(self._prefix) :], f["Size"], f["ETag"])
            for f in found
            if not f["Key"].endswith("/")
        ]

    def as_file(self) -> tuple["S3Store", Entry] | None:
        """Return the object with exactly this key, and the place it lies in, if there is one."""
        folder, _, name = self.uri.rpartition("/")
        if not self.key or (found := S3Store(folder, self._kms_key)._head(name)) is None:
            return None
        return S3Store(folder, self._kms_key), Entry(name, found["ContentLength"], found["ETag"])

    def modified_at(self, name: str) -> datetime | None:
        found = self._head(name)
        return found["LastModified"] if found else None

    def _head(self, name: str) -> Any:  # noqa: ANN401  boto3 has no types here
        where = {"Bucket": self.bucket, "Key": self._prefix + name}
        return self._answer(name, lambda: s3.s3_client().head_object(**where))

    def _answer(self, name: str, ask: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Ask for an object; nothing where there is none of that name."""
        with s3.explained(f"{self.uri}/{name}"):
            try:
                return ask()
            except s3.s3_client().exceptions.ClientError as error:
                if s3.error_code(error) in ("404", "NoSuchKey", "NotFound"):
                    return None
                raise

    def folders(self) -> list[str]:
        prefixes = [p for page in self._pages("/") for p in page.get("CommonPrefixes", [])]
        return sorted(prefix["Prefix"][len(self._prefix) : -1] for prefix in prefixes)

    def read(self, name: str) -> str | None:
        text: str | None = self._answer(name, lambda: self._content(name).decode("utf-8"))
        return text

    def _content(self, name: str) -> bytes:
        from botocore.exceptions import IncompleteReadError, ResponseStreamingError

        def content() -> bytes:
            answer = s3.s3_client().get_object(Bucket=self.bucket, Key=self._prefix + name)
            return bytes(answer["Body"].read())

        # The client repeats requests, but not the reading of an answer that broke off.
        for _ in range(s3.ATTEMPTS - 1):
            with suppress(IncompleteReadError, ResponseStreamingError):
                return content()
        return content()

    def write(self, name: str, text: str) -> None:
        with s3.explained(f"{self.uri}/{name}", "written"):
            data = text.encode("utf-8")
            where = {"Bucket": self.bucket, "Key": self._prefix + name}
            s3.s3_client().put_object(**where, Body=data, **self._encryption)

    def put(self, files: Mapping[str, Path]) -> None:
        with s3.explained(self.uri, "written"), s3.transfers() as manager:
            running = [
                manager.upload(str(path), self.bucket, self._prefix + name, self._encryption)
                for name, path in files.items()
            ]
            for upload in running:
                upload.result()

    def get(self, entries: Iterable[Entry], folder: Path) -> None:
        wanted = [(entry, safe_join(folder, entry.name)) for entry in entries]
        with s3.explained(self.uri), s3.transfers() as manager:
            for _, path in wanted:
                path.parent.mkdir(parents=True, exist_ok=True)
            running = [
                manager.download(
                    self.bucket, self._prefix + entry.name, str(path), subscribers=[_as(entry)]
                )
                for entry, path in wanted
            ]
            for download in running:
                download.result()

    def copy(self, source: "S3Store", names: Mapping[str, str]) -> None:
        """Copy objects from another place within S3; `names` maps theirs to ours."""
        with s3.explained(self.uri, "written"):
            for theirs, ours in names.items():
                found = {"Bucket": source.bucket, "Key": source._prefix + theirs}
                target = (self.bucket, self._prefix + ours)
                s3.s3_client().copy(found, *target, ExtraArgs=self._encryption)

    def _pages(self, delimiter: str = "") -> list[Any]:
        with s3.explained(self.uri):
            pages = s3.s3_client().get_paginator("list_objects_v2")
            where = {"Bucket": self.bucket, "Prefix": self._prefix}
            return list(pages.paginate(**where, Delimiter=delimiter))


Store = FolderStore | S3Store


def open_store(uri: str, kms_key: str | None = None) -> Store:
    """Open `s3://bucket/prefix` or a local folder."""
    return S3Store(uri, kms_key) if uri.startswith(S3) else FolderStore(Path(uri))


def split_uri(uri: str) -> tuple[str, str]:
    """Split `s3://bucket/key` into bucket and key; the key has no slash at its ends."""
    bucket, _, key = uri.removeprefix(S3).partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]+[a-z0-9]", bucket):
        msg = f"`{uri}` names no bucket; expected `s3://bucket/prefix`."
        raise SpecError(msg)
    return bucket, key.strip("/")


def _as(entry: Entry) -> Any:  # noqa: ANN401
    """Tell a transfer what was listed: an object that has changed since is refused by S3."""
    from s3transfer.subscribers import BaseSubscriber

    class Listed(BaseSubscriber):
        def on_queued(self, future: Any, **_: object) -> None:  # noqa: ANN401
            future.meta.provide_transfer_size(entry.size)
            future.meta.provide_object_etag(entry.tag)
            # Objects of one part are else asked for without it.
            future.meta.call_args.extra_args["IfMatch"] = entry.tag

    return Listed()
