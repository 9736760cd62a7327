"""Transfers of a training host: S3 objects in both directions, and log lines to CloudWatch."""

import io
import json
import os
import tarfile
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from s3_server import S3

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
# A process that outlives its container may keep the pipe open forever.
READ_SECONDS = 5


class Storage(S3):
    """Direct access to moto's S3 and logs, without requests and faults."""

    def has_bucket(self, name: str) -> bool:
        with self._lock:
            return name in self._store.buckets

    def delete(self, bucket: str, key: str) -> None:
        with self._lock:
            self._store.delete_object(bucket, key)

    def open_log(self, region: str, host: str) -> str:
        """Create a log stream, and the group if it is the first; return the stream's name."""
        with self._lock:
            logs, epoch = get_backend("logs")[ACCOUNT][region], int(time.time())
            if LOG_GROUP not in logs.groups:
                logs.create_log_group(LOG_GROUP, {})
            while f"{host}-{epoch}" in logs.groups[LOG_GROUP].streams:
                epoch += 1
            logs.create_log_stream(LOG_GROUP, f"{host}-{epoch}")
            return f"{host}-{epoch}"

    def write_log(self, region: str, stream: str, events: list[Any]) -> None:
        with self._lock:
            get_backend("logs")[ACCOUNT][region].put_log_events(LOG_GROUP, stream, events)


class Mirror:
    """Syncs a folder to S3 repeatedly: uploads changed files, deletes removed ones.

    The URI is a key prefix as it is given: `exp1` also restores, and later deletes, `exp10/…`.
    """

    def __init__(self, storage: Storage, folder: Path, uri: str):
        self.storage, self.folder = storage, folder
        self.bucket, self.prefix = split(uri)
        self._known: dict[str, tuple[int, int]] = {}
        # The keys of restored files whose names have another beginning.
        self._keys: dict[str, str] = {}

    def restore(self) -> None:
        for key in self.storage.keys(self.bucket, self.prefix):
            name = key.removeprefix(self.prefix).lstrip("/")
            if name and not name.endswith("/"):
                self._keys[name] = key
                write(self.folder / name, self.storage.get(self.bucket, key))
        self._known = self._scan()

    def push(self) -> None:
        found = self._scan()
        for name in sorted(found):
            if self._known.get(name) != found[name]:
                # A file that has just been deleted is removed at the next push.
                with suppress(FileNotFoundError):
                    data = (self.folder / name).read_bytes()
                    self.storage.put(self.bucket, self._key(name), data)
        for name in self._known.keys() - found.keys():
            self.storage.delete(self.bucket, self._key(name))
        self._known = found

    def _key(self, name: str) -> str:
        return self._keys.get(name) or f"{self.prefix.rstrip('/')}/{name}"

    def _scan(self) -> dict[str, tuple[int, int]]:
        """Return size and time of each file, by name, without files deleted meanwhile."""
        found = {}
        for parent, _, names in os.walk(self.folder):  # unlike rglob, it tolerates deleted folders
            for path in (Path(parent, name) for name in names):
                with suppress(FileNotFoundError):
                    stat = path.stat()
                    name = path.relative_to(self.folder).as_posix()
                    found[name] = (stat.st_size, stat.st_mtime_ns)
        return found


class Log:
    """Sends a container's lines to CloudWatch, some ticks late."""

    def __init__(self, storage: Storage, host: str, region: str, pipe: IO[bytes]):
        self.storage, self.region, self._pipe = storage, region, pipe
        self.stream = storage.open_log(region, host)
        self._lines: deque[dict[str, Any]] = deque()
        self._due = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def flush(self) -> None:
        """Send the lines that existed at the last flush; the newest lines always wait."""
        self._send(self._due)
        self._due = len(self._lines)

    def finish(self) -> None:
        self._reader.join(READ_SECONDS)
        if not self._reader.is_alive():
            self._pipe.close()
        self._send(len(self._lines))

    def _read(self) -> None:
        for line in self._pipe:
            # An event's message needs at least one character.
            message = line.decode("utf-8", "replace").rstrip("\n") or " "
            self._lines.append({"timestamp": int(time.time() * 1000), "message": message})

    def _send(self, count: int) -> None:
        if count:
            events = [self._lines.popleft() for _ in range(count)]
            self.storage.write_log(self.region, self.stream, events)


def split(uri: str) -> tuple[str, str]:
    """Split `s3://bucket/key` into bucket and key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def download(storage: Storage, uri: str, folder: Path) -> int:
    """Download all objects with the prefix, and return their number.

    File names are relative to the prefix if it is a folder, else to the prefix's parent.
    """
    bucket, prefix = split(uri)
    keys = storage.keys(bucket, prefix) if storage.has_bucket(bucket) else []
    files = [key for key in keys if not key.endswith("/")]
    for key in files:
        base = f"{prefix.rstrip('/')}/" if prefix else ""
        if not key.startswith(base):
            base = prefix[: prefix.rfind("/") + 1]
        write(folder / key.removeprefix(base), storage.get(bucket, key))
    return len(files)


def download_listed(storage: Storage, uri: str, folder: Path) -> int:
    """Download the objects that a manifest names, and return their number; 0 if one is missing.

    A manifest is a JSON list: `{"prefix": URI}`, then the rest of each object's URI.
    """
    bucket, key = split(uri)
    if not storage.has_bucket(bucket) or key not in storage.keys(bucket, key):
        return 0
    head, *names = json.loads(storage.get(bucket, key))
    bucket, prefix = split(head["prefix"])
    missing = {prefix + name for name in names} - {*storage.keys(bucket, prefix)}
    for name in () if missing else names:
        write(folder / name, storage.get(bucket, prefix + name))
    return 0 if missing else len(names)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def archive(folder: Path) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)
    return data.getvalue()
