"""`check`: report what a job would train on, before it costs anything. Needs no torch."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from job.core.errors import EmbedtuneError, ModelError, StorageError
from job.core.formatting import counted
from job.data.dataset import Dataset, inspect_dataset, require_enough
from job.data.out_of_domain import load_out_of_domain
from job.data.plausibility import advice_on_groups, chained_rows, left_out
from job.data.words import count_words
from job.evaluation.significance import detectable_lift
from job.inputs import fetch_data, fetch_model
from job.model.encoder import find_locally
from job.model.lengths import SHORT, choose_length, published_length
from job.model.prompts import Prompts, documented_prompts
from job.model.settings import LIBRARY, read_settings, require_valid_settings, transformer_folder
from job.spec.commands import check_command
from job.spec.schema import DataSpec, JobSpec, ModelSpec
from job.storage.arrow_tables import column_values
from job.storage.workspace import Workspace

# Standard deviation of the lift between queries. Measured: 0.29 on builtin:aws-docs, 0.25-0.30 on
# the article's data (job/LOG.md).
LIFT_DEVIATION = 0.28
WORD_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 10**9)
# Length of the bar of all texts in a histogram.
BAR_CHARACTERS = 40
# Of an example, show this many characters of each text, and this many negatives.
EXAMPLE_CHARACTERS = 160
EXAMPLE_NEGATIVES = 3


def check_data(
    spec: JobSpec, echo: Callable[[str], object], *, count_tokens: bool, as_json: bool = False
) -> None:
    """Pass the facts of the data to `echo`, line by line; raise `DataError` if a job would.

    With `as_json`, pass one JSON document instead of lines.
    """
    with TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        channels = {role: found.path for role, found in fetch_data(spec, workspace, {}).items()}
        folds = spec.evaluation.folds
        dataset = inspect_dataset(spec.data, channels, spec.evaluation.protocol, folds)
        if as_json:
            echo(json.dumps(as_document(dataset, spec.model), indent=2))
        lines = describe(dataset, spec)
        if count_tokens:
            lines = chain(lines, [describe_truncation(dataset, spec.model, workspace)])
        for line in () if as_json else lines:
            echo(line)
        require_enough(dataset, spec.data)
        if (out_of_domain := load_out_of_domain(spec, channels, dataset)) and not as_json:
            sizes = f"{len(out_of_domain.queries)} queries, {len(out_of_domain.corpus)} documents"
            excluded = f"{counted(out_of_domain.left_out, 'row')} excluded: texts also in the data"
            echo(f"Other data {out_of_domain.source}: {sizes}; {excluded}")
    if not as_json:
        warned = dataset.facts["warnings"]
        echo("Ready to train, but read the warnings." if warned else "Ready to train.")


def as_document(dataset: Dataset, model: ModelSpec) -> dict[str, Any]:
    """Return the facts for programs: the keys of `check --json`."""
    facts = dataset.facts
    labels, found = facts["labels"], facts["contexts_found_in_corpus"]
    duplicates = facts["duplicates"]
    return {
        "format": facts["format"],
        "source": facts["source"],
        "columns": facts["columns"],
        "rows": facts["rows"],
        "pairs": facts["used"],
        "negatives": facts["negatives"],
        "labels": labels and labels["counts"],
        "graded": facts["graded"],
        "merged_rows": facts["merged_rows"],
        "dropped": {reason: dropped["rows"] for reason, dropped in facts["dropped"].items()},
        "first_dropped": {why: dropped["first"] for why, dropped in facts["dropped"].items()},
        "left_out": facts["leakage"]["removed_rows"],
        "corpus": facts["corpus"],
        "contexts": found and found["contexts"],
        "contexts_found_in_corpus": found and found["found"],
        "overlap": facts["overlap"],
        "splits": facts["splits"],
        "queries": facts["queries"],
        "groups": {"count": duplicates["groups"], "largest": duplicates["largest_group"]},
        "test_groups": facts["test_groups"],
        "examples": list(examples(dataset, model)),
        "notes": facts["notes"],
        "warnings": facts["warnings"],
    }


def describe(dataset: Dataset, spec: JobSpec) -> Iterable[str]:
    """Yield the lines of the check that need no model."""
    facts = dataset.facts
    known = "" if facts["format"] == "rows" else f", read as `{facts['format']}`"
    yield f"Source     {facts['source']}: {facts['rows']} rows, {facts['used']} usable{known}"
    yield _columns(dataset)
    for note in facts["notes"]:
        yield f"Decided    {note}"
    if labels := facts["labels"]:
        counts = ", ".join(f"`{label}` {count}" for label, count in labels["counts"].items())
        yield f"Labels     `{labels['column']}`: {counts}; {_verdicts(labels)}"
    if facts["graded"]:
        yield "Grades     nDCG uses the relevance grades; every grade above 0 is trained on"
    yield from _rows_not_used(facts, spec)
    if facts["negatives"]:
        yield f"Negatives  {facts['negatives']} hard negatives in the rows used"
    if found := facts["contexts_found_in_corpus"]:
        others = "" if found["found"] == found["contexts"] else "; the others are added to it"
        known = f"{found['found']} of {found['contexts']} contexts found in the corpus"
        yield f"Corpus     {known}{others}"
    yield from _duplicates_and_leakage(facts, spec)
    yield from _histogram("Questions", _texts(dataset, "anchor"))
    yield from _histogram("Contexts", _texts(dataset, "positive"))
    yield from prompt_lines(spec.model)
    for number, example in enumerate(examples(dataset, spec.model), start=1):
        yield f"Example {number}  question  {example['question']}"
        yield f"           context   {example['context']}"
        for negative in example["negatives"]:
            yield f"           negative  {negative}"
    if len(dataset.test):
        yield _test_size(facts["test_groups"], len(dataset.test))
    for warning in facts["warnings"]:
        yield f"WARNING    {warning}"


def _test_size(found: dict[str, Any], queries: int) -> str:
    """Return the line with the minimum detectable effect.

    The standard error of a mean over groups of sizes n_g is at most sd · √(Σ n_g²) / n, reached if
    the queries of a group change alike: as with n² / Σ n_g² independent queries.
    """
    effective = found["effective"]
    # The jackknife's standard error of a mean of equal groups divides by one group less.
    lift = detectable_lift(LIFT_DEVIATION / max(1, effective - 1) ** 0.5, effective)
    groups = counted(found["groups"], "group")
    if effective < found["groups"]:
        groups += f" (as informative as {effective:g} of equal size)"
    return (
        f"Test size  {queries} queries in {groups} detect a lift of {lift:.3f} nDCG@10 or more "
        f"with 80 % probability (assumed standard deviation of a query's lift: {LIFT_DEVIATION})"
    )


def _columns(dataset: Dataset) -> str:
    columns, segments = dataset.facts["columns"], dataset.test.segments
    negatives = ", ".join(f"`{name}`" for name in columns["negatives"]) or "none"
    line = f"Columns    question `{columns['anchor']}`, context `{columns['positive']}`, "
    line += f"negatives {negatives}"
    for role in ("label", "document"):
        line += f", {role} `{columns[role]}`" if columns.get(role) else ""
    if columns["group"] is None or segments is None:
        return line
    filled = len(segments) - segments.null_count
    return f"{line}, group `{columns['group']}` (set for {filled} of {len(segments)} test queries)"


def _verdicts(labels: dict[str, Any]) -> str:
    parts = [f"{labels['relevant']} answers", f"{labels['not_relevant']} hard negatives"]
    if labels["no_label"]:
        parts.append(f"{labels['no_label']} without a label")
    return ", ".join(parts)


def _rows_not_used(facts: dict[str, Any], spec: JobSpec) -> Iterable[str]:
    if merged := facts["merged_rows"]:
        yield f"Merged     {merged} rows repeat a pair and add negatives to it"
    for reason, dropped in facts["dropped"].items():
        yield f"Dropped    {counted(dropped['rows'], 'row')}: {reason} ({_locations(dropped)})"
    if not facts["dropped"]:
        yield "Dropped    no rows"
    for reason, dropped in facts["dropped_documents"].items():
        yield f"Dropped    {counted(dropped['rows'], 'document')}: {reason} ({_locations(dropped)})"
    if removed := facts["leakage"]["removed_rows"]:
        yield f"Left out   {left_out(removed, spec.data)}"


def _duplicates_and_leakage(facts: dict[str, Any], spec: JobSpec) -> Iterable[str]:
    duplicates = facts["duplicates"]
    groups, largest = duplicates["groups"], duplicates["largest_group"]
    grouped = counted(groups, "group") + (", the largest with" if groups > 1 else " of")
    yield (
        f"Duplicates {duplicates['rows_sharing_a_context']} rows share a context; "
        f"{counted(duplicates['near_duplicate_pairs'], 'near-duplicate pair')}; "
        f"{grouped} {counted(largest, 'row')}"
    )
    if chained := chained_rows(facts):
        yield f"Groups     {chained}. {advice_on_groups(facts, spec.data)}"
    yield f"Leakage    {facts['overlap']['sentence']}{_advice_on_overlap(facts, spec.data)}"
    if estimand := facts["overlap"]["estimand"]:
        yield f"Estimand   {estimand}"
    splits = ", ".join(f"{name} {size}" for name, size in facts["splits"].items())
    if folds := facts["folds"]:
        sizes = facts["splits"]
        splits = (
            f"{len(folds)} folds, each trained on about {sizes['train']} rows, validated on "
            f"{sizes['validation']} and tested on {max(folds)}: {sizes['test']} test rows"
        )
    yield f"Splits     {splits}; corpus {counted(facts['corpus'], 'document')}"


def _advice_on_overlap(facts: dict[str, Any], spec: DataSpec) -> str:
    overlap = facts["overlap"]
    if not (overlap["given"] and overlap["seen"]) or spec.overlap == "remove":
        return ""
    command = check_command(facts["source"], spec, overlap="remove")
    return f" To leave such rows out of training: `{command}`."


def examples(dataset: Dataset, model: ModelSpec) -> Iterator[dict[str, Any]]:
    """Show two pairs as they reach the model, shortened; of those with negatives, if there are."""
    table = dataset.train.table if len(dataset.train) else max(dataset.tables, key=len)
    counts = pc.list_value_length(table["negatives"]).to_numpy()
    first = [*np.flatnonzero(counts)[:2], *np.flatnonzero(counts == 0)[:2]][:2]
    prompt = prompts_of(model).query
    for row in table.take(pa.array(first, pa.int64())).to_pylist():
        yield {
            "question": shorten(row["anchor"]),
            "context": shorten(row["positive"]),
            "negatives": [shorten(text) for text in row["negatives"][:EXAMPLE_NEGATIVES]],
            "prompt": prompt or None,
        }


def prompts_of(model: ModelSpec) -> Prompts:
    """Return the prompts that the spec names, or those that the model's family documents."""
    known = documented_prompts(model.base, _saved_prompts(model.base))
    query = known.query if model.query_prompt == "auto" else model.query_prompt
    document = known.document if model.document_prompt == "auto" else model.document_prompt
    return Prompts(query, document)


