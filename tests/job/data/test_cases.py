"""Data as people have it: `check` shows what will be trained, or refuses with the way out."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from conftest import read_jsonl, write_jsonl
from suggested_commands import commands_in, run_command

from job.__main__ import main
from job.data.dataset import inspect_dataset, write_splits
from job.data.words import count_words
from job.report.document import Data
from job.spec.schema import DataSpec

WORDS = ("valve", "kiln", "crane", "fuse", "tank", "press", "belt", "drill", "lamp", "pump")
SHARES = {"data.min_test_queries": 1, "data.test_fraction": 0.3, "data.validation_fraction": 0.3}


def texts(number):
    word = f"{WORDS[number % 10]}{number // 10 or ''}"
    return f"Where is the {word}?", f"The {word} stands in hall {number} behind a green door."


def pairs(count=10):
    return [dict(zip(("question", "context"), texts(n), strict=True)) for n in range(count)]


def check(source, **settings):
    """Run `check --json`; returns its document."""
    done = run(source, "--json", **settings)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def run(source, *options, **settings):
    given = SHARES | {name.replace("__", "."): value for name, value in settings.items()}
    sets = [part for name, value in given.items() for part in ("--set", f"{name}={value}")]
    return CliRunner().invoke(main, ["check", str(source), *options, *sets])


def inspect(source, **spec):
    spec = {"min_test_queries": 1, "test_fraction": 0.3, "validation_fraction": 0.3} | spec
    return inspect_dataset(DataSpec(source=str(source), **spec), {})


# --- a corpus with titles ---------------------------------------------------------------------


@pytest.fixture
def titled(tmp_path):
    """Pairs whose contexts and negatives stand in a corpus that has titles."""
    rows = [row | {"negative": texts((n + 1) % 10)[1]} for n, row in enumerate(pairs())]
    documents = [
        {"id": f"m{n}", "title": f"Manual {n}", "text": row["context"]}
        for n, row in enumerate(rows)
    ]
    write_jsonl(tmp_path / "corpus.jsonl", documents)
    return write_jsonl(tmp_path / "pairs.jsonl", rows)


def test_a_context_is_found_in_the_corpus_by_its_text_alone(titled):
    """No twin without a title competes with the document."""
    corpus = titled.parent / "corpus.jsonl"
    found = check(titled, data__corpus=corpus)
    assert (found["corpus"], found["contexts_found_in_corpus"], found["contexts"]) == (10, 10, 10)
    assert "10 of 10 contexts found in the corpus\n" in run(titled, data__corpus=corpus).stdout


def test_titles_are_trained_on_as_they_are_searched(titled):
    """The corpus's form is that of contexts and negatives."""
    dataset = inspect(titled, corpus=str(titled.parent / "corpus.jsonl"))
    assert dataset.corpus.ids.to_pylist() == [f"m{n}" for n in range(10)]
    for table in dataset.tables:
        for row in table.to_pylist():
            assert row["positive"].startswith("Manual ")
            assert [text.startswith("Manual ") for text in row["negatives"]] == [True]


def test_a_context_that_has_its_title_is_left_alone(tmp_path):
    """As are texts that the corpus lacks: those are added to it, and not counted as found."""
    rows = [row | {"context": f"Manual {row['context']}"} for row in pairs()]
    documents = [{"id": n, "title": "Manual", "text": texts(n)[1]} for n in range(9)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents)
    found = check(write_jsonl(tmp_path / "pairs.jsonl", rows), data__corpus=corpus)
    assert (found["corpus"], found["contexts_found_in_corpus"]) == (10, 9)


def test_the_same_pair_with_and_without_its_title_is_one(titled):
    """It is a duplicate after the title is added."""
    rows = read_jsonl(titled)
    again = rows[3] | {"context": f"Manual 3 {rows[3]['context']}", "negative": None}
    write_jsonl(titled, [*rows, again])
    found = check(titled, data__corpus=titled.parent / "corpus.jsonl")
    assert found["dropped"] == {"exact duplicate": 1}


@pytest.mark.parametrize("written", [str, lambda name: {"id": name}, lambda name: [name]])
def test_contexts_that_are_ids_are_read_from_the_corpus(titled, written):
    """Negatives as well; it is said."""
    rows = [
        {"query": row["question"], "pos_doc": written(f"m{n}"), "neg_doc": [f"m{(n + 1) % 10}"]}
        for n, row in enumerate(pairs())
    ]
    corpus = titled.parent / "corpus.jsonl"
    found = check(write_jsonl(titled, rows), data__corpus=corpus)
    assert (found["corpus"], found["contexts_found_in_corpus"]) == (10, 10)
    assert (found["pairs"], found["negatives"], found["warnings"]) == (10, 10, [])
    assert "contexts that are ids of documents in the corpus are" in found["notes"][-1]
    assert found["examples"][0]["context"].startswith("Manual ")


