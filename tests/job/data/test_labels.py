"""Labels: answers, hard negatives, or a refusal with the command that decides."""

import pytest
from conftest import distinct_rows, write_jsonl
from suggested_commands import commands_in, run_command

from job.core.errors import DataError
from job.data.dataset import inspect_dataset
from job.spec.parse import build_spec, parse_assignments
from job.spec.schema import DataSpec


def labelled(labels, column="label", count=12, names=("question", "context")):
    """Make rows of a question and an answer, and of the next row's answer; labels in turn."""
    rows = distinct_rows(count)
    pairs = []
    for number, row in enumerate(rows):
        wrong = rows[(number + 1) % count]["context"]
        for text, label in zip((row["context"], wrong), labels, strict=True):
            pairs.append({names[0]: row["question"], names[1]: text, column: label})
    return pairs


def inspect(path, rows, **spec):
    source = str(write_jsonl(path / "a.jsonl", rows))
    return inspect_dataset(DataSpec(source=source, min_test_queries=1, **spec), {})


def refusal(path, rows, **spec):
    with pytest.raises(DataError) as caught:
        inspect(path, rows, **spec)
    return str(caught.value)


def run_suggested(message):
    """Run the first command that a message suggests; returns its output."""
    return run_command(commands_in(message)[0], "data.min_test_queries=1")


SHARES = {"test_fraction": 0.2, "validation_fraction": 0.2}


