"""The data of a run: from any source to splits without leaks, a corpus, and their facts."""

import collections
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import distinct_rows, read_jsonl, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from job.core.errors import DataError, SpecError
from job.core.formatting import counted
from job.data.corpus import numbered_ids, unique_ids
from job.data.dataset import inspect_dataset, load_dataset, write_splits
from job.data.splits import SPLIT_NAMES
from job.data.text_keys import normalize
from job.spec.schema import DataSpec
from job.storage.arrow_tables import JoinedColumn

HEADER = "query-id\tcorpus-id\tscore\n"


def write_pairs(path, pairs):
    """Write (question, context) tuples."""
    return write_jsonl(path, [{"question": q, "context": c} for q, c in pairs])


def write_beir(folder, documents, queries, qrels):
    """Write a BEIR folder; `qrels` maps a split to (query id, document id) tuples."""
    write_jsonl(folder / "corpus.jsonl", [{"_id": i, "text": t} for i, t in documents.items()])
    write_jsonl(folder / "queries.jsonl", [{"_id": i, "text": t} for i, t in queries.items()])
    for split, relevant in qrels.items():
        path = folder / "qrels" / f"{split}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEADER + "".join(f"{q}\t{d}\t1\n" for q, d in relevant))
    return folder


def plain_pairs(count, word="word"):
    return [tuple(row.values()) for row in distinct_rows(count, word)]


def make_spec(source=None, **spec):
    """Make a spec that accepts a few rows."""
    return DataSpec(**{"source": source and str(source), "min_test_queries": 1} | spec)


def load(source=None, channels=None, protocol="grouped", **spec):
    return load_dataset(make_spec(source, **spec), channels or {}, protocol)


def refusal(*parts, **given):
    """Check that loading raises a `DataError` whose message has all the parts."""
    with pytest.raises(DataError) as caught:
        load(**given)
    message = str(caught.value)
    assert [part for part in parts if part not in message] == []
    return message


def tables(dataset):
    """Return the rows of each split as they are written."""
    named = (dataset.train.table, dataset.validation_pairs, dataset.test_pairs)
    return dict(zip(SPLIT_NAMES, (table.to_pylist() for table in named), strict=True))


def pairs_of(rows):
    return [(row["anchor"], row["positive"]) for row in rows]


def relevant_texts(queries, corpus):
    """Map each query's text to the texts of its documents."""
    return {
        text: set(corpus.texts.take(queries.relevant(number)).to_pylist())
        for number, text in enumerate(queries.texts.to_pylist())
    }


def documents_of(dataset):
    ids, texts = dataset.corpus.ids.to_pylist(), dataset.corpus.texts.to_pylist()
    return dict(zip(ids, texts, strict=True))


def comparable(dataset):
    """Return everything in a data set as values that `==` compares."""
    queries = [
        (q.ids.to_pylist(), q.texts.to_pylist(), q.offsets.tolist(), q.documents.tolist())
        for q in (dataset.validation, dataset.test)
    ]
    numbers = (dataset.train.questions.tolist(), dataset.train.documents.tolist())
    return tables(dataset), queries, numbers, documents_of(dataset), dataset.facts


# --- properties -------------------------------------------------------------------------------

QUESTIONS = ["aaa", "AAA ", "bbb", "b  bb", "ccc", "ﬀf", "fff", "ｇgg", "ggg", "xyz", "?"]
CONTEXTS = ["rrr", "RRR", "sss", "s ss", "ttt", "T\tTT", "t tt", "uuu", "xyz", "", "AAA"]
# Rows without shared texts, so that each split gets some.
FILLERS = distinct_rows(14)

generated_rows = st.lists(
    st.fixed_dictionaries(
        {
            "question": st.sampled_from(QUESTIONS),
            "context": st.one_of(
                st.sampled_from(CONTEXTS), st.lists(st.sampled_from(CONTEXTS), max_size=3)
            ),
        },
        optional={"negative": st.sampled_from([*CONTEXTS, "vvv", "VVV"])},
    ),
    max_size=20,
)
shares = st.floats(0.15, 0.3)
seeds = st.integers(0, 2**32 - 1)
thresholds = st.sampled_from([None, 0.8])
thorough = settings(max_examples=100, deadline=None)


def load_rows(rows, test_rows=(), **spec):
    """Load generated rows after the fillers; the first row has all columns."""
    spec = {"near_duplicate_threshold": None} | spec
    first = {"question": "the first question", "context": "the first context", "negative": "neg"}
    with tempfile.TemporaryDirectory() as folder:
        source = write_jsonl(Path(folder) / "a.jsonl", [first, *FILLERS, *rows])
        if test_rows:
            spec["test"] = str(write_jsonl(Path(folder) / "test.jsonl", test_rows))
        # Not `load_dataset`: if rows share a question, a split may have fewer than two queries.
        return inspect_dataset(make_spec(source, **spec), {})


