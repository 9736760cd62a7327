"""Documents stay in one split; what a given test set shares with training is counted or removed."""

import numpy as np
import pytest
from conftest import distinct_rows, write_jsonl

from job.core.errors import DataError
from job.data.dataset import inspect_dataset
from job.data.query_groups import count_groups, warnings_about_groups
from job.data.splits import TEST, UNDECIDED, split_rows
from job.spec.schema import DataSpec

WORDS = [f"like{n}" for n in range(40)]


def load(tmp_path, rows, test=None, protocol="grouped", **settings):
    given = {"source": str(write_jsonl(tmp_path / "pairs.jsonl", rows)), "seed": 1}
    if test is not None:
        given["test"] = str(write_jsonl(tmp_path / "test.jsonl", test))
    return inspect_dataset(DataSpec(**given | settings), {}, protocol)


def chunked_rows(documents, chunks):
    """Make a row for each chunk of each document; chunks have no words in common."""
    rows = distinct_rows(documents * chunks)
    return [row | {"url": f"page{n // chunks}"} for n, row in enumerate(rows)]


def documents_by_split(dataset, rows):
    url = {row["question"]: row["url"] for row in rows}
    return [{url[text] for text in table["anchor"].to_pylist()} for table in dataset.tables]


def straddling(dataset, rows):
    train, validation, test = documents_by_split(dataset, rows)
    return (train & validation) | (train & test) | (validation & test)


def test_rows_of_one_document_stay_in_one_split(tmp_path):
    """Without the column, chunks of one document come into several splits."""
    rows = chunked_rows(20, 3)
    apart = load(tmp_path, rows, columns={"document": "url"})
    assert straddling(apart, rows) == set()
    assert apart.facts["duplicates"]["groups"] == 20
    assert len(np.unique(apart.test.groups)) == 2
    assert apart.facts["columns"]["document"] == "url"
    assert [note for note in apart.facts["notes"] if "url" in note] == []
    assert straddling(load(tmp_path, rows), rows)


def test_rows_without_a_document_are_groups_of_their_own(tmp_path):
    """A blank name connects nothing, and no name is the text of another row."""
    rows = distinct_rows(12)
    names = ["one", "ONE ", "", None, "2", 2, 2.0, "word7 asks7 this7?"]
    rows = [row | {"url": names[n] if n < len(names) else None} for n, row in enumerate(rows)]
    found = load(tmp_path, rows, columns={"document": "url"}).facts
    assert found["duplicates"]["groups"] == 12 - 1 - 2


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (distinct_rows(12), ("has no column `url`", "data.columns.document")),
        (
            [row | {"url": ""} for row in distinct_rows(12)],
            ("has no value of `url`", "data.columns.document"),
        ),
    ],
)
def test_a_column_without_documents_is_refused(tmp_path, rows, parts):
    with pytest.raises(DataError) as caught:
        load(tmp_path, rows, columns={"document": "url"})
    assert [part for part in parts if part not in str(caught.value)] == []


def overlapping(tmp_path, **settings):
    """Load training rows and a test set with an equal context, two near-duplicates, a document."""
    rows = [row | {"url": f"page{n}"} for n, row in enumerate(distinct_rows(20))]
    rows[1]["context"] = " ".join([*WORDS, "end"])
    rows[2]["question"] = " ".join([*WORDS[::-1], "end"])
    test = [row | {"url": f"other{n}"} for n, row in enumerate(distinct_rows(10, "test"))]
    test[0]["context"] = rows[0]["context"].upper()
    test[1]["context"] = " ".join([*WORDS, "finish"])
    test[2]["question"] = " ".join([*WORDS[::-1], "finish"])
    test[3]["url"] = "page3"
    return load(tmp_path, rows, test, validation_fraction=0.0, **settings)


def test_what_a_given_test_set_shares_with_training_is_counted(tmp_path):
    dataset = overlapping(tmp_path, columns={"document": "url"})
    assert dataset.facts["overlap"] == {
        "queries": 10,
        "context": 1,
        "near_context": 1,
        "near_question": 1,
        "document": 1,
        "seen": 3,
        "given": True,
        "estimand": "The scores are of new questions about sources partly trained on (30% of the "
        "test queries).",
        "sentence": "Of 10 test queries: 1 with a context that is also in training, 1 with a "
        "near-duplicate of a context in training, 1 with a document that is trained on, 1 whose "
        "question has a near-duplicate in training.",
    }
    assert dataset.test.seen.tolist() == [True, True, False, True] + [False] * 6
    assert (len(dataset.train), dataset.facts["leakage"]["removed_rows"]) == (20, 0)


