"""All usable rows of all sources, grouped and given their splits."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from job.core.errors import DataError, SpecError
from job.core.formatting import counted
from job.data import splits
from job.data.cleaning import Cleaned, clean_documents, clean_rows, count_reasons, joined
from job.data.formats.layout import RawRow, Source
from job.data.given_documents import GivenDocuments
from job.data.labels import LabelReader, label_facts
from job.data.near_duplicates import MAX_GROUP_SHARE, Groups, KeyedTexts, group_rows
from job.data.own_ids import name_once
from job.data.sources import open_documents, open_source
from job.data.text_keys import pair_key, pair_keys, text_key
from job.spec.schema import DataSpec
from job.storage.arrow_tables import BATCH, IntArray, KeyArray, column_on_disk, rows_on_disk

Channels = Mapping[str, Path]
ROLES = ("data", "validation", "test")


@dataclass(frozen=True)
class Rows:
    """All usable rows of all sources, with their documents; `numbers` count them from 0."""

    source: str
    columns: dict[str, Any]
    cleaned: Cleaned
    documents: Cleaned
    numbers: IntArray
    # The layout that the source was read as.
    format: str = "rows"
    # Counts of the labels, if there are any.
    labels: dict[str, Any] | None = None
    # What was decided, and what looks wrong: sentences for `check`.
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def collect_rows(spec: DataSpec, channels: Channels) -> Rows:
    """Read every source; a channel wins over the spec's source of the same name."""
    require_data(spec, channels)
    typed = spec.source or "channel data"
    names = {"data": spec.source} | spec.model_dump(include={"validation", "test", "corpus"})
    names |= {key: str(folder) for key, folder in channels.items() if key in names}
    sources = {role: open_source(str(names[role]), spec, role) for role in ROLES if names[role]}
    main = sources["data"]
    documents = [clean_documents(main.documents)]
    if names["corpus"]:
        documents.append(clean_documents(open_documents(str(names["corpus"]), spec.encoding)))
    documents += [clean_documents(sources[role].documents) for role in ROLES[1:] if names[role]]
    given = joined(documents)
    corpus = GivenDocuments(given.kept)
    parts, readers = [], []
    for role, source in sources.items():
        readers.append(LabelReader(str(names[role]), source.columns, spec))
        rows, split = _rows_of(source, role)
        parts.append(clean_rows(rows, spec.min_characters, split, readers[-1], corpus or None))
    cleaned = joined(parts)
    if not len(cleaned.kept):
        raise DataError(_nothing_to_use(typed, cleaned))
    pairs = _true_negatives(cleaned.kept)
    for name, key in (("query_id", "anchor_key"), ("document_id", "positive_key")):
        pairs = name_once(pairs, name, key)
    cleaned = replace(cleaned, kept=pairs)
    return Rows(
        typed,
        main.columns,
        cleaned,
        given,
        np.arange(len(pairs)),
        main.format,
        label_facts(readers),
        _notes(sources.values(), corpus, parts[0].kept),
        tuple(filter(None, (reader.warning() for reader in readers))),
    )


def _rows_of(source: Source, role: str) -> tuple[Iterable[RawRow], str | None]:
    """Return the rows to read, and the split they all belong to."""
    if role == "data":
        return source.rows, None
    return (row for row in source.rows if row.split in (None, role)), role


def _notes(sources: Iterable[Source], corpus: GivenDocuments, pairs: pa.Table) -> tuple[str, ...]:
    notes = dict.fromkeys(note.rstrip(".") for source in sources for note in source.notes)
    if corpus.found_by_id:
        notes["contexts that are ids of documents in the corpus are read as these documents"] = None
    own = Counter(decided_codes(pairs).tolist())
    given = [
        f"{counted(own[code], 'row')} to {purpose} on"
        for code, purpose in ((splits.VALIDATION, "validate"), (splits.TEST, "test"))
        if own[code]
    ]
    if given:
        notes[f"the data has its own splits, which are kept: {' and '.join(given)}"] = None
    return tuple(notes)


def _nothing_to_use(typed: str, cleaned: Cleaned) -> str:
    dropped = count_reasons(cleaned.rejected).items()
    why = "; ".join(f"{reason}: {found['rows']}" for reason, found in dropped)
    msg = f"`{typed}` has {cleaned.rows} rows and none can be used ({why or 'none is relevant'})"
    return msg + ". Correct them, or name their columns in `data.columns`."


def require_data(spec: DataSpec, channels: Channels) -> None:
    if spec.source is None and "data" not in channels:
        msg = "`data.source` is missing, and there is no channel `data`: nothing to train on."
        raise SpecError(msg)


def _true_negatives(pairs: pa.Table) -> pa.Table:
    """Drop negatives that answer the same question in another row."""
    if not pc.sum(pc.list_value_length(pairs["negatives"])).as_py():
        return pairs
    questions, contexts = (pairs[f"{name}_key"].to_numpy() for name in ("anchor", "positive"))
    answers = np.unique(pair_keys(questions, contexts))

    def kept(questions: list[int], negatives: list[list[str]]) -> list[Any]:
        rows = list(zip(questions, negatives, strict=True))
        keys = [pair_key(question, text_key(text)) for question, texts in rows for text in texts]
        sought = np.array(keys, dtype=np.uint64)
        place = np.minimum(np.searchsorted(answers, sought), len(answers) - 1)
        wrong = iter(answers[place] == sought)
        return [[text for text in texts if not next(wrong)] for _, texts in rows]

    return _with_column(pairs, "negatives", kept, "anchor_key", "negatives")


