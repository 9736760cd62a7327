"""Analyze where the tuned model gained and lost: queries, segments, suspected label errors."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from job.core.formatting import counted, format_p
from job.data.dataset import Corpus, Queries
from job.data.near_duplicates import jaccard, shingles
from job.data.query_groups import effective_groups, group_sizes
from job.evaluation.jackknife import EPSILON
from job.evaluation.metrics import METRIC, Scores
from job.evaluation.results import CONFIDENCE, ErrorAnalysis, Example, Heterogeneity, Hub, Segment
from job.evaluation.significance import GroupedQueries, heterogeneity_p_value
from job.storage.arrow_tables import FloatArray, IntArray

# Entries per list in the report.
MAX_EXAMPLES = 10
# Smaller segments are skipped: their intervals are too wide to be useful.
MIN_SEGMENT_QUERIES = 10
# The sign-flip test needs as many groups to reject anything at 5 %.
MIN_SEGMENT_GROUPS = 6
# If the group column has more values than this, only its largest segments are reported.
MAX_SEGMENTS = 20
# Longer texts are shortened in the report.
MAX_CHARACTERS = 300
# A document is a hub if it is irrelevant in the top 10 of at least this many queries.
MIN_HUB_HITS = 5
WORD = re.compile(r"\w+")
QUESTION_WORDS = ("what", "how", "who", "which", "when", "where", "why")
YES_OR_NO = ("is", "are", "was", "were", "do", "does", "did", "can", "has", "have", "will")


def analyze_errors(
    queries: Queries,
    corpus: Corpus,
    base: Scores,
    tuned: Scores,
    bm25: Scores,
    group_column: str | None = None,
    near_duplicate_threshold: float | None = None,
) -> ErrorAnalysis:
    """Compare both models' scores; `queries.segments` holds the values of `group_column`."""
    lifts = tuned.metrics[METRIC] - base.metrics[METRIC]
    order = np.argsort(-lifts, kind="stable")

    def examples(chosen: IntArray) -> list[Example]:
        return [_example(int(i), queries, corpus, base, tuned) for i in chosen[:MAX_EXAMPLES]]

    lost = order[::-1]
    not_found = np.flatnonzero((base.rank == 0) & (tuned.rank == 0) & (bm25.rank == 0))
    failed = np.flatnonzero((base.rank != 1) & (tuned.rank != 1))
    segments = [
        found
        for found in _segments(queries, corpus, group_column)
        if len(found[2]) >= MIN_SEGMENT_QUERIES
    ]
    heterogeneity = _heterogeneity(segments, queries.groups, lifts)
    return ErrorAnalysis(
        gained=examples(order[lifts[order] > EPSILON]),
        lost=examples(lost[lifts[lost] < -EPSILON]),
        suspected_label_errors=examples(not_found),
        segments=[
            _segment(*found, queries.groups, base.metrics[METRIC], tuned.metrics[METRIC])
            for found in segments
        ],
        hubs=_hubs(queries, corpus, base, tuned),
        not_found=len(not_found),
        both_failed=len(failed),
        near_duplicate_first=None
        if near_duplicate_threshold is None
        else sum(
            _resembles(int(i), queries, corpus, tuned, near_duplicate_threshold) for i in failed
        ),
        heterogeneity=heterogeneity,
        sentence=_segments_sentence(heterogeneity),
    )


def _resembles(
    query: int, queries: Queries, corpus: Corpus, tuned: Scores, threshold: float
) -> bool:
    """Return whether the first result is no answer, but a near-duplicate of one."""
    first = shingles(corpus.texts[int(tuned.top[query][0])].as_py())
    answers = (shingles(corpus.texts[int(i)].as_py()) for i in queries.relevant(query))
    return any(jaccard(first, answer) >= threshold for answer in answers)


def _heterogeneity(
    segments: Sequence[tuple[str, str, IntArray]], groups: IntArray, lifts: FloatArray
) -> list[Heterogeneity]:
    """Test for each kind of segment whether the lifts of its segments differ.

    Without segments of few groups: those show nothing about other groups.
    """
    found = []
    for by, several in groupby(segments, key=lambda segment: segment[0]):
        members = [
            queries
            for _, _, queries in several
            if effective_groups(group_sizes(groups[queries])) >= MIN_SEGMENT_GROUPS
        ]
        if len(members) > 1:
            p_value = heterogeneity_p_value(members, groups, lifts)
            found.append(Heterogeneity(by=by, segments=len(members), p_value=p_value))
    return found