def usable(rows):
    """Return the normalized pairs that can be used: a second, simple implementation."""
    found = set()
    for row in [*FILLERS, *rows]:
        contexts = row["context"] if isinstance(row["context"], list) else [row["context"]]
        for context in contexts:
            pair = (normalize(row["question"]), normalize(context))
            if len(row["question"].strip()) >= 3 and len(context) >= 3 and pair[0] != pair[1]:
                found.add(pair)
    return found | {("the first question", "the first context")}


def normalized(rows):
    return [(normalize(row["anchor"]), normalize(row["positive"])) for row in rows]


def read_qrels(path):
    header, *lines = path.read_text("utf-8").splitlines()
    assert header + "\n" == HEADER
    qrels = [line.split("\t") for line in lines]
    assert all(score == "1" for *_, score in qrels)
    return [(query, document) for query, document, _ in qrels]


@thorough
@given(generated_rows, shares, shares, seeds, thresholds)
def test_any_rows_become_splits_without_a_leak(rows, validation, test, seed, threshold):
    """Each usable pair is in one split, no text is in two, and no split exceeds its share."""
    dataset = load_rows(
        rows,
        validation_fraction=validation,
        test_fraction=test,
        seed=seed,
        near_duplicate_threshold=threshold,
    )
    parts = {name: normalized(part) for name, part in tables(dataset).items()}
    texts = [{text for pair in part for text in pair} for part in parts.values()]
    assert sum(map(len, texts)) == len(set().union(*texts))
    found = [pair for part in parts.values() for pair in part]
    assert collections.Counter(found) == collections.Counter(usable(rows))
    assert dataset.facts["used"] == len(found)
    assert dataset.facts["splits"] == {name: len(part) for name, part in parts.items()}
    assert len(parts["validation"]) <= round(validation * len(found))
    assert len(parts["test"]) <= round(test * len(found))


@thorough
@given(generated_rows, seeds)
def test_any_rows_become_queries_and_a_corpus(rows, seed):
    """Each question is one query, with exactly its answers as relevant documents.

    The corpus has the contexts and negatives of all splits once, with unique ids in string order.
    Training rows with the same question have the same number.
    """
    dataset = load_rows(rows, seed=seed, validation_fraction=0.2, test_fraction=0.2)
    answers = collections.defaultdict(set)
    for question, context in usable(rows):
        answers[question].add(context)
    for queries, part in (
        (dataset.validation, dataset.validation_pairs),
        (dataset.test, dataset.test_pairs),
    ):
        questions = [question for question, _ in normalized(part.to_pylist())]
        found = [
            (normalize(text), {normalize(document) for document in documents})
            for text, documents in relevant_texts(queries, dataset.corpus).items()
        ]
        # Queries are in the order of the first occurrence of their questions.
        assert found == [(question, answers[question]) for question in dict.fromkeys(questions)]
        assert len(set(queries.ids.to_pylist())) == len(queries)
    ids, texts = dataset.corpus.ids.to_pylist(), dataset.corpus.texts.to_pylist()
    parts = [row for part in tables(dataset).values() for row in part]
    expected = {normalize(text) for row in parts for text in [row["positive"], *row["negatives"]]}
    assert ids == sorted(set(ids))
    assert sorted(normalize(text) for text in texts) == sorted(expected)
    assert len(dataset.corpus) == dataset.facts["corpus"] == len(ids)
    assert dataset.all_pairs.table.to_pylist() == parts
    for trained in (dataset.train, dataset.all_pairs):
        pairs = normalized(trained.table.to_pylist())
        contexts = [normalize(texts[position]) for position in trained.documents]
        assert contexts == [context for _, context in pairs]
        numbers = dict(zip((q for q, _ in pairs), trained.questions.tolist(), strict=True))
        assert trained.questions.tolist() == [numbers[question] for question, _ in pairs]
        assert sorted(numbers.values()) == list(range(len(numbers)))
    with tempfile.TemporaryDirectory() as folder:
        write_splits(dataset, Path(folder))
        files = {path.stem: read_jsonl(path) for path in Path(folder).glob("*.jsonl")}
        qrels = read_qrels(Path(folder) / "qrels.tsv")
    texts = {row["id"]: row["text"] for row in files["corpus"]}
    evaluated = files["validation"] + files["test"]
    asked = {row["id"]: row["anchor"] for row in evaluated}
    relevant = {(normalize(asked[query]), normalize(texts[text])) for query, text in qrels}
    assert relevant == set(normalized(evaluated))
    assert len(qrels) == len(set(qrels)) == len(relevant)


@thorough
@given(generated_rows, seeds)
def test_the_same_seed_gives_the_same_data_set(rows, seed):
    """Splits, ids, corpus and facts are equal, except the folder's name."""
    first, second = (load_rows(rows, seed=seed, test_fraction=0.2) for _ in range(2))
    ignored = {"source": None, "dropped": None}
    *values, facts = comparable(first)
    *others, other_facts = comparable(second)
    assert (values, facts | ignored) == (others, other_facts | ignored)


