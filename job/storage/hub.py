"""Hugging Face Hub: download data sets and models, push the tuned model.

The Hub client's settings apply: `HF_TOKEN` or its login, `HF_ENDPOINT`, `HF_HOME`.
"""

import glob
import io
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from job.core.errors import DataError, ModelError, StorageError
from job.runtime.counter import Counter
from job.runtime.logs import tell, warn
from job.storage.hub_errors import explained
from job.storage.stores import safe_join

# Weights in formats that we do not load; some are pickles, which may run code.
OTHER_WEIGHTS = (
    "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.msgpack", "*.ot",
    "*.onnx", "*.onnx_data", "onnx/*", "openvino/*", "*.tflite", "*.gguf", "*.mlmodel",
)  # fmt: skip
# Configurations of the parts of a retrieval data set.
RETRIEVAL = ("corpus", "queries", "qrels", "default")
# A repository's Python code; downloaded only if the spec trusts it.
CODE = "*.py"
REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"
SCHEME = "hf://datasets/"
DATA_SET = re.compile(rf"(?:{SCHEME})?({REPOSITORY})(?:@([^:]+))?(?::(\S+))?")
# Files of the trainer in a checkpoint, not of the model.
TRAINER_FILES = ("optimizer.*", "scheduler.*", "scaler.*", "rng_state*", "trainer_state.json",
                 "training_args.bin")  # fmt: skip

# A read-only Hub cache: the launcher mounts the caller's.
SHARED_CACHE = "EMBEDTUNE_HUB_CACHE"


@dataclass(frozen=True)
class Reference:
    """A data set on the Hub: `org/name` or `hf://datasets/org/name@revision:split`."""

    repository: str
    revision: str | None
    split: str | None


def parse_reference(text: str) -> Reference | None:
    found = DATA_SET.fullmatch(text)
    return Reference(*found.groups()) if found else None


def resolve(repository: str, kind: str, revision: str | None) -> str:
    """Return the commit id to which a revision (default: `main`) points now."""
    from huggingface_hub import HfApi

    with explained(repository, kind):
        found = HfApi().resolve_revision(
            repository, repo_type=kind, revision=revision, cache_dir=os.environ.get(SHARED_CACHE)
        )
    return found.resolved


def download_model(
    base: str, commit: str, max_bytes: float, *, only: str = "*", trust_code: bool = False
) -> Path:
    """Download a model at a commit into the Hub's cache; return its folder.

    `only` restricts the download to matching files.
    """
    ignored = OTHER_WEIGHTS if trust_code else (*OTHER_WEIGHTS, CODE)
    folder = _download(base, "model", commit, max_bytes, wanted=[only], ignored=ignored)
    if only == "*" and not any(folder.rglob("*.safetensors")):
        msg = f"The Hub model `{base}` has no safetensors weights, and pickles are refused because "
        raise ModelError(msg + "they may run code. Use another revision or model.")
    return folder


def download_data(
    reference: Reference, commit: str, subset: str | None, split: str, max_bytes: float
) -> tuple[Path, dict[str, str]]:
    """Download the files of one split (`a+b`: several) at a commit into the Hub's cache.

    Return the folder, and the files' names in it with their target names, in the data set's order.
    A retrieval data set has a corpus, queries and qrels as configurations: all three are
    downloaded, and their target names are those of a BEIR folder.
    """
    from datasets import load_dataset_builder

    repository = reference.repository
    parts = _retrieval_parts(repository, commit, subset)
    if parts:
        names = _retrieval_files(reference, commit, parts)
    else:
        with explained(repository, "dataset"):
            # The library itself refuses data set scripts.
            builder = load_dataset_builder(repository, subset, revision=commit)
        files = _files_by_split(builder, commit)
        found = [name for part in split.split("+") for name in _of_split(repository, files, part)]
        names = {name: name for name in found}
    wanted = [glob.escape(name) for name in names]
    return _download(repository, "dataset", commit, max_bytes, wanted=wanted), names


