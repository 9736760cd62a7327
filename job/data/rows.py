"""Collect the usable rows of all sources, group them and assign them to splits."""

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
from job.data.cleaning import Cleaned, clean_documents, clean_rows, concatenate, count_reasons
from job.data.formats.layout import RawRow, Source
from job.data.given_documents import GivenDocuments
from job.data.labels import LabelReader, label_facts
from job.data.near_duplicates import MAX_GROUP_SHARE, Groups, KeyedTexts, group_rows
from job.data.own_ids import name_once
from job.data.sources import open_documents, open_source
from job.data.text_files import WrongEncoding
from job.data.text_keys import pair_key, pair_keys, text_key
from job.spec.schema import DataSpec
from job.storage.arrow_tables import BATCH, IntArray, KeyArray, column_on_disk, rows_on_disk

Channels = Mapping[str, Path]
ROLES = ("data", "validation", "test")


@dataclass(frozen=True)
class Rows:
    """The usable rows of all sources, and the documents that belong to no row."""

    source: str
    columns: dict[str, Any]
    cleaned: Cleaned
    documents: Cleaned
    # Each row's number, from 0, before `data.limit` takes a sample; generated ids contain it.
    numbers: IntArray
    # The layout that the source was read as.
    format: str = "rows"
    # Counts of the labels, if there are any.
    labels: dict[str, Any] | None = None
    # What was decided, and what looks wrong: sentences for `check`.
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def collect_rows(spec: DataSpec, channels: Channels) -> Rows:
    """Read and clean every source; a channel overrides the spec's source of the same name."""
    require_data(spec, channels)
    try:
        return _collect(spec, channels)
    except DataError as error:
        if isinstance(cause := error.__cause__, WrongEncoding):
            # The file may be one of a folder, or the corpus: the command checks all of the data.
            raise cause.to_error(str(channels.get("data", spec.source)), spec) from None
        raise


def _collect(spec: DataSpec, channels: Channels) -> Rows:
    label = spec.source or "channel data"
    names = {"data": spec.source} | spec.model_dump(include={"validation", "test", "corpus"})
    names |= {key: str(folder) for key, folder in channels.items() if key in names}
    sources = {role: open_source(str(names[role]), spec, role) for role in ROLES if names[role]}
    main = sources["data"]
    documents = [clean_documents(main.documents)]
    if names["corpus"]:
        documents.append(
            clean_documents(open_documents(str(names["corpus"]), spec, str(names["data"])))
        )
    documents += [clean_documents(sources[role].documents) for role in ROLES[1:] if names[role]]
    given = concatenate(documents)
    corpus = GivenDocuments(given.kept)
    parts, readers = [], []
    for role, source in sources.items():
        readers.append(_label_reader(names, role, source, spec))
        rows, split = _rows_of(source, role)
        parts.append(clean_rows(rows, spec.min_characters, split, readers[-1], corpus or None))
    cleaned = concatenate(parts)
    if not len(cleaned.kept):
        raise DataError(_nothing_to_use(label, cleaned))
    pairs = _drop_false_negatives(cleaned.kept)
    labels = filter(None, (reader.warning() for reader in readers))
    read_warnings = (warning for source in sources.values() for warning in source.warnings)
    given = _without_twins(given, corpus)
    for name, key in (("query_id", "anchor_key"), ("document_id", "positive_key")):
        pairs = name_once(pairs, name, key)
    cleaned = replace(cleaned, kept=pairs)
    if spec.columns.document and not pc.any(pc.is_valid(parts[0].kept["parent_key"])).as_py():
        msg = f"`{label}`, read as `{main.format}`, has no value of `{spec.columns.document}` "
        msg += "(`data.columns.document`). Write it into each row, or leave the setting out."
        raise DataError(msg)
    return Rows(
        label,
        main.columns,
        cleaned,
        given,
        np.arange(len(pairs)),
        main.format,
        label_facts(readers),
        _notes(sources.values(), corpus, parts[0].kept, cleaned),
        tuple(dict.fromkeys((*read_warnings, *labels))),
    )