@thorough
@given(generated_rows, generated_rows.filter(bool), seeds)
def test_questions_of_a_given_test_set_are_never_trained_on(rows, test_rows, seed):
    """All given test rows are in test; other rows with their questions are removed and counted."""
    test_rows = [{"question": "given question", "context": "given context"}, *test_rows]
    dataset = load_rows(rows, test_rows, seed=seed, validation_fraction=0.3)
    tested = usable(test_rows) - usable([]) | {("given question", "given context")}
    asked = {question for question, _ in tested}
    parts = {name: normalized(part) for name, part in tables(dataset).items()}
    assert collections.Counter(parts["test"]) == collections.Counter(tested)
    assert collections.Counter(parts["train"] + parts["validation"]) == collections.Counter(
        pair for pair in usable(rows) if pair[0] not in asked
    )
    removed = sum(question in asked for question, _ in usable(rows))
    assert dataset.facts["leakage"]["removed_rows"] == removed


# --- a small data set by hand -----------------------------------------------------------------

GIVEN = {
    "data": [
        {"question": "Was kostet Öl?", "context": "Öl kostet 2 €.", "negative": "Gas ist billig."},
        {"question": "Is oil dear?", "context": "ÖL kostet  2 €.", "negative": "ÖL KOSTET 2 €."},
        {"question": "WAS KOSTET ÖL?", "context": "öl kostet 2 €.", "negative": None},
        {"question": "Why is it empty?", "context": " ", "negative": None},
        {"question": "asked in TEST?", "context": "Nothing else.", "negative": "No!"},
        {"question": "What else?", "context": "nothing else.", "negative": "gas ist billig."},
    ],
    "validation": [
        {"question": "validated 1?", "context": "The first of two."},
        {"question": "validated 2?", "context": "The second of two."},
    ],
    "test": [
        {"question": "Asked in test?", "context": "One answer."},
        {"question": "asked in  test?", "context": "Another answer."},
        {"question": "Asked, too?", "context": "Öl kostet 2 €."},
        {"question": "no", "context": "Two letters ask nothing."},
    ],
    "corpus": [
        {"id": "x1", "text": "Nobody asks."},
        {"id": "x2", "text": "ONE ANSWER."},
        {"id": "x3", "text": ""},
        {"id": "x4", "text": ["l"]},
    ],
}


@pytest.fixture
def by_hand(tmp_path):
    """Load a hand-made data set; all its splits are given."""
    paths = {
        name: str(write_jsonl(tmp_path / f"{name}.jsonl", rows)) for name, rows in GIVEN.items()
    }
    return load(paths.pop("data"), **paths, test_fraction=0.1, validation_fraction=0.0, seed=5)


def hash_of(text):
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def digest(*texts):
    return hashlib.sha256("".join(f"{text}\0" for text in texts).encode()).hexdigest()[:16]


CORPUS_BY_HAND = {
    "d00000000": "Öl kostet 2 €.",
    "d00000002": "Nothing else.",
    "d00000004": "The first of two.",
    "d00000005": "The second of two.",
    "d00000007": "Another answer.",
    "n00000000-0": "Gas ist billig.",
    "n00000002-0": "No!",
    "x1": "Nobody asks.",
    "x2": "ONE ANSWER.",
}