def _files_by_split(builder: Any, commit: str) -> dict[str, list[str]]:  # noqa: ANN401  untyped
    files = builder.config.data_files or {}
    return {
        split: [url.partition(f"@{commit}/")[2] for url in urls] for split, urls in files.items()
    }


def _of_split(repository: str, files: dict[str, list[str]], split: str) -> list[str]:
    if split not in files:
        there = ", ".join(f"`{name}`" for name in files) or "none"
        msg = f"The Hub data set `{repository}` has no split `{split}`; it has {there}."
        raise DataError(msg)
    return files[split]


def _retrieval_parts(repository: str, commit: str, subset: str | None) -> dict[str, str]:
    """Return the configurations of a retrieval data set by what they hold; nothing if it is none.

    A data set in several languages has `en-corpus`, `en-queries` and `en-qrels`, of the subset
    `en`.
    """
    from datasets import get_dataset_config_names

    with explained(repository, "dataset"):
        names = get_dataset_config_names(repository, revision=commit)
    prefixes = [name.removesuffix("corpus") for name in names if name.endswith("corpus")]
    there = [prefix for prefix in prefixes if f"{prefix}queries" in names]
    if not there or (subset and subset not in RETRIEVAL and f"{subset}-" not in there):
        return {}
    prefix = f"{subset}-" if subset and subset not in RETRIEVAL else ""
    if prefix not in there:
        choices = ", ".join(f"`{name.rstrip('-')}`" for name in there)
        msg = f"The Hub data set `{repository}` holds several collections: {choices}. Choose one: "
        msg += f"`embedtune check {repository} --set data.subset={there[0].rstrip('-')}`."
        raise DataError(msg)
    judged = [f"{prefix}{name}" for name in ("qrels", "default")] + [prefix.rstrip("-")]
    qrels = next((name for name in judged if name in names), None)
    if qrels is None:
        msg = f"The Hub data set `{repository}` holds a corpus and queries, and no judgements of "
        msg += f"which document answers which query; its configurations are {', '.join(names)}. "
        raise DataError(msg + "Take one that has them: `mteb/…` has most of BEIR.")
    return {"corpus": f"{prefix}corpus", "queries": f"{prefix}queries", "qrels": qrels}


def _retrieval_files(reference: Reference, commit: str, parts: dict[str, str]) -> dict[str, str]:
    from datasets import load_dataset_builder

    repository = reference.repository
    names = {}
    for part, subset in parts.items():
        with explained(repository, "dataset"):
            builder = load_dataset_builder(repository, subset, revision=commit)
        files = _files_by_split(builder, commit)
        if part == "qrels" and reference.split:
            wanted = reference.split.split("+")
            files = {split: _of_split(repository, files, split) for split in wanted}
        for split, found in files.items():
            for number, name in enumerate(found):
                suffix = "".join(PurePosixPath(name).suffixes[-2:])
                names[name] = f"{part}/{split}-{number}{suffix}"
    return names


def _download(
    repository: str,
    kind: str,
    commit: str,
    max_bytes: float,
    wanted: list[str],
    ignored: tuple[str, ...] = (),
) -> Path:
    from huggingface_hub import constants, snapshot_download

    patterns = {"allow_patterns": wanted, "ignore_patterns": list(ignored)}
    fetch: Callable[..., Any] = partial(
        snapshot_download, repository, repo_type=kind, revision=commit, **patterns
    )
    with explained(repository, kind):
        if shared := _from_shared_cache(fetch):
            return shared
        if not constants.HF_HUB_OFFLINE:
            files: list[Any] = fetch(dry_run=True)
            for file in files:
                safe_join(Path(file.local_path).parent, file.filename)
            check_size(repository, sum(file.file_size or 0 for file in files), max_bytes, kind)
            if missing := sum(file.file_size or 0 for file in files if file.will_download):
                tell("fetch", f"`{repository}` from the Hub", gigabytes=round(missing / 1e9, 3))
        return Path(fetch(tqdm_class=_counted_download()))


