"""The workspace: SageMaker's /opt/ml tree, and the only file that knows where things lie in it."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from job.core.errors import MachineError, SpecError, StorageError, translated
from job.spec.parse import build_spec, differing_fields, parse_document, read_document
from job.spec.schema import JobSpec

DEFAULT_ROOT = Path("/opt/ml")
# SageMaker shows so many characters of output/failure and cuts the rest.
FAILURE_CHARACTERS = 1024
# Hyperparameters that SageMaker adds: its automatic tuning, and its framework estimators.
FOREIGN = ("_", "sagemaker_")
MANIFEST = "manifest.json"
DATA_CHANNELS = ("data", "validation", "test", "corpus", "out_of_domain")


class Workspace:
    """One run's `/opt/ml` tree.

    input/config/*.json, input/data/<channel>/ come in; checkpoints/ survives interruptions;
    model/ and output/data/ (the results) go out; output/failure holds the reason of a failure.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / "model"
        self.checkpoints = root / "checkpoints"
        self.results = root / "output" / "data"
        self.failure = root / "output" / "failure"
        self.spec = self.results / "spec.json"
        self.report = self.results / "report"
        self.per_query = self.results / "per_query.parquet"
        self.splits = self.results / "data"
        self.logs = self.results / "logs"
        # What a resumed run needs, beside its checkpoints: the values of `auto`, what they were
        # made from, which versions of its inputs; and what it need not compute again.
        self.hyperparameters = self.checkpoints / "hyperparameters.json"
        self.provenance = self.checkpoints / "provenance.json"
        self.revisions = self.checkpoints / "inputs.json"
        self.baseline = self.checkpoints / "baseline.parquet"
        self.nearest_neighbors = self.checkpoints / "nearest_neighbors.parquet"
        self.seconds = self.checkpoints / "seconds.json"
        # What the job itself brought from S3 and the Hub, by role.
        self.fetched = root / "input" / "fetched"
        # Where a launcher puts the spec, and where SageMaker names hosts and channels.
        self.job_spec = self.channel_folder("spec") / "job.json"
        self.resource_config = root / "input" / "config" / "resourceconfig.json"
        self.input_config = root / "input" / "config" / "inputdataconfig.json"

    @property
    def is_complete(self) -> bool:
        """Whether all results are made; whether they were published is another question."""
        return (self.results / MANIFEST).is_file()

    def channel_folder(self, name: str) -> Path:
        return self.root / "input" / "data" / name

    def channel(self, name: str) -> Path | None:
        """Folder of an input channel, or nothing where the channel was not given."""
        folder = self.channel_folder(name)
        if not folder.is_dir() or not any(folder.iterdir()):
            return None
        for path in folder.rglob("*"):
            # It would show the machine's own files, its credentials too, as data.
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                msg = f"`{path}` is a link that leads out of its channel; put the file there."
                raise StorageError(msg)
        return folder

    def channels(self) -> dict[str, Path]:
        """Return the input channels with data, by name."""
        found = {name: self.channel(name) for name in DATA_CHANNELS}
        return {name: folder for name, folder in found.items() if folder}

    def read_spec(self) -> JobSpec:
        """Merge defaults ← channel `spec` ← hyperparameters.json, later ones winning."""
        document = read_document(self.job_spec, "job.json") if self.job_spec.is_file() else {}
        return build_spec(document, self._hyperparameters())

    def _hyperparameters(self) -> dict[str, str]:
        path = self.root / "input" / "config" / "hyperparameters.json"
        try:
            given = json.loads(path.read_text("utf-8")) if path.is_file() else {}
            return {key: str(value) for key, value in given.items() if not key.startswith(FOREIGN)}
        except (ValueError, AttributeError, RecursionError) as error:
            msg = f"`{path.name}` is not a JSON object of dotted fields: {error}."
            raise SpecError(msg) from None

    def write_spec(self, spec: JobSpec) -> None:
        """Keep the merged spec; a workspace that holds another spec's run is refused."""
        if self.spec.is_file():
            check_same_spec(self.spec.read_text("utf-8"), str(self.results), spec)
        self.results.mkdir(parents=True, exist_ok=True)
        write_atomically(self.spec, spec.to_json())

    def write_failure(self, text: str) -> None:
        self.failure.parent.mkdir(parents=True, exist_ok=True)
        line = " ".join(text.split())
        self.failure.write_text(line[:FAILURE_CHARACTERS] + "\n", "utf-8")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process off this run; the lock ends with the process, however it ends."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = (self.root / "lock").open("a+")
        except OSError as error:
            msg = f"The workspace `{self.root}` cannot be written: {error.strerror}. Give the job "
            advice = "a folder that it may write, with `--workspace` or as the volume `/opt/ml`."
            raise MachineError(msg + advice) from None
        with handle:
            if not _has_locked(handle):
                raise self._busy()
            yield

    def require_unlocked(self) -> None:
        """Refuse early, before anything in the workspace is touched."""
        if self.is_locked():
            raise self._busy()

    def _busy(self) -> MachineError:
        return MachineError(f"Another process is working on `{self.root}`; wait for it or stop it.")

    def is_locked(self) -> bool:
        path = self.root / "lock"
        if not path.is_file():
            return False
        with path.open("a+") as handle:
            return not _has_locked(handle)


def _has_locked(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_same_spec(earlier: str, place: str, spec: JobSpec) -> None:
    """Refuse to mix two jobs: `earlier` is the spec.json at a place, `spec` what is wanted now."""
    name = f"{place}/spec.json"
    try:
        there = build_spec(parse_document(earlier, name))
    except SpecError as error:
        msg = f"`{name}` is not the spec of this version ({error}) Use another `--name`."
        raise SpecError(msg) from None
    if fields := differing_fields(there, spec):
        names = ", ".join(f"`{field}`" for field in fields)
        msg = f"`{place}` belongs to a run with another spec; these differ: {names}. "
        raise SpecError(msg + "Use another `--name`, or the same values.")


def write_atomically(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader never sees half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with explained(path):
            beside.write_text(text, "utf-8")
            beside.replace(path)
    finally:
        with suppress(OSError):
            beside.unlink()


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Hard links cost neither time nor space; across file systems there are none."""
    if not Path(source).is_file():
        # A device would be copied without end.
        raise OSError(errno.EINVAL, "is no file", str(source))
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def explained(path: Path, done: str = "written") -> AbstractContextManager[None]:
    """Turn what the file system raises into one line."""
    return translated(partial(file_error, f"`{path}` cannot be {done}"))


def file_error(what: str, error: Exception) -> StorageError | MachineError | None:
    if isinstance(error, UnicodeDecodeError):
        return StorageError(f"{what}: it is no text in UTF-8.")
    return write_error(what, error) if isinstance(error, OSError) else None


def write_error(what: str, error: OSError) -> StorageError | MachineError:
    """Say what could not be done and why: a full disk is the machine's fault."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return (MachineError if full else StorageError)(f"{what}: {error.strerror or error}.")
