"""The section `data` of report.json: what was read, dropped and split."""

from typing import Any

from pydantic import Field

from job.evaluation.results import Part, Truncation
from job.evaluation.scope import Overlap, TestGroups


class Dropped(Part):
    rows: int
    # The first dropped rows, as `file:row`.
    first: list[str]


class Duplicates(Part):
    rows_sharing_a_context: int
    near_duplicate_pairs: int
    groups: int
    largest_group: int
    oversized_groups: int


class Leakage(Part):
    """Share of test contexts that also occur in training: measured, and under a random split."""

    test_contexts_in_train: float
    under_a_random_split: float
    removed_rows: int


class Labels(Part):
    column: str
    # Rows by label.
    counts: dict[str, int]
    relevant: int
    # Those that became hard negatives of their question, or were dropped.
    not_relevant: int
    no_label: int


class FoundInCorpus(Part):
    found: int
    contexts: int


class Data(Part):
    source: str
    # The layout that the source was read as.
    format: str = "rows"
    columns: dict[str, Any]
    rows: int
    used: int
    # Distinct questions of the rows used.
    questions: int | None = None
    # By reason.
    dropped: dict[str, Dropped]
    dropped_documents: dict[str, Dropped]
    # Rows that repeat a pair and brought it another negative.
    merged_rows: int = 0
    # Hard negatives of the rows used.
    negatives: int = 0
    labels: Labels | None = None
    # Distinct contexts that are documents of a given corpus.
    contexts_found_in_corpus: FoundInCorpus | None = None
    notes: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    splits: dict[str, int]
    # Test rows of each fold; with folds, the other splits are those of the first one.
    folds: list[int] = Field(default_factory=list)
    duplicates: Duplicates
    leakage: Leakage
    overlap: Overlap | None = None
    test_groups: TestGroups | None = None
    queries: dict[str, int]
    # Whether nDCG uses relevance grades; otherwise every grade is 1.
    graded: bool = False
    corpus: int
    fingerprint: dict[str, str]
    truncation: Truncation
