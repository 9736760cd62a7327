"""Where the tuned model gained and lost: single queries, kinds of queries, labels to doubt."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from job.data.dataset import Corpus, Queries
from job.evaluation.metrics import METRIC, FloatArray, IntArray, Scores
from job.evaluation.results import ErrorAnalysis, Example, Hub, Segment
from job.evaluation.significance import EPSILON, GroupedQueries

# So many are shown of each list.
SHOWN = 10
# Of fewer queries an interval says nothing.
SLICE_AT_LEAST = 10
# A column of more kinds than a table can show is told by its largest.
KINDS_SHOWN = 20
# A report is for reading: longer texts are cut.
TEXT_CHARACTERS = 300
# A document is a hub if it stands so often among the first ten where it does not belong.
HUB_HITS = 5
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
) -> ErrorAnalysis:
    """Compare two models' scores of queries, whose `kinds` are what `group_column` held."""
    lifts = tuned.metrics[METRIC] - base.metrics[METRIC]
    order = np.argsort(-lifts, kind="stable")

    def examples(chosen: IntArray) -> list[Example]:
        return [_example(int(i), queries, corpus, base, tuned) for i in chosen[:SHOWN]]

    lost = order[::-1]
    not_found = np.flatnonzero((base.rank == 0) & (tuned.rank == 0) & (bm25.rank == 0))
    return ErrorAnalysis(
        gained=examples(order[lifts[order] > EPSILON]),
        lost=examples(lost[lifts[lost] < -EPSILON]),
        suspected_label_errors=examples(not_found),
        segments=[
            _slice(by, name, members, queries.groups, base.metrics[METRIC], tuned.metrics[METRIC])
            for by, name, members in _kinds(queries, corpus, group_column)
            if len(members) >= SLICE_AT_LEAST
        ],
        hubs=_hubs(queries, corpus, base, tuned),
        not_found=len(not_found),
    )


def _example(query: int, queries: Queries, corpus: Corpus, base: Scores, tuned: Scores) -> Example:
    relevant = queries.relevant(query)
    first = int(tuned.top[query][0])
    return Example(
        query_id=queries.ids[query].as_py(),
        query=_cut(queries.texts[query].as_py()),
        answer=_cut(corpus.texts[int(relevant[0])].as_py()),
        rank_base=int(base.rank[query]) or None,
        rank_tuned=int(tuned.rank[query]) or None,
        ndcg_base=float(base.metrics[METRIC][query]),
        ndcg_tuned=float(tuned.metrics[METRIC][query]),
        instead=None if first in relevant else _cut(corpus.texts[first].as_py()),
    )


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 1].rstrip() + "…"


def _slice(
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


def _kinds(
    queries: Queries, corpus: Corpus, group_column: str | None
) -> Iterator[tuple[str, str, IntArray]]:
    """Yield every kind of queries: by what it is told, its name, and which they are."""
    first = queries.documents[queries.offsets[:-1]]
    texts = zip(queries.texts.to_pylist(), corpus.texts.take(first).to_pylist(), strict=True)
    asked, told, shared, question_words = zip(*(_told(*pair) for pair in texts), strict=True)
    kinds: dict[str, Sequence[str]] = {
        "words of the query": _thirds(asked, "{:g}"),
        "words of the answer": _thirds(told, "{:g}"),
        "the query's words in the answer": _thirds(shared, "{:.0%}"),
        "question word": question_words,
    }
    for by, names in kinds.items():
        array = np.array(names)
        for name in dict.fromkeys(sorted(names)):
            yield by, name.partition("|")[2] or name, np.flatnonzero(array == name)
    if group_column is not None and queries.segments is not None:
        given = np.array(queries.segments.to_pylist(), dtype=object)
        counted = Counter(name for name in given if name is not None)
        for name, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:KINDS_SHOWN]:
            yield group_column, name, np.flatnonzero(given == name)


def _told(question: str, answer: str) -> tuple[int, int, float, str]:
    """Count the words of both; the share of the question's that the answer has; what it asks."""
    asked, told = (WORD.findall(text.lower()) for text in (question, answer))
    shared = len({*asked} & {*told}) / max(1, len({*asked}))
    word = next((word for word in asked if word in QUESTION_WORDS), "none of these")
    if asked and asked[0] in YES_OR_NO:
        word = "yes or no"
    return len(asked), len(told), shared, word


def _thirds(values: Sequence[float], form: str) -> list[str]:
    """Name the third that each value lies in, by the values at its ends; ties stay together."""
    array = np.array(values, dtype=float)
    thirds = np.searchsorted(np.quantile(array, [1 / 3, 2 / 3]), array, side="left")
    names = {}
    for third in np.unique(thirds):
        own = array[thirds == third]
        low, high = form.format(own.min()), form.format(own.max())
        # The number keeps them in order.
        names[third] = f"{third}|{low} to {high}" if low != high else f"{third}|{low}"
    return [names[third] for third in thirds]


def _hubs(queries: Queries, corpus: Corpus, base: Scores, tuned: Scores) -> list[Hub]:
    after, before = _wrong_hits(queries, tuned), _wrong_hits(queries, base)
    return [
        Hub(
            document_id=corpus.ids[position].as_py(),
            text=_cut(corpus.texts[position].as_py()),
            wrong_hits=hits,
            wrong_hits_base=before[position],
        )
        for position, hits in sorted(after.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
        if hits >= HUB_HITS
    ]


def _wrong_hits(queries: Queries, scores: Scores) -> Counter[int]:
    """Count, per document, the queries that find it among the first ten without need."""
    wrong: Counter[int] = Counter()
    for query, top in enumerate(scores.top):
        wrong.update(np.setdiff1d(top, queries.relevant(query)).tolist())
    return wrong