def _with_column(
    table: pa.Table, name: str, compute: Callable[..., Iterable[Any]], *names: str
) -> pa.Table:
    """Set a column to what is computed of others, a batch at a time."""
    kind = table.schema.field(name).type
    batches = table.select(names).to_batches(max_chunksize=BATCH)
    values = (compute(*(column.to_pylist() for column in batch.columns)) for batch in batches)
    column = column_on_disk((pa.array(list(batch), kind) for batch in values), kind)
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)


def sample_rows(rows: Rows, spec: DataSpec) -> Rows:
    """Draw `data.limit` of the rows that are not of a given test or validation set."""
    pairs = rows.cleaned.kept
    drawable = np.flatnonzero(~np.isin(decided_codes(pairs), (splits.VALIDATION, splits.TEST)))
    if spec.limit is None or spec.limit >= len(drawable):
        return rows
    drawn = np.random.default_rng(spec.seed).permutation(drawable)[: spec.limit]
    kept = np.sort(np.concatenate([drawn, np.setdiff1d(rows.numbers, drawable)]))
    cleaned = replace(rows.cleaned, kept=rows_on_disk(pairs, kept))
    return replace(rows, cleaned=cleaned, numbers=rows.numbers[kept])


def decided_codes(pairs: pa.Table) -> IntArray:
    """Give the split that the source decided for each row; its "train" is ours to divide."""
    known = pc.index_in(pairs["split"], pa.array(["validation", "test"], pa.large_string()))
    codes = np.array([splits.VALIDATION, splits.TEST, splits.UNDECIDED], dtype=np.int64)
    decided: IntArray = codes[known.fill_null(len(codes) - 1).to_numpy()]
    return decided


@dataclass(frozen=True)
class Grouping:
    """Each row's question and document by key (equal keys: the same text), and its group."""

    question_keys: KeyArray
    document_keys: KeyArray
    groups: Groups


def group_texts(
    rows: Rows, threshold: float | None, large_groups: Literal["keep", "by_question"] = "keep"
) -> Grouping:
    """Group rows by what their texts share; divide groups too large for a split, if asked to."""
    pairs = rows.cleaned.kept
    keys = [pairs["anchor_key"].to_numpy(), pairs["positive_key"].to_numpy()]
    texts = KeyedTexts(keys, [pairs["anchor"], pairs["positive"]])
    groups = group_rows(keys, texts, threshold)
    if large_groups == "by_question":
        groups = _divided(groups, keys[0])
    return Grouping(keys[0], keys[1], groups)


def _divided(groups: Groups, questions: KeyArray) -> Groups:
    """Divide groups of more than `MAX_GROUP_SHARE` of the rows by their questions."""
    large = np.bincount(groups.labels) > max(2, MAX_GROUP_SHARE * len(questions))
    by_question = np.unique(questions, return_inverse=True)[1] + len(large)
    labels = np.where(large[groups.labels], by_question, groups.labels)
    distinct = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return replace(groups, labels=distinct)


def stand_alone(rows: Rows) -> tuple[Rows, Grouping]:
    """Follow the article: each row is its own question, its own document and its own group.

    What several rows would share is dropped: their source's query ids and documents.
    """
    pairs, documents = rows.cleaned.kept, rows.documents.kept
    nulls = pa.nulls(len(pairs), pa.large_string())
    for name in ("query_id", "document_id"):
        pairs = pairs.set_column(pairs.schema.get_field_index(name), name, nulls)
    cleaned = replace(rows.cleaned, kept=pairs)
    others = ~np.isin(documents["key"].to_numpy(), pairs["positive_key"].to_numpy())
    kept = replace(rows.documents, kept=rows_on_disk(documents, np.flatnonzero(others)))
    own = np.arange(len(pairs), dtype=np.uint64)
    grouping = Grouping(own, own, Groups(own.astype(np.int64), 0, 0))
    return replace(rows, cleaned=cleaned, documents=kept), grouping


def split_codes(rows: Rows, grouping: Grouping, spec: DataSpec) -> IntArray:
    """Split the rows; those of `-1` are left out since their question is in a given test set."""
    decided = decided_codes(rows.cleaned.kept)
    fractions = (spec.validation_fraction, spec.test_fraction)
    # Before dividing, so that the shares are those of the rows that stay.
    trained = np.where(decided == splits.UNDECIDED, splits.TRAIN, decided)
    kept = ~splits.leaked_rows(trained, grouping.question_keys)
    codes = np.full(len(decided), splits.UNDECIDED, dtype=np.int64)
    labels = grouping.groups.labels[kept]
    codes[kept] = splits.split_rows(labels, decided[kept], fractions, spec.seed)
    return codes
