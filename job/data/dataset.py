"""The data of a run: a corpus, training pairs, and queries for validation and test."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from job.core.errors import DataError
from job.core.formatting import are, counted
from job.data import splits
from job.data.cleaning import count_reasons
from job.data.corpus import Corpus as Corpus  # noqa: PLC0414  other modules import it from here
from job.data.corpus import build_corpus, numbered_ids, sorted_hashes
from job.data.folds import pool_facts, pool_queries
from job.data.overlap import measure_overlap
from job.data.plausibility import advice_to_test, advice_to_train, warnings_about
from job.data.query_groups import count_groups, warnings_about_groups
from job.data.rows import (
    Channels,
    Grouping,
    Rows,
    collect_rows,
    fold_codes,
    group_texts,
    sample_rows,
    split_codes,
    use_article_protocol,
)
from job.spec.schema import DataSpec
from job.storage.arrow_tables import (
    BATCH,
    BoolArray,
    FloatArray,
    IntArray,
    column_values,
    one_array,
    one_table,
    rows_on_disk,
)

# Of each row in `data/train.jsonl` and its siblings.
SPLIT_COLUMNS = ["id", "anchor", "positive", "negatives"]


@dataclass(frozen=True)
class Queries:
    """Distinct questions and the documents that answer them.

    `documents[offsets[i]:offsets[i + 1]]` are the corpus positions of query i's relevant documents.
    """

    ids: pa.Array
    texts: pa.Array
    offsets: IntArray
    documents: IntArray
    groups: IntArray
    # Value of the column `data.columns.group` for each query, or null.
    segments: pa.Array | None = None
    # Relevance of each document, above 0; None if all are 1.
    grades: FloatArray | None = None
    # Which queries are about a source that training has too; None if that is not known.
    seen: BoolArray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def relevant(self, query: int) -> IntArray:
        return self.documents[self.offsets[query] : self.offsets[query + 1]]

    def grades_of(self, query: int) -> FloatArray:
        """Return the grades of `relevant(query)`."""
        first, last = self.offsets[query], self.offsets[query + 1]
        return np.ones(last - first) if self.grades is None else self.grades[first:last]


@dataclass(frozen=True)
class TrainingPairs:
    """Training rows (`table`: id, anchor, positive, negatives) and the numbers of their texts.

    In each array, equal numbers mean the same question, document or group.
    """

    table: pa.Table
    questions: IntArray
    documents: IntArray
    # Rows with equal or near-duplicate texts share a group.
    groups: IntArray

    def __len__(self) -> int:
        return len(self.table)


@dataclass(frozen=True)
class TrainingData:
    """The part of a dataset that training may see: everything except the test split."""

    train: TrainingPairs
    validation: Queries
    corpus: Corpus


@dataclass(frozen=True)
class Dataset:
    corpus: Corpus
    train: TrainingPairs
    validation: Queries
    test: Queries
    validation_pairs: pa.Table
    test_pairs: pa.Table
    # The rows of all three splits, for `training.refit`.
    all_pairs: TrainingPairs
    rejected: pa.Table
    # The `data` section of report.json.
    facts: dict[str, Any]
    # With `evaluation.folds`: a dataset for each training. All rows are then test rows; `train` and
    # `validation` are those of the first fold.
    folds: "tuple[Dataset, ...]" = ()

    @property
    def tables(self) -> tuple[pa.Table, pa.Table, pa.Table]:
        """The rows of train, validation and test; each has an id and at least two texts.

        With folds, all rows are in the last one, and the others are empty.
        """
        if self.folds:
            none = self.test_pairs.slice(0, 0)
            return none, none, self.test_pairs
        return self.train.table, self.validation_pairs, self.test_pairs

    @property
    def training(self) -> TrainingData:
        return TrainingData(self.train, self.validation, self.corpus)


def load_dataset(
    spec: DataSpec, channels: Channels, protocol: str = "grouped", folds: int = 0
) -> Dataset:
    """Read, clean, group and split the data; raise `DataError` if too little remains."""
    dataset = inspect_dataset(spec, channels, protocol, folds)
    require_enough(dataset, spec)
    return dataset


def inspect_dataset(
    spec: DataSpec, channels: Channels, protocol: str = "grouped", folds: int = 0
) -> Dataset:
    """Do the same as `load_dataset`, but accept any number of rows above 0."""
    rows = sample_rows(collect_rows(spec, channels), spec)
    if protocol == "article":
        rows, grouping = use_article_protocol(rows)
    else:
        grouping = group_texts(rows, spec.near_duplicate_threshold, spec.large_groups)
    corpus, positions = build_corpus(rows, grouping.document_keys)

    def split(codes: IntArray) -> Dataset:
        overlap = measure_overlap(rows, grouping, codes)
        facts = _facts(rows, grouping, codes, spec)
        facts["overlap"] = overlap.facts(spec, protocol, facts["leakage"])
        return _build(rows, grouping, codes, facts, overlap.seen, corpus, positions)

    if not folds:
        return split(split_codes(rows, grouping, spec))
    parts = tuple(map(split, fold_codes(rows, grouping, spec, folds)))
    return _pool(parts, rows, spec, protocol)


def _pool(folds: tuple[Dataset, ...], rows: Rows, spec: DataSpec, protocol: str) -> Dataset:
    """Make one dataset of those of the folds, whose test queries are those of all of them."""
    first, test = folds[0], pool_queries([fold.test for fold in folds])
    test_pairs = pa.concat_tables([fold.test_pairs for fold in folds])
    tables = [first.train.table, first.validation_pairs, test_pairs]
    facts = _query_facts(tables, [first.validation, test], first.corpus)
    facts = pool_facts([fold.facts for fold in folds], facts, spec, protocol)
    facts["warnings"] = [*rows.warnings, *warnings_about(rows)]
    facts["warnings"] += warnings_about_groups(facts["test_groups"], len(test))
    return replace(first, test=test, test_pairs=test_pairs, facts=facts, folds=folds)


def _facts(rows: Rows, grouping: Grouping, codes: IntArray, spec: DataSpec) -> dict[str, Any]:
    used, groups = codes != splits.UNDECIDED, grouping.groups
    contexts = rows.cleaned.kept["positive_key"].to_numpy()
    counts = np.unique(contexts[used], return_counts=True)[1]
    at_random = splits.random_split_share(contexts, spec.test_fraction, spec.seed)
    negatives = pc.list_value_length(rows.cleaned.kept["negatives"]).to_numpy()
    return {
        "source": rows.source,
        "format": rows.format,
        "columns": rows.columns,
        "rows": rows.cleaned.rows,
        "used": int(used.sum()),
        "questions": len(np.unique(grouping.question_keys[used])),
        "merged_rows": rows.cleaned.merged,
        "negatives": int(negatives[used].sum()),
        "labels": rows.labels,
        "contexts_found_in_corpus": _found_in_corpus(rows),
        "notes": list(rows.notes),
        "warnings": [*rows.warnings, *warnings_about(rows)],
        # Test rows of each fold.
        "folds": [],
        "dropped": count_reasons(rows.cleaned.rejected),
        "dropped_documents": count_reasons(rows.documents.rejected),
        "splits": {name: int((codes == n).sum()) for n, name in enumerate(splits.SPLIT_NAMES)},
        "duplicates": {
            "rows_sharing_a_context": int(counts[counts > 1].sum()),
            "near_duplicate_pairs": groups.near_duplicate_pairs,
            "groups": len(np.unique(groups.labels)),
            "largest_group": int(np.bincount(groups.labels).max()),
            "oversized_groups": groups.oversized,
        },
        "leakage": {
            "test_contexts_in_train": splits.shared_share(codes, contexts),
            "under_a_random_split": at_random,
            "removed_rows": int((~used).sum()),
        },
    }


def _found_in_corpus(rows: Rows) -> dict[str, int] | None:
    """Count the contexts that are documents of the given corpus; None without one."""
    documents = rows.documents.kept["key"].to_numpy()
    if not len(documents):
        return None
    contexts = np.unique(rows.cleaned.kept["positive_key"].to_numpy())
    return {"found": int(np.isin(contexts, documents).sum()), "contexts": len(contexts)}


def _build(
    rows: Rows,
    grouping: Grouping,
    codes: IntArray,
    facts: dict[str, Any],
    seen: BoolArray,
    corpus: Corpus,
    positions: IntArray,
) -> Dataset:
    pairs = rows.cleaned.kept
    ids = _query_ids(pairs, rows.numbers)
    table = pairs.select(["anchor", "positive", "negatives"]).add_column(0, "id", ids)
    train, validation, test = (np.flatnonzero(codes == code) for code in range(3))
    tables = [rows_on_disk(table, part) for part in (train, validation, test)]
    evaluated = [_queries(rows, grouping, positions, part) for part in (validation, test)]
    facts = facts | _query_facts(tables, evaluated, corpus)
    facts["warnings"] += warnings_about_groups(facts["test_groups"], len(evaluated[1]))
    every = np.concatenate([train, validation, test])
    return Dataset(
        corpus=corpus,
        train=_training_pairs(tables[0], grouping, positions, train),
        validation=evaluated[0],
        test=replace(evaluated[1], seen=seen),
        validation_pairs=tables[1],
        test_pairs=tables[2],
        all_pairs=_training_pairs(pa.concat_tables(tables), grouping, positions, every),
        rejected=one_table([rows.cleaned.rejected, rows.documents.rejected]),
        facts=facts,
    )


def _query_facts(
    tables: Sequence[pa.Table], evaluated: Sequence[Queries], corpus: Corpus
) -> dict[str, Any]:
    """Return the facts about the rows of the splits, and the queries of validation and test."""
    # Test scores depend on the corpus and on the grades as much as on the queries.
    columns = [[part["anchor"], part["positive"]] for part in tables]
    columns[splits.TEST].append(sorted_hashes(corpus.texts))
    for split, queries in zip((splits.VALIDATION, splits.TEST), evaluated, strict=True):
        columns[split] += [] if queries.grades is None else [pa.array(queries.grades)]
    return {
        "queries": {"validation": len(evaluated[0]), "test": len(evaluated[1])},
        "graded": any(queries.grades is not None for queries in evaluated),
        "corpus": len(corpus),
        "test_groups": count_groups(evaluated[1].groups),
        "fingerprint": dict(zip(splits.SPLIT_NAMES, map(_fingerprint, columns), strict=True)),
    }


def _training_pairs(
    table: pa.Table, grouping: Grouping, positions: IntArray, part: IntArray
) -> TrainingPairs:
    questions = np.unique(grouping.question_keys[part], return_inverse=True)[1].astype(np.int64)
    return TrainingPairs(table, questions, positions[part], grouping.groups.labels[part])


def _queries(rows: Rows, grouping: Grouping, positions: IntArray, part: IntArray) -> Queries:
    """Convert the rows of one split into queries; rows with the same question are one query."""
    first, numbers = splits.number_in_order(grouping.question_keys[part])
    # Encode (query, document) as one number: sorting a million pairs would take a minute.
    size = int(positions.max(initial=0)) + 1
    judged, at = np.unique(numbers * size + positions[part], return_index=True)
    relevant = np.divmod(judged, size)
    rows_of_queries = part[first]
    pairs = rows.cleaned.kept.select(["anchor", "query_id", "group"]).take(rows_of_queries)
    return Queries(
        ids=_query_ids(pairs, rows.numbers[rows_of_queries]),
        texts=one_array(pairs["anchor"]),
        offsets=np.searchsorted(relevant[0], np.arange(len(first) + 1)),
        documents=relevant[1],
        groups=grouping.groups.labels[rows_of_queries],
        grades=_grades(rows.cleaned.kept["grade"], part[at]),
        segments=one_array(pairs["group"]),
    )


def _grades(column: pa.ChunkedArray, rows: IntArray) -> FloatArray | None:
    grades: FloatArray = column.fill_null(1.0).to_numpy()[rows]
    return None if (grades == 1).all() else grades


def build_search(rows: Rows, threshold: float | None) -> tuple[Queries, Corpus]:
    """Make queries of all rows, and a corpus of all their documents."""
    grouping = group_texts(rows, threshold)
    corpus, positions = build_corpus(rows, grouping.document_keys)
    return _queries(rows, grouping, positions, np.arange(len(rows.numbers))), corpus


def _query_ids(pairs: pa.Table, numbers: IntArray) -> pa.Array:
    given = one_array(pairs["query_id"])
    is_given = pc.greater(pc.binary_length(given), 0).fill_null(False)  # noqa: FBT003  of pyarrow
    return pc.if_else(is_given, given, numbered_ids("q", numbers))


def require_enough(dataset: Dataset, spec: DataSpec) -> None:
    """Raise `DataError` if a split is too small to train on, validate on or test on."""
    facts = dataset.facts
    source, of_all = f"`{facts['source']}` has", f"from {facts['used']} usable rows"
    if (size := len(dataset.test)) < spec.min_test_queries:
        msg = f"{source} {size} test queries {of_all} ({facts['rows']} read); a meaningful test "
        msg += f"needs at least {spec.min_test_queries}. "
        raise DataError(msg + advice_to_test(facts, spec))
    parts = dataset.folds or (dataset,)
    for name, size, needed in (
        ("validation", min(len(part.validation) for part in parts), 1),
        ("train", min(len(part.train) for part in parts), 2),
        # A test set that was not split by folds has enough, see above.
        *((("test", min(facts["folds"]), 1),) if dataset.folds else ()),
    ):
        if size < needed:
            where = " of a fold" if dataset.folds else ""
            msg = f"{source} {counted(size, 'row')} in the split `{name}`{where} {of_all}; at "
            msg += f"least {are(needed)} needed. "
            raise DataError(msg + advice_to_train(facts, spec, name))


def write_splits(dataset: Dataset, folder: Path) -> None:
    """Write the splits in formats that other tools read: JSON lines and TREC-style qrels."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in _written_tables(dataset).items():
        _write_jsonl(folder / f"{name}.jsonl", table)
    corpus = pa.table([dataset.corpus.ids, dataset.corpus.texts], names=["id", "text"])
    _write_jsonl(folder / "corpus.jsonl", corpus)
    _write_jsonl(folder / "rejected.jsonl", dataset.rejected)
    with (folder / "qrels.tsv").open("w", encoding="utf-8") as handle:
        handle.write("query-id\tcorpus-id\tscore\n")
        for queries in (dataset.test,) if dataset.folds else (dataset.validation, dataset.test):
            for number, query in enumerate(column_values(queries.ids)):
                documents = dataset.corpus.ids.take(queries.relevant(number)).to_pylist()
                for document, grade in zip(documents, queries.grades_of(number), strict=True):
                    handle.write(f"{query}\t{document}\t{grade:g}\n")


def _written_tables(dataset: Dataset) -> dict[str, pa.Table]:
    """Return the rows of each split by its name; with folds, one table with the row's fold."""
    if not dataset.folds:
        named = zip(splits.SPLIT_NAMES, dataset.tables, strict=True)
        return {name: table.select(SPLIT_COLUMNS) for name, table in named}
    numbers = np.repeat(np.arange(1, len(dataset.folds) + 1), dataset.facts["folds"])
    table = dataset.test_pairs.select(SPLIT_COLUMNS)
    return {"test": table.append_column("fold", pa.array(numbers))}


def _write_jsonl(path: Path, table: pa.Table) -> None:
    with path.open("w", encoding="utf-8") as handle:
        for batch in table.to_batches(max_chunksize=BATCH):
            for row in batch.to_pylist():
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")


def _fingerprint(columns: list[pa.Array | pa.ChunkedArray]) -> str:
    """Hash texts in order; equal fingerprints mean equal splits."""
    digest = hashlib.sha256()
    for column in columns:
        for text in column_values(column):
            digest.update(str(text).encode("utf-8") + b"\0")
    return digest.hexdigest()[:16]
