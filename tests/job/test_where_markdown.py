"""The users' texts in Markdown: shown as they are, never as markup."""

import pytest

from job.where_markdown import plain, where_section

EXAMPLE = {
    "query_id": "q",
    "query": "what?",
    "answer": "this",
    "rank_base": None,
    "rank_tuned": 2,
    "ndcg_base": 0.0,
    "ndcg_tuned": 0.6,
    "instead": "that",
}
EMPTY = {"gained": [], "lost": [], "suspects": [], "slices": [], "hubs": []}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines", "two lines"),
        ("<script>alert(1)</script>", r"\<script\>alert\(1\)\</script\>"),
        ("[a](http://b)", r"\[a\]\(http://b\)"),
        ("a | b", r"a \| b"),
        ("# *x* `y`", r"\# \*x\* \`y\`"),
    ],
)
def test_no_text_becomes_markup(text, shown):
    assert plain(text) == shown


def test_an_example_shows_both_ranks_and_what_stands_first():
    text = where_section(EMPTY | {"gained": [EXAMPLE]}, 128)
    assert "**Gained most**" in text
    assert r"- what? (beyond 100 → 2); answer: this; first instead: that" in text
    assert "Lost most" not in text


def test_slices_and_hubs_are_tabulated_with_their_numbers():
    found = {
        "by": "question word",
        "name": "what",
        "queries": 12,
        "base": 0.5,
        "tuned": 0.75,
        "lift": 0.25,
        "ci": [0.1, 0.4],
    }
    hub = {"document_id": "d", "text": "everything", "wrong_hits": 9, "wrong_hits_base": 3}
    text = where_section(EMPTY | {"slices": [found], "hubs": [hub]}, 128)
    assert "| question word | what | 12 | 0.500 | 0.750 | +0.250 | [+0.100, +0.400] |" in text
    assert "- 9 times, 3 before: everything" in text


def test_the_names_of_the_datas_own_kinds_are_no_markup():
    """A column and its values are texts of the user's."""
    numbers = {"queries": 12, "base": 0.5, "tuned": 0.5, "lift": 0.0, "ci": [-0.1, 0.1]}
    found = {"by": "<b>kind", "name": "a|b\n[c](d)", **numbers}
    text = where_section(EMPTY | {"slices": [found]}, 128)
    row = r"| \<b\>kind | a\|b \[c\]\(d\) | 12 | 0.500 | 0.500 | +0.000 | [-0.100, +0.100] |"
    assert row in text.splitlines()


def test_where_nothing_is_to_be_told_one_line_stays():
    assert where_section(EMPTY, 64).count("\n") == 0
