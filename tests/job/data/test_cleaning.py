"""Cleaning rows: kept pairs are clean; rejected rows have a reason and a location."""

import dataclasses
import datetime
import math

import pytest

from job.data.cleaning import (
    GROUP_CHARACTERS,
    clean_documents,
    clean_rows,
    count_reasons,
)
from job.data.formats.layout import Document, RawRow
from job.data.schemas import PAIR_SCHEMA
from job.data.text_keys import text_key

GOOD = RawRow("a.jsonl", 1, "What is it?", ["It is a thing."])


def row(number=1, anchor="What is it?", positive="It is a thing.", **more):
    return RawRow("a.jsonl", number, anchor, [positive], **more)


def clean(*rows, min_characters=3, split=None):
    return clean_rows(rows, min_characters, split)


def dropped(cleaned):
    return count_reasons(cleaned.rejected)


def reasons(cleaned):
    return cleaned.rejected["reason"].to_pylist()


def test_a_good_row_is_kept_with_all_its_fields():
    """Texts only lose outer white space; the keys are hashes of the texts."""
    cleaned = clean(
        RawRow(
            "qrels.tsv",
            7,
            "  Größe des\tHauses?\n",
            [" 12 m "],
            [" wrong "],
            group=" Öl\n& Gas ",
            query_id="q7",
            document_ids=["d1"],
            grades=[2.0],
            split="train",
        )
    )
    assert cleaned.rows == 1
    assert cleaned.rejected.to_pylist() == []
    assert cleaned.kept.to_pylist() == [
        {
            "file": "qrels.tsv",
            "row": 7,
            "anchor": "Größe des\tHauses?",
            "positive": "12 m",
            "negatives": ["wrong"],
            "query_id": "q7",
            "document_id": "d1",
            "grade": 2.0,
            "split": "train",
            "group": "Öl & Gas",
            "anchor_key": text_key("größe des hauses?"),
            "positive_key": text_key("12 m"),
            "parent_key": None,
        }
    ]


def test_each_positive_of_a_row_is_a_pair():
    """A row with several answers gives several pairs; only a bad answer is dropped."""
    cleaned = clean(RawRow("a.jsonl", 4, "What is it?", ["a thing", "", "an object"], group="g"))
    assert cleaned.rows == 1
    assert cleaned.kept.select(["row", "positive", "group"]).to_pylist() == [
        {"row": 4, "positive": "a thing", "group": "g"},
        {"row": 4, "positive": "an object", "group": "g"},
    ]
    assert dropped(cleaned) == {"empty context": {"rows": 1, "first": ["a.jsonl:4"]}}


BAD_TEXTS = [
    (None, "empty {}"),
    ("", "empty {}"),
    (" \t\n\u3000", "empty {}"),
    (5, "{} is not text"),
    (float("nan"), "{} is not text"),
    (True, "{} is not text"),
    (["nested"], "{} is not text"),
    ({"text": "t"}, "{} is not text"),
    (b"bytes", "{} is not text"),
    ("half a \ud83d pair", "{} is not text"),
    ("ab", "{} is too short"),
    ("  ab  ", "{} is too short"),
]


@pytest.mark.parametrize(("value", "reason"), BAD_TEXTS, ids=repr)
@pytest.mark.parametrize(("field", "name"), [("anchor", "question"), ("positive", "context")])
def test_a_text_that_cannot_be_used_is_dropped_with_its_reason(field, name, value, reason):
    """Every type of value that a file can contain is handled, as a question and as a context."""
    cleaned = clean(row(9, **{field: value}))
    assert len(cleaned.kept) == 0
    assert dropped(cleaned) == {reason.format(name): {"rows": 1, "first": ["a.jsonl:9"]}}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (row(anchor=None, positive=None), "empty question"),
        # A row with an empty list of positives is reported, too.
        (RawRow("a.jsonl", 1, "What is it?", []), "empty context"),
        # The texts of such a row may be in wrong columns.
        (row(surplus=True), "more fields than the header names"),
        # Such a row teaches nothing, and every model would find its context.
        (row(positive="What is it?"), "question equals context"),
        (row(positive="  WHAT is\nit? "), "question equals context"),
    ],
)
def test_an_unusable_row_is_dropped_with_one_reason(raw, reason):
    """If both texts are bad, the reason is that of the question."""
    assert reasons(clean(raw)) == [reason]