def test_the_facts_of_a_small_data_set_are_complete(by_hand, tmp_path):
    """The facts that the report has about the data, compared as a whole."""
    assert by_hand.facts == {
        "source": str(tmp_path / "data.jsonl"),
        "format": "rows",
        "columns": {
            "anchor": "question",
            "positive": "context",
            "negatives": ["negative"],
            "group": None,
        },
        "rows": 12,
        "used": 8,
        "questions": 7,
        "merged_rows": 0,
        "negatives": 2,
        "labels": None,
        "contexts_found_in_corpus": {"found": 1, "contexts": 6},
        "notes": ["1 hard negative is dropped: it is the question or an answer of its row"],
        "warnings": [],
        "dropped": {
            "exact duplicate": {"rows": 1, "first": [f"{tmp_path / 'data.jsonl'}:3"]},
            "empty context": {"rows": 1, "first": [f"{tmp_path / 'data.jsonl'}:4"]},
            "question is too short": {"rows": 1, "first": [f"{tmp_path / 'test.jsonl'}:4"]},
        },
        # Counted separately, as the share of dropped rows is relative to the rows.
        "dropped_documents": {
            "empty document": {"rows": 1, "first": [f"{tmp_path / 'corpus.jsonl'}:3"]},
            "document is not text": {"rows": 1, "first": [f"{tmp_path / 'corpus.jsonl'}:4"]},
        },
        "splits": {"train": 3, "validation": 2, "test": 3},
        "duplicates": {
            "rows_sharing_a_context": 3,
            "near_duplicate_pairs": 0,
            "groups": 4,
            "largest_group": 4,
            "oversized_groups": 0,
        },
        "leakage": {
            "test_contexts_in_train": 1 / 3,
            # Seed 5 draws row 1 of nine, which shares its context with two others.
            "under_a_random_split": 1.0,
            "removed_rows": 1,
        },
        "overlap": {
            "queries": 2,
            "context": 1,
            "near_context": 0,
            "near_question": 0,
            "document": None,
            "seen": 1,
            "given": True,
            "estimand": "The scores are of new questions about sources partly trained on (50% of "
            "the test queries).",
            "sentence": "Of 2 test queries: 1 with a context that is also in training.",
        },
        "queries": {"validation": 2, "test": 2},
        "folds": [],
        "test_groups": {"groups": 2, "effective": 2.0, "largest": 1},
        "graded": False,
        "corpus": 9,
        "fingerprint": {
            "train": digest(
                *("Was kostet Öl?", "Is oil dear?", "What else?"),
                *("Öl kostet 2 €.", "ÖL kostet  2 €.", "nothing else."),
            ),
            "validation": digest(
                *("validated 1?", "validated 2?"), *("The first of two.", "The second of two.")
            ),
            "test": digest(
                *("Asked in test?", "asked in  test?", "Asked, too?"),
                *("One answer.", "Another answer.", "Öl kostet 2 €."),
                # In the order of their hashes: the documents' ids do not matter.
                *map(str, sorted(map(hash_of, CORPUS_BY_HAND.values()))),
            ),
        },
    }


def test_training_sees_its_rows_and_no_test_split(by_hand):
    """Training gets the cleaned negatives, and has no access to the test queries."""
    training = by_hand.training
    rows = [tuple(row.values()) for row in training.train.table.to_pylist()]
    assert rows == [
        ("q00000000", "Was kostet Öl?", "Öl kostet 2 €.", ["Gas ist billig."]),
        ("q00000001", "Is oil dear?", "ÖL kostet  2 €.", []),
        ("q00000003", "What else?", "nothing else.", ["gas ist billig."]),
    ]
    assert training.train.documents.tolist() == [0, 0, 1]
    assert sorted(vars(training)) == ["corpus", "train", "validation"]


def split_line(name, anchor, positive, *negatives):
    row = {"id": name, "anchor": anchor, "positive": positive, "negatives": negatives}
    return json.dumps(row, ensure_ascii=False) + "\n"


def test_splits_are_written_in_standard_formats(by_hand, tmp_path):
    """Every file, compared as a whole: matching ids, unescaped UTF-8, one row per line."""
    folder = tmp_path / "made" / "here"
    write_splits(by_hand, folder)
    written = {path.name: path.read_text("utf-8") for path in folder.iterdir()}
    corpus = CORPUS_BY_HAND.items()
    assert written == {
        "train.jsonl": (
            split_line("q00000000", "Was kostet Öl?", "Öl kostet 2 €.", "Gas ist billig.")
            + split_line("q00000001", "Is oil dear?", "ÖL kostet  2 €.")
            + split_line("q00000003", "What else?", "nothing else.", "gas ist billig.")
        ),
        "validation.jsonl": (
            split_line("q00000004", "validated 1?", "The first of two.")
            + split_line("q00000005", "validated 2?", "The second of two.")
        ),
        "test.jsonl": (
            split_line("q00000006", "Asked in test?", "One answer.")
            + split_line("q00000007", "asked in  test?", "Another answer.")
            + split_line("q00000008", "Asked, too?", "Öl kostet 2 €.")
        ),
        "corpus.jsonl": "".join(f'{{"id": "{i}", "text": "{text}"}}\n' for i, text in corpus),
        "qrels.tsv": HEADER
        + "q00000004\td00000004\t1\n"
        + "q00000005\td00000005\t1\n"
        + "q00000006\td00000007\t1\n"
        + "q00000006\tx2\t1\n"
        + "q00000008\td00000000\t1\n",
        "rejected.jsonl": "".join(
            json.dumps(
                {"file": str(tmp_path / file), "row": row, "reason": reason}
                | {"anchor": question, "positive": context},
                ensure_ascii=False,
            )
            + "\n"
            for file, row, reason, question, context in [
                ("data.jsonl", 3, "exact duplicate", "WAS KOSTET ÖL?", "öl kostet 2 €."),
                ("data.jsonl", 4, "empty context", "Why is it empty?", " "),
                ("test.jsonl", 4, "question is too short", "no", "Two letters ask nothing."),
                ("corpus.jsonl", 3, "empty document", None, ""),
                ("corpus.jsonl", 4, "document is not text", None, "['l']"),
            ]
        ),
    }