def _saved_prompts(base: str) -> dict[str, str | None]:
    """Return the prompts in the configuration of a local model; none if it cannot be read."""
    with suppress(EmbedtuneError, OSError, ValueError, AttributeError):
        if folder := find_locally(base):
            return dict(read_settings(folder / LIBRARY).get("prompts", {}))
    return {}


def prompt_lines(model: ModelSpec) -> Iterable[str]:
    prompts = prompts_of(model)
    roles = (("question", prompts.query, model.query_prompt),
             ("context", prompts.document, model.document_prompt))  # fmt: skip
    for role, prompt, given in roles:
        if prompt:
            where = ", if it helps the base model on validation" if given == "auto" else ""
            shown = prompt.replace("\n", "\\n")
            yield f"Prompt     `{shown}` before each {role}{where}"


def shorten(text: str) -> str:
    line = " ".join(text.split())
    if len(line) <= EXAMPLE_CHARACTERS:
        return line
    return line[: EXAMPLE_CHARACTERS - 1].rstrip() + "…"


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
        require_valid_settings(spec.base, folder)
    except (ModelError, StorageError) as error:
        return f"Truncation not counted: {error}"
    path = transformer_folder(folder) / "tokenizer.json"
    if not path.is_file():
        return f"Truncation not counted: `{spec.base}` has no `tokenizer.json`"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    counts = {}
    for name, column in (("questions", "anchor"), ("contexts", "positive")):
        encoded = (len(tokenizer.encode(text).ids) for text in _texts(dataset, column))
        counts[name] = np.fromiter(encoded, dtype=np.int64)
    limit, whose = spec.max_length or published_length(folder), "the model's limit"
    if limit == "auto":
        limit = published_length(folder)
        if limit > SHORT:
            limit = choose_length(np.concatenate([*counts.values()]), limit).tokens
            whose = "the automatic `model.max_length`"
    parts = [
        f"{(lengths > limit).mean():.1%} of {name} (longest: {lengths.max()})"
        for name, lengths in counts.items()
    ]
    return f"Truncation {' and '.join(parts)} exceed {whose} of {limit} tokens"


def _texts(dataset: Dataset, column: str) -> Iterator[str]:
    for table in dataset.tables:
        yield from column_values(table[column])


def _histogram(name: str, texts: Iterator[str]) -> Iterable[str]:
    lengths = np.fromiter(map(count_words, texts), dtype=np.int64)
    counts = np.histogram(lengths, WORD_EDGES)[0]
    yield f"{name:<10} words: median {int(np.median(lengths))}, longest {lengths.max()}"
    for (low, high), count in zip(pairwise(WORD_EDGES), counts, strict=True):
        if count:
            label = f"{low}-{high - 1}" if high < WORD_EDGES[-1] else f"{low} or more"
            bar = "█" * max(1, round(BAR_CHARACTERS * count / len(lengths)))
            yield f"  {label:>11} {bar} {count}"
