"""Collect the usable rows of all sources, group them and assign them to splits."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from job.core.errors import DataError, SpecError
from job.data import splits
from job.data.cleaning import (
    PAIR_FACTOR,
    Cleaned,
    clean_documents,
    clean_rows,
    concatenate,
    count_reasons,
    pair_key,
    text_key,
)
from job.data.near_duplicates import Groups, KeyedTexts, group_rows
from job.data.sources import open_documents, open_source
from job.spec.schema import DataSpec
from job.storage.arrow_tables import BATCH, IntArray, KeyArray, column_on_disk, rows_on_disk

Channels = Mapping[str, Path]


@dataclass(frozen=True)
class Rows:
    """The usable rows of all sources, and the documents that belong to no row."""

    source: str
    columns: dict[str, Any]
    cleaned: Cleaned
    documents: Cleaned
    # Each row's number, from 0, before `data.limit` takes a sample; generated ids contain it.
    numbers: IntArray


def collect_rows(spec: DataSpec, channels: Channels) -> Rows:
    """Read and clean every source; a channel overrides the spec's source of the same name."""
    require_data(spec, channels)
    label = spec.source or "channel data"
    names = {"data": spec.source} | spec.model_dump(include={"validation", "test", "corpus"})
    names |= {key: str(folder) for key, folder in channels.items() if key in names}
    main = open_source(str(names["data"]), spec)
    documents = [clean_documents(main.documents)]
    if names["corpus"]:
        documents.append(clean_documents(open_documents(names["corpus"])))
    parts = [clean_rows(main.rows, spec.min_characters)]
    for split in ("validation", "test"):
        if name := names[split]:
            more = open_source(name, spec, split)
            documents.append(clean_documents(more.documents))
            rows = (row for row in more.rows if row.split in (None, split))
            parts.append(clean_rows(rows, spec.min_characters, split))
    cleaned = concatenate(parts)
    if not len(cleaned.kept):
        dropped = count_reasons(cleaned.rejected).items()
        why = "; ".join(f"{reason}: {found['rows']}" for reason, found in dropped)
        msg = f"`{label}` has {cleaned.rows} rows, none of them usable "
        msg += f"({why or 'no document is relevant to a query'}). Correct the rows, or choose "
        raise DataError(msg + "other columns in `data.columns`.")
    cleaned = replace(cleaned, kept=_distinct_query_ids(_drop_false_negatives(cleaned.kept)))
    numbers = np.arange(len(cleaned.kept))
    return Rows(label, main.columns, cleaned, concatenate(documents), numbers)


def require_data(spec: DataSpec, channels: Channels) -> None:
    if spec.source is None and "data" not in channels:
        msg = "There is no training data: set `data.source`, or provide the channel `data`."
        raise SpecError(msg)


def _drop_false_negatives(pairs: pa.Table) -> pa.Table:
    """Drop negatives that are the context of the same question in another row."""
    if not pc.sum(pc.list_value_length(pairs["negatives"])).as_py():
        return pairs
    questions, contexts = (pairs[f"{name}_key"].to_numpy() for name in ("anchor", "positive"))
    answers = np.unique(questions * np.uint64(PAIR_FACTOR) + contexts)

    def kept(questions: list[int], negatives: list[list[str]]) -> list[Any]:
        rows = list(zip(questions, negatives, strict=True))
        keys = [pair_key(question, text_key(text)) for question, texts in rows for text in texts]
        wanted = np.array(keys, dtype=np.uint64)
        positions = np.minimum(np.searchsorted(answers, wanted), len(answers) - 1)
        is_false = iter(answers[positions] == wanted)
        return [[text for text in texts if not next(is_false)] for _, texts in rows]

    return _with_column(pairs, "negatives", kept, "anchor_key", "negatives")


def _distinct_query_ids(pairs: pa.Table) -> pa.Table:
    """Rename a query id that another question has: two BEIR folders may use the same ids."""
    if pairs["query_id"].null_count == len(pairs):
        return pairs
    question_by_id: dict[str, int] = {}

    def distinct(name: str | None, question: int) -> str | None:
        while name is not None and question_by_id.setdefault(name, question) != question:
            name += "~"
        return name

    return _with_column(pairs, "query_id", partial(map, distinct), "query_id", "anchor_key")


