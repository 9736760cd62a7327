"""Choosing columns: every name people use is found, and nothing is guessed between two."""

import pytest

from job.columns import ColumnChoice, choose_columns
from job.errors import DataError
from job.spec import Columns

QUESTION_NAMES = ["anchor", "query", "question", "Question", "QUERY", " question "]
CONTEXT_NAMES = [
    *("positive", "context", "document", "passage", "answer", "pos"),
    *("Context", "DOCUMENT", "Answer ", "\tpassage"),
]
NEGATIVE_NAMES = [
    *("negative", "negatives", "neg", "negs", "hard_negative", "hard_negatives", "hardnegative"),
    *("negative_1", "negative_12", "negative1", "neg_1", "hard_neg_3", "Negative", "NEGATIVE_2"),
]


def choose(names, **wanted):
    return choose_columns(dict.fromkeys(names, "text"), Columns(**wanted), "pairs.csv")


def refusal(names, **wanted):
    with pytest.raises(DataError) as caught:
        choose(names, **wanted)
    return str(caught.value)


@pytest.mark.parametrize("name", QUESTION_NAMES)
def test_the_question_is_found_by_every_name_people_use(name):
    """Case and surrounding spaces do not matter, and the column keeps the name it has."""
    assert choose(["id", "context", name]) == ColumnChoice(name, "context", ())


@pytest.mark.parametrize("name", CONTEXT_NAMES)
def test_the_context_is_found_by_every_name_people_use(name):
    """Case and surrounding spaces do not matter, and the column keeps the name it has."""
    assert choose([name, "source", "question"]) == ColumnChoice("question", name, ())


@pytest.mark.parametrize("name", NEGATIVE_NAMES)
def test_hard_negatives_are_found_by_every_name_people_use(name):
    """`negative`, its plural, its short form, with `hard_` before it or a number behind."""
    assert choose(["question", "context", name]) == ColumnChoice("question", "context", (name,))


@pytest.mark.parametrize("name", ["negativity", "negative_text", "neglect", "non_negative", "_1"])
def test_a_name_that_only_resembles_a_negative_is_none(name):
    """A column is a negative by its whole name."""
    assert choose(["question", "context", name]) == ColumnChoice("question", "context", ())


def test_numbered_negatives_keep_the_order_of_the_file():
    """All numbered columns are taken, in the order in which they stand."""
    names = ["negative_2", "query", "negative_10", "pos", "negative_1"]
    expected = ColumnChoice("query", "pos", ("negative_2", "negative_10", "negative_1"))
    assert choose(names) == expected


def test_names_in_the_spec_win_over_names_that_would_be_found():
    """What the spec names is taken, even where the usual names are there as well."""
    names = ["question", "query", "context", "answer", "negative", "wrong"]
    chosen = choose(names, anchor="query", positive="answer", negatives=("wrong",))
    assert chosen == ColumnChoice("query", "answer", ("wrong",))


def test_one_name_in_the_spec_leaves_the_others_to_be_found():
    """Each of the three can be named by itself."""
    assert choose(["q", "context", "neg"], anchor="q") == ColumnChoice("q", "context", ("neg",))


def test_no_negatives_in_the_spec_means_none():
    """An empty list of negatives switches their detection off."""
    names = ["question", "context", "negative"]
    assert choose(names, negatives=()) == ColumnChoice("question", "context", ())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["q", "context"],
            (
                "`pairs.csv` has no column for `data.columns.anchor`: none of `anchor`, `query`, "
                "`question` is among `q`, `context`. Name it with `--set data.columns.anchor=NAME`."
            ),
        ),
        (
            ["question", "body"],
            (
                "`pairs.csv` has no column for `data.columns.positive`: none of `positive`, "
                "`context`, `document`, `passage`, `answer`, `pos` is among `question`, `body`. "
                "Name it with `--set data.columns.positive=NAME`."
            ),
        ),
        (
            [],
            (
                "`pairs.csv` has no column for `data.columns.anchor`: none of `anchor`, `query`, "
                "`question` is among (no columns). Name it with `--set data.columns.anchor=NAME`."
            ),
        ),
    ],
    ids=["question", "context", "nothing"],
)
def test_a_missing_column_is_named_with_what_is_there(names, message):
    """The message lists the names looked for, the names found, and the option that decides."""
    assert refusal(names) == message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["question", "Query", "context"],
            (
                "`pairs.csv` has several columns for `data.columns.anchor`: `question`, `Query`. "
                "Choose one with `--set data.columns.anchor=question`."
            ),
        ),
        (
            ["question", "context", "answer", "passage"],
            (
                "`pairs.csv` has several columns for `data.columns.positive`: `context`, `answer`, "
                "`passage`. Choose one with `--set data.columns.positive=context`."
            ),
        ),
    ],
    ids=["question", "context"],
)
def test_ambiguous_columns_are_not_guessed_between(names, message):
    """Two candidates are an error that lists them and says how to choose."""
    assert refusal(names) == message


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"anchor": "Q"}, "anchor"),
        ({"positive": "Q"}, "positive"),
        ({"negatives": ("negative", "Q")}, "negatives"),
        ({"group": "Q"}, "group"),
    ],
)
def test_a_wanted_column_that_is_not_there_is_an_error(wanted, field):
    """Explicit names are taken literally; the message says which are there."""
    assert refusal(["question", "context", "negative"], **wanted) == (
        f"`pairs.csv` has no column `Q` (`data.columns.{field}`); "
        "it has `question`, `context`, `negative`."
    )


