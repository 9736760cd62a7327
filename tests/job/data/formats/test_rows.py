"""Rows of whatever layout: questions, contexts and negatives as the layout means them."""

import shlex

import pytest
from conftest import write_jsonl
from suggested_commands import commands_in

from job.core.errors import DataError
from job.data.sources import open_source
from job.spec.parse import build_spec, parse_assignments
from job.spec.schema import DataSpec

Q, A, B, N = "What opens it?", "A lever opens it.", "By two turns.", "It is kept warm."


def opened(path, rows, **spec):
    return open_source(str(write_jsonl(path / "a.jsonl", rows)), DataSpec(**spec))


def read(path, rows, **spec):
    source = opened(path, rows, **spec)
    return [(row.anchor, row.positives, row.negatives) for row in source.rows]


LAYOUTS = {
    "tevatron": {
        "query_id": "q0",
        "query": Q,
        "positive_passages": [{"docid": "d0", "title": "", "text": A}],
        "negative_passages": [{"docid": "d1", "text": N}],
    },
    "dpr": {
        "question": Q,
        "answers": ["lever"],
        "positive_ctxs": [{"title": "", "text": A}],
        "negative_ctxs": [],
        "hard_negative_ctxs": [{"title": "", "text": N}],
    },
    "flagembedding": {"query": Q, "pos": [A], "neg": [N], "prompt": "Find: ", "pos_scores": [1]},
    "instructions": {"query": ["Ask:", Q], "pos": [["Doc:", A]], "neg": [["Doc:", N]]},
    "sentence-transformers": {"set": {"query": Q, "pos": [A], "neg": [N]}},
    "swift": {
        "messages": [{"role": "user", "content": Q}],
        "positive_messages": [[{"role": "user", "content": A}]],
        "negative_messages": [[{"role": "user", "content": N}]],
    },
    "nemo": {"query": Q, "pos_doc": A, "neg_doc": [N]},
    "rows": {"query": Q, "positive": {"text": A}, "negatives": [{"text": N}]},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_gives_its_question_context_and_negatives(tmp_path, name):
    """Recognized by its fields, or named."""
    for spec in ({}, {"format": name}):
        source = opened(tmp_path, [LAYOUTS[name]] * 2, **spec)
        assert source.format == name
        found = [(row.anchor, row.positives, row.negatives) for row in source.rows]
        assert found == [(Q, [A], [N])] * 2


def test_titles_and_ids_of_passages_are_kept(tmp_path):
    """A title belongs to its text, as in BEIR."""
    row = {"query_id": 7, "query": Q, "positive_passages": [{"docid": 3, "title": "T", "text": A}]}
    (found,) = opened(tmp_path, [row]).rows
    assert (found.query_id, found.positives, found.document_ids) == ("7", [f"T {A}"], ["3"])


def test_prompts_and_scores_that_are_not_read_are_said(tmp_path):
    notes = opened(tmp_path, [LAYOUTS["flagembedding"]]).notes
    assert ["`model.query_prompt`" in notes[0], "`pos_scores`" in notes[1]] == [True, True]


RAGAS = [
    ({"question": Q, "answer": "Two.", "contexts": [A, B]}, "contexts"),
    ({"user_input": Q, "reference": "Two.", "reference_contexts": [A, B]}, "reference_contexts"),
]


@pytest.mark.parametrize(("row", "contexts"), RAGAS)
def test_of_ragas_the_contexts_are_read(tmp_path, row, contexts):
    """What must be found, and not what a model said; `check` says so."""
    source = opened(tmp_path, [row])
    assert [(r.anchor, r.positives) for r in source.rows] == [(Q, [A, B])]
    assert (source.format, source.columns["positive"]) == ("ragas", contexts)
    assert f"`{contexts}` are trained on" in source.notes[0]


@pytest.mark.parametrize("name", ["questions", "queries"])
def test_one_context_may_have_many_questions(tmp_path, name):
    assert read(tmp_path, [{"context": A, name: [Q, "Tell me!"]}]) == [
        (Q, [A], []),
        ("Tell me!", [A], []),
    ]


@pytest.mark.parametrize(
    "written",
    [f"['{A}', '{B}']", f'["{A}", "{B}"]', f"['{A}'\n '{B}']", f"['{A}' '{B}']"],
    ids=["Python", "JSON", "numpy", "numpy on one line"],
)
def test_a_list_that_was_written_as_text_is_a_list(tmp_path, written):
    """As CSV exports do; numpy leaves the commas out, and Python would glue the texts."""
    source = opened(tmp_path, [{"question": Q, "context": written}])
    assert [row.positives for row in source.rows] == [[A, B]]
    assert source.notes == ["`context` contains lists written as text; they are read as lists."]


@pytest.mark.parametrize("other", ["plain text", "[see 1] and [2]", "[1, 2]"])
def test_a_text_in_brackets_is_a_text(tmp_path, other):
    """Unless every one is a list."""
    rows = [{"question": Q, "context": text} for text in ("['a b c']", other)]
    assert [found[1] for found in read(tmp_path, rows)] == [["['a b c']"], [other]]


def test_negatives_may_first_appear_in_late_rows(tmp_path):
    """JSON lines leave out what they have no value for, for however many rows."""
    rows = [{"question": f"{Q} {n}", "context": A} for n in range(150)]
    rows[120:] = [row | {"hard_negative": N, "other": "x"} for row in rows[120:]]
    source = opened(tmp_path, rows)
    found = [row.negatives for row in source.rows]
    assert found == [[]] * 120 + [[N]] * 30
    assert source.columns["negatives"] == ["hard_negative"]


def test_late_columns_that_are_named_are_found(tmp_path):
    rows = [{"question": Q, "context": A}] * 120 + [{"question": Q, "context": A, "wrong": N}]
    found = read(tmp_path, rows, columns={"negatives": ["wrong"]})
    assert [negatives for _, _, negatives in found] == [[None]] * 120 + [[N]]
    with pytest.raises(DataError, match="has no column `nowhere`"):
        opened(tmp_path, rows, columns={"negatives": ["nowhere"]})


def test_labels_that_first_appear_in_late_rows_are_refused(tmp_path):
    """Their 0 would be taken for an answer; the command reads them."""
    rows = [{"question": f"{Q} {n}", "context": A} for n in range(120)]
    rows += [{"question": Q, "context": N, "label": 0}]
    source = opened(tmp_path, rows)
    with pytest.raises(DataError, match="row 121 is the first with `label`") as caught:
        list(source.rows)
    command, _ = commands_in(str(caught.value))
    settings = parse_assignments(shlex.split(command)[4::2])
    path = str(tmp_path / "a.jsonl")
    labels = [row.label for row in open_source(path, build_spec({}, settings).data).rows]
    assert labels == [None] * 120 + [0]
    spec = DataSpec(columns={"label": "none"})
    assert [row.label for row in open_source(path, spec).rows] == [None] * 121


def test_columns_that_are_named_win_over_the_layout(tmp_path):
    row = {"user_input": Q, "response": B, "reference_contexts": [A]}
    assert read(tmp_path, [row], columns={"positive": "response"}) == [(Q, [B], [])]


def test_ids_of_rows_are_kept(tmp_path):
    """Ids of questions and of contexts, under the names that people use."""
    rows = [{"qid": 5, "question": Q, "context": A, "doc_id": "d 1", "id": "r1"}]
    (found,) = opened(tmp_path, rows).rows
    assert (found.query_id, found.document_ids) == ("5", ["d_1"])


def test_a_template_makes_one_text_of_several_fields(tmp_path):
    """Whatever they hold: texts, lists, messages; a row without any is empty."""
    rows = [
        {"instruction": "Open", "input": "it", "output": A},
        {"instruction": "Open", "input": None, "output": A},
        {"output": A},
    ]
    named = {"anchor": "{instruction} {input}", "positive": "output"}
    assert [r[0] for r in read(tmp_path, rows, columns=named)] == ["Open it", "Open", None]
    chat = {"messages": [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]}
    named = {"anchor": "{messages[0][content]}", "positive": "{messages[-1][content]}"}
    assert read(tmp_path, [chat], columns=named) == [(Q, [A], [])]


def reopened(error, path):
    """Open a file as the command in an error's line does."""
    (command,) = commands_in(str(error))
    typed = shlex.split(command)
    assert typed[:3] == ["embedtune", "check", str(path)]
    spec = build_spec({}, parse_assignments(typed[4::2]))
    return open_source(str(path), spec.data)


def test_objects_of_unknown_fields_are_refused_with_a_template(tmp_path):
    """Dropped in silence, all negatives would be missing."""
    wrong = [{"url": "u", "body": N}, {"url": "v", "body": B}]
    path = write_jsonl(
        tmp_path / "a.jsonl", [{"question": Q, "context": {"body": A, "n": 1}, "negatives": wrong}]
    )
    with pytest.raises(DataError, match="has objects in the column `context`") as caught:
        open_source(str(path), DataSpec())
    (row,) = reopened(caught.value, path).rows
    assert (row.positives, row.negatives) == ([A], [N, B])


TURNS = [("system", "Be kind."), ("user", Q), ("assistant", A)]
UNFIT = {
    "Alpaca": {"instruction": "Open it.", "input": "Now?", "output": A},
    "Alpaca without input": {"instruction": Q, "output": A},
    "chat": {"messages": [{"role": who, "content": text} for who, text in TURNS]},
    "ShareGPT": {"conversations": [{"from": who, "value": text} for who, text in TURNS[1:]]},
}


@pytest.mark.parametrize("name", UNFIT)
def test_exports_of_chats_are_refused_with_the_command_that_reads_them(tmp_path, name):
    """In one sentence that says why; whoever wants to can train on them."""
    path = write_jsonl(tmp_path / "a b.jsonl", [UNFIT[name]])
    with pytest.raises(DataError, match="rarely what a search should find") as caught:
        open_source(str(path), DataSpec())
    (row,) = reopened(caught.value, path).rows
    asked = "Open it. Now?" if name == "Alpaca" else Q
    assert (row.anchor, row.positives) == (asked, [A])
