"""Did it forget? Pairs of another domain, which were not trained on, to score both models on."""

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
    """Questions of another domain, searched for among the contexts of all of them."""

    source: str
    queries: Queries
    corpus: Corpus
    # Usable rows of which a text is in the job's own data as well.
    left_out: int


def load_out_of_domain(spec: JobSpec, channels: Channels, dataset: Dataset) -> OutOfDomain | None:
    """Read the channel `out_of_domain` or what `evaluation.out_of_domain` names; else nothing.

    `dataset` is the job's own data: rows that share a text with it are left out.
    Raises `DataError` where less is left than a test set must have.
    """
    named = spec.evaluation.out_of_domain
    place = str(channels["out_of_domain"]) if "out_of_domain" in channels else named
    if place is None:
        return None
    own = spec.data.source
    if named and own and (named == own or Path(named).resolve() == Path(own).resolve()):
        msg = f"`evaluation.out_of_domain` is `{named}`, the job's own data, which cannot show "
        raise SpecError(msg + "what was forgotten. Name data of another domain.")
    found = open_source(place, spec.data, "out_of_domain")
    # Marked as of one split: its authors' splits are no matter here.
    labels = LabelReader(place, found.columns, spec.data)
    cleaned = clean_rows(found.rows, spec.data.min_characters, "test", labels)
    # Rows that share no text with the job's own data, of whatever split.
    columns = [table[name] for table in dataset.tables for name in TEXTS]
    known = np.array([text_key(t) for c in columns for t in column_values(c)], np.uint64)
    shared = [np.isin(cleaned.kept[f"{name}_key"].to_numpy(), known) for name in TEXTS]
    others = np.flatnonzero(~np.logical_or(*shared))
    left_out = len(cleaned.kept) - len(others)
    drawn = np.random.default_rng(spec.data.seed).permutation(others)
    numbers = np.sort(drawn[: spec.evaluation.out_of_domain_limit])
    cleaned = replace(cleaned, kept=cleaned.kept.take(numbers))
    source = named or "channel out_of_domain"
    _require_enough(source, cleaned, left_out, spec)
    # The drawn contexts alone are searched: a large collection costs no more.
    rows = Rows(source, found.columns, cleaned, clean_documents(()), numbers)
    return OutOfDomain(source, *build_search(rows, spec.data.near_duplicate_threshold), left_out)


def _require_enough(source: str, cleaned: Cleaned, left_out: int, spec: JobSpec) -> None:
    needed = spec.data.min_test_queries
    queries = len(np.unique(cleaned.kept["anchor_key"].to_numpy()))
    if queries < needed:
        msg = f"`{source}` (`evaluation.out_of_domain`) leaves {queries} queries of "
        msg += f"{cleaned.rows} rows ({left_out} are in the job's own data); "
        msg += f"at least {needed} are needed to prove "
        advice = (
            "bring more rows, or set `evaluation.out_of_domain_limit` or `data.min_test_queries`"
        )
        raise DataError(msg + f"anything; {advice}.")
