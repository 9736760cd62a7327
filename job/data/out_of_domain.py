"""Test for forgetting: pairs of another domain, on which base and tuned model are scored."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from job.core.errors import DataError, SpecError
from job.data.cleaning import Cleaned, clean_documents, clean_rows
from job.data.dataset import Corpus, Dataset, Queries, build_search
from job.data.labels import LabelReader
from job.data.rows import Channels, Rows
from job.data.sources import open_source
from job.data.text_keys import text_key
from job.spec.schema import JobSpec
from job.storage.arrow_tables import column_values

TEXTS = ("anchor", "positive")


@dataclass(frozen=True)
class OutOfDomain:
    """Questions of another domain, and a corpus of all their contexts."""

    source: str
    queries: Queries
    corpus: Corpus
    # Usable rows that were excluded because the training data contains one of their texts.
    left_out: int


def load_out_of_domain(spec: JobSpec, channels: Channels, dataset: Dataset) -> OutOfDomain | None:
    """Read the channel `out_of_domain`, else what `evaluation.out_of_domain` names; else None.

    Rows that share a text with `dataset`, the job's data, are excluded.
    Raises `DataError` if fewer than `data.min_test_queries` queries remain.
    """
    named = spec.evaluation.out_of_domain
    path = str(channels["out_of_domain"]) if "out_of_domain" in channels else named
    if path is None:
        return None
    source = spec.data.source
    if named and source and (named == source or Path(named).resolve() == Path(source).resolve()):
        msg = f"`evaluation.out_of_domain` is `{named}`, which is also `data.source`, so it cannot "
        raise SpecError(msg + "show forgetting. Name data of another domain.")
    found = open_source(path, spec.data, "out_of_domain")
    # One split for all rows: a BEIR folder's splits do not matter here.
    labels = LabelReader(path, found.columns, spec.data)
    cleaned = clean_rows(found.rows, spec.data.min_characters, "test", labels)
    # Keep rows that share no text with any split of the job's data.
    columns = [table[name] for table in dataset.tables for name in TEXTS]
    known = np.array([text_key(t) for c in columns for t in column_values(c)], np.uint64)
    shared = [np.isin(cleaned.kept[f"{name}_key"].to_numpy(), known) for name in TEXTS]
    others = np.flatnonzero(~np.logical_or(*shared))
    left_out = len(cleaned.kept) - len(others)
    drawn = np.random.default_rng(spec.data.seed).permutation(others)
    numbers = np.sort(drawn[: spec.evaluation.out_of_domain_limit])
    cleaned = replace(cleaned, kept=cleaned.kept.take(numbers))
    name = named or "channel out_of_domain"
    _require_enough(name, cleaned, left_out, spec)
    # The corpus has only contexts of the sample, so a large collection does not cost more.
    rows = Rows(name, found.columns, cleaned, clean_documents(()), numbers)
    return OutOfDomain(name, *build_search(rows, spec.data.near_duplicate_threshold), left_out)


def _require_enough(source: str, cleaned: Cleaned, left_out: int, spec: JobSpec) -> None:
    needed = spec.data.min_test_queries
    queries = len(np.unique(cleaned.kept["anchor_key"].to_numpy()))
    if queries < needed:
        msg = f"`{source}` (`evaluation.out_of_domain`) has {queries} usable queries in "
        msg += f"{cleaned.rows} rows ({left_out} rows share texts with the job's data); "
        msg += f"a meaningful test needs at least {needed}. Add rows, or change "
        raise DataError(msg + "`evaluation.out_of_domain_limit` or `data.min_test_queries`.")