# --- sources, channels, limits ----------------------------------------------------------------


def test_channels_win_over_the_sources_of_the_spec(tmp_path):
    """Each channel replaces the field of its name; the report still names the spec's source."""
    rows = {name: plain_pairs(n, name) for n, name in ((9, "data"), (3, "validation"), (4, "test"))}
    channels = {
        name: write_jsonl(tmp_path / name / "a.jsonl", [{"q": q, "a": a} for q, a in pairs]).parent
        for name, pairs in rows.items()
    }
    channels["corpus"] = write_jsonl(tmp_path / "c" / "a.jsonl", [{"id": 1, "text": "c"}]).parent
    missing = str(tmp_path / "missing.jsonl")
    fields = dict.fromkeys(("validation", "test", "corpus"), missing)
    columns = {"anchor": "q", "positive": "a"}
    dataset = load(missing, channels | {"spec": tmp_path}, columns=columns, **fields)
    assert [pairs_of(part) for part in tables(dataset).values()] == list(rows.values())
    assert documents_of(dataset)["1"] == "c"
    assert dataset.facts["source"] == missing


def test_a_channel_alone_is_enough(tmp_path):
    """Without `data.source`, the source is the channel `data`, called "channel data"."""
    channel = write_pairs(tmp_path / "a.jsonl", plain_pairs(20)).parent
    assert load(None, {"data": channel}).facts["source"] == "channel data"
    with pytest.raises(SpecError, match=r"`data\.source`"):
        load_dataset(DataSpec(), {})


def test_with_a_given_validation_set_only_the_test_set_is_drawn(tmp_path):
    """The test share is relative to the other rows; questions of validation are not in train."""
    pairs = plain_pairs(20)
    source = write_pairs(tmp_path / "a.jsonl", pairs)
    given = write_pairs(
        tmp_path / "v.jsonl", [(pairs[0][0].upper(), "Own answer."), ("why?", "so")]
    )
    dataset = load(source, validation=str(given), test_fraction=0.2, min_characters=2)
    assert pairs_of(dataset.validation_pairs.to_pylist())[-1] == ("why?", "so")
    assert len(dataset.test_pairs) == 4
    assert pairs[0] not in pairs_of(dataset.train.table.to_pylist())


def test_a_limit_draws_the_same_rows_every_time(tmp_path):
    """`data.limit` draws with the seed and keeps the rows' order and numbers."""
    source = write_pairs(tmp_path / "a.jsonl", plain_pairs(100))
    first, second = (load(source, limit=30, test_fraction=0.2) for _ in range(2))
    assert comparable(first) == comparable(second)
    assert (first.facts["rows"], first.facts["used"], first.facts["corpus"]) == (100, 30, 30)
    drawn = sorted(row["id"] for rows in tables(first).values() for row in rows)
    others = load(source, limit=30, test_fraction=0.2, seed=7)
    assert drawn != sorted(row["id"] for rows in tables(others).values() for row in rows)
    all_rows = load(source)
    everything = {row["id"]: row for rows in tables(all_rows).values() for row in rows}
    for rows in tables(first).values():
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
        assert rows == [everything[row["id"]] for row in rows]
    for limit in (100, 1000):
        assert comparable(load(source, limit=limit)) == comparable(all_rows)


def test_a_limit_never_touches_given_validation_and_test_rows(tmp_path):
    """Only other rows are drawn, so test set and corpus stay as large as they were."""
    source = write_pairs(tmp_path / "a.jsonl", plain_pairs(50))
    given = {
        "validation": str(write_pairs(tmp_path / "v.jsonl", plain_pairs(12, "v"))),
        "test": str(write_pairs(tmp_path / "t.jsonl", plain_pairs(14, "t"))),
    }
    dataset = load(source, limit=5, **given)
    assert dataset.facts["splits"] == {"train": 5, "validation": 12, "test": 14}
    assert pairs_of(dataset.test_pairs.to_pylist()) == plain_pairs(14, "t")
    qrels = {"train": QRELS[:20], "test": QRELS[20:]}
    folder = write_beir(tmp_path / "beir", DOCUMENTS, QUERIES, qrels)
    dataset = load(folder, limit=10, validation_fraction=0.2)
    assert dataset.facts["splits"] == {"train": 8, "validation": 2, "test": 10}
    assert documents_of(dataset) == DOCUMENTS


@pytest.mark.parametrize("field", ["anchor", "positive"])
def test_near_duplicates_stay_in_one_split(tmp_path, field):
    """Each question or context is in the same split as its copy with one more word."""
    texts = [" ".join(f"w{n}x{k}" for k in range(100)) for n in range(40)]
    texts += [f"{text} more" for text in texts]
    pairs = [(text, f"other{n} text{n}") for n, text in enumerate(texts)]
    pairs = pairs if field == "anchor" else [(other, text) for text, other in pairs]
    source = write_pairs(tmp_path / "a.jsonl", pairs)
    for seed in range(5):
        dataset = load(source, seed=seed, test_fraction=0.2)
        for rows in tables(dataset).values():
            cores = collections.Counter(row[field].removesuffix(" more") for row in rows)
            assert set(cores.values()) == {2}
        assert list(dataset.facts["duplicates"].values()) == [0, 40, 40, 2, 0]