def _without_twins(given: Cleaned, corpus: GivenDocuments) -> Cleaned:
    """Drop documents that differ from a context's document only in their title."""
    twins = corpus.twins()
    if not len(twins):
        return given
    kept = np.setdiff1d(np.arange(len(given.kept)), twins)
    return replace(given, kept=rows_on_disk(given.kept, kept))


def _label_reader(
    names: Mapping[str, str | None], role: str, source: Source, spec: DataSpec
) -> LabelReader:
    main = None if role == "data" else names["data"]
    return LabelReader(str(names[role]), source.columns, spec, main)


def _rows_of(source: Source, role: str) -> tuple[Iterable[RawRow], str | None]:
    """Return the rows to read, and the split they all belong to."""
    if role == "data":
        return source.rows, None
    return (row for row in source.rows if row.split in (None, role)), role


def _notes(
    sources: Iterable[Source], corpus: GivenDocuments, pairs: pa.Table, cleaned: Cleaned
) -> tuple[str, ...]:
    notes = dict.fromkeys(note.rstrip(".") for source in sources for note in source.notes)
    if corpus.found_by_id:
        notes["contexts that are ids of documents in the corpus are read as these documents"] = None
    if twins := len(corpus.twins()):
        their = "its text is that of a context" if twins == 1 else "their texts are contexts'"
        known = f"{counted(twins, 'document')} with another title left out of the corpus: {their}"
        notes[known] = None
    if lost := cleaned.lost_negatives:
        first = " is dropped:" if lost == 1 else "s are dropped; the first:"
        notes[f"{lost} hard negative{first} {cleaned.first_lost}"] = None
    own = Counter(given_codes(pairs).tolist())
    given = [
        f"{counted(own[code], 'row')} to {purpose} on"
        for code, purpose in ((splits.VALIDATION, "validate"), (splits.TEST, "test"))
        if own[code]
    ]
    if given:
        notes[f"the data has its own splits, which are kept: {' and '.join(given)}"] = None
    return tuple(notes)


def _nothing_to_use(source: str, cleaned: Cleaned) -> str:
    dropped = count_reasons(cleaned.rejected).items()
    why = "; ".join(f"{reason}: {found['rows']}" for reason, found in dropped)
    msg = f"`{source}` has {cleaned.rows} rows, none of them usable "
    msg += f"({why or 'no document is relevant to a query'}). Correct the rows, or choose "
    return msg + "other columns in `data.columns`."


def require_data(spec: DataSpec, channels: Channels) -> None:
    if not (spec.source or spec.documents or channels.keys() & {"data", "documents"}):
        msg = "There is no training data: set `data.source`, or provide the channel `data`."
        raise SpecError(msg)


def _drop_false_negatives(pairs: pa.Table) -> pa.Table:
    """Drop negatives that are the context of the same question in another row."""
    if not pc.sum(pc.list_value_length(pairs["negatives"])).as_py():
        return pairs
    questions, contexts = (pairs[f"{name}_key"].to_numpy() for name in ("anchor", "positive"))
    answers = np.unique(pair_keys(questions, contexts))

    def kept(questions: list[int], negatives: list[list[str]]) -> list[Any]:
        rows = list(zip(questions, negatives, strict=True))
        keys = [pair_key(question, text_key(text)) for question, texts in rows for text in texts]
        wanted = np.array(keys, dtype=np.uint64)
        positions = np.minimum(np.searchsorted(answers, wanted), len(answers) - 1)
        is_false = iter(answers[positions] == wanted)
        return [[text for text in texts if not next(is_false)] for _, texts in rows]

    return _with_column(pairs, "negatives", kept, "anchor_key", "negatives")


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
    """The keys of each row's question and document (equal keys: same text), and its group.

    `parent_keys` are those of the documents that the contexts are parts of; None if the data names
    none.
    """

    question_keys: KeyArray
    document_keys: KeyArray
    groups: Groups
    parent_keys: KeyArray | None = None