def test_shared_rows_are_removed_from_training_by_an_option(tmp_path):
    """The rows leave training, not the test; without a search, near-duplicates stay unknown."""
    dataset = overlapping(tmp_path, columns={"document": "url"}, overlap="remove")
    assert (len(dataset.train), len(dataset.test)) == (16, 10)
    assert dataset.facts["leakage"]["removed_rows"] == 4
    found = dataset.facts["overlap"]
    assert found["seen"] == found["near_question"] == 0
    assert found["estimand"] == (
        "The scores are of new questions about documents that were not trained on "
        "(`data.columns.document` is `url`)."
    )
    assert found["sentence"] == (
        "No test query has a context that is also in training, nor a near-duplicate of one."
    )
    unsearched = overlapping(tmp_path, overlap="remove", near_duplicate_threshold=None)
    assert len(unsearched.train) == 19
    assert unsearched.facts["overlap"]["sentence"] == (
        "No test query has a context that is also in training. Near-duplicates were not searched "
        "for."
    )


def test_the_article_protocol_scores_questions_about_sources_partly_trained_on(tmp_path):
    """Its rows are distinct by number, but their texts are compared."""
    rows = distinct_rows(40)
    for number in range(20):
        rows[number]["context"] = rows[0]["context"]
    found = load(tmp_path, rows, protocol="article", test_fraction=0.5).facts["overlap"]
    assert 0 < found["context"] == found["seen"] < 20
    assert found["estimand"].endswith("of the test queries), drawn as random rows.")


@pytest.mark.parametrize("settings", [{"protocol": "article"}, {"large_groups": "by_question"}])
def test_only_splits_that_keep_contexts_together_share_nothing_by_construction(tmp_path, settings):
    found = load(tmp_path, distinct_rows(40), **settings).facts["overlap"]
    assert found["sentence"].startswith("No test query has a context that is also in training")


def test_splits_of_the_data_are_given(tmp_path):
    """As a test set of its own is; here the rows say their split."""
    folder = tmp_path / "own"
    for name, rows in (("train", distinct_rows(40)), ("test", distinct_rows(9, "else"))):
        write_jsonl(folder / f"{name}.jsonl", rows)
    found = inspect_dataset(DataSpec(source=str(folder)), {}).facts["overlap"]
    assert (found["given"], found["queries"]) == (True, 9)
    assert found["sentence"].startswith("No test query has a context that is also in training, nor")


def test_our_own_splits_share_nothing_and_say_why(tmp_path):
    rows = distinct_rows(40)
    rows[1]["context"] = rows[0]["context"]
    found = load(tmp_path, rows).facts["overlap"]
    assert found["seen"] == 0
    assert found["sentence"].startswith("By construction, no test query has a context that is")
    assert found["estimand"] == (
        "The scores are of new questions about contexts that were not trained on. Other contexts "
        "of the same documents may have been: `data.columns.document` keeps documents in one split."
    )


def test_one_large_group_counts_as_few_groups_and_is_warned_of():
    """88 groups of one query and one of 62: (150² / (88 + 62²)) = 5.7 groups."""
    uneven = count_groups(np.array([*range(88), *[99] * 62]))
    assert uneven == {"groups": 89, "effective": 5.7, "largest": 62}
    (warning,) = warnings_about_groups(uneven, 150)
    assert "holds 62 of the 150 test queries (41%): they count as 5.7 groups" in warning
    even = count_groups(np.arange(150) // 3)
    assert even == {"groups": 50, "effective": 50.0, "largest": 3}
    assert warnings_about_groups(even, 150) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_group_of_over_a_tenth_of_a_split_enters_it_only_if_smaller_ones_do_not_fill_it(seed):
    singles, large = np.arange(400), np.repeat(np.arange(1000, 1010), 20)
    groups = np.concatenate([singles, large])
    undecided = np.full(len(groups), UNDECIDED)
    codes = split_rows(groups, undecided, (0.1, 0.1), seed)
    assert (codes == TEST).sum() == 60
    assert groups[codes == TEST].max() < 1000
    only_large = split_rows(large, np.full(len(large), UNDECIDED), (0.0, 0.2), seed)
    assert (only_large == TEST).sum() == 40