def test_oversized_groups_are_reported(tmp_path):
    """If a template connects all rows, they are regrouped by equal texts and counted."""
    template = " ".join(f"word{n}" for n in range(40))
    pairs = [(f"asks{n} who{n}", f"{template} {n}") for n in range(40)]
    facts = load(write_pairs(tmp_path / "a.jsonl", pairs)).facts
    assert facts["duplicates"]["oversized_groups"] == 1
    assert facts["duplicates"]["groups"] == 40
    assert facts["splits"] == {"train": 32, "validation": 4, "test": 4}


# --- the corpus -------------------------------------------------------------------------------


def test_documents_of_a_given_corpus_keep_their_ids(tmp_path):
    """A document that is also a row's context is there once, with the given id."""
    pairs = plain_pairs(20)
    rows = [{"_id": "z", "title": "T", "text": "t"}, {"_id": "y", "text": pairs[3][1].upper()}]
    rows += [{"_id": "d00000000", "text": "another"}, *({"id": "x", "text": f"{n}"} for n in "ab")]
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)
    source = write_pairs(tmp_path / "a.jsonl", pairs)
    expected = {f"d{n:08d}": context for n, (_, context) in enumerate(pairs) if n not in (0, 3)}
    assert documents_of(load(source, corpus=str(corpus))) == expected | {
        "y": pairs[3][1].upper(),
        "z": "T t",
        "x": "a",
        "x~2": "b",
        "d00000000": "another",
        "d00000000~2": pairs[0][1],
    }


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "a~2", "a~2~2", "b~2", "c", "d"]), max_size=12))
def test_given_ids_are_made_unique_in_their_order(ids):
    """The ids equal those of a simple loop, which renames only the second of two equal ids."""
    used, copies = [], collections.Counter()
    for given_id in ids:
        name = given_id
        while name in used:
            copies[given_id] += 1
            name = f"{given_id}~{copies[given_id] + 1}"
        used.append(name)
    column = JoinedColumn([pa.array(ids, pa.large_string())])
    assert unique_ids(column, np.arange(len(ids))).to_pylist() == used


@pytest.mark.parametrize("number", [0, 7, 10**7, 10**8 - 1, 10**8, 12 * 10**8])
def test_numbered_ids_have_eight_digits_or_more(number):
    """The format equals that of Python's `08d`."""
    ids = numbered_ids("d", np.array([number]))
    assert (ids.type, ids.to_pylist()) == (pa.large_string(), [f"d{number:08d}"])


def test_an_answer_in_another_row_is_removed_from_the_negatives(tmp_path):
    """As a negative, training would push a correct answer away from its question."""
    rows = [
        {"question": "Which one?", "context": "This one.", "negative": "THAT one."},
        {"question": "Which one?", "context": "That one.", "negative": "Neither."},
        *distinct_rows(20),
    ]
    parts = tables(load(write_jsonl(tmp_path / "a.jsonl", rows)))
    negatives = {row["id"]: row["negatives"] for part in parts.values() for row in part}
    assert (negatives["q00000000"], negatives["q00000001"]) == ([], ["Neither."])


# --- too little -------------------------------------------------------------------------------


def test_data_without_usable_rows_is_an_error(tmp_path):
    """The reasons are counted, the most frequent first; a channel is named without a path."""
    rows = [("", "c c c"), ("What?", None), ("", "d d d"), ("a", "e e e")]
    source = write_pairs(tmp_path / "in" / "a.jsonl", rows)
    reasons = "empty question: 2; empty context: 1; question is too short: 1"
    refusal(f"`{source}` has 4 rows", reasons, source=source)
    refusal("`channel data` has 4 rows", reasons, channels={"data": source.parent})


def test_too_few_test_queries_are_an_error(tmp_path):
    """Queries count, not rows; the default is 30; the message names the fields to change."""
    source = write_pairs(tmp_path / "a.jsonl", [*plain_pairs(50), ("?", "no question")])
    parts = [f"`{source}` has 5 test queries from 50 usable rows (51 read)", "at least 6"]
    refusal(*parts, "`data.min_test_queries`", source=source, min_test_queries=6)
    assert len(load(source, min_test_queries=5).test) == 5
    assert DataSpec().min_test_queries == 30