@pytest.mark.parametrize(("characters", "kept"), [(4, 2), (5, 1), (6, 0)])
def test_texts_shorter_than_min_characters_are_dropped(characters, kept):
    """A text with exactly `min_characters` is kept."""
    rows = [row(1, "12345", "1234567"), row(2, "1234", "123456")]
    assert len(clean(*rows, min_characters=characters).kept) == kept


SAME = [
    ("What is the FILE?", "what is the file?"),
    ("What is the file?", "  What\t is\n\nthe  file?  "),
    ("What is the file?", "What\u00a0is\u3000the\u2003file?"),
    ("What is the file?", "What is the \ufb01le?"),
    ("What is the file?", "Ｗｈａｔ is the file？"),
    ("Größe in cm", "GRÖSSE in ㎝"),
    ("caf\u00e9 au lait", "cafe\u0301 au lait"),
]


@pytest.mark.parametrize(("text", "other"), SAME)
def test_texts_that_differ_in_case_width_or_spaces_are_the_same(text, other):
    """A row with the same texts as an earlier row is dropped, so it is not trained on twice."""
    assert text_key(text) == text_key(other)
    cleaned = clean(row(1, text, "An answer."), row(2, other, "an ANSWER."), row(3, "Z.Z", text))
    assert cleaned.kept["row"].to_pylist() == [1, 3]
    assert dropped(cleaned) == {"exact duplicate": {"rows": 1, "first": ["a.jsonl:2"]}}


@pytest.mark.parametrize(
    ("text", "other"), [("a b", "ab"), ("a.", "a"), ("resume", "résumé"), ("1 m", "1 km")]
)
def test_texts_that_differ_otherwise_are_different(text, other):
    """Punctuation, accents and word boundaries carry meaning."""
    assert text_key(text) != text_key(other)


def test_the_same_pair_in_two_splits_is_no_duplicate():
    """A given split keeps its rows; shared rows are removed from train later."""
    rows = [dataclasses.replace(GOOD, split=split) for split in ("train", "test", None, "test")]
    assert clean(*rows).kept["split"].to_pylist() == ["train", "test", None]


def test_a_given_split_overrides_that_of_the_rows():
    """Rows of `data.test` are test rows, whatever split their BEIR folder assigns."""
    rows = [dataclasses.replace(GOOD, split=split) for split in ("train", "test", None)]
    cleaned = clean(*rows, split="test")
    assert cleaned.kept["split"].to_pylist() == ["test"]
    assert reasons(cleaned) == ["exact duplicate", "exact duplicate"]


