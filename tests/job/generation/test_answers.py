"""Answers: questions are read from the forms that models write, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.generation.answers import Written, read_grade, read_questions

KINDS = ("natural", "keywords", "task")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("natural: What is it?\nkeywords: it price", [("natural", "What is it?"),
                                                       ("keywords", "it price")]),
        ("Here you are:\n\n1. **Natural:** *What is it?*\n- KEYWORDS：it  price",
         [("natural", "What is it?"), ("keywords", "it price")]),
        ('```json\n{"natural": "What is it?", "task": "Use it"}\n```',
         [("natural", "What is it?"), ("task", "Use it")]),
        ('{"questions": [{"kind": "task", "question": "Use it"}, {"query": "Why?"}]}',
         [("task", "Use it"), ("question", "Why?")]),
        ('["What is it?", "Why?"]', [("question", "What is it?"), ("question", "Why?")]),
        ("1. What is it?\n2) “Why?”\nI hope this helps.",
         [("question", "What is it?"), ("question", "Why?")]),
        ("价格是多少？", [("question", "价格是多少？")]),
        ("Task-based what?", [("question", "Task-based what?")]),
        ("other: What?", [("question", "other: What?")]),
        ('natural: How do I send {"name": "x"}?\ntask: Send ["a", "b"]',
         [("natural", 'How do I send {"name": "x"}?'), ("task", 'Send ["a", "b"]')]),
        ("<think>\nnatural: Or what is this?\n</think>\nnatural: What is it?",
         [("natural", "What is it?")]),
        ("natural: What does `max_tokens` do?\nkeywords: SELECT count(*) FROM my_table_2",
         [("natural", "What does max_tokens do?"),
          ("keywords", "SELECT count(*) FROM my_table_2")]),
        ("**Question 1:** What is file_name?\nQ: Why?\n3. Query 3. How?\nQuestion: *Who?*",
         [("question", "What is file_name?"), ("question", "Why?"), ("question", "How?"),
          ("question", "Who?")]),
        ("Questionnaires: why?", [("question", "Questionnaires: why?")]),
        ("1. **Natural question:** What is it?\n2. (task) – Use it",
         [("natural", "What is it?"), ("task", "Use it")]),
    ],
)  # fmt: skip
def test_questions_are_read_in_every_form(answer, expected):
    assert read_questions(answer, KINDS) == [Written(*pair) for pair in expected]


@pytest.mark.parametrize(
    "answer",
    ["", "I cannot do that.", '{"a": 1}', '[1, {"x": "y"}]', "natural:", "natural: " + "x" * 401,
     "<think>\nnatural: What is it?",
     '{"natural": "What'],
)  # fmt: skip
def test_an_answer_without_a_question_gives_none(answer):
    assert read_questions(answer, KINDS) == []


@given(st.text())
def test_any_text_is_read(answer):
    assert all(each.text.strip() for each in read_questions(answer, KINDS))


@pytest.mark.parametrize(
    ("answer", "grade"),
    [
        ("4", 4),
        ("Grade: 5/5", 5),
        ("**3**", 3),
        ("<think>1 or 2?</think>5", 5),
        ("On a scale of 1 to 5: 4", 4),
        ("(1-5) 2", 2),
        ("4.5", None),
        ("ten", None),
        ("0", None),
        ("12", None),
        ("", None),
    ],
)
def test_a_grade_is_a_number_from_1_to_5(answer, grade):
    assert read_grade(answer) == grade