def _segments_sentence(heterogeneity: Sequence[Heterogeneity]) -> str | None:
    """Say whether segments differ, corrected for the number of kinds (Bonferroni)."""
    if not heterogeneity:
        return None
    kinds = len(heterogeneity)
    differing = [found for found in heterogeneity if found.p_value * kinds < 1 - CONFIDENCE]
    caveat = "The interval of a single segment is not corrected for the number of segments."
    if differing:
        names = ", ".join(f"{found.by} ({format_p(found.p_value)})" for found in differing)
        return (
            f"The lift depends on: {names}; {counted(kinds, 'kind')} of segments tested. {caveat}"
        )
    lowest = min(found.p_value for found in heterogeneity)
    corrected = f", {format_p(min(1.0, lowest * kinds))} corrected for {kinds} tests"
    return (
        "It is not shown that the lift differs between segments "
        f"({counted(kinds, 'kind')} of segments tested, lowest {format_p(lowest)}"
        f"{corrected if kinds > 1 else ''}): a segment that stands out may be chance. {caveat}"
    )


def _example(query: int, queries: Queries, corpus: Corpus, base: Scores, tuned: Scores) -> Example:
    relevant = queries.relevant(query)
    first = int(tuned.top[query][0])
    return Example(
        query_id=queries.ids[query].as_py(),
        query=_shorten(queries.texts[query].as_py()),
        answer=_shorten(corpus.texts[int(relevant[0])].as_py()),
        rank_base=int(base.rank[query]) or None,
        rank_tuned=int(tuned.rank[query]) or None,
        ndcg_base=float(base.metrics[METRIC][query]),
        ndcg_tuned=float(tuned.metrics[METRIC][query]),
        instead=None if first in relevant else _shorten(corpus.texts[first].as_py()),
    )


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1].rstrip() + "…"


def _segment(
    by: str, name: str, members: IntArray, groups: IntArray, base: FloatArray, tuned: FloatArray
) -> Segment:
    lift = GroupedQueries(groups[members], 1, 0).lift(tuned[members] - base[members])
    return Segment(
        by=by,
        name=name,
        queries=len(members),
        base=float(base[members].mean()),
        tuned=float(tuned[members].mean()),
        lift=lift.lift,
        ci=lift.ci,
    )


def _segments(
    queries: Queries, corpus: Corpus, group_column: str | None
) -> Iterator[tuple[str, str, IntArray]]:
    """Yield each segment: what it is grouped by, its name, and the indices of its queries."""
    first = queries.documents[queries.offsets[:-1]]
    texts = zip(queries.texts.to_pylist(), corpus.texts.take(first).to_pylist(), strict=True)
    features = zip(*(_features(*pair) for pair in texts), strict=True)
    query_words, answer_words, shared, question_words = features
    segments: dict[str, Sequence[str]] = {
        "words of the query": _thirds(query_words, "{:g}"),
        "words of the answer": _thirds(answer_words, "{:g}"),
        "the query's words in the answer": _thirds(shared, "{:.0%}"),
        "question word": question_words,
    }
    for by, names in segments.items():
        array = np.array(names)
        for name in dict.fromkeys(sorted(names)):
            yield by, name.partition("|")[2] or name, np.flatnonzero(array == name)
    if group_column is not None and queries.segments is not None:
        values = np.array(queries.segments.to_pylist(), dtype=object)
        counts = Counter(name for name in values if name is not None)
        for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_SEGMENTS]:
            yield group_column, name, np.flatnonzero(values == name)


def _features(question: str, answer: str) -> tuple[int, int, float, str]:
    """Return the word counts of both, the share of query words in the answer, the question word."""
    query_words, answer_words = (WORD.findall(text.lower()) for text in (question, answer))
    shared = len({*query_words} & {*answer_words}) / max(1, len({*query_words}))
    word = next((word for word in query_words if word in QUESTION_WORDS), "none of these")
    if query_words and query_words[0] in YES_OR_NO:
        word = "yes or no"
    return len(query_words), len(answer_words), shared, word


def _thirds(values: Sequence[float], form: str) -> list[str]:
    """Name each value's third by its lowest and highest value; equal values share a third."""
    array = np.array(values, dtype=float)
    thirds = np.searchsorted(np.quantile(array, [1 / 3, 2 / 3]), array, side="left")
    names = {}
    for third in np.unique(thirds):
        members = array[thirds == third]
        low, high = form.format(members.min()), form.format(members.max())
        # The number before the bar is the sort key.
        names[third] = f"{third}|{low} to {high}" if low != high else f"{third}|{low}"
    return [names[third] for third in thirds]


def _hubs(queries: Queries, corpus: Corpus, base: Scores, tuned: Scores) -> list[Hub]:
    after, before = _wrong_hits(queries, tuned), _wrong_hits(queries, base)
    return [
        Hub(
            document_id=corpus.ids[position].as_py(),
            text=_shorten(corpus.texts[position].as_py()),
            wrong_hits=hits,
            wrong_hits_base=before[position],
        )
        for position, hits in sorted(after.items(), key=lambda item: (-item[1], item[0]))[
            :MAX_EXAMPLES
        ]
        if hits >= MIN_HUB_HITS
    ]


def _wrong_hits(queries: Queries, scores: Scores) -> Counter[int]:
    """Count, per document, the queries that have it in their top 10 although it is irrelevant."""
    wrong: Counter[int] = Counter()
    for query, top in enumerate(scores.top):
        wrong.update(np.setdiff1d(top, queries.relevant(query)).tolist())
    return wrong