@pytest.mark.parametrize(
    ("fractions", "split", "size"),
    [
        ({"validation_fraction": 0.0}, "validation", 0),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "train", 0),
        ({"validation_fraction": 0.5, "test_fraction": 0.45}, "train", 1),
    ],
)
def test_a_split_of_too_few_rows_is_an_error(tmp_path, fractions, split, size):
    """Training needs two rows, validation one; `inspect_dataset` shows what is there."""
    source = write_pairs(tmp_path / "a.jsonl", plain_pairs(20))
    part = f"`{source}` has {counted(size, 'row')} in the split `{split}` from 20 usable rows"
    refusal(part, source=source, **fractions)
    assert inspect_dataset(make_spec(source, **fractions), {}).facts["splits"][split] == size


# --- BEIR -------------------------------------------------------------------------------------

DOCUMENTS = {f"doc{n}": f"text{n} body{n} here{n}" for n in range(40)}
QUERIES = {f"query{n}": f"what{n} is{n} it{n}" for n in range(30)}
QRELS = [(f"query{n}", f"doc{n}") for n in range(30)]


def relevant_ids(dataset, queries):
    return {
        query: dataset.corpus.ids.take(queries.relevant(number)).to_pylist()
        for number, query in enumerate(queries.ids.to_pylist())
    }


def test_a_beir_folder_keeps_its_ids_and_all_its_documents(tmp_path):
    """We split a single qrels file; documents that are not relevant to a query are kept, too."""
    extra = [("query0", "doc35"), ("query0", "doc1")]
    folder = write_beir(tmp_path, DOCUMENTS, QUERIES, {"test": [*QRELS, *extra]})
    dataset = load(None, {"data": folder}, validation_fraction=0.2, test_fraction=0.2)
    assert documents_of(dataset) == DOCUMENTS
    assert sum(dataset.facts["splits"].values()) == 32
    relevant = relevant_ids(dataset, dataset.validation) | relevant_ids(dataset, dataset.test)
    # Queries 0 and 1 share a document, so they are in the same split.
    answers = {query: [document] for query, document in QRELS}
    answers["query0"] = ["doc0", "doc1", "doc35"]
    assert relevant == {query: answers[query] for query in relevant}
    assert ("query0" in relevant) == ("query1" in relevant)


def test_several_qrels_files_of_a_beir_folder_are_its_splits(tmp_path):
    """Training rows with a question of test are removed; a query may have several documents."""
    qrels = {
        "train": [*QRELS[:20], ("query29", "doc39")],
        "dev": QRELS[20:25],
        "test": [*QRELS[25:], ("query25", "doc35"), ("query25", "doc0")],
    }
    dataset = load(write_beir(tmp_path, DOCUMENTS, QUERIES, qrels))
    parts = {name: [row["id"] for row in rows] for name, rows in tables(dataset).items()}
    assert parts == {
        "train": [f"query{n}" for n in range(20)],
        "validation": [f"query{n}" for n in range(20, 25)],
        "test": [*(f"query{n}" for n in range(25, 30)), "query25", "query25"],
    }
    assert dataset.facts["leakage"]["removed_rows"] == 1
    expected = {query: [document] for query, document in QRELS[25:]}
    assert relevant_ids(dataset, dataset.test) == expected | {"query25": ["doc0", "doc25", "doc35"]}


def test_a_beir_folder_can_be_the_given_test_set(tmp_path):
    """Only its test queries are used, with their ids; the corpus has all its documents."""
    source = write_pairs(tmp_path / "a.jsonl", plain_pairs(20, "other"))
    for tested in (0, 20):
        qrels = {"train": QRELS[:tested]} if tested else {}
        folder = tmp_path / f"beir{tested}"
        write_beir(folder, DOCUMENTS, QUERIES, qrels | {"test": QRELS[tested:]})
        dataset = load(source, test=str(folder))
        assert dataset.test.ids.to_pylist() == [f"query{n}" for n in range(tested, 30)]
        assert set(DOCUMENTS.values()) <= set(dataset.corpus.texts.to_pylist())


def test_queries_of_two_beir_folders_have_different_ids(tmp_path):
    """BEIR folders often number their queries from 1, but qrels need unique ids."""
    queries = {query: f"another {text}" for query, text in QUERIES.items()}
    first = write_beir(tmp_path / "a", DOCUMENTS, QUERIES, {"test": QRELS})
    second = write_beir(tmp_path / "b", DOCUMENTS, queries, {"test": QRELS})
    dataset = load(first, test=str(second), validation_fraction=0.2)
    assert not set(dataset.validation.ids.to_pylist()) & set(dataset.test.ids.to_pylist())


# --- the article's protocol -------------------------------------------------------------------