def group_texts(
    rows: Rows, threshold: float | None, large_groups: Literal["keep", "by_question"] = "keep"
) -> Grouping:
    """Group rows by what their texts share; divide groups too large for a split, if asked to."""
    pairs = rows.cleaned.kept
    keys = [pairs["anchor_key"].to_numpy(), pairs["positive_key"].to_numpy()]
    texts = KeyedTexts(keys, [pairs["anchor"], pairs["positive"]])
    parents = pairs["parent_key"]
    known = None
    if parents.null_count < len(parents):
        # A row without a document is connected to itself only.
        known = pc.coalesce(parents, pairs["positive_key"]).to_numpy()
    groups = group_rows(keys if known is None else [*keys, known], texts, threshold)
    if large_groups == "by_question":
        groups = _divided(groups, keys[0])
    return Grouping(keys[0], keys[1], groups, known)


def _divided(groups: Groups, questions: KeyArray) -> Groups:
    """Divide groups of more than `MAX_GROUP_SHARE` of the rows by their questions."""
    large = np.bincount(groups.labels) > max(2, MAX_GROUP_SHARE * len(questions))
    by_question = np.unique(questions, return_inverse=True)[1] + len(large)
    labels = np.where(large[groups.labels], by_question, groups.labels)
    distinct = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return replace(groups, labels=distinct)


def use_article_protocol(rows: Rows) -> tuple[Rows, Grouping]:
    """Make each row a separate question, document and group, as the article does.

    Drops what rows would share: given query ids, and given documents that equal a context.
    """
    pairs, documents = rows.cleaned.kept, rows.documents.kept
    nulls = pa.nulls(len(pairs), pa.large_string())
    for name in ("query_id", "document_id"):
        pairs = pairs.set_column(pairs.schema.get_field_index(name), name, nulls)
    cleaned = replace(rows.cleaned, kept=pairs)
    others = ~np.isin(documents["key"].to_numpy(), pairs["positive_key"].to_numpy())
    kept = replace(rows.documents, kept=rows_on_disk(documents, np.flatnonzero(others)))
    distinct = np.arange(len(pairs), dtype=np.uint64)
    grouping = Grouping(distinct, distinct, Groups(distinct.astype(np.int64), 0, 0))
    return replace(rows, cleaned=cleaned, documents=kept), grouping


def split_codes(rows: Rows, grouping: Grouping, spec: DataSpec) -> IntArray:
    """Return each row's split; `splits.UNDECIDED` excludes a row.

    A row is excluded if its question is also in a later split that was given; with
    `data.overlap=remove`, also if a row of its group is.
    """
    decided = given_codes(rows.cleaned.kept)
    fractions = (spec.validation_fraction, spec.test_fraction)
    return _split(decided, grouping, spec, fractions, spec.seed)


def fold_codes(rows: Rows, grouping: Grouping, spec: DataSpec, folds: int) -> list[IntArray]:
    """Return each row's split, by fold: every row is a test row once, unless it was given.

    Raises `DataError` if a test set was given.
    """
    decided = given_codes(rows.cleaned.kept)
    if given := int((decided == splits.TEST).sum()):
        msg = f"`evaluation.folds` tests every row once, but {given} rows are a test set of their "
        raise DataError(msg + "own. Set `evaluation.folds=0`, or leave that test set out.")
    free = decided == splits.UNDECIDED
    numbers = np.full(len(decided), -1)
    numbers[free] = splits.number_folds(grouping.groups.labels[free], folds, spec.seed)
    # Of the rows that are no test rows of the fold.
    fraction = spec.validation_fraction / (1 - 1 / folds)
    return [
        _split(
            np.where(numbers == fold, splits.TEST, decided),
            grouping,
            spec,
            (fraction, 0.0),
            spec.seed + fold,
        )
        for fold in range(folds)
    ]


def _split(
    decided: IntArray,
    grouping: Grouping,
    spec: DataSpec,
    fractions: tuple[float, float],
    seed: int,
) -> IntArray:
    # Exclude rows before splitting, so that the fractions apply to the remaining rows.
    trained = np.where(decided == splits.UNDECIDED, splits.TRAIN, decided)
    kept = ~splits.leaked_rows(trained, grouping.question_keys)
    if spec.overlap == "remove":
        kept &= ~splits.leaked_rows(trained, grouping.groups.labels)
    codes = np.full(len(decided), splits.UNDECIDED, dtype=np.int64)
    labels = grouping.groups.labels[kept]
    codes[kept] = splits.split_rows(labels, decided[kept], fractions, seed)
    return codes