def _counted_download() -> Any:  # noqa: ANN401  a class
    """Return a class of progress bars for the Hub's client, which log the bytes that it writes."""
    from tqdm.auto import tqdm

    bars = []

    class Counted(tqdm):  # type: ignore[misc]
        # No thread that refreshes the bar.
        monitor_interval = 0

        def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
            super().__init__(*args, **options | {"disable": False, "file": io.StringIO()})
            self._counter = Counter("download", "bytes")
            if self.unit == "B":
                bars.append(self)

        def update(self, n: float | None = 1) -> bool | None:
            # The client has a bar for bytes received, then one for bytes written, then one for
            # files. Only the total of the second is exact.
            if bars and self is bars[-1]:
                self._counter.total = int(self.total or 0) or None
                self._counter.add(int(n or 0))
            shown: bool | None = super().update(n)
            return shown

    return Counted


def _from_shared_cache(fetch: Callable[..., Any]) -> Path | None:
    """Return the snapshot in the read-only cache if all its files are there."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    cache = os.environ.get(SHARED_CACHE)
    # If the cache is incomplete or the Hub unreachable, the download reports it.
    with suppress(LocalEntryNotFoundError):
        if cache and (
            constants.HF_HUB_OFFLINE
            or all(file.is_cached for file in fetch(cache_dir=cache, dry_run=True))
        ):
            return Path(fetch(cache_dir=cache, local_files_only=True))
    return None


def check_size(name: str, size: float, limit: float, kind: str) -> None:
    if size > limit:
        section, error = ("model", ModelError) if kind == "model" else ("data", DataError)
        msg = f"`{name}` is a download of {size / 1e9:.2f} GB; `{section}.max_download_gb` allows "
        raise error(msg + f"{limit / 1e9:g}. Raise it, or choose something smaller.")


@dataclass(frozen=True)
class Push:
    """Pushes the tuned model to a Hub repository."""

    repository: str
    private: bool

    def prepare(self) -> None:
        """Create the repository if it is missing, and check early that we may write to it."""
        from huggingface_hub import HfApi

        with explained(self.repository, "model", StorageError):
            HfApi().create_repo(self.repository, private=self.private, exist_ok=True)
            HfApi().auth_check(self.repository, write=True)

    def results(self, files: dict[str, Path], run: str) -> str:
        """Commit files and tag the commit with the run's name; return the commit id."""
        from huggingface_hub import CommitOperationAdd, HfApi

        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        counter = Counter("upload", "bytes", sum(file.upload_info.size for file in operations))
        with explained(self.repository, "model", StorageError):
            # The client uploads silently. One file at a time, the log can tell how far it is.
            for file in operations:
                HfApi().preupload_lfs_files(self.repository, [file], free_memory=False)
                counter.add(file.upload_info.size)
            title = f"embedtune run {run}"
            commit = HfApi().create_commit(self.repository, operations, commit_message=title)
            HfApi().create_tag(self.repository, tag=run, revision=commit.oid, exist_ok=True)
        return str(commit.oid)

    def checkpoint(self, folder: Path, run: str) -> None:
        """Commit a checkpoint's model to the run's branch; `main` is for evaluated models.

        A failed push is logged and does not end the training.
        """
        from huggingface_hub import HfApi

        branch = f"{run}-checkpoints"
        try:
            with explained(self.repository, "model", StorageError):
                HfApi().create_branch(self.repository, branch=branch, exist_ok=True)
                HfApi().upload_folder(
                    repo_id=self.repository,
                    folder_path=folder,
                    revision=branch,
                    ignore_patterns=list(TRAINER_FILES),
                    commit_message=f"{run}: {folder.name}",
                )
            tell("hub", f"{folder.name} is in `{self.repository}`, branch `{branch}`")
        except StorageError as error:
            warn("hub", f"{folder.name} was not pushed: {error}")
