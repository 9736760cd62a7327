"""The section `generation` of report.json: who wrote the questions, and what became of them."""

from pydantic import Field

from job.evaluation.results import Part


class Generation(Part):
    llm: str
    judge: str | None = None
    temperature: float
    # The first one of the requests; it also draws the sample of chunks.
    seed: int
    # Settings of these that a language model does not take, and was asked without.
    without: list[str] = Field(default_factory=list)
    # Commits or versions of local models, by name.
    versions: dict[str, str] = Field(default_factory=dict)
    documents: int
    # Reasons of skipped documents, by name.
    skipped: dict[str, str] = Field(default_factory=dict)
    chunks: int
    # One for each chunk that was to be asked about, and those that were.
    requests: int
    answers: int
    questions: int
    kept: int
    # Counts by reason; an answer without a question counts as one question.
    rejected: dict[str, int]
    # Kept questions by kind, and by split.
    kinds: dict[str, int]
    splits: dict[str, int]
    tokens_read: int
    tokens_written: int
    # None without a price: unknown, not free.
    usd: float | None = None

    def shares(self) -> dict[str, float]:
        """Return the share of all questions that each filter rejected."""
        return {why: count / self.questions for why, count in self.rejected.items()}
