"""Results on disk: model, report and per-query table; published with the manifest last."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from job.data import Dataset
from job.errors import TrainingError
from job.hub import Push
from job.markdown import to_markdown
from job.model import Model
from job.page import to_html
from job.places import Place
from job.progress import log
from job.ranking import METRICS, Scores
from job.report_document import Report
from job.spec import JobSpec
from job.workspace import MANIFEST, Workspace, check_same_spec, sha256, write_atomically

# Texts of the sample that the saved model must embed as the one in memory does.
SAMPLE = 32
# Cosine similarity below which two embeddings of one text are not the same.
SAME = 0.999


def write_report(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "report.html", to_html(report))
    write_atomically(folder / "report.md", to_markdown(report))
    write_atomically(folder / "report.json", report.to_json())


def write_per_query(
    path: Path, dataset: Dataset, scores: Mapping[str, Mapping[int, Mapping[str, Scores]]]
) -> None:
    """Write one row a query, model, dimension and precision: metrics, best rank, first ten.

    `rank` is that of the best relevant document, null beyond 100; BM25 has dimension 0.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for model, by_dimension in scores.items():
        results = (
            (dimension, precision, result)
            for dimension, by_precision in by_dimension.items()
            for precision, result in by_precision.items()
        )
        for dimension, precision, result in results:
            count = len(dataset.test)
            columns: dict[str, Any] = {
                "query_id": dataset.test.ids,
                "model": [model] * count,
                "dimension": [dimension] * count,
                "precision": [precision] * count,
                "rank": [rank or None for rank in result.rank.tolist()],
                **{metric: result.metrics[metric] for metric in METRICS},
                "top_ids": [dataset.corpus.ids.take(top).to_pylist() for top in result.top],
            }
            tables.append(pa.table(columns))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(tables, promote_options="permissive"), path)


def save_model(model: Model, folder: Path, dataset: Dataset) -> None:
    """Save the model and prove that what was saved is what was scored."""
    from sentence_transformers import SentenceTransformer

    shutil.rmtree(folder, ignore_errors=True)
    # What `encode_query` and `encode_document` apply, here and wherever the model is loaded.
    model.encoder.prompts = asdict(model.prompts)
    # A default of the base model's own would name a prompt that is gone, or apply one unasked.
    model.encoder.default_prompt_name = None
    model.encoder.save_pretrained(str(folder), create_model_card=False)
    for path in folder.rglob("*.safetensors"):
        # Written 0600 by default: nobody but the job's user could read the result.
        path.chmod(0o644)
    stored = SentenceTransformer(
        str(folder), device=model.machine.device, model_kwargs={"dtype": "float32"}
    )
    for texts, encode in (
        (dataset.test.texts, "encode_query"),
        (dataset.corpus.texts, "encode_document"),
    ):
        sample = texts[:SAMPLE].to_pylist()
        with model.machine.autocast():
            kept, loaded = (
                getattr(encoder, encode)(sample, convert_to_tensor=True, show_progress_bar=False)
                for encoder in (model.encoder, stored)
            )
        closest = float((kept * loaded).sum(1).div(kept.norm(dim=1) * loaded.norm(dim=1)).min())
        if not closest >= SAME:
            msg = (
                f"The saved model embeds a text differently ({encode}: cosine {closest:.4f} to the "
                "model that was scored); it was not published. Report this as a fault of "
                "embedtune, with the name of the base model."
            )
            raise TrainingError(msg)


def fingerprint(folder: Path) -> str:
    """Digest a model's weights, whatever their files are called: 16 hex digits."""
    digests = sorted(sha256(path) for path in folder.rglob("*.safetensors"))
    return hashlib.sha256("".join(digests).encode("ascii")).hexdigest()[:16]


def write_manifest(workspace: Workspace) -> None:
    """List every file of the result with its size and digest; its presence says "complete"."""
    entries = {
        name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for name, path in result_files(workspace)
    }
    write_atomically(workspace.results / MANIFEST, json.dumps(entries, indent=2) + "\n")


def result_files(workspace: Workspace) -> Iterator[tuple[str, Path]]:
    """Yield the name in the result folder and the place in the workspace of each result."""
    for root, prefix in ((workspace.results, ""), (workspace.model, "model/")):
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.name != MANIFEST:
                yield prefix + path.relative_to(root).as_posix(), path


def publish(workspace: Workspace, destination: Place) -> None:
    """Put the results into their place, the report first, the model last; `complete` ends it."""
    files = dict(result_files(workspace))
    report = {name: path for name, path in files.items() if name.startswith("report/")}
    model = {name: path for name, path in files.items() if name.startswith("model/")}
    destination.put(report)
    destination.put({n: path for n, path in files.items() if n not in report | model})
    destination.put(model)


def complete(workspace: Workspace, destination: Place) -> None:
    """Write the manifest, which says that everything is there."""
    destination.write(MANIFEST, (workspace.results / MANIFEST).read_text("utf-8"))


def push_model(workspace: Workspace, push: Push, run: str, *, always: bool) -> None:
    """Push the model with its card, the report and the logs beside it, if it was improved."""
    report = json.loads((workspace.report / "report.json").read_text("utf-8"))
    if not (report["verdict"]["improved"] or always):
        log.warning(
            "hub: the model was not improved, so it was not pushed to `%s`; "
            "`output.hub_always=true` pushes it all the same",
            push.repository,
        )
        return
    pushed = ("model/", "report/", "logs/")
    files = {
        name.removeprefix("model/"): path
        for name, path in result_files(workspace)
        if name.startswith(pushed)
    }
    commit = push.results(files, run)
    log.info("hub: the model is in `%s`, commit %s, tag `%s`", push.repository, commit[:12], run)


def claim(destination: Place, spec: JobSpec) -> None:
    """Refuse, before any work is done, the place of another job or one that cannot be written."""
    earlier = destination.read("spec.json")
    if earlier is None:
        destination.write("spec.json", spec.to_json())
    else:
        check_same_spec(earlier, destination.uri, spec)


def is_complete(destination: Place) -> bool:
    return destination.read(MANIFEST) is not None