@pytest.mark.parametrize(
    "labels",
    [
        (1, 0),
        ("1", "0"),
        (1.0, 0.0),
        ("1.0", "0.0"),
        (True, False),
        ("True", "false"),
        ("yes", "no"),
        ("Relevant", "not_relevant"),
        ("relevant", "irrelevant"),
        (3, 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("column", ["label", "relevance", "is_relevant", "score"])
def test_what_is_not_relevant_becomes_a_hard_negative(tmp_path, labels, column):
    """Each of its own question; both kinds are counted."""
    dataset = inspect(tmp_path, labelled(labels, column), **SHARES)
    facts = dataset.facts
    assert (facts["used"], facts["negatives"]) == (12, 12)
    counted = {key: facts["labels"][key] for key in ("column", "relevant", "not_relevant")}
    assert counted == {"column": column, "relevant": 12, "not_relevant": 12}
    answers = {row["question"]: row["context"] for row in distinct_rows(12)}
    texts = list(answers.values())
    for table in dataset.tables:
        for row in table.to_pylist():
            assert row["positive"] == answers[row["anchor"]]
            wrong = texts[(texts.index(row["positive"]) + 1) % 12]
            assert row["negatives"] == [wrong]


def test_labels_count_though_the_columns_are_named(tmp_path):
    """What a refusal advises to name must not turn a 0 into an answer."""
    rows = labelled((1, 0), names=("q", "a"))
    dataset = inspect(tmp_path, rows, columns={"anchor": "q", "positive": "a"}, **SHARES)
    assert (dataset.facts["used"], dataset.facts["negatives"]) == (12, 12)


def test_a_column_of_another_name_can_be_named(tmp_path):
    """And all labels can be left unread."""
    rows = labelled((1, 0), "gut")
    assert inspect(tmp_path, rows, columns={"label": "gut"}).facts["negatives"] == 12
    rows = labelled((1, 0))
    assert inspect(tmp_path, rows, columns={"label": "none"}).facts["used"] == 24


def test_a_threshold_decides_between_grades_and_similarities(tmp_path):
    """Rows below are hard negatives; whole grades above it are kept as grades."""
    rows = labelled((0.91, 0.2), "similarity")
    facts = inspect(tmp_path, rows, min_label=0.5).facts
    assert (facts["used"], facts["negatives"]) == (12, 12)
    assert facts["labels"]["counts"] == {"at least 0.5": 12, "below 0.5": 12}
    assert inspect(tmp_path, labelled((3, 1)), min_label=2).facts["negatives"] == 12


@pytest.mark.parametrize("nothing", [-1, "-1", None, "", " ", float("nan")])
def test_rows_without_a_label_are_dropped_and_counted(tmp_path, nothing):
    """They say neither that the context answers the question nor that it does not."""
    facts = inspect(tmp_path, labelled((1, nothing))).facts
    assert facts["dropped"]["no label"]["rows"] == 12
    assert facts["labels"]["no_label"] == 12


@pytest.mark.parametrize(
    ("labels", "threshold"), [((0.9, 0.1), 0.5), ((4.8, 1.2), 3), ((87, 12), 50)]
)
def test_a_similarity_is_refused_until_a_threshold_is_given(tmp_path, labels, threshold):
    """The range is reported, and the suggested command works."""
    rows = labelled(labels, "score", 40)
    message = refusal(tmp_path, rows)
    assert f"scores from {labels[1]:g} to {labels[0]:g} in `score`" in message
    assert f"--set data.min_label={threshold}`" in message
    assert "40 hard negatives" in run_suggested(message)


@pytest.mark.parametrize(
    ("labels", "kept"), [((0, 2), "0"), (("entailment", "contradiction"), "entailment")]
)
def test_classes_of_inference_are_refused_with_the_command_that_keeps_entailment(
    tmp_path, labels, kept
):
    """There 0 is the answer."""
    names = ("premise", "hypothesis")
    message = refusal(tmp_path, labelled(labels, count=40, names=names))
    assert "only entailment makes a pair" in message
    assert f"--set data.positive_labels={kept}" in message.replace("'", "").replace('["0"]', "0")
    assert "40 answers, 40 hard negatives" in run_suggested(message)


def test_three_classes_between_two_sentences_are_no_grades(tmp_path):
    """The 2 may be a contradiction."""
    rows = labelled((0, 2), names=("sentence1", "sentence2"))
    assert "only entailment" in refusal(tmp_path, rows)


def test_other_classes_are_refused_with_what_names_them(tmp_path):
    """Or with what leaves them unread."""
    message = refusal(tmp_path, labelled(("billing", "refund"), count=40))
    assert "`billing`: 40" in message
    assert "40 answers, 40 hard negatives" in run_suggested(message)
    assert "--set data.columns.label=none`" in message


def test_what_has_no_answer_is_dropped_in_words(tmp_path):
    """A question with hard negatives alone teaches nothing; nothing vanishes uncounted."""
    rows = [
        *labelled((1, 0)),
        {"question": "Nobody knows?", "context": "This does not say.", "label": 0},
        labelled((1, 0))[1],
        labelled((1, 0))[0] | {"label": 0},
    ]
    facts = inspect(tmp_path, rows).facts
    assert {reason: found["rows"] for reason, found in facts["dropped"].items()} == {
        "not relevant, and its question has no answer": 1,
        "not relevant here, but relevant in another row": 1,
        "exact duplicate": 1,
    }


def test_hard_negatives_are_shared_among_a_questions_pairs(tmp_path):
    """Each goes to one of them, in turn: batches stay narrow."""
    rows = [{"question": "Which?", "context": f"right {n}", "label": 1} for n in range(2)]
    rows += [{"question": "which?", "context": f"wrong {n}", "label": 0} for n in range(5)]
    dataset = inspect(tmp_path, rows, validation_fraction=0, test_fraction=0)
    assert dataset.train.table["negatives"].to_pylist() == [
        ["wrong 0", "wrong 2", "wrong 4"],
        ["wrong 1", "wrong 3"],
    ]


def test_a_list_of_labels_is_read_with_its_list_of_contexts(tmp_path):
    """One label each, or a refusal."""
    rows = [
        {"question": f"What {n}?", "contexts": [f"right {n}", f"wrong {n}"], "labels": [1, 0]}
        for n in range(9)
    ]
    facts = inspect(tmp_path, rows).facts
    assert (facts["used"], facts["negatives"]) == (9, 9)
    rows[4]["labels"] = [1]
    assert "row 5 has 1 labels in `labels` for 2 contexts" in refusal(tmp_path, rows)


def test_passages_with_their_own_labels_are_read(tmp_path):
    """MS MARCO: an object of two lists; a row in which nothing is selected has no answer."""
    rows = [
        {
            "query": f"what {n}",
            "answers": ["What was said."],
            "passages": {"is_selected": [0, int(n > 0)], "passage_text": [f"no {n}", f"text {n}"]},
        }
        for n in range(9)
    ]
    facts = inspect(tmp_path, rows).facts
    assert (facts["format"], facts["used"], facts["negatives"]) == ("msmarco", 8, 8)
    assert facts["dropped"]["not relevant, and its question has no answer"]["rows"] == 2


def test_a_given_test_set_may_have_no_labels(tmp_path):
    """Those that it has count there as well."""
    rows = labelled((1, 0), "gut")
    plain = [{"question": "Tested?", "context": "The answer."}]
    test = str(write_jsonl(tmp_path / "test.jsonl", plain))
    spec = {"columns": {"label": "gut"}, "test": test, **SHARES}
    assert len(inspect(tmp_path, rows, **spec).test) == 1
    more = [plain[0] | {"gut": 1}, {"question": "Tested?", "context": "No.", "gut": 0}]
    write_jsonl(tmp_path / "test.jsonl", more)
    tested = inspect(tmp_path, rows, **spec).test_pairs.to_pylist()
    assert [(row["positive"], row["negatives"]) for row in tested] == [("The answer.", ["No."])]


def test_grades_reach_the_queries(tmp_path):
    """And the judgements that are written."""
    rows = [
        {"question": f"{n} what?", "context": f"text {n}", "grade": 1 + n % 3} for n in range(9)
    ]
    dataset = inspect(tmp_path, rows, test_fraction=0.4, near_duplicate_threshold=None)
    grades = {
        text: dataset.test.grades_of(number).tolist()
        for number, text in enumerate(dataset.test.texts.to_pylist())
    }
    assert grades == {text: [1.0 + int(text[0]) % 3] for text in grades}


def test_grades_are_a_fact_and_part_of_the_fingerprint(tmp_path):
    """Other grades give other scores, so they are another test set; grades of 1 change nothing."""
    rows = [{"question": f"{n} what?", "context": f"text {n}"} for n in range(9)]

    def facts(**grade):
        graded = [row | grade for row in rows]
        dataset = inspect(tmp_path, graded, test_fraction=0.4, near_duplicate_threshold=None)
        return dataset.facts

    plain, ones = facts(), facts(grade=1)
    graded = facts(grade=2)
    assert [found["graded"] for found in (plain, ones, graded)] == [False, False, True]
    assert plain["fingerprint"] == ones["fingerprint"]
    changed = {k for k, v in graded["fingerprint"].items() if v != plain["fingerprint"][k]}
    assert changed == {"validation", "test"}


def test_grades_that_begin_at_1_are_pointed_out(tmp_path):
    """The lowest may mean that the context is no answer."""
    rows = labelled((5, 1), "rating", 40)
    warning, *_ = inspect(tmp_path, rows).facts["warnings"]
    assert "all labels in `rating` (1 to 5) count as relevant" in warning
    assert "40 hard negatives" in run_suggested(warning)


@pytest.mark.parametrize(
    ("given", "value"),
    [("entailment", ("entailment",)), ("0", ("0",)), ("[0, 1]", ("0", "1")), ("null", None)],
)
def test_labels_are_set_with_or_without_brackets(given, value):
    """As lists of names are."""
    spec = build_spec({}, parse_assignments([f"data.positive_labels={given}"]))
    assert spec.data.positive_labels == value


@pytest.mark.parametrize("column", ["rel", "Relevanz-Urteil", "Rel", "正解", "pertinent"])
def test_more_names_of_labels_are_known(tmp_path, column):
    """Also in other languages."""
    assert (
        inspect(tmp_path, labelled((1, 0), column), **SHARES).facts["labels"]["not_relevant"] == 12
    )


@pytest.mark.parametrize("labels", [(1, 0), (1, -1), ("TRUE", "FALSE"), (3, 0), (1.0, 0.0)])
def test_what_may_be_labels_by_its_values_is_asked_about(tmp_path, labels):
    """A question has both values, whatever the column's name is."""
    message = refusal(tmp_path, labelled(labels, "target"), **SHARES)
    assert "data.columns.label=target" in message
    assert "data.columns.label=none" in message
    run_suggested(message)


@pytest.mark.parametrize("values", [(1, 2), (0.5, 0.0), ("a", "b"), (0, 0)])
def test_other_values_are_no_labels(tmp_path, values):
    """Ranks, weights, names, and what never changes."""
    assert inspect(tmp_path, labelled(values, "target"), **SHARES).facts["labels"] is None


def test_minus_one_beside_one_is_asked_about(tmp_path):
    """It means no label where 0 is another class."""
    warning = inspect(tmp_path, labelled((1, -1)), **SHARES).facts["warnings"][0]
    assert "12 rows" in warning
    assert "12 hard negatives" in run_suggested(warning)


def test_decimal_commas_are_numbers(tmp_path):
    """As in exports of many European locales."""
    assert "scores from 0.1 to 0.92" in refusal(tmp_path, labelled(("0,92", "0,1")))


def test_labels_in_passages_are_read(tmp_path):
    """A passage that is not selected is a hard negative."""
    rows = [
        {"query": row["question"], "passages": [
            {"text": row["context"], "is_selected": 1},
            {"text": f"else {row['context']}", "is_selected": 0},
        ]}
        for row in distinct_rows(12)
    ]  # fmt: skip
    facts = inspect(tmp_path, rows, **SHARES).facts
    assert (facts["used"], facts["labels"]["not_relevant"]) == (12, 12)


def test_labels_of_a_test_set_are_asked_about_with_the_pairs(tmp_path):
    """The command checks both, as before."""
    test = write_jsonl(
        tmp_path / "t.jsonl", [row | {"score": 0.5} for row in distinct_rows(12, "test")]
    )
    message = refusal(tmp_path, distinct_rows(12), test=str(test))
    assert f"check {tmp_path / 'a.jsonl'} --set data.test={test}" in message
    assert "24 usable" in run_suggested(message)


@pytest.mark.parametrize("column", ["chunk_index", "page", "Part"])
def test_columns_that_count_are_no_labels(tmp_path, column):
    """Several contexts of a question, by their number."""
    assert inspect(tmp_path, labelled((0, 1), column), **SHARES).facts["used"] == 24


@pytest.mark.parametrize(
    "unanswered",
    [{"is_impossible": True}, {"answers": {"text": [], "answer_start": []}}],
)
def test_rows_of_squad_without_an_answer_are_no_pairs(tmp_path, unanswered):
    """They are counted, as in the nested files."""
    rows = distinct_rows(12) + [row | unanswered for row in distinct_rows(4, "un")]
    facts = inspect(tmp_path, rows, **SHARES).facts
    assert (facts["used"], facts["rows"]) == (12, 16)