def test_a_text_that_is_a_document_is_no_id(tmp_path):
    """Even if another document is called so."""
    documents = [{"id": "green door", "text": "Another text."}, {"id": "2", "text": "Green door"}]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents)
    rows = [*pairs(), {"question": "Which?", "context": "green door"}]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    contexts = [
        row["positive"]
        for table in inspect(source, corpus=str(corpus)).tables
        for row in table.to_pylist()
    ]
    assert "green door" in contexts
    assert "Another text." not in contexts


# --- repeated pairs ---------------------------------------------------------------------------


def test_negatives_of_repeated_pairs_are_merged(tmp_path):
    """A row that brings a new negative is no duplicate; one that brings none is."""
    wrong = [texts(n)[1] for n in range(20, 24)]
    rows = [row | {"negative": text} for row in pairs() for text in wrong[:3]]
    rows += [pairs()[0] | {"negative": [wrong[1].upper(), wrong[3]]}, pairs()[1]]
    rows += [pairs()[2] | {"negative": wrong[0].upper()}]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    found = check(source)
    assert (found["rows"], found["pairs"], found["negatives"]) == (33, 10, 31)
    assert (found["merged_rows"], found["dropped"]) == (21, {"exact duplicate": 2})
    by_question = {
        row["anchor"]: row["negatives"]
        for table in inspect(source).tables
        for row in table.to_pylist()
    }
    assert by_question[texts(0)[0]] == wrong
    assert by_question[texts(5)[0]] == wrong[:3]


def test_negatives_merged_are_no_answers_of_other_rows(tmp_path):
    """As those that stand beside the pair are not."""
    question = {"question": "Which?"}
    rows = [question | {"context": f"right {n}", "negative": "wrong"} for n in range(2)]
    rows += [question | {"context": "right 0", "negative": "RIGHT 1"}]
    source = write_jsonl(tmp_path / "a.jsonl", [*rows, *pairs()])
    negatives = [row["negatives"] for t in inspect(source).tables for row in t.to_pylist()]
    assert sorted(filter(None, negatives)) == [["wrong"], ["wrong"]]


def test_pairs_are_merged_within_their_split(tmp_path):
    """A test set keeps its own negatives."""
    source = write_jsonl(tmp_path / "a.jsonl", pairs())
    tested = [
        {"question": "Tested?", "context": "This.", "negative": text} for text in ("No.", "Nor.")
    ]
    test = write_jsonl(tmp_path / "test.jsonl", tested)
    (row,) = inspect(source, test=str(test)).test_pairs.to_pylist()
    assert row["negatives"] == ["No.", "Nor."]


# --- columns ----------------------------------------------------------------------------------


def test_contexts_win_over_answers_and_it_is_said(tmp_path):
    """As in evaluations of chat bots."""
    rows = [
        {
            "question": row["question"],
            "answer": f"Sorry, attempt {n}.",
            "context": row["context"],
            "ground_truth": "See the manual.",
        }
        for n, row in enumerate(pairs())
    ]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    found = check(source)
    assert found["columns"]["positive"] == "context"
    (note,) = found["notes"]
    assert note.startswith("`context` is trained on, not `answer`, `ground_truth`: a retriever")
    assert "Decided    `context` is trained on, not `answer`" in run(source).stdout


@pytest.mark.parametrize(
    "names", [("frage", "antwort"), ("die Frage", "der 'Text'"), ("null", "true"), ("問", "答")]
)
def test_the_command_of_a_refusal_works(tmp_path, names):
    """It names both columns, whatever they are called."""
    rows = [dict(zip(names, texts(n), strict=True)) for n in range(10)]
    done = run(write_jsonl(tmp_path / "a.jsonl", rows))
    assert done.exit_code == 4
    (command,) = commands_in(done.stderr)
    output = run_command(command, *(f"{name}={value}" for name, value in SHARES.items()))
    assert f"question `{names[0]}`, context `{names[1]}`" in output


# --- warnings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["Handbook_{}.pdf", "docs/{}/a", "https://example.org/{}", "{}", "DOC-{}", "My file {}.md"],
)
def test_contexts_that_are_names_are_warned_of(tmp_path, name):
    """The last line refers to the warning, so that nobody overlooks it."""
    rows = [row | {"context": name.format(1000 + n)} for n, row in enumerate(pairs())]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    (warning,) = check(source)["warnings"]
    assert "100% of the contexts look like file names, ids or URLs" in warning
    *_, warned, last = run(source).stdout.splitlines()
    assert warned == f"WARNING    {warning}"
    assert last == "Ready to train, but read the warnings."


