"""`check`: what a job would make of the pairs, before anything is paid for; without torch."""

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

# Standard deviation of a query's lift; measured: 0.29 on builtin:aws-docs, 0.25-0.30 on the
# article's data (job/LOG.md).
LIFT_DEVIATION = 0.28
WORD_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 10**9)
BAR = 40


def check_data(spec: JobSpec, echo: Callable[[str], object], *, count_tokens: bool) -> None:
    """Tell through `echo` what was found; raises `DataError` where a job would."""
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
            left_out = f"left out {out_of_domain.left_out} rows with texts of the data"
            echo(f"Other      {out_of_domain.source}: {sizes}; {left_out}")
    echo("Ready to train.")


def describe(dataset: Dataset) -> Iterable[str]:
    facts = dataset.facts
    columns, kinds = facts["columns"], dataset.test.kinds
    group = ""
    if columns["group"] is not None and kinds is not None:
        sliced = f"{len(kinds) - kinds.null_count} of {len(kinds)} test queries"
        group = f", group `{columns['group']}` ({sliced})"
    yield f"Source     {facts['source']}: {facts['rows']} rows, {facts['used']} usable"
    yield (
        f"Columns    question `{columns['anchor']}`, context `{columns['positive']}`, "
        f"negatives {', '.join(f'`{name}`' for name in columns['negatives']) or 'none'}"
        f"{group}"
    )
    for reason, dropped in facts["dropped"].items():
        yield f"Dropped    {dropped['rows']} × {reason} ({_places(dropped)})"
    if not facts["dropped"]:
        yield "Dropped    nothing"
    for reason, dropped in facts["dropped_documents"].items():
        yield f"Left out   {dropped['rows']} documents × {reason} ({_places(dropped)})"
    duplicates, leakage = facts["duplicates"], facts["leakage"]
    yield (
        f"Duplicates {duplicates['rows_sharing_a_context']} rows share a context, "
        f"{duplicates['near_duplicate_pairs']} near-duplicate pairs; {duplicates['groups']} "
        f"groups, the largest of {duplicates['largest_group']} rows"
    )
    yield (
        f"Leakage    {leakage['under_a_random_split']:.1%} of a random split's test rows would "
        f"have their context in training; ours: {leakage['test_contexts_in_train']:.1%}"
    )
    splits = ", ".join(f"{name} {size}" for name, size in facts["splits"].items())
    yield f"Splits     {splits}; corpus {facts['corpus']} documents"
    yield from _histogram("Questions", _texts(dataset, "anchor"))
    yield from _histogram("Contexts", _texts(dataset, "positive"))
    if len(dataset.test):
        groups = len(np.unique(dataset.test.groups))
        lift = detectable_lift(LIFT_DEVIATION / groups**0.5, groups)
        yield (
            f"Proof      {len(dataset.test)} test queries in {groups} groups show a lift of "
            f"{lift:.3f} nDCG@10 or more (80 % chance; "
            f"assumes that lifts vary by {LIFT_DEVIATION} between queries)"
        )


def _places(dropped: dict[str, Any]) -> str:
    more = ", …" if dropped["rows"] > len(dropped["first"]) else ""
    return ", ".join(dropped["first"]) + more


def describe_truncation(dataset: Dataset, spec: ModelSpec, workspace: Workspace) -> str:
    """Say how many texts the model would cut; needs its tokenizer and the package `tokenizers`."""
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        return "Truncation not counted: `pip install tokenizers` to count tokens"
    try:
        # The tokenizer and the settings, without the weights.
        folder = fetch_model(spec, workspace, {}, only="*.json").path
    except (ModelError, StorageError) as error:
        return f"Truncation not counted: {error}"
    if not (folder / "tokenizer.json").is_file():
        return f"Truncation not counted: no tokenizer of `{spec.base}` can be had"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    limit = spec.max_length or _max_length(folder)
    parts = []
    for name, column in (("questions", "anchor"), ("contexts", "positive")):
        encoded = (len(tokenizer.encode(text).ids) for text in _texts(dataset, column))
        counts = np.fromiter(encoded, dtype=np.int64)
        parts.append(f"{(counts > limit).mean():.1%} of the {name} (longest {counts.max()})")
    return f"Truncation at {limit} tokens: {' and '.join(parts)}"


def _max_length(model: Path) -> int:
    """Find the limit that sentence-transformers will use, 512 (BERT's) where none is stated."""
    if own := _settings(model / "sentence_bert_config.json").get("max_seq_length"):
        return int(own)
    stated = (
        _settings(model / "tokenizer_config.json").get("model_max_length"),
        _settings(model / "config.json").get("max_position_embeddings"),
    )
    return int(min((limit for limit in stated if limit), default=512))


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
            yield f"  {label:>11} {'█' * max(1, round(BAR * count / len(lengths)))} {count}"
