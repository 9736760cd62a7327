"""The workspace: SageMaker's /opt/ml tree. Only this module knows its paths."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from copy import copy
from functools import partial
from pathlib import Path
from typing import IO

from job.core.errors import MachineError, SpecError, StorageError, translated
from job.spec.parse import build_spec, differing_fields, parse_document, read_document
from job.spec.schema import JobSpec

DEFAULT_ROOT = Path("/opt/ml")
# SageMaker cuts a failure's reason after 1,024 characters, of which it needs some itself: behind a
# longer text, the exit code would be lost.
FAILURE_CHARACTERS = 890
# Hyperparameters that SageMaker adds: its automatic tuning, and its framework estimators.
FOREIGN = ("_", "sagemaker_")
MANIFEST = "manifest.json"
DATA_CHANNELS = ("data", "validation", "test", "corpus", "out_of_domain", "documents")


class Workspace:
    """The `/opt/ml` tree of one run.

    Inputs are input/config/*.json and input/data/<channel>/; checkpoints/ survives interruptions;
    results are model/ and output/data/; output/failure has the reason of a failure.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / "model"
        self.checkpoints = root / "checkpoints"
        self.results = root / "output" / "data"
        # The model that was tested, if `training.refit` has stored another one as `model`.
        self.proven_model = self.results / "model_proven"
        self.failure = root / "output" / "failure"
        self.spec = self.results / "spec.json"
        self.report = self.results / "report"
        # The adapter of a model trained with LoRA, which is merged into that model.
        self.adapter = self.results / "adapter"
        # The tuned model in other formats, each in a folder of its name.
        self.exports = self.results / "exports"
        # Of query vectors, for those who keep the base model's document vectors.
        self.query_adapter = self.results / "query_adapter.npy"
        self.per_query = self.results / "per_query.parquet"
        self.splits = self.results / "data"
        self.generated = self.results / "generation"
        self.logs = self.results / "logs"
        # A resumed run also needs: the values of `auto`, the spec and data that they came from, the
        # versions of its inputs; and some results, so that it need not compute them again.
        self.hyperparameters = self.checkpoints / "hyperparameters.json"
        self.provenance = self.checkpoints / "provenance.json"
        self.revisions = self.checkpoints / "inputs.json"
        self.baseline = self.checkpoints / "baseline.parquet"
        self.rotation = self.checkpoints / "rotation.npz"
        self.nearest_neighbors = self.checkpoints / "nearest_neighbors.parquet"
        self.seconds = self.checkpoints / "seconds.json"
        # The journal of a language model's answers, and the pairs made of them.
        self.generation = self.checkpoints / "generation"
        # Test scores of one of several trainings.
        self.seed_scores = self.checkpoints / "scores.parquet"
        # Inputs that the job itself downloads from S3 and the Hub, by role.
        self.fetched = root / "input" / "fetched"
        # The spec, written by the launcher; hosts and channels, written by SageMaker.
        self.job_spec = self.channel_folder("spec") / "job.json"
        self.resource_config = root / "input" / "config" / "resourceconfig.json"
        self.input_config = root / "input" / "config" / "inputdataconfig.json"

    def for_seed(self, seed: int) -> "Workspace":
        """Return this workspace with the checkpoints of one of several trainings."""
        return self._for_training(f"seed-{seed}")

    def for_fold(self, number: int) -> "Workspace":
        """Return this workspace with the checkpoints of the training of one fold, from 1."""
        return self._for_pairs(f"fold-{number}")

    def for_refit(self) -> "Workspace":
        """Return this workspace with the checkpoints of the training on all pairs."""
        return self._for_pairs("refit")

    def _for_pairs(self, name: str) -> "Workspace":
        part = self._for_training(name)
        # Other pairs have other neighbors; and the adapter is a result only if the model is.
        part.nearest_neighbors = part.checkpoints / "nearest_neighbors.parquet"
        part.adapter = part.checkpoints / "adapter"
        return part

    def _for_training(self, name: str) -> "Workspace":
        part = copy(self)
        part.checkpoints = self.checkpoints / name
        part.hyperparameters = part.checkpoints / "hyperparameters.json"
        part.seed_scores = part.checkpoints / "scores.parquet"
        part.logs = self.logs / name
        return part

    def training_folders(self) -> Iterator[Path]:
        """Yield the folders of checkpoints of single trainings."""
        for pattern in ("seed-*", "fold-*", "refit"):
            yield from self.checkpoints.glob(pattern)

    def trainings(self) -> Iterator["Workspace"]:
        """Yield this workspace with the checkpoints of each single training."""
        for folder in self.training_folders():
            yield self._for_training(folder.name)

    def training_suffix(self, checkpoint: Path) -> str:
        """Return `-seed-43`, `-fold-2` or `-refit` for a checkpoint of a single training."""
        folder = checkpoint.parent
        return "" if folder == self.checkpoints else f"-{folder.name}"

    @property
    def has_checkpoints(self) -> bool:
        folders = (self.checkpoints, *self.training_folders())
        return any(any(folder.glob("checkpoint-*")) for folder in folders)

    @property
    def is_complete(self) -> bool:
        """Whether all results are written here; they may not be published yet."""
        return (self.results / MANIFEST).is_file()

    def channel_folder(self, name: str) -> Path:
        return self.root / "input" / "data" / name

    def channel(self, name: str) -> Path | None:
        """Return the folder of an input channel, or None if it is missing or empty."""
        folder = self.channel_folder(name)
        if not folder.is_dir() or not any(folder.iterdir()):
            return None
        for path in folder.rglob("*"):
            # Such a link could expose the machine's files, even credentials, as data.
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                msg = f"`{path}` is a link that leads out of its channel; copy the file there."
                raise StorageError(msg)
        return folder

    def channels(self) -> dict[str, Path]:
        """Return the folders of the non-empty data channels, by name."""
        found = {name: self.channel(name) for name in DATA_CHANNELS}
        return {name: folder for name, folder in found.items() if folder}

    def read_spec(self) -> JobSpec:
        """Merge defaults ← channel `spec` ← hyperparameters.json; later ones win."""
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
        """Write the merged spec; raise `SpecError` if the workspace has a run of another spec."""
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
        """Lock this run against a second process; the lock ends with the process in any case."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = (self.root / "lock").open("a+")
        except OSError as error:
            msg = f"The workspace `{self.root}` cannot be written: {error.strerror}. Give the job "
            advice = "a writable folder, with `--workspace` or as the volume `/opt/ml`."
            raise MachineError(msg + advice) from None
        with handle:
            if not _try_lock(handle):
                raise self._busy()
            yield

    def require_unlocked(self) -> None:
        """Raise `MachineError` if another process works on this run."""
        if self.is_locked():
            raise self._busy()

    def _busy(self) -> MachineError:
        return MachineError(f"Another process is working on `{self.root}`; wait for it or stop it.")

    def is_locked(self) -> bool:
        path = self.root / "lock"
        if not path.is_file():
            return False
        with path.open("a+") as handle:
            return not _try_lock(handle)


def _try_lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_same_spec(earlier: str, location: str, spec: JobSpec) -> None:
    """Raise `SpecError` if `earlier`, the text of a location's spec.json, differs from `spec`."""
    name = f"{location}/spec.json"
    try:
        found = build_spec(parse_document(earlier, name))
    except SpecError as error:
        msg = f"`{name}` is not a valid spec of this version ({error}). Use another `--name`."
        raise SpecError(msg) from None
    if fields := differing_fields(found, spec):
        names = ", ".join(f"`{field}`" for field in fields)
        msg = f"`{location}` belongs to a run with another spec; these differ: {names}. "
        raise SpecError(msg + "Use another `--name` or the same values.")


def write_atomically(path: Path, text: str) -> None:
    """Write a temporary file and rename it, so that readers never see half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with explained(path):
            temporary.write_text(text, "utf-8")
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def manifest_entries(files: Iterable[tuple[str, Path]]) -> dict[str, dict[str, int | str]]:
    """Return the size and SHA-256 of files, by the names given with them."""
    return {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in files}


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Hard-link a file, or copy it if it is on another file system; links cost no time or space."""
    if not Path(source).is_file():
        # Copying a device would never end.
        raise OSError(errno.EINVAL, "not a regular file", str(source))
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def explained(path: Path, done: str = "written") -> AbstractContextManager[None]:
    """Convert the file system's exceptions to one line."""
    return translated(partial(explain_file_error, f"`{path}` cannot be {done}"))


def explain_file_error(what: str, error: Exception) -> StorageError | MachineError | None:
    if isinstance(error, UnicodeDecodeError):
        return StorageError(f"{what}: it is not UTF-8 text.")
    return explain_os_error(what, error) if isinstance(error, OSError) else None


def explain_os_error(what: str, error: OSError) -> StorageError | MachineError:
    """Return the error for an OSError; a full disk is a `MachineError`."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return (MachineError if full else StorageError)(f"{what}: {error.strerror or error}.")