def test_very_short_contexts_are_warned_of(tmp_path):
    """Keywords are no texts."""
    rows = [row | {"context": f"green {WORDS[n]}"} for n, row in enumerate(pairs())]
    (warning,) = check(write_jsonl(tmp_path / "a.jsonl", rows))["warnings"]
    assert "have 2 words or fewer" in warning


def test_lists_written_as_texts_are_warned_of(tmp_path):
    """If they were not read as lists."""
    rows = [row | {"context": f"['{row['context']}', and more]"} for row in pairs()]
    (warning,) = check(write_jsonl(tmp_path / "a.jsonl", rows))["warnings"]
    assert "10 of 10 contexts are lists written as texts" in warning


def test_good_data_gives_no_warning(tmp_path):
    """In any language."""
    assert check(write_jsonl(tmp_path / "a.jsonl", pairs()))["warnings"] == []
    chinese = [
        {"question": f"{word}号阀门在哪里？", "context": f"{word}号阀门在大厅后面的绿色门旁边。"}
        for word in "甲乙丙丁戊己庚辛"
    ]
    assert check(write_jsonl(tmp_path / "b.jsonl", chinese))["warnings"] == []


def test_one_pair_with_many_negatives_is_pointed_out(tmp_path):
    """It would make all batches as wide."""
    rows = pairs()
    rows[0]["negatives"] = [f"No. {n} of many texts" for n in range(40)]
    (warning,) = check(write_jsonl(tmp_path / "a.jsonl", rows))["warnings"]
    assert "one pair has 40 negatives, the median pair 0" in warning


# --- rows that are left out; one group --------------------------------------------------------


@pytest.mark.parametrize("as_folder", [False, True])
def test_rows_whose_question_is_in_the_test_set_are_counted(tmp_path, as_folder):
    """The error says what to do, and does not point at the command that was run."""
    source = write_jsonl(tmp_path / "train.jsonl", pairs())
    test = write_jsonl(tmp_path / "test.jsonl", pairs())
    done = run(tmp_path) if as_folder else run(source, data__test=test)
    assert done.exit_code == 4
    told = "10 rows are left out: their question is in the test set"
    assert f"Left out   {told}\n" in done.stdout
    assert told in done.stderr
    assert "See `embedtune check`" not in done.stderr
    (command,) = commands_in(done.stderr)
    assert run_command(command)


@pytest.fixture
def chained(tmp_path):
    """Questions that share contexts with their neighbors: one group."""
    rows = [
        {"question": texts(n)[0], "context": texts(m % 10)[1]}
        for n in range(10)
        for m in (n, n + 1)
    ]
    return write_jsonl(tmp_path / "a.jsonl", rows)


def test_one_group_of_all_rows_is_told_with_what_helps(chained):
    """More rows of the kind would not help; the command does, and counts what splits share."""
    done = run(chained)
    assert done.exit_code == 4
    assert "1 group of 20 rows" in done.stdout
    assert "1 group of 20 rows" in done.stderr
    assert "Add rows, or change" not in done.stderr
    assert "separate test set" in done.stderr
    (command,) = commands_in(done.stderr)
    assert "Leakage    0.0%" not in run_command(command)


def test_divided_groups_keep_questions_together(chained):
    """A question is in one split, also if its contexts are in several."""
    dataset = inspect(chained, large_groups="by_question")
    asked = [set(table["anchor"].to_pylist()) for table in dataset.tables]
    assert sum(map(len, asked)) == len(set().union(*asked)) == 10
    assert all(asked)
    assert dataset.facts["leakage"]["test_contexts_in_train"] > 0


def test_no_command_is_suggested_that_cannot_help(chained):
    """With too few questions for the test set wanted, only words."""
    done = run(chained, data__min_test_queries=30)
    assert "embedtune check" not in done.stderr


# --- what is kept -----------------------------------------------------------------------------


def test_the_owners_ids_negatives_and_grades_are_written(tmp_path):
    """In `data/`, where other tools read them."""
    rows = [
        row
        | {"id": f"faq-{n}", "doc_id": f"doc {n}", "relevance": 1 + n % 2, "negative": "No, no."}
        for n, row in enumerate(pairs())
    ]
    write_splits(inspect(write_jsonl(tmp_path / "a.jsonl", rows)), tmp_path / "data")
    for row in read_jsonl(tmp_path / "data/test.jsonl"):
        number = int(row["id"].removeprefix("faq-"))
        assert row["anchor"] == texts(number)[0]
        assert row["negatives"] == ["No, no."]
    documents = {row["id"] for row in read_jsonl(tmp_path / "data/corpus.jsonl")}
    assert {f"doc_{n}" for n in range(10)} < documents
    _, *judgements = (tmp_path / "data/qrels.tsv").read_text().splitlines()
    for query, document, grade in (line.split("\t") for line in judgements):
        number = int(query.removeprefix("faq-"))
        assert (document, grade) == (f"doc_{number}", str(1 + number % 2))


