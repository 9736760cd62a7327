"""`index`: encode a corpus with a run's model into Parquet files, and load a database with them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from job.core.errors import SpecError, StorageError
from job.core.formatting import counted, precision_label
from job.evaluation.evaluate import encode_block
from job.evaluation.quantization import bytes_per_vector
from job.indexing.documents import Columns, Documents, read_documents
from job.indexing.examples import folder_example, postgres_example, qdrant_example
from job.indexing.shards import Shards
from job.indexing.stamp import Stamp
from job.indexing.targets import Target, collection_name, folder_of, open_target
from job.model.encoder import Model
from job.model.save import fingerprint
from job.report.document import Report
from job.report.snippets import load_expression
from job.runtime.counter import embeddings_counted
from job.stored_run import load_stored_model, read_stored_report, stored_prompts


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `job.spec.index_options`; None: what the report recommends, or a default."""

    corpus: str
    to: str
    collection: str | None = None
    alias: bool = False
    dimension: int | None = None
    precision: str | None = None
    with_text: bool = False
    text_column: str | None = None
    id_column: str | None = None
    shards: str | None = None
    shard_size: int = 10_000
    batch_size: int = 64
    device: str = "auto"


def index_corpus(folder: Path, options: Options, echo: Callable[[str], object]) -> None:
    """Build the index; pass what was done, and an example of a query, to `echo`."""
    report = read_stored_report(folder)
    advice = report.recommendation
    precision = options.precision or advice.stored_as
    name = options.collection or collection_name(folder.resolve().name)
    target = open_target(options.to, name, precision)
    documents = read_documents(options.corpus, Columns(options.id_column, options.text_column))
    for note in documents.notes:
        echo(f"Note: {note}.")
    stamp = _stamp(folder, report, options, precision, documents)
    if str(stamp.dimension) not in report.comparison:
        echo(f"Note: the report did not measure {stamp.dimension} dimensions.")
    default = folder / "index" / stamp.digest
    shards = Shards(folder_of(options.to, options.shards, default), stamp)
    if target:
        if not (options.shards or os.access(folder, os.W_OK)):
            msg = f"`{folder}` cannot be written. Name a folder for the Parquet files: `--shards`."
            raise StorageError(msg)
        target.require_free(stamp, alias=options.alias)
    _write(shards, documents, folder, report, options)
    size = stamp.documents * bytes_per_vector(stamp.dimension, precision)
    echo(
        f"{counted(stamp.documents, 'document')} at {stamp.dimension} dimensions as "
        f"{precision_label(precision)} ({size / 1e6:.1f} MB of vectors) in `{shards.folder}`"
    )
    for sentence in target.load(shards) if target else ():
        echo(sentence)
    echo("A query:")
    echo("")
    is_advised = precision == advice.stored_as
    searched = advice.precision if is_advised else precision
    for line in _example(folder, report, shards, target, name, options.to, searched).splitlines():
        echo(line)


def _stamp(
    folder: Path, report: Report, options: Options, precision: str, documents: Documents
) -> Stamp:
    dimension = options.dimension or report.recommendation.dimension
    if dimension > (width := int(report.full)):
        msg = f"`--dimension` is {dimension}; the report measured up to {width} dimensions."
        raise SpecError(msg)
    prompts = stored_prompts(folder)
    return Stamp(
        run=folder.resolve().name,
        base=report.models.base.uri or "",
        model=fingerprint(folder / "model"),
        embedtune=metadata.version("embedtune"),
        dimension=dimension,
        precision=precision,
        query_prompt=prompts.query,
        document_prompt=prompts.document,
        documents=len(documents),
        corpus=documents.digest(),
        with_text=options.with_text,
        shard_size=options.shard_size,
    )


def _write(
    shards: Shards, documents: Documents, folder: Path, report: Report, options: Options
) -> None:
    """Encode what is not yet written; the model is loaded only for that."""
    loaded: list[Model] = []

    def embed(texts: list[str]) -> torch.Tensor:
        if not loaded:
            loaded.append(load_stored_model(folder, report, options.device))
        # A file of 10,000 documents takes a CPU many minutes.
        with embeddings_counted(loaded[0].encoder, len(texts)):
            return encode_block(loaded[0], texts, "document", options.batch_size)

    shards.open(documents)
    shards.write(documents.corpus, embed)


def _example(
    folder: Path,
    report: Report,
    shards: Shards,
    target: Target | None,
    name: str,
    to: str,
    precision: str,
) -> str:
    formats = report.environment.formats
    stored = formats.stored if formats else "float32"
    trust_code = bool(report.spec["model"].get("trust_remote_code"))
    dimension = shards.stamp.dimension
    load = load_expression(str(folder / "model"), dimension, stored, trust_code=trust_code)
    if target is None:
        return folder_example(load, str(shards.folder), dimension, precision)
    if target.kind == "postgres":
        return postgres_example(load, name, precision)
    return qdrant_example(load, name, to, precision)
