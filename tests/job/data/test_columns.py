"""Choosing columns: usual names are recognized; an ambiguous choice is an error."""

import pytest

from job.core.errors import DataError
from job.data.columns import ColumnChoice, choose_columns
from job.spec.schema import Columns

QUESTION_NAMES = ["anchor", "query", "question", "Question", "QUERY", " question "]
CONTEXT_NAMES = [
    *("positive", "context", "document", "passage", "answer", "pos"),
    *("Context", "DOCUMENT", "Answer ", "\tpassage"),
]
NEGATIVE_NAMES = [
    *("negative", "negatives", "neg", "negs", "hard_negative", "hard_negatives", "hardnegative"),
    *("negative_1", "negative_12", "negative1", "neg_1", "hard_neg_3", "Negative", " NEGATIVE_2"),
]
NO_NEGATIVES = ["negativity", "negative_text", "neglect", "non_negative", "_1"]
SCORES = ["score", "similarity", "similarity_score", "label", "labels", "LABEL", " score", "label "]


def choose(names, wanted=None):
    return choose_columns(dict.fromkeys(names, "text"), Columns(**wanted or {}), "pairs.csv")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        *((["id", "context", name], (name, "context", ())) for name in QUESTION_NAMES),
        *(([name, "source", "question"], ("question", name, ())) for name in CONTEXT_NAMES),
        *((["question", "pos", name], ("question", "pos", (name,))) for name in NEGATIVE_NAMES),
        *((["question", "pos", name], ("question", "pos", ())) for name in NO_NEGATIVES),
        (
            ["negative_2", "query", "negative_10", "pos", "negative_1"],
            ("query", "pos", ("negative_2", "negative_10", "negative_1")),
        ),
    ],
)
def test_columns_are_found_by_their_usual_names(names, expected):
    """Case and outer spaces do not matter; the whole name must match; the file's order is kept."""
    assert choose(names) == ColumnChoice(*expected)


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (
            ["question", "query", "context", "answer", "negative", "wrong"],
            {"anchor": "query", "positive": "answer", "negatives": ("wrong",)},
            ("query", "answer", ("wrong",)),
        ),
        (["q", "context", "neg"], {"anchor": "q"}, ("q", "context", ("neg",))),
        (["question", "context", "neg"], {"negatives": ()}, ("question", "context", ())),
        (
            ["question", "context", "label"],
            {"anchor": "question", "positive": "context"},
            ("question", "context", ()),
        ),
        (["question", "context", "group"], {}, ("question", "context", (), None)),
        (["question", "context", "p"], {"group": "p"}, ("question", "context", (), "p")),
        (["question", "context"], {"group": "question"}, ("question", "context", (), "question")),
    ],
)
def test_names_in_the_spec_win_and_other_columns_are_still_found(names, wanted, expected):
    """If the spec names both columns, a column of scores is accepted."""
    assert choose(names, wanted) == ColumnChoice(*expected)


@pytest.mark.parametrize(
    ("names", "wanted", "parts"),
    [
        (["q", "context"], {}, ["data.columns.anchor=NAME", "`question`", ": `q`, `context`."]),
        (["question", "body"], {}, ["data.columns.positive=NAME", "`pos`", "`question`, `body`"]),
        ([], {}, ["data.columns.anchor=NAME", "(no columns)"]),
        (["question", "Query", "pos"], {}, ["`question`, `Query`", "data.columns.anchor=question"]),
        (
            ["question", "context", "answer", "passage"],
            {},
            ["`context`, `answer`, `passage`", "data.columns.positive=context"],
        ),
        *(
            (
                ["question", "context", "negative"],
                {field: ["Q"] if field == "negatives" else "Q"},
                ["`Q`", f"`data.columns.{field}`", "`question`, `context`, `negative`"],
            )
            for field in ("anchor", "positive", "negatives", "group")
        ),
        *(
            (["question", "context", name], {}, [f"`{name}`", "data.columns.anchor=", ".positive="])
            for name in SCORES
        ),
        (["question", "context", "label"], {"anchor": "question"}, ["`label`"]),
        ([f"c{n}" for n in range(100)], {}, ["`c18`, `c19`, 80 more"]),
    ],
)
def test_an_unclear_choice_is_an_error_that_names_the_option_to_set(names, wanted, parts):
    """Scores are refused: training would use pairs in which the context is no answer."""
    with pytest.raises(DataError) as caught:
        choose(names, wanted)
    assert [part for part in ["`pairs.csv`", *parts] if part not in str(caught.value)] == []


def test_without_columns_in_the_spec_only_usual_names_count():
    """Columns of hard negatives are ignored."""
    fields = dict.fromkeys(["Question", "answer", "negative"])
    assert choose_columns(fields, None, "other.csv") == ColumnChoice("Question", "answer", ())


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["q", "context"], "`anchor`"),
        (["question", "context", "answer"], "`context`, `answer`"),
        (["question", "context", "label"], "`label`"),
    ],
)
def test_errors_in_out_of_domain_data_do_not_mention_data_columns(names, part):
    """`data.columns` describes the training data, not these files."""
    with pytest.raises(DataError) as caught:
        choose_columns(dict.fromkeys(names), None, "other.csv")
    assert part in str(caught.value)
    assert "data.columns" not in str(caught.value)