def test_the_article_protocol_treats_every_row_separately(tmp_path):
    """Equal contexts and questions remain separate documents and queries; the split is random."""
    pairs = [(f"what{n} is{n} it{n}", f"shared{n // 2} text{n // 2}") for n in range(60)]
    pairs += [("what0 is0 it0", "another answer")]
    dataset = load(write_pairs(tmp_path / "a.jsonl", pairs), protocol="article")
    assert documents_of(dataset) == {f"d{n:08d}": context for n, (_, context) in enumerate(pairs)}
    assert dataset.facts["splits"] == {"train": 49, "validation": 6, "test": 6}
    assert dataset.facts["queries"] == {"validation": 6, "test": 6}
    for queries in (dataset.validation, dataset.test):
        documents = [dataset.corpus.ids.take(queries.relevant(n)).to_pylist() for n in range(6)]
        assert documents == [[f"d{query[1:]}"] for query in queries.ids.to_pylist()]
    assert dataset.train.documents.tolist() == [
        int(row["id"][1:]) for row in dataset.train.table.to_pylist()
    ]
    assert dataset.train.questions.tolist() == list(range(49))


def test_the_article_protocol_reports_its_leakage(tmp_path):
    """The share of test rows whose context is in train equals that of the splits."""
    pairs = [(f"what{n} is{n} it{n}", f"shared{n // 2} text{n // 2}") for n in range(200)]
    source = write_pairs(tmp_path / "a.jsonl", pairs)
    article, grouped = load(source, protocol="article"), load(source)
    parts = tables(article)
    trained = {row["positive"] for row in parts["train"]}
    share = float(np.mean([row["positive"] in trained for row in parts["test"]]))
    assert share > 0.5
    leakage = article.facts["leakage"]
    assert leakage["test_contexts_in_train"] == pytest.approx(share)
    assert leakage["removed_rows"] == 0
    assert list(article.facts["duplicates"].values()) == [200, 0, 200, 1, 0]
    leakage = grouped.facts["leakage"]
    assert leakage["test_contexts_in_train"] == 0.0
    assert leakage["under_a_random_split"] > 0.5
    assert grouped.facts["duplicates"]["groups"] == 100


def test_the_article_protocol_makes_each_qrels_line_of_a_beir_folder_a_query(tmp_path):
    """Query ids are new; no relevant document is in the corpus again as an irrelevant one."""
    qrels = [(f"query{n // 2}", f"doc{n}") for n in range(40)]
    folder = write_beir(tmp_path, DOCUMENTS, QUERIES, {"test": qrels})
    dataset = load(folder, protocol="article", test_fraction=0.5)
    assert len(set(dataset.test.ids.to_pylist())) == len(dataset.test) == 20
    assert sorted(dataset.corpus.texts.to_pylist()) == sorted(DOCUMENTS.values())


# --- segments ---------------------------------------------------------------------------------


def grouped_rows(count, word="word"):
    return [row | {"kind": n % 3 or None} for n, row in enumerate(distinct_rows(count, word))]


def segments_by_text(queries):
    return dict(zip(queries.texts.to_pylist(), queries.segments.to_pylist(), strict=True))


def test_queries_have_the_segment_of_their_row(tmp_path):
    """The value becomes text; it is null if the row has none."""
    rows = grouped_rows(60)
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    expected = {row["question"]: row["kind"] and str(row["kind"]) for row in rows}
    for protocol in ("grouped", "article"):
        dataset = load(source, protocol=protocol, columns={"group": "kind"}, test_fraction=0.3)
        found = segments_by_text(dataset.test) | segments_by_text(dataset.validation)
        assert found == {text: expected[text] for text in found}
        assert len(dataset.test) == 18
        assert dataset.facts["columns"]["group"] == "kind"


@pytest.mark.parametrize(
    ("tested", "expected"),
    [
        ([{"question": "Asked twice?", "context": f"{k} one", "kind": k} for k in "ab"], ["a"]),
        ([{"question": "Of none?", "context": "no column"}], [None]),
    ],
    ids=["several rows", "without the column"],
)
def test_a_query_of_a_given_test_set_has_the_segment_of_its_first_row(tmp_path, tested, expected):
    """Without the column, segments are null."""
    test = write_jsonl(tmp_path / "test.jsonl", tested)
    source = write_jsonl(tmp_path / "a.jsonl", grouped_rows(9))
    dataset = load(source, test=str(test), columns={"group": "kind"}, validation_fraction=0.3)
    assert dataset.test.segments.to_pylist() == expected


def test_a_group_column_changes_nothing_but_segments(tmp_path):
    """Splits, ids and written files are the same; segments only divide the report's numbers."""
    source = write_jsonl(tmp_path / "a.jsonl", grouped_rows(60))
    plain, grouped = (comparable(load(source, columns=c)) for c in ({}, {"group": "kind"}))
    assert grouped[-1]["columns"].pop("group") == "kind"
    assert plain[-1]["columns"].pop("group") is None
    assert (grouped[-1].pop("notes"), plain[-1].pop("notes")) == ([], ["not read: `kind`"])
    assert grouped == plain
    assert set(load(source).test.segments.to_pylist()) == {None}