SCORES = ["score", "similarity", "similarity_score", "label", "labels", "Score", "LABEL"]


@pytest.mark.parametrize("name", SCORES)
def test_scored_pairs_are_refused(name):
    """A score says that some pairs are no answers; training on them as such would do harm."""
    assert refusal(["question", "context", name]) == (
        f"`pairs.csv` has a column `{name}`: pairs with a similarity score or a label are not "
        "accepted, only pairs in which the context answers the question. Keep those rows and "
        "name the columns with `--set data.columns.anchor=…` and "
        "`--set data.columns.positive=…`."
    )


def test_naming_only_one_column_does_not_lift_the_refusal():
    """Both names are what the message asks for; one of them is no answer to it."""
    message = refusal(["question", "context", "label"], anchor="question")
    assert message.startswith("`pairs.csv` has a column `label`:")


def test_naming_both_columns_lifts_the_refusal_of_scores():
    """Who names both columns has kept the right rows, as the message asks."""
    chosen = choose(["question", "context", "label"], anchor="question", positive="context")
    assert chosen == ColumnChoice("question", "context", ())


@pytest.mark.parametrize("name", [" score", "label "])
def test_a_score_is_refused_with_spaces_around_its_name(name):
    """`question, context, score` is how people write a CSV's header."""
    assert f"has a column `{name}`" in refusal(["question", " context", name])


def test_negatives_are_found_with_spaces_around_their_names():
    """`question, context, negative` is how people write a CSV's header."""
    chosen = choose(["question", " context", " negative"])
    assert chosen == ColumnChoice("question", " context", (" negative",))


def test_a_group_is_a_column_only_when_it_is_named():
    """No name is guessed for it; whatever column it is, it may be a question's as well."""
    names = ["question", "context", "group", "product"]
    assert choose(names).group is None
    assert choose(names, group="product") == ColumnChoice("question", "context", (), "product")
    assert choose(names, group="question").group == "question"


def test_where_the_spec_can_name_no_column_they_are_found_by_their_names():
    """Hard negatives are not even looked for."""
    fields = dict.fromkeys(["Question", "answer", "negative"])
    assert choose_columns(fields, None, "probe.csv") == ColumnChoice("Question", "answer", ())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["q", "context"],
            (
                "`probe.csv` has no column for `anchor`: none of `anchor`, `query`, `question` is "
                "among `q`, `context`. Give it one of those names."
            ),
        ),
        (
            ["question", "context", "answer"],
            (
                "`probe.csv` has several columns for `positive`: `context`, `answer`. "
                "Leave one of them."
            ),
        ),
        (
            ["question", "context", "label"],
            (
                "`probe.csv` has a column `label`: pairs with a similarity score or a label are "
                "not accepted, only pairs in which the context answers the question. Keep those "
                "rows and drop that column."
            ),
        ),
    ],
    ids=["missing", "several", "scored"],
)
def test_no_message_advises_to_name_a_column_that_the_spec_cannot_name(names, message):
    """`data.columns` would change what is read of the data."""
    with pytest.raises(DataError) as caught:
        choose_columns(dict.fromkeys(names), None, "probe.csv")
    assert str(caught.value) == message


def test_of_very_many_columns_the_first_are_named():
    """A file without a header may have a text for each name, and thousands of them."""
    with pytest.raises(DataError) as caught:
        choose_columns({f"c{n}": "" for n in range(100)}, None, "a.csv")
    shown = ", ".join(f"`c{n}`" for n in range(20))
    assert f"is among {shown}, 80 more. " in str(caught.value)
