"""What the results hold for: which questions, how many documents, which training."""

from job.evaluation.results import Interval, Part, Segment


class AtSize(Part):
    """nDCG@10 of the recommended vectors and of full-width float32, among so many documents."""

    documents: int
    ndcg: float
    full_ndcg: float
    # `ndcg` / `full_ndcg`.
    share: float


class CorpusSizes(Part):
    """What the recommended vectors keep in smaller and smaller samples of the corpus."""

    dimension: int
    precision: str
    full_dimension: int
    # Small to large; the last is the whole corpus.
    measured: list[AtSize]
    # Change of the share with each doubling of the corpus, and its interval; None if there is
    # only one size.
    per_doubling: float | None
    ci: Interval | None


class Scope(Part):
    """What the results hold for.

    `by_source` has the lifts of queries about sources seen and not seen in training, if there are
    both.
    """

    estimand: str
    by_source: list[Segment]
    corpus: CorpusSizes | None
    corpus_sentence: str
    training: str
