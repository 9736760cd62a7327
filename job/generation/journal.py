"""The journal of requests: one line each, written before anything is made of the answer.

The first line has the fingerprints of the documents: questions about others would be lost, or
would be asked about texts that are gone. The version of a local model is a line, too: a branch of
its repository may move between two starts.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from job.core.errors import DataError
from job.generation.llm.protocol import REFUSED, Answer, Messages, Settings
from job.storage.workspace import explained

# Answers that a power failure may cost: those of so many seconds.
SYNC_SECONDS = 1.0
SHOWN = 3


@dataclass(frozen=True)
class Request:
    """One request to a model (`openai:gpt-4o-mini`) about a chunk, by its id."""

    model: str
    chunk: str
    messages: Messages
    settings: Settings

    @property
    def key(self) -> str:
        """Return a digest of all that the answer depends on."""
        content = json.dumps([self.model, list(self.messages), self.settings.facts()])
        return hashlib.sha256(content.encode("utf-8")).hexdigest()[:24]


class Journal:
    """The answers so far, by the keys of their requests; `add` writes one more."""

    def __init__(self, path: Path, documents: Mapping[str, str]) -> None:
        """Read the answers of earlier starts; raise `DataError` if they are about others."""
        self._path, self._documents = path, dict(documents)
        self.answers: dict[str, Answer] = {}
        # What identifies the versions of local models, by name.
        self.versions: dict[str, dict[str, Any]] = {}
        self._file: IO[bytes] | None = None
        self._synced = 0.0
        with explained(path, "read"):
            lines = _whole_lines(path) if path.is_file() else []
        if lines:
            with _named_damage(path, 1):
                earlier = dict(json.loads(lines[0]).get("documents", {}))
            self._require_same_documents(earlier)
        for number, line in enumerate(lines[1:], start=2):
            with _named_damage(path, number):
                entry = json.loads(line)
                if "version" in entry:
                    self.versions[str(entry["model"])] = dict(entry["version"])
                    continue
                key, answer = str(entry["key"]), _answer(**entry["answer"])
            # A refusal of the server cost nothing, and its settings may have been mended.
            if not answer.refusal.startswith(REFUSED):
                self.answers[key] = answer

    @contextmanager
    def opened(self) -> Iterator["Journal"]:
        """Keep the file open for `add`."""
        with explained(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                self._file = file
                if not file.tell():
                    self._write({"documents": self._documents})
                try:
                    yield self
                finally:
                    os.fsync(file.fileno())
                    self._file = None

    def add(self, request: Request, answer: Answer) -> None:
        settings = request.settings.facts()
        self._write(
            {
                "key": request.key,
                "model": request.model,
                "chunk": request.chunk,
                **{name: settings[name] for name in settings if name not in answer.without},
                "answer": asdict(answer),
            }
        )
        self.answers[request.key] = answer

    def add_version(self, model: str, version: Mapping[str, Any]) -> None:
        """Record which version of a local model answers from now on."""
        if self.versions.get(model) != version:
            self.versions[model] = dict(version)
            self._write({"model": model, "version": self.versions[model]})

    def _write(self, entry: Mapping[str, Any]) -> None:
        assert self._file is not None
        with explained(self._path):
            self._file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8") + b"\n")
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def _require_same_documents(self, earlier: Mapping[str, str]) -> None:
        now = self._documents
        changes = {
            "added": [name for name in now if name not in earlier],
            "changed": [name for name in now if earlier.get(name, now[name]) != now[name]],
            "removed": [name for name in earlier if name not in now],
        }
        if any(changes.values()):
            found = "; ".join(
                f"{len(names)} {what} ({_some(names)})" for what, names in changes.items() if names
            )
            msg = f"The documents have changed since the questions in `{self._path}` were written: "
            msg += f"{found}. Restore them, start another run, or delete that file."
            raise DataError(msg)


def _answer(without: Sequence[str] = (), **fields: Any) -> Answer:  # noqa: ANN401  JSON
    return Answer(**fields, without=tuple(without))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
    return shown + (", …" if len(names) > SHOWN else "")


def _whole_lines(path: Path) -> list[bytes]:
    """Return the lines; cut off an incomplete last one, which a killed run left."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return whole.splitlines()


@contextmanager
def _named_damage(path: Path, number: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError):
        msg = f"`{path}` line {number} is damaged. Delete that line, or the file to ask again."
        raise DataError(msg) from None
