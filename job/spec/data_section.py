"""The spec's section `data`: where the pairs are, and how they are read and split."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from job.spec.section import Section

Fraction = Annotated[float, Field(ge=0.0, le=0.5)]


class Columns(Section):
    anchor: str | None = None
    """Column with the questions; `null` finds it by common names (`question`, `query`, …)."""
    positive: str | None = None
    """Column with the contexts; `null` finds it by common names (`context`, `answer`, …)."""
    negatives: tuple[str, ...] | None = None
    """Columns with hard negatives; `null` finds them by name (`negative`, `negative_2`, …)."""
    group: str | None = None
    """Column that splits the report into segments, such as a product or a language."""
    document: str | None = None
    """Column that names the document a context is a part of, such as its file or URL: rows of one
    document go to the same split and count as one group."""
    label: str | None = None
    """Column that says whether the context answers the question (0: a hard negative; grades above 0
    are relevant); found by its name. `none`: read no labels."""
    corpus_text: str | None = None
    """Column with the texts of `data.corpus`; `null` finds it by common names (`text`, …)."""

    @field_validator("negatives", mode="before")
    @classmethod
    def _take_one_name(cls, given: object) -> object:
        return (given,) if isinstance(given, str) else given


# The layouts of `job.data.formats.registry`, in its order.
DataFormat = Literal[
    "auto", "rows", "lists", "beir", "autorag", "saved", "llamaindex", "squad", "splits", "pandas",
    "mapping", "columns", "tevatron", "dpr", "instructions", "flagembedding",
    "sentence-transformers", "swift", "msmarco", "ragas", "nemo", "questions",
]  # fmt: skip


class DataSpec(Section):
    source: str | None = None
    """Pairs: a file, a folder, a BEIR folder, `s3://bucket/prefix`, a Hub data set (`owner/name`,
    `hf://datasets/owner/name@revision:split`) or `builtin:aws-docs`. The channel `data` wins."""
    documents: str | None = None
    """Documents to write questions about (`generation`), instead of `data.source`: text, Markdown,
    HTML, PDF and Word files, or rows with `text`; a path, S3 or the Hub."""
    questions_by: str | None = None
    """Language model that wrote the questions of `data.source`, which the report then says."""
    subset: str | None = None
    """Configuration name (subset) of a Hub data set."""
    split: str = "train"
    """Split of a Hub data set to read; `a+b` joins two, also those of a folder's files."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set; `null` means `main`."""
    max_download_gb: float = Field(50.0, gt=0.0)
    """Gigabytes; larger data is refused before the download."""
    format: DataFormat = "auto"
    """Layout of the pairs; `auto`: recognized by the folder, the document or the first rows."""
    encoding: str = "utf-8"
    """Encoding of text files (`cp1252`); UTF-16 with a byte order mark is always recognized."""
    columns: Columns = Columns()
    min_label: float | None = None
    """Rows whose label is lower become hard negatives; needed for similarities."""
    positive_labels: tuple[str, ...] | None = Field(None, min_length=1)
    """Labels that make a pair, if labels are classes; rows with others become hard negatives."""
    validation: str | None = None
    """Separate validation pairs, instead of a split of `data.source`."""
    test: str | None = None
    """Separate test pairs, instead of a split of `data.source`."""
    corpus: str | None = None
    """Additional documents to search (columns `id`, `text`), as in your production index."""
    limit: int | None = Field(None, ge=1)
    """Use a random sample of this many rows, for a quick trial."""
    validation_fraction: Fraction = 0.1
    """Share of the rows used for validation: it selects the checkpoint."""
    test_fraction: Fraction = 0.1
    """Share of the rows used for the test: it decides the verdict."""
    near_duplicate_threshold: float | None = Field(0.8, gt=0.0, le=1.0)
    """Texts at least this similar (Jaccard index of word shingles) go to the same split; `null`
    groups only texts that are equal after normalization."""
    large_groups: Literal["keep", "by_question"] = "keep"
    """Groups of rows that share texts stay in one split. `by_question` divides those with more than
    5 % of the rows by question; contexts that splits then share are counted."""
    overlap: Literal["count", "remove"] = "count"
    """Training rows that share a context, a document or a near-duplicate text with a given test or
    validation set: `count` reports them, `remove` leaves them out of training."""
    min_characters: int = Field(3, ge=1, le=1000)
    """Characters; rows with a shorter question or context are dropped. A character of a language
    without spaces counts twice."""
    min_test_queries: int = Field(30, ge=1)
    """Stop with an error if the test has fewer queries, as the result would prove nothing."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Random seed of the row sample and the splits."""

    @field_validator("positive_labels", mode="before")
    @classmethod
    def _take_one_label(cls, given: object) -> object:
        return given if given is None or isinstance(given, list | tuple) else (given,)