def test_dropped_rows_are_counted_by_reason_with_the_first_three_locations():
    """The most frequent reason comes first."""
    empty = [row(n, positive="") for n in range(2, 7)]
    again = [dataclasses.replace(GOOD, file="b.csv", row=n) for n in (11, 12)]
    cleaned = clean(GOOD, row(8, anchor="?"), *again, *empty)
    assert cleaned.rows == 9
    assert list(dropped(cleaned).items()) == [
        ("empty context", {"rows": 5, "first": ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4"]}),
        ("exact duplicate", {"rows": 2, "first": ["b.csv:11", "b.csv:12"]}),
        ("question is too short", {"rows": 1, "first": ["a.jsonl:8"]}),
    ]


def test_the_rejected_table_shows_the_location_and_the_raw_texts_of_each_row():
    """Texts are cut to 200 characters, but not cleaned."""
    cleaned = clean(
        row(1, 5, "x" * 300),
        row(2, "Why?", None),
        row(3, "a \ud83d b", "text"),
        row(4, " padded ", ["list"]),
    )
    names = ["file", "row", "reason", "anchor", "positive"]
    assert cleaned.rejected.to_pylist() == [
        dict(zip(names, values, strict=True))
        for values in [
            ("a.jsonl", 1, "question is not text", "5", "x" * 200),
            ("a.jsonl", 2, "empty context", "Why?", None),
            ("a.jsonl", 3, "question is not text", "a ? b", "text"),
            ("a.jsonl", 4, "context is not text", " padded ", "['list']"),
        ]
    ]


def test_unusable_negatives_are_removed():
    """Values that are not text, the question, and the row's answers are not negatives."""
    negatives = [None, "", "  ", 3, "bad \udc00", "THE ANSWER", "another answer", "what?", " no "]
    raw = RawRow("a.jsonl", 1, "What?", ["The answer", "Another  answer"], [*negatives, "nor"])
    assert clean(raw).kept["negatives"].to_pylist() == [["no", "nor"], ["no", "nor"]]


@pytest.mark.parametrize("count", [0, 10_000, 20_001])
def test_rows_keep_their_order_across_batches(count):
    """No row is lost or moved at the end of a batch."""
    cleaned = clean_rows((row(n, f"question {n}", f"answer {n}") for n in range(count)), 3)
    assert (cleaned.rows, len(cleaned.rejected), dropped(cleaned)) == (count, 0, {})
    assert cleaned.kept["row"].to_pylist() == list(range(count))
    assert cleaned.kept["anchor"].to_pylist() == [f"question {n}" for n in range(count)]
    assert cleaned.kept.schema == PAIR_SCHEMA


def test_documents_without_text_are_rejected_and_counted():
    """Their locations are reported like those of rows."""
    values = ["text ", None, "", " \n", 7, ["a"], "a \ud83d b"]
    documents = [Document(str(n), None, value, "c.jsonl", n) for n, value in enumerate(values)]
    cleaned = clean_documents([*documents, Document("\ud83d", None, "text", "c.jsonl", 7)])
    assert cleaned.kept.to_pylist() == [
        {"id": "0", "text": "text", "key": text_key("TEXT"), "text_key": 0}
    ]
    rejected = cleaned.rejected.select(["file", "row", "reason", "anchor", "positive"]).to_pylist()
    assert [tuple(row.values()) for row in rejected] == [
        ("c.jsonl", 1, "empty document", None, None),
        ("c.jsonl", 2, "empty document", None, ""),
        ("c.jsonl", 3, "empty document", None, " \n"),
        ("c.jsonl", 4, "document is not text", None, "7"),
        ("c.jsonl", 5, "document is not text", None, "['a']"),
        ("c.jsonl", 6, "document is not text", None, "a ? b"),
        ("c.jsonl", 7, "id is not text", None, "text"),
    ]
    assert dropped(cleaned) == {
        "empty document": {"rows": 3, "first": ["c.jsonl:1", "c.jsonl:2", "c.jsonl:3"]},
        "document is not text": {"rows": 3, "first": ["c.jsonl:4", "c.jsonl:5", "c.jsonl:6"]},
        "id is not text": {"rows": 1, "first": ["c.jsonl:7"]},
    }


LONG = "a product " * 20


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, None),
        ("", None),
        (" \t", None),
        (math.nan, None),
        (7, "7"),
        (7.0, "7"),
        (1234567.5, "1234567.5"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        ("<b>a | b</b>", "<b>a | b</b>"),
        ("half \ud83d", "half ?"),
        (["a", 1], "['a', 1]"),
        (datetime.date(2026, 11, 23), "2026-11-23"),
        ("x" * GROUP_CHARACTERS, "x" * GROUP_CHARACTERS),
        (LONG, LONG[: GROUP_CHARACTERS - 1].rstrip() + "…"),
    ],
)
def test_a_group_value_of_any_type_becomes_a_label(value, name):
    """Null and blank become null; long values are cut."""
    cleaned = clean(row(group=value))
    assert cleaned.kept["group"].to_pylist() == [name]
    assert len(name or "") <= GROUP_CHARACTERS


@pytest.mark.exhaustive
def test_normalizing_a_long_run_of_combining_marks_is_fast():
    """Sorting the marks takes quadratic time: hours for a line of ten megabytes."""
    assert text_key("a" + "\u0301\u0327" * 200_000) == text_key("A" + "\u0301\u0327" * 200_000)
