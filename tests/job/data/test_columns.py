"""Choosing columns: usual names are recognized; an ambiguous choice is an error."""

import re
import shlex

import pytest

from job.core.errors import DataError
from job.data.columns import ColumnChoice, choose_columns
from job.spec.schema import Columns

QUESTION_NAMES = ["anchor", "query", "question", "Question", "QUERY", " question ", "user_input"]
QUESTION_NAMES += ["queries", "questions"]
CONTEXT_NAMES = [
    *("positive", "context", "document", "passage", "answer", "pos", "text", "chunk"),
    *("contexts", "passages", "documents", "answers", "reference_contexts"),
    *("Context", "DOCUMENT", "Answer ", "\tpassage"),
]
NEGATIVE_NAMES = [
    *("negative", "negatives", "neg", "negs", "hard_negative", "hard_negatives", "hardnegative"),
    *("negative_1", "negative_12", "negative1", "neg_1", "hard_neg_3", "Negative", " NEGATIVE_2"),
]
NO_NEGATIVES = ["negativity", "negative_feedback", "neglect", "non_negative", "_1"]
LABELS = ["score", "similarity", "label", "labels", "LABEL", " score", "label ", "relevance"]
LABELS += ["is_relevant", "gold_label", "relevance_score", "is_duplicate", "esci_label"]
LABELS += ["relevance score", "Judgment", "grade", "rating", "bm25-score"]
NO_LABELS = ["labelled", "product_class", "pos_scores", "neg_score", "scored_by", "is_open"]


def choose(names, wanted=None):
    return choose_columns(dict.fromkeys(names, "text"), Columns(**wanted or {}), "pairs.csv")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        *((["no", "context", name], (name, "context", ())) for name in QUESTION_NAMES),
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
            {"anchor": "question", "positive": "context", "label": "none"},
            ("question", "context", ()),
        ),
        (["question", "context", "p"], {"label": "p"}, ("question", "context", (), None, "p")),
        (
            ["question", "context", "neg_doc"],
            {"negatives": "neg_doc"},
            ("question", "context", ("neg_doc",)),
        ),
        (["question", "context", "group"], {}, ("question", "context", (), None)),
        (["question", "context", "p"], {"group": "p"}, ("question", "context", (), "p")),
        (["question", "context"], {"group": "question"}, ("question", "context", (), "question")),
    ],
)
def test_names_in_the_spec_win_and_other_columns_are_still_found(names, wanted, expected):
    """One column of negatives can be named without brackets."""
    assert choose(names, wanted) == ColumnChoice(*expected)


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_found_by_their_names(name):
    """Whether the columns of the pair are named or not: a 0 must not become an answer."""
    expected = ColumnChoice("question", "context", (), None, name)
    assert choose(["question", "context", name]) == expected
    named = {"anchor": "question", "positive": "context"}
    assert choose(["question", "context", name], named) == expected


@pytest.mark.parametrize("name", NO_LABELS)
def test_other_columns_are_no_labels(name):
    """A topic is not a label, and a teacher's scores are not read."""
    assert choose(["question", "context", name]).label is None


@pytest.mark.parametrize(
    "value", ["a text that is rather long for something that is called a label", ["tag"], {"a": 1}]
)
def test_what_cannot_be_a_label_is_none(value):
    """Texts, tags and objects say nothing of relevance, whatever their heading."""
    fields = {"question": "q", "context": "c", "labels": value}
    assert choose_columns(fields, Columns(), "a.csv").label is None


@pytest.mark.parametrize("said", ["answer", "response", "output"])
@pytest.mark.parametrize("context", ["context", "contexts", "passage", "document", "text"])
def test_what_a_retriever_must_find_wins_over_what_was_said(context, said):
    """The decision is reported."""
    choice = choose([said, "question", context])
    assert choice.positive == context
    (note,) = choice.notes
    assert f"`{context}` is trained on, not `{said}`" in note


def test_two_sentences_are_a_pair():
    """As in similarity and paraphrase data; only if both are there."""
    assert choose(["sentence1", "sentence2"]) == ColumnChoice("sentence1", "sentence2", ())
    assert choose(["hypothesis", "premise"]) == ColumnChoice("premise", "hypothesis", ())
    with pytest.raises(DataError):
        choose(["sentence1", "else"])


@pytest.mark.parametrize("objects", [{"answer_start": 1}, [{"answer_start": 1}]])
def test_a_column_of_objects_is_never_taken(objects):
    """Neither as it is named nor as a suggestion."""
    fields = {"question": "What?", "answers": objects, "body": "It is a thing."}
    with pytest.raises(DataError) as caught:
        choose_columns(fields, Columns(), "a.csv")
    assert "data.columns.positive=body" in str(caught.value)


