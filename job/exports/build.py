"""Export a stored model: write, load, score and time each export; finished ones are kept."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path

from pydantic import ValidationError

from job.exports.kinds import Kind
from job.exports.measure import (
    FACTS,
    Measured,
    TestSet,
    compare,
    folder_bytes,
    folder_digest,
    machine_name,
    measure,
    threads,
)
from job.exports.proof import explained, require_exportable
from job.exports.results import Exports, Original
from job.exports.runtimes import open_export
from job.exports.write import CALIBRATION, write_export
from job.model.device import Machine
from job.model.encoder import Model, open_encoder, whole_model
from job.model.save import fingerprint
from job.storage.workspace import explained as written
from job.storage.workspace import write_atomically

MACHINE = Machine("cpu", "float32", "exports are measured so")
PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "nncf")
# Logs the beginning and the end of an export; facts added to the mapping go into the last line.
Step = Callable[[], AbstractContextManager[dict[str, object]]]


def export_model(
    model: Path,
    folder: Path,
    kinds: Sequence[Kind],
    test: TestSet,
    calibration: Sequence[str],
    step: Step,
    *,
    trust_code: bool = False,
) -> list[Exports]:
    """Export the stored model to `folder`/NAME, and return what was measured.

    An export of an earlier start, of the same model and test set, is not made again.
    """
    weights = fingerprint(model)
    done = {kind: _finished(folder / kind.name, weights, test) for kind in kinds}
    found = [earlier for earlier in done.values() if earlier]
    if missing := [kind for kind, earlier in done.items() if not earlier]:
        with step() as facts:
            facts.update(name="original")
            opened = open_encoder(model, "cpu", trust_code=trust_code, dtype="float32")
            original = whole_model(opened, MACHINE)
            require_exportable(original.encoder, str(model))
            measured = measure(original, test)
        about = _about(model, weights, measured, test)
        texts = [f"{original.prompts.document}{text}" for text in calibration[:CALIBRATION]]
        for kind in missing:
            with step() as facts:
                facts.update(name=kind.name)
                target = folder / kind.name
                _write(original, model, target, kind, texts)
                one = _measure(target, kind, about, measured, test, trust_code=trust_code)
                facts.update(keeps=one.exports[0].keeps, cosine=round(one.exports[0].cosine, 5))
                found.append(one)
    return merged(found)


def merged(found: Sequence[Exports]) -> list[Exports]:
    """Join what was measured together; a later export replaces an earlier one of its name."""
    last = {export.name: (session, export) for session in found for export in session.exports}
    joined: list[Exports] = []
    for session, export in last.values():
        header = session.model_copy(update={"exports": []})
        same = (n for n, each in enumerate(joined) if _header(each) == header)
        if (at := next(same, None)) is None:
            joined.append(header.model_copy(update={"exports": [export]}))
        else:
            exports = [*joined[at].exports, export]
            joined[at] = header.model_copy(update={"exports": exports})
    return joined


def _header(session: Exports) -> Exports:
    return session.model_copy(update={"exports": []})


def _finished(folder: Path, weights: str, test: TestSet) -> Exports | None:
    """Return what an earlier start measured, if it was this model on this test set."""
    try:
        found = Exports.model_validate_json((folder / FACTS).read_text("utf-8"))
    except (OSError, ValidationError):
        return None
    sizes = len(test.queries), len(test.corpus), test.corpus_size
    is_same = found.model == weights and (found.queries, found.documents, found.corpus) == sizes
    is_whole = [export.sha256 for export in found.exports] == [folder_digest(folder)]
    return found if is_same and is_whole else None


def _about(model: Path, weights: str, measured: Measured, test: TestSet) -> Exports:
    size = folder_bytes(model)
    return Exports(
        machine=machine_name(),
        threads=threads(),
        queries=len(test.queries),
        documents=len(test.corpus),
        corpus=test.corpus_size,
        model=weights,
        versions=dict(_versions()),
        original=Original(bytes=size, speed=measured.speed, scores=measured.means()),
    )


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def _write(original: Model, model: Path, target: Path, kind: Kind, texts: Sequence[str]) -> None:
    # Renamed at the end: a folder with this name is whole.
    shutil.rmtree(target, ignore_errors=True)
    part = target.with_name(f".{target.name}")
    shutil.rmtree(part, ignore_errors=True)
    with written(target):
        part.parent.mkdir(parents=True, exist_ok=True)
        with explained(str(model), kind.name):
            write_export(original.encoder, model, part, kind, texts)
        part.replace(target)


def _measure(
    target: Path,
    kind: Kind,
    about: Exports,
    original: Measured,
    test: TestSet,
    *,
    trust_code: bool,
) -> Exports:
    with explained(str(target), kind.name):
        found = measure(whole_model(open_export(target, trust_code=trust_code), MACHINE), test)
    export = compare(kind.name, target, found, original, test)
    one = about.model_copy(update={"exports": [export]})
    write_atomically(target / FACTS, one.model_dump_json(indent=2) + "\n")
    return one
