"""`check`: report what a job would use of the data, before it costs anything. Needs no torch."""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from job.core.errors import ModelError, StorageError
from job.data.dataset import Dataset, inspect_dataset, require_enough
from job.data.out_of_domain import load_out_of_domain
from job.evaluation.significance import detectable_lift
from job.inputs import fetch_data, fetch_model
from job.spec.schema import JobSpec, ModelSpec
from job.storage.arrow_tables import column_values
from job.storage.workspace import Workspace

# Standard deviation of the lift between queries. Measured: 0.29 on builtin:aws-docs, 0.25-0.30 on
# the article's data (job/LOG.md).
LIFT_DEVIATION = 0.28
WORD_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 10**9)
# Length of the bar of all texts in a histogram.
BAR_CHARACTERS = 40


def check_data(spec: JobSpec, echo: Callable[[str], object], *, count_tokens: bool) -> None:
    """Pass the facts of the data to `echo`, line by line; raise `DataError` if a job would."""
    with TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        channels = {role: found.path for role, found in fetch_data(spec, workspace, {}).items()}
        dataset = inspect_dataset(spec.data, channels, spec.evaluation.protocol)
        for line in describe(dataset):
            echo(line)
        if count_tokens:
            echo(describe_truncation(dataset, spec.model, workspace))
        require_enough(dataset, spec.data)
        if out_of_domain := load_out_of_domain(spec, channels, dataset):
            sizes = f"{len(out_of_domain.queries)} queries, {len(out_of_domain.corpus)} documents"
            excluded = f"{_count(out_of_domain.left_out, 'row')} excluded: texts also in the data"
            echo(f"Other data {out_of_domain.source}: {sizes}; {excluded}")
    echo("Ready to train.")


def describe(dataset: Dataset) -> Iterable[str]:
    """Yield the lines of the check that need no model."""
    facts = dataset.facts
    yield f"Source     {facts['source']}: {facts['rows']} rows, {facts['used']} usable"
    yield _columns(dataset)
    for reason, dropped in facts["dropped"].items():
        yield f"Dropped    {_count(dropped['rows'], 'row')}: {reason} ({_locations(dropped)})"
    if not facts["dropped"]:
        yield "Dropped    no rows"
    for reason, dropped in facts["dropped_documents"].items():
        yield f"Dropped    {_count(dropped['rows'], 'document')}: {reason} ({_locations(dropped)})"
    duplicates, leakage = facts["duplicates"], facts["leakage"]
    yield (
        f"Duplicates {duplicates['rows_sharing_a_context']} rows share a context; "
        f"{_count(duplicates['near_duplicate_pairs'], 'near-duplicate pair')}; "
        f"{_count(duplicates['groups'], 'group')}, "
        f"the largest with {_count(duplicates['largest_group'], 'row')}"
    )
    yield (
        f"Leakage    {leakage['test_contexts_in_train']:.1%} of test rows have their context in "
        f"train; with a random split: {leakage['under_a_random_split']:.1%}"
    )
    splits = ", ".join(f"{name} {size}" for name, size in facts["splits"].items())
    yield f"Splits     {splits}; corpus {_count(facts['corpus'], 'document')}"
    yield from _histogram("Questions", _texts(dataset, "anchor"))
    yield from _histogram("Contexts", _texts(dataset, "positive"))
    if len(dataset.test):
        groups = len(np.unique(dataset.test.groups))
        lift = detectable_lift(LIFT_DEVIATION / groups**0.5, groups)
        yield (
            f"Test size  {len(dataset.test)} queries in {_count(groups, 'group')} detect a lift of "
            f"{lift:.3f} nDCG@10 or more with 80 % probability (assumed standard deviation of a "
            f"query's lift: {LIFT_DEVIATION})"
        )


def _columns(dataset: Dataset) -> str:
    columns, segments = dataset.facts["columns"], dataset.test.segments
    negatives = ", ".join(f"`{name}`" for name in columns["negatives"]) or "none"
    line = f"Columns    question `{columns['anchor']}`, context `{columns['positive']}`, "
    line += f"negatives {negatives}"
    if columns["group"] is None or segments is None:
        return line
    filled = len(segments) - segments.null_count
    return f"{line}, group `{columns['group']}` (set for {filled} of {len(segments)} test queries)"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _locations(dropped: dict[str, Any]) -> str:
    more = ", …" if dropped["rows"] > len(dropped["first"]) else ""
    return ", ".join(dropped["first"]) + more


def describe_truncation(dataset: Dataset, spec: ModelSpec, workspace: Workspace) -> str:
    """Return a line with the share of texts that the model would truncate.

    Needs the model's tokenizer and the package `tokenizers`; without them, the line says so.
    """
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        return "Truncation not counted: it needs one more package, `pip install tokenizers`"
    try:
        # Fetch the tokenizer and the settings, but no weights.
        folder = fetch_model(spec, workspace, {}, only="*.json").path
    except (ModelError, StorageError) as error:
        return f"Truncation not counted: {error}"
    if not (folder / "tokenizer.json").is_file():
        return f"Truncation not counted: `{spec.base}` has no `tokenizer.json`"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    limit = spec.max_length or _max_length(folder)
    parts = []
    for name, column in (("questions", "anchor"), ("contexts", "positive")):
        encoded = (len(tokenizer.encode(text).ids) for text in _texts(dataset, column))
        counts = np.fromiter(encoded, dtype=np.int64)
        parts.append(f"{(counts > limit).mean():.1%} of {name} (longest: {counts.max()})")
    return f"Truncation {' and '.join(parts)} exceed the model's limit of {limit} tokens"


def _max_length(model: Path) -> int:
    """Return the token limit that sentence-transformers will use; 512 (BERT's) if none is set."""
    if limit := _settings(model / "sentence_bert_config.json").get("max_seq_length"):
        return int(limit)
    limits = (
        _settings(model / "tokenizer_config.json").get("model_max_length"),
        _settings(model / "config.json").get("max_position_embeddings"),
    )
    return int(min(filter(None, limits), default=512))


def _settings(path: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return settings


def _texts(dataset: Dataset, column: str) -> Iterator[str]:
    for table in dataset.tables:
        yield from column_values(table[column])


def _histogram(name: str, texts: Iterator[str]) -> Iterable[str]:
    lengths = np.fromiter((len(text.split()) for text in texts), dtype=np.int64)
    counts = np.histogram(lengths, WORD_EDGES)[0]
    yield f"{name:<10} words: median {int(np.median(lengths))}, longest {lengths.max()}"
    for (low, high), count in zip(pairwise(WORD_EDGES), counts, strict=True):
        if count:
            label = f"{low}-{high - 1}" if high < WORD_EDGES[-1] else f"{low} or more"
            bar = "█" * max(1, round(BAR_CHARACTERS * count / len(lengths)))
            yield f"  {label:>11} {bar} {count}"