def test_ids_of_many_texts_are_no_ids(tmp_path):
    """A file's name beside each of its parts names none of them."""
    rows = [row | {"id": "faq", "doc_id": "handbook"} for row in pairs()]
    dataset = inspect(write_jsonl(tmp_path / "a.jsonl", rows))
    assert not any("handbook" in name for name in dataset.corpus.ids.to_pylist())
    assert not any("faq" in name for name in dataset.test.ids.to_pylist())


def test_written_splits_are_read_as_they_were(tmp_path):
    """Ids and negatives come back."""
    rows = [row | {"negative": texts(30 + n)[1]} for n, row in enumerate(pairs())]
    write_splits(inspect(write_jsonl(tmp_path / "a.jsonl", rows)), tmp_path / "data")
    written = read_jsonl(tmp_path / "data/train.jsonl")
    again = inspect(tmp_path / "data/train.jsonl", test_fraction=0, validation_fraction=0)
    assert again.train.table.to_pylist() == written


def test_the_report_takes_the_facts_as_they_are(tmp_path):
    """None of the new facts is lost in it."""
    rows = [row | {"label": n % 3} for n, row in enumerate(pairs())]
    facts = inspect(write_jsonl(tmp_path / "a.jsonl", rows)).facts
    texts_cut = {"texts": 0, "cut": 0, "longest": 0}
    truncation = {"max_tokens": 8, "queries": texts_cut, "documents": texts_cut}
    data = Data.model_validate(facts | {"truncation": truncation})
    assert data.labels is not None
    assert data.labels.counts == facts["labels"]["counts"]
    assert (data.negatives, data.format) == (facts["negatives"], "rows")


# --- languages without spaces; terminals ------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one two  three", 3),
        ("阀门在大厅里。", 3),
        ("バルブはホールにあります", 6),
        ("วาล์วสีแดงอยู่ในห้องโถง", 6),
        ("第3号阀门 is red", 5),
        ("밸브는 어디에 있습니까", 3),
        ("", 0),
    ],
)
def test_words_are_counted_in_all_languages(text, words):
    """Roughly, if a language has no spaces."""
    assert abs(count_words(text) - words) <= 1


def test_two_characters_can_be_a_question(tmp_path):
    """In languages in which they are two words; in others they are not."""
    rows = [
        *(
            {"question": word, "context": f"{word}的阀门在大厅里。"}
            for word in ("漏水", "停电", "加油")
        ),
        {"question": "水", "context": "水的阀门在大厅里面。"},
        {"question": "ab", "context": "the valve is in the hall"},
    ]
    found = check(write_jsonl(tmp_path / "a.jsonl", pairs() + rows))
    assert found["dropped"] == {"question is too short": 2}


@pytest.mark.parametrize(
    ("encoding", "options"),
    [("cp1252", []), ("cp1252", ["--json"]), ("latin-1", []), ("utf-8", [])],
    ids=str,
)
def test_check_works_on_every_terminal(tmp_path, encoding, options):
    """Plain characters stand for those that it lacks."""
    rows = pairs()
    rows[0]["context"] = "阀门 ♥ “quoted” — " + "long text " * 40
    write_jsonl(tmp_path / "a.jsonl", rows)
    sets = [part for name, value in SHARES.items() for part in ("--set", f"{name}={value}")]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "job", "check", "a.jsonl", *options, *sets],
        env={"PYTHONIOENCODING": encoding, "PATH": "/usr/bin"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    told = done.stdout.decode(encoding)
    if options:
        assert json.loads(told)["pairs"] == 10
    else:
        assert ("█" if encoding == "utf-8" else "##") in told


def test_the_document_for_programs_has_the_promised_keys(tmp_path):
    """Numbers are numbers; nothing else is on stdout."""
    found = check(write_jsonl(tmp_path / "a.jsonl", pairs()))
    promised = {"format", "columns", "rows", "pairs", "negatives", "labels", "dropped", "corpus"}
    promised |= {"contexts_found_in_corpus", "splits", "groups", "examples", "warnings"}
    assert promised <= {*found}
    assert [found[name] for name in ("rows", "pairs", "negatives", "corpus")] == [10, 10, 0, 10]
    first, _ = found["examples"]
    assert (first["question"], first["context"]) in [texts(n) for n in range(10)]
    assert {"negatives", "prompt"} < {*first}