def test_answers_do_not_take_the_place_of_contexts_that_cannot_be_read():
    """What holds these is refused where their text is looked for."""
    fields = {"query": "What?", "answers": ["A thing."], "passages": {"odd": ["It is a thing."]}}
    assert choose_columns(fields, Columns(), "a.csv").positive == "passages"


ROWS = {
    "german": [
        {"Nr": str(n), "Frage": f"Was ist {n}?", "Antwort": f"Das ist die Sache {n}."}
        for n in range(9)
    ],
    "without a hint": [
        {"a": f"It is a thing that has number {n}.", "b": f"Where is {n}?", "c": "same"}
        for n in range(9)
    ],
    "chinese": [{"问题": f"{n}号阀门在哪里？", "答案": f"{n}号阀门在大厅里。"} for n in range(9)],
    "spaces": [{"the question": f"What is {n}?", "the 'answer'": f"It is {n}."} for n in range(9)],
    "prompts": [{"prompt": f"what is {n}", "completion": f"it is the {n}"} for n in range(9)],
    "two contexts": [
        {"question": f"What {n}?", "context": f"it is {n}", "passage": f"it is the long {n}"}
        for n in range(9)
    ],
}


@pytest.mark.parametrize(
    ("kind", "anchor", "positive"),
    [
        ("german", "Frage", "Antwort"),
        ("without a hint", "b", "a"),
        ("chinese", "问题", "答案"),
        ("spaces", "the question", "the 'answer'"),
        ("prompts", "prompt", "completion"),
        ("two contexts", "question", "passage"),
    ],
)
def test_a_refusal_names_both_columns_in_a_command(kind, anchor, positive):
    """The command chooses what a person would; a shell reads it as it was meant."""
    with pytest.raises(DataError) as caught:
        choose_columns(ROWS[kind][0], Columns(), "my pairs.csv", ROWS[kind])
    (command,) = re.findall(r"`(embedtune check .*)`", str(caught.value))
    assert shlex.split(command) == [
        *("embedtune", "check", "my pairs.csv", "--set", f"data.columns.anchor={anchor}"),
        *("--set", f"data.columns.positive={positive}"),
    ]


def test_a_refusal_keeps_what_was_named():
    """The command has the columns that the spec names."""
    wanted = Columns(anchor="b", group="c", negatives=["c", "d"])
    fields = dict.fromkeys("abcd", "text")
    with pytest.raises(DataError) as caught:
        choose_columns(fields, wanted, "a.csv", ROWS["without a hint"])
    assert (
        "`embedtune check a.csv --set data.columns.anchor=b "
        """--set 'data.columns.negatives=["c", "d"]' --set data.columns.group=c """
        "--set data.columns.positive=a`"
    ) in str(caught.value)


def test_several_labels_are_refused_with_the_likeliest():
    """Nothing is guessed between a grade and a score."""
    with pytest.raises(DataError) as caught:
        choose(["query", "passage", "score", "label"])
    assert "`label`, `score`" in str(caught.value)
    assert "--set data.columns.label=label`" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "wanted", "parts"),
    [
        (["q", "context"], {}, ["data.columns.anchor=q", "`question`", "`q`, `context`"]),
        (["question", "body"], {}, ["data.columns.positive=body", "`pos`", "`question`, `body`"]),
        ([], {}, ["`data.columns.anchor`", "(no columns)", "both of them texts"]),
        (["question", "Query", "pos"], {}, ["`question`, `Query`", "data.columns.anchor=question"]),
        (
            ["question", "context", "answer", "passage"],
            {},
            ["`context`, `passage`", "data.columns.positive=context"],
        ),
        *(
            (
                ["question", "context", "negative"],
                {field: ["Q"] if field == "negatives" else "Q"},
                ["`Q`", f"`data.columns.{field}`", "`question`, `context`, `negative`"],
            )
            for field in ("anchor", "positive", "negatives", "group", "label")
        ),
        ([f"c{n}" for n in range(100)], {}, ["`c18`, `c19`, 80 more"]),
    ],
)
def test_an_unclear_choice_is_an_error_that_names_the_option_to_set(names, wanted, parts):
    """Nothing is guessed between two columns."""
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
        (["question", "context", "passage"], "`context`, `passage`"),
    ],
)
def test_errors_in_out_of_domain_data_do_not_mention_data_columns(names, part):
    """`data.columns` describes the training data, not these files."""
    with pytest.raises(DataError) as caught:
        choose_columns(dict.fromkeys(names), None, "other.csv")
    assert part in str(caught.value)
    assert "data.columns" not in str(caught.value)
