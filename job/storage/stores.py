"""Stores: folders on disk and in S3 under one interface, for inputs and results.

Importing is cheap: boto3 is loaded at the first use of S3.
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
    """A file in a store; `tag` changes with its content."""

    name: str
    size: int
    tag: str


def safe_join(folder: Path, name: str) -> Path:
    """Return the path of an untrusted name in a folder; refuse names that lead out of it."""
    plain = PurePosixPath(name)
    # Two spellings of a name (`a//b`, `./b`) would be the same file.
    is_normal = name == plain.as_posix() and name != "."
    if not is_normal or plain.is_absolute() or ".." in plain.parts or "\0" in name:
        msg = f"The name {name!r} would be written outside `{folder}`; it was refused."
        raise StorageError(msg)
    path = folder / plain
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        msg = f"The name {name!r} leads out of `{folder}` through a link; it was refused."
        raise StorageError(msg)
    return path


class FolderStore:
    """A local folder. All methods raise `StorageError` on failure, as those of `S3Store` do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = str(folder)

    def join(self, name: str) -> "FolderStore":
        """Return the store of a subfolder."""
        return FolderStore(self.folder / name)

    def files(self) -> list[Entry]:
        """List all files in it and its subfolders, by name; none if it does not exist."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        found = ((path.relative_to(self.folder).as_posix(), path.stat()) for path in paths)
        return [Entry(name, facts.st_size, str(facts.st_mtime_ns)) for name, facts in found]

    def folders(self) -> list[str]:
        """Return the names of its direct subfolders, sorted."""
        with explained(self.folder, "read"):
            paths = self.folder.iterdir() if self.folder.is_dir() else ()
            return sorted(path.name for path in paths if path.is_dir())

    def modified_at(self, name: str) -> datetime | None:
        """Return when a file was last written (UTC), or None if it does not exist."""
        path = self.folder / name
        return datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.is_file() else None

    def read(self, name: str) -> str | None:
        """Read a small text file; return None if it does not exist."""
        path = self.folder / name
        with explained(path, "read"):
            return path.read_text("utf-8") if path.is_file() else None

    def write(self, name: str, text: str) -> None:
        """Write a small text file atomically."""
        path = self.folder / name
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)

    def put(self, files: Mapping[str, Path]) -> None:
        """Store files under these names, replacing existing ones."""
        for name, source in files.items():
            target = self.folder / name
            with explained(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                link_or_copy(source, target)

    def get(self, entries: Iterable[Entry], folder: Path) -> None:
        """Copy files to a local folder, each one atomically."""
        for entry in entries:
            target = safe_join(folder, entry.name)
            with explained(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".{target.name}.copy")
                shutil.copyfile(self.folder / entry.name, temporary)
                temporary.replace(target)


class S3Store:
    """A prefix of an S3 bucket; writes use `kms_key`, by default the bucket's own encryption."""

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
        # AWS's console marks folders by empty objects whose key ends in a slash.
        objects = [o for page in self._pages() for o in page.get("Contents", [])]
        return [
            Entry(o["Key"][len(self._prefix) :], o["Size"], o["ETag"])
            for o in objects
            if not o["Key"].endswith("/")
        ]

    def as_file(self) -> tuple["S3Store", Entry] | None:
        """If the URI is the key of an object, return its folder's store and its entry."""
        folder, _, name = self.uri.rpartition("/")
        if not self.key or (found := S3Store(folder, self._kms_key)._head(name)) is None:
            return None
        return S3Store(folder, self._kms_key), Entry(name, found["ContentLength"], found["ETag"])

    def modified_at(self, name: str) -> datetime | None:
        found = self._head(name)
        return found["LastModified"] if found else None

    def _head(self, name: str) -> Any:  # noqa: ANN401  boto3 has no types here
        location = {"Bucket": self.bucket, "Key": self._prefix + name}
        return self._if_exists(name, lambda: s3.s3_client().head_object(**location))

    def _if_exists(self, name: str, request: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Call `request`; return None if the object does not exist."""
        with s3.explained(f"{self.uri}/{name}"):
            try:
                return request()
            except s3.s3_client().exceptions.ClientError as error:
                if s3.error_code(error) in ("404", "NoSuchKey", "NotFound"):
                    return None
                raise

    def folders(self) -> list[str]:
        prefixes = [p for page in self._pages("/") for p in page.get("CommonPrefixes", [])]
        return sorted(prefix["Prefix"][len(self._prefix) : -1] for prefix in prefixes)

    def read(self, name: str) -> str | None:
        text: str | None = self._if_exists(name, lambda: self._content(name).decode("utf-8"))
        return text

    def _content(self, name: str) -> bytes:
        from botocore.exceptions import IncompleteReadError, ResponseStreamingError

        def content() -> bytes:
            response = s3.s3_client().get_object(Bucket=self.bucket, Key=self._prefix + name)
            return bytes(response["Body"].read())

        # The client retries requests, but not the reading of a response that broke off.
        for _ in range(s3.ATTEMPTS - 1):
            with suppress(IncompleteReadError, ResponseStreamingError):
                return content()
        return content()

    def write(self, name: str, text: str) -> None:
        with s3.explained(f"{self.uri}/{name}", "written"):
            data = text.encode("utf-8")
            location = {"Bucket": self.bucket, "Key": self._prefix + name}
            s3.s3_client().put_object(**location, Body=data, **self._encryption)

    def put(self, files: Mapping[str, Path]) -> None:
        with s3.explained(self.uri, "written"), s3.transfers() as manager:
            moved = s3.count_bytes("upload", sum(path.stat().st_size for path in files.values()))
            running = [
                manager.upload(
                    str(path), self.bucket, self._prefix + name, self._encryption, [moved]
                )
                for name, path in files.items()
            ]
            for upload in running:
                upload.result()

    def get(self, entries: Iterable[Entry], folder: Path) -> None:
        wanted = [(entry, safe_join(folder, entry.name)) for entry in entries]
        with s3.explained(self.uri), s3.transfers() as manager:
            moved = s3.count_bytes("download", sum(entry.size for entry, _ in wanted))
            for _, path in wanted:
                path.parent.mkdir(parents=True, exist_ok=True)
            running = [
                manager.download(
                    self.bucket,
                    self._prefix + entry.name,
                    str(path),
                    subscribers=[_unchanged(entry), moved],
                )
                for entry, path in wanted
            ]
            for download in running:
                download.result()

    def copy(self, source: "S3Store", names: Mapping[str, str]) -> None:
        """Copy objects from another store within S3; `names` maps its names to names here."""
        with s3.explained(self.uri, "written"):
            for old, new in names.items():
                origin = {"Bucket": source.bucket, "Key": source._prefix + old}
                target = (self.bucket, self._prefix + new)
                s3.s3_client().copy(origin, *target, ExtraArgs=self._encryption)

    def _pages(self, delimiter: str = "") -> list[Any]:
        with s3.explained(self.uri):
            pages = s3.s3_client().get_paginator("list_objects_v2")
            location = {"Bucket": self.bucket, "Prefix": self._prefix}
            return list(pages.paginate(**location, Delimiter=delimiter))


Store = FolderStore | S3Store


def open_store(uri: str, kms_key: str | None = None) -> Store:
    """Open `s3://bucket/prefix` or a local folder."""
    return S3Store(uri, kms_key) if uri.startswith(S3) else FolderStore(Path(uri))


def split_uri(uri: str) -> tuple[str, str]:
    """Split `s3://bucket/key` into bucket and key, without slashes at the key's ends."""
    bucket, _, key = uri.removeprefix(S3).partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]+[a-z0-9]", bucket):
        msg = f"`{uri}` has no valid bucket name; expected `s3://bucket/prefix`."
        raise SpecError(msg)
    return bucket, key.strip("/")


def _unchanged(entry: Entry) -> Any:  # noqa: ANN401
    """Bind a transfer to a listed entry: S3 refuses the object if it has changed since."""
    from s3transfer.subscribers import BaseSubscriber

    class Listed(BaseSubscriber):
        def on_queued(self, future: Any, **_: object) -> None:  # noqa: ANN401
            future.meta.provide_transfer_size(entry.size)
            future.meta.provide_object_etag(entry.tag)
            # Requests for objects of one part would omit it.
            future.meta.call_args.extra_args["IfMatch"] = entry.tag

    return Listed()