def _with_column(
    table: pa.Table, name: str, compute: Callable[..., Iterable[Any]], *names: str
) -> pa.Table:
    """Replace the column `name` by values computed from other columns, batch by batch."""
    arrow_type = table.schema.field(name).type
    batches = table.select(names).to_batches(max_chunksize=BATCH)
    values = (compute(*(column.to_pylist() for column in batch.columns)) for batch in batches)
    column = column_on_disk((pa.array(list(batch), arrow_type) for batch in values), arrow_type)
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)


def sample_rows(rows: Rows, spec: DataSpec) -> Rows:
    """Draw `data.limit` rows; rows of given validation and test sets are kept and not counted."""
    pairs = rows.cleaned.kept
    drawable = np.flatnonzero(~np.isin(given_codes(pairs), (splits.VALIDATION, splits.TEST)))
    if spec.limit is None or spec.limit >= len(drawable):
        return rows
    drawn = np.random.default_rng(spec.seed).permutation(drawable)[: spec.limit]
    kept = np.sort(np.concatenate([drawn, np.setdiff1d(rows.numbers, drawable)]))
    cleaned = replace(rows.cleaned, kept=rows_on_disk(pairs, kept))
    return replace(rows, cleaned=cleaned, numbers=rows.numbers[kept])


def given_codes(pairs: pa.Table) -> IntArray:
    """Return each row's given split; rows of a given "train" are undecided, as we split them."""
    known = pc.index_in(pairs["split"], pa.array(["validation", "test"], pa.large_string()))
    codes = np.array([splits.VALIDATION, splits.TEST, splits.UNDECIDED], dtype=np.int64)
    given: IntArray = codes[known.fill_null(len(codes) - 1).to_numpy()]
    return given


@dataclass(frozen=True)
class Grouping:
    """The keys of each row's question and document (equal keys: same text), and its group."""

    question_keys: KeyArray
    document_keys: KeyArray
    groups: Groups


def group_texts(rows: Rows, threshold: float | None) -> Grouping:
    """Group rows by equal texts and near-duplicates."""
    pairs = rows.cleaned.kept
    keys = [pairs["anchor_key"].to_numpy(), pairs["positive_key"].to_numpy()]
    texts = KeyedTexts(keys, [pairs["anchor"], pairs["positive"]])
    return Grouping(keys[0], keys[1], group_rows(keys, texts, threshold))


def use_article_protocol(rows: Rows) -> tuple[Rows, Grouping]:
    """Make each row a separate question, document and group, as the article does.

    Drops what rows would share: given query ids, and given documents that equal a context.
    """
    pairs, documents = rows.cleaned.kept, rows.documents.kept
    nulls = pa.nulls(len(pairs), pa.large_string())
    at = pairs.schema.get_field_index("query_id")
    cleaned = replace(rows.cleaned, kept=pairs.set_column(at, "query_id", nulls))
    others = ~np.isin(documents["key"].to_numpy(), pairs["positive_key"].to_numpy())
    kept = replace(rows.documents, kept=rows_on_disk(documents, np.flatnonzero(others)))
    distinct = np.arange(len(pairs), dtype=np.uint64)
    grouping = Grouping(distinct, distinct, Groups(distinct.astype(np.int64), 0, 0))
    return replace(rows, cleaned=cleaned, documents=kept), grouping


def split_codes(rows: Rows, grouping: Grouping, spec: DataSpec) -> IntArray:
    """Return each row's split; `splits.UNDECIDED` excludes a row.

    A row is excluded if its question is also in a later split that was given.
    """
    decided = given_codes(rows.cleaned.kept)
    fractions = (spec.validation_fraction, spec.test_fraction)
    # Exclude rows before splitting, so that the fractions apply to the remaining rows.
    trained = np.where(decided == splits.UNDECIDED, splits.TRAIN, decided)
    kept = ~splits.leaked_rows(trained, grouping.question_keys)
    codes = np.full(len(decided), splits.UNDECIDED, dtype=np.int64)
    labels = grouping.groups.labels[kept]
    codes[kept] = splits.split_rows(labels, decided[kept], fractions, spec.seed)
    return codes
