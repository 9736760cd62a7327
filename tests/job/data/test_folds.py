"""Folds: every row is a test row once, and groups never cross."""

import json

import numpy as np
import pytest
from conftest import distinct_rows, read_jsonl, write_jsonl

from job.core.errors import DataError
from job.data.dataset import inspect_dataset, load_dataset, write_splits
from job.data.splits import number_folds
from job.spec.schema import DataSpec


@pytest.fixture
def spec(tmp_path):
    """Of 60 rows, each four share a context; one question has two answers."""
    rows = distinct_rows(60)
    for number, row in enumerate(rows):
        row["context"] = rows[number - number % 4]["context"]
    rows[4] |= {"question": rows[0]["question"]}
    source = write_jsonl(tmp_path / "pairs.jsonl", rows)
    return DataSpec(source=str(source), min_test_queries=5)


@pytest.mark.parametrize("folds", [3, 5])
def test_every_row_is_a_test_row_once_and_no_group_crosses(spec, folds):
    whole = load_dataset(spec, {}, folds=folds)
    assert len(whole.folds) == folds
    ids = [row for fold in whole.folds for row in fold.test_pairs["id"].to_pylist()]
    assert whole.test_pairs["id"].to_pylist() == ids
    assert len(ids) == len({*ids}) == 60
    for fold in whole.folds:
        parts = [set(table["id"].to_pylist()) for table in fold.tables]
        assert sum(map(len, parts)) == 60
        assert not parts[0] & parts[1]
        assert not parts[1] & parts[2]
        assert not parts[0] & parts[2]
        texts = [{*table["positive"].to_pylist()} for table in fold.tables]
        assert not texts[2] & (texts[0] | texts[1])
        assert not set(fold.train.groups) & set(fold.test.groups)
        assert len(parts[1]) == pytest.approx(6, abs=4)
    assert max(whole.facts["folds"]) - min(whole.facts["folds"]) <= 8


def test_the_pooled_queries_are_those_of_the_folds(spec, tmp_path):
    """With their answers, and in the files: `verify` and `export` read them."""
    whole = load_dataset(spec, {}, folds=3)
    texts = [text for fold in whole.folds for text in fold.test.texts.to_pylist()]
    assert whole.test.texts.to_pylist() == texts
    first = 0
    for fold in whole.folds:
        for number in range(len(fold.test)):
            found = whole.test.relevant(first + number)
            assert np.array_equal(found, fold.test.relevant(number))
        first += len(fold.test)
    assert len(whole.test) == len(texts) == 59
    assert whole.facts["queries"]["test"] == 59
    assert whole.facts["splits"]["test"] == sum(whole.facts["folds"]) == 60
    assert whole.facts["test_groups"]["groups"] == 14
    assert whole.facts["overlap"]["queries"] == 59
    assert whole.facts["overlap"]["seen"] == 0
    write_splits(whole, tmp_path / "data")
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        *("test.jsonl", "corpus.jsonl", "rejected.jsonl", "qrels.tsv"),
    }
    rows = read_jsonl(tmp_path / "data" / "test.jsonl")
    assert [row["fold"] for row in rows] == sorted(row["fold"] for row in rows)
    assert {row["fold"] for row in rows} == {1, 2, 3}
    judged = (tmp_path / "data" / "qrels.tsv").read_text("utf-8").splitlines()
    assert len(judged) == 1 + 60


def test_the_texts_of_each_row_are_shown_once(spec):
    """`check` counts the words of all rows."""
    whole = inspect_dataset(spec, {}, folds=3)
    assert [len(table) for table in whole.tables] == [0, 0, 60]


def test_a_test_set_of_its_own_excludes_folds(tmp_path):
    """Otherwise rows that were meant for testing would be trained on."""
    for name in ("train", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", distinct_rows(20, name))
    spec = DataSpec(source=str(tmp_path), min_test_queries=5)
    with pytest.raises(DataError, match=r"20 rows are a test set of their own\. Set `evaluation"):
        load_dataset(spec, {}, folds=3)


def test_rows_of_a_given_validation_set_stay_in_it(tmp_path):
    for name in ("train", "validation"):
        write_jsonl(tmp_path / f"{name}.jsonl", distinct_rows(30, name))
    whole = load_dataset(DataSpec(source=str(tmp_path), min_test_queries=5), {}, folds=3)
    assert whole.facts["folds"] == [10, 10, 10]
    for fold in whole.folds:
        assert {row["anchor"][:10] for row in fold.validation_pairs.to_pylist()} == {"validation"}
        assert len(fold.validation) == 30


def test_folds_are_of_equal_size_whatever_the_groups():
    """The same for the same seed."""
    groups = np.repeat(np.arange(30), np.resize([1, 2, 9], 30))
    numbers = number_folds(groups, 5, 1)
    sizes = np.bincount(numbers)
    assert sizes.max() - sizes.min() <= 1
    assert all(len(set(numbers[groups == group])) == 1 for group in range(30))
    assert np.array_equal(numbers, number_folds(groups, 5, 1))
    assert not np.array_equal(numbers, number_folds(groups, 5, 2))


def test_too_few_rows_for_the_folds_are_an_error(tmp_path):
    source = write_jsonl(tmp_path / "few.jsonl", distinct_rows(3))
    with pytest.raises(DataError, match=json.dumps("validation").strip('"')):
        load_dataset(DataSpec(source=str(source), min_test_queries=1), {}, folds=3)


def test_a_fold_without_test_rows_is_refused(tmp_path):
    """Two groups cannot fill three folds; a given test set is no way out."""
    rows = distinct_rows(40)
    for number, row in enumerate(rows):
        row["context"] = rows[number % 2]["context"]
    source = write_jsonl(tmp_path / "chained.jsonl", rows)
    spec = DataSpec(source=str(source), min_test_queries=5)
    with pytest.raises(DataError) as error:
        load_dataset(spec, {}, folds=3)
    assert "0 rows in the split `" in str(error.value)
    assert "of a fold" in str(error.value)
    assert "(`data.test`), without `evaluation.folds`" in str(error.value)


def test_advice_for_more_test_rows_names_only_fields_that_matter(spec):
    with pytest.raises(DataError) as error:
        load_dataset(spec.model_copy(update={"min_test_queries": 500}), {}, folds=3)
    assert str(error.value).endswith("Add rows, or change `data.min_test_queries`.")
