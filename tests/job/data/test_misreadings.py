"""Data that could be misread: it is read right, warned about, or refused with a command."""

import json
import logging
import re
import subprocess

import pytest
from click.testing import CliRunner
from conftest import write_jsonl
from suggested_commands import commands_in, run_command

from job.__main__ import main
from job.data import readers
from job.data.labels import label_number
from job.data.near_duplicates import jaccard, shingles

COUNT = 12
WORDS = ("valve", "kiln", "crane", "fuse", "tank", "press", "belt", "drill", "lamp", "pump", "saw",
         "vice")  # fmt: skip
PAIRS = [(f"Where is the {word}?", f"The {word} stands in hall {n} behind a green door.")
         for n, word in enumerate(WORDS)]  # fmt: skip
WRONG = [f"Nobody has ever moved the {word}, as its base weighs {n} tons." for n, word in
         enumerate(WORDS)]  # fmt: skip
ROWS = [{"question": question, "context": context} for question, context in PAIRS]
DOCUMENTS = [{"id": f"d{n}", "text": context} for n, (_, context) in enumerate(PAIRS)]
SHARES = ("data.min_test_queries=1", "data.test_fraction=0.3", "data.validation_fraction=0.3")


def run(source, *options):
    given = [part for setting in SHARES for part in ("--set", setting)]
    return CliRunner().invoke(main, ["check", str(source), *given, *options])


def check(source, *options):
    """Run `check --json`; returns its document."""
    done = run(source, "--json", *options)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refusal(source, *options):
    done = run(source, *options)
    assert done.exit_code == 4, done.output
    return done.output


def written(path, document):
    path.write_text(json.dumps(document, ensure_ascii=False), "utf-8")
    return path


QUESTIONS, CONTEXTS = (list(column) for column in zip(*PAIRS, strict=True))
WHOLE = {
    "columns below a key": {"data": {"question": QUESTIONS, "context": CONTEXTS}},
    "columns beside a version": {"version": 1, "question": QUESTIONS, "context": CONTEXTS},
    "lists below a key": {"version": 1, "pairs": [[*pair] for pair in PAIRS]},
    "a mapping": dict(PAIRS),
    "a mapping to lists": {question: [context] for question, context in PAIRS},
    "a mapping below a key": {"data": dict(PAIRS)},
    "rows beside other objects": {"authors": [{"name": "A"}], "examples": ROWS},
    "queries, corpus and qrels by id": {
        "queries": {f"q{n}": question for n, question in enumerate(QUESTIONS)},
        "corpus": {f"d{n}": {"text": context} for n, context in enumerate(CONTEXTS)},
        "qrels": {f"q{n}": {f"d{n}": 1} for n in range(COUNT)},
    },
    "queries, corpus and qrels in lists": {
        "queries": [{"_id": f"q{n}", "text": question} for n, question in enumerate(QUESTIONS)],
        "corpus": DOCUMENTS,
        "qrels": [[f"q{n}", f"d{n}", 1] for n in range(COUNT)],
    },
}


@pytest.mark.parametrize("kind", WHOLE)
def test_one_json_document_is_read_however_its_pairs_are_written(tmp_path, kind):
    found = check(written(tmp_path / "a.json", WHOLE[kind]))
    assert (found["rows"], found["pairs"], found["corpus"]) == (COUNT, COUNT, COUNT)
    plain = check(write_jsonl(tmp_path / "plain.jsonl", ROWS))
    assert found["examples"] == plain["examples"]


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"data": d}, lambda d: {"v": 1} | d])
def test_columns_of_unequal_length_are_refused_with_their_lengths(tmp_path, wrap):
    """Otherwise they are one row, of which each question is paired with every context."""
    columns = {"question": QUESTIONS, "context": CONTEXTS[:-1]}
    told = refusal(written(tmp_path / "a.json", wrap(columns)))
    assert "`question` 12, `context` 11" in told


def test_grades_of_qrels_in_a_document_are_labels(tmp_path):
    document = WHOLE["queries, corpus and qrels by id"] | {
        "qrels": {f"q{n}": {f"d{n}": 2, f"d{(n + 1) % COUNT}": 0} for n in range(COUNT)}
    }
    found = check(written(tmp_path / "a.json", document))
    assert (found["pairs"], found["negatives"], found["labels"]) == (12, 12, {"0": 12, "2": 12})


def test_rows_of_parallel_lists_are_warned_about(tmp_path):
    rows = [{"question": QUESTIONS[:2], "context": CONTEXTS[:2]}, *ROWS[2:]]
    [warning] = check(write_jsonl(tmp_path / "a.jsonl", rows))["warnings"]
    assert "a.jsonl:1" in warning
    assert "every context" in warning


# --- columns that are not read ----------------------------------------------------------------


def test_scores_under_an_unknown_name_are_warned_about(tmp_path):
    rows = [row | {"w2v": round(n / 11, 3)} for n, row in enumerate(ROWS)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    [warning] = check(path)["warnings"]
    assert "`w2v` has numbers from 0 to 1 " in warning
    with_label, without = commands_in(warning)
    assert "6 answers, 6 hard negatives" in run_command(with_label)
    assert "WARNING" not in run_command(without)


def test_labels_are_noticed_if_the_first_hundred_rows_are_answers(tmp_path):
    """A file that is sorted by its labels."""
    rows = [
        {"question": f"{question} {n}", "context": f"{text} {n}", "ok": label}
        for label, texts in ((1, CONTEXTS), (0, WRONG))
        for n in range(20)
        for question, text in zip(QUESTIONS, texts, strict=True)
    ]
    told = refusal(path := write_jsonl(tmp_path / "a.jsonl", rows))
    assert f"`{path}` has the same question with several values of `ok`" in told
    assert "240 hard negatives" in run_command(commands_in(told)[0])


def test_labels_of_questions_that_occur_once_are_warned_about(tmp_path):
    rows = [row | {"ok": n % 2} for n, row in enumerate(ROWS)]
    [warning] = check(write_jsonl(tmp_path / "a.jsonl", rows))["warnings"]
    assert "`ok` has values that may be labels" in warning


@pytest.mark.parametrize("values", [["a", "b"], [1, 2], [2019, 2020], [0, 0], [0.5, 99.0]])
def test_other_columns_are_only_named(tmp_path, values):
    rows = [row | {"more": values[n % 2]} for n, row in enumerate(ROWS)]
    found = check(write_jsonl(tmp_path / "a.jsonl", rows))
    assert (found["warnings"], found["notes"]) == ([], ["not read: `more`"])


def test_a_title_that_is_not_read_can_be(tmp_path):
    rows = [row | {"title": f"Manual {n}"} for n, row in enumerate(ROWS)]
    [note] = check(path := write_jsonl(tmp_path / "a.jsonl", rows))["notes"]
    assert note.startswith("not read: `title`; with the title before each context: ")
    [command] = commands_in(note)
    assert f"check {path} " in command
    assert "context   Manual " in run_command(command)


@pytest.mark.parametrize("name", ["incorrect_context", "wrong_passage", "Bad Document 2",
                                  "irrelevant_text", "distractor_passages"])  # fmt: skip
def test_what_is_called_wrong_is_a_negative(tmp_path, name):
    rows = [row | {name: wrong} for row, wrong in zip(ROWS, WRONG, strict=True)]
    assert check(write_jsonl(tmp_path / "a.jsonl", rows))["negatives"] == COUNT


@pytest.mark.parametrize(
    ("yes", "no"),
    [("oui", "non"), ("ja", "nein"), ("si", "no"), ("sí", "no"), ("да", "нет"), ("tak", "nie"),
     ("はい", "いいえ"), ("是", "否"), ("sim", "não")],
)  # fmt: skip
def test_yes_and_no_are_labels_in_other_languages(tmp_path, yes, no):
    rows = [row | {"label": yes} for row in ROWS]
    rows += [row | {"context": wrong, "label": no} for row, wrong in zip(ROWS, WRONG, strict=True)]
    found = check(write_jsonl(tmp_path / "a.jsonl", rows))
    assert (found["pairs"], found["negatives"]) == (COUNT, COUNT)


@pytest.mark.parametrize(
    ("text", "number"),
    [("0,5", 0.5), ("1.234,5", 1234.5), ("-1.234.567,25", -1234567.25), ("1,234.5", 1234.5),
     ("1.5", 1.5), ("1.23,5", None), ("12,34,5", None)],
)  # fmt: skip
def test_decimals_are_read_as_people_write_them(text, number):
    assert label_number(text) == number


@pytest.mark.parametrize("yes", ["good", 1, "90%"])
def test_words_under_an_unknown_name_are_labels_if_a_question_has_several(tmp_path, yes):
    no = {"good": "bad", 1: 0, "90%": "0%"}[yes]
    rows = [row | {"kind": yes} for row in ROWS]
    rows += [row | {"context": wrong, "kind": no} for row, wrong in zip(ROWS, WRONG, strict=True)]
    done = run(write_jsonl(tmp_path / "a.jsonl", rows))
    assert "`kind`" in done.output
    assert "data.columns.label=kind" in done.output


def test_weights_of_several_contexts_are_warned_about(tmp_path):
    rows = [
        {"question": question, "contexts": [context, wrong], "weights": [0.9, 0.2]}
        for (question, context), wrong in zip(PAIRS, WRONG, strict=True)
    ]
    [warning] = check(write_jsonl(tmp_path / "a.jsonl", rows))["warnings"]
    assert "`weights` has numbers from 0.2 to 0.9" in warning
    assert "12 hard negatives" in run_command(commands_in(warning)[0])


@pytest.mark.parametrize("nothing", ["nan", "None", "null", "", "N/A"])
def test_words_for_no_value_are_no_texts(tmp_path, nothing):
    rows = [row | {"negative": nothing} for row in ROWS] + [
        {"question": "Who?", "context": nothing}
    ]
    found = check(write_jsonl(tmp_path / "a.jsonl", rows))
    assert (found["negatives"], found["dropped"]) == (0, {"empty context": 1})


@pytest.mark.parametrize("negatives", [[3, 4], [{"bm25": [WRONG[0]]}], [None]])
def test_negatives_that_cannot_be_used_are_counted(tmp_path, negatives):
    rows = [row | {"negatives": [text or row["context"] for text in negatives]} for row in ROWS]
    found = check(write_jsonl(tmp_path / "a.jsonl", rows))
    assert found["negatives"] == 0
    assert f"{12 * len(negatives)} hard negatives are dropped" in found["notes"][0]


def test_a_column_may_name_the_split_of_each_row(tmp_path):
    """Unless all rows are to be pooled."""
    rows = [row | {"split": "train" if n < 8 else "test"} for n, row in enumerate(ROWS)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert check(path)["splits"]["test"] == 4
    found = check(path, "--set", "data.split=train+test", "--set", "data.test_fraction=0.1")
    assert found["splits"]["test"] == 1


# --- folders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["holdout", "heldout", "hold-out", "pairs_held_out", "eval"])
def test_a_file_that_is_held_out_is_the_test_set(tmp_path, name):
    write_jsonl(tmp_path / "train.jsonl", ROWS[:8])
    write_jsonl(tmp_path / f"{name}.jsonl", ROWS[8:])
    assert check(tmp_path)["splits"]["test"] == 4


def test_eval_is_the_validation_set_beside_a_test_set(tmp_path):
    document = {"train_data": ROWS[:6], "eval_data": ROWS[6:8], "test_data": ROWS[8:]}
    for name, rows in document.items():
        write_jsonl(tmp_path / "folder" / f"{name}.jsonl", rows)
    for path in (tmp_path / "folder", written(tmp_path / "a.json", document)):
        assert check(path)["splits"] == {"train": 6, "validation": 2, "test": 4}


def test_a_file_without_the_name_of_a_split_is_named(tmp_path):
    for name, rows in (("train", ROWS[:6]), ("benchmark", ROWS[6:])):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    [note] = check(tmp_path)["notes"]
    assert "benchmark.jsonl`: the name is no split" in note
    found = check(tmp_path, "--set", f"data.test={tmp_path / 'benchmark.jsonl'}")
    assert (found["rows"], found["splits"]["test"]) == (COUNT, 6)


@pytest.mark.parametrize("name", ["docs", "documents", "passages", "knowledge_base"])
def test_documents_beside_pairs_are_the_corpus(tmp_path, name):
    write_jsonl(tmp_path / "pairs.jsonl", ROWS)
    write_jsonl(tmp_path / f"{name}.jsonl", [*DOCUMENTS, {"id": "more", "text": WRONG[0]}])
    found = check(tmp_path)
    assert (found["rows"], found["corpus"], found["dropped"]) == (COUNT, COUNT + 1, {})


def test_a_file_with_questions_is_no_corpus_whatever_its_name(tmp_path):
    write_jsonl(tmp_path / "passages.jsonl", ROWS[:6])
    write_jsonl(tmp_path / "more.jsonl", ROWS[6:])
    assert check(tmp_path)["pairs"] == COUNT


def test_a_file_without_questions_is_refused_with_the_command_that_searches_it(tmp_path):
    """Even if its column of texts has an unknown name, which a second command gives."""
    write_jsonl(tmp_path / "pairs.jsonl", ROWS)
    texts = [{"nr": n, "Quelle": "S. 1", "inhalt": text} for n, text in enumerate(CONTEXTS)]
    write_jsonl(tmp_path / "texte.jsonl", texts)
    told = refusal(tmp_path)
    assert "texte.jsonl` has no question in any row" in told
    [command] = commands_in(told)
    again = refusal(tmp_path, "--set", command.split()[-1])
    [complete] = commands_in(again)
    assert complete.endswith("--set data.columns.corpus_text=inhalt")
    assert "12 of 12 contexts found in the corpus" in run_command(complete)


def test_a_file_whose_questions_are_empty_is_not_taken_for_documents(tmp_path):
    """Its rows are dropped and counted, as those of other files."""
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    write_jsonl(tmp_path / "b.jsonl", [{"question": None, "context": "Nobody asks for it."}])
    assert check(tmp_path)["dropped"] == {"empty question": 1}


def test_a_text_with_several_titles_is_one_document_of_the_corpus(tmp_path):
    """The twins answer as well, and would count as wrong."""
    pairs = write_jsonl(tmp_path / "pairs.jsonl", ROWS)
    twins = [
        row | {"id": f"{row['id']}-{n}", "title": f"T{n}"} for row in DOCUMENTS for n in (1, 2)
    ]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", twins)
    found = check(pairs, "--set", f"data.corpus={corpus}")
    assert found["corpus"] == COUNT
    assert any("12 documents with another title left out" in note for note in found["notes"])


def test_zero_grades_in_qrels_are_counted(tmp_path):
    queries = [{"_id": f"q{n}", "text": question} for n, question in enumerate(QUESTIONS)]
    write_jsonl(tmp_path / "queries.jsonl", queries)
    write_jsonl(tmp_path / "corpus.jsonl", DOCUMENTS)
    lines = [f"q{n}\td{(n + k) % COUNT}\t{1 - k}" for n in range(COUNT) for k in (0, 1)]
    (tmp_path / "qrels").mkdir()
    judged = "\n".join(["query-id\tcorpus-id\tscore", *lines, ""])
    (tmp_path / "qrels" / "test.tsv").write_text(judged)
    found = check(tmp_path)
    assert found["pairs"] == COUNT
    assert found["notes"] == ["12 judgements of grade 0 or below: no answers, not used"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.txt", "question;context\n" + "".join(f"{q};{c}\n" for q, c in PAIRS)),
        ("my pairs", "".join(json.dumps(row) + "\n" for row in ROWS)),
    ],
)
def test_a_text_file_without_a_known_suffix_is_read_when_renamed(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    [rename, command] = re.search(r"`(mv .*) && (embedtune check .*)`", refusal(path)).groups()
    subprocess.run(rename, shell=True, check=True)
    assert "12 usable" in run_command(command, *SHARES)


def test_texts_that_are_fields_of_one_object_are_suggested(tmp_path):
    told = refusal(write_jsonl(tmp_path / "a.jsonl", [{"data": row} for row in ROWS]))
    [command] = commands_in(told)
    assert "question `{data[question]}`, context `{data[context]}`" in run_command(command)


# --- the rest ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "end", "other"),
    [
        ("请先关闭阀门然后更换水箱下面的旧密封圈最后再打开阀门", "吧",
         "仓库里的红色叉车每周一早上由值班人员检查轮胎和电池"),
        ("กรุณาปิดวาล์วก่อนแล้วจึงเปลี่ยนซีลใต้ถังน้ำ", "นะ", "รถยกสีแดงในโกดังตรวจสอบทุกเช้าวันจันทร์"),
    ],
)  # fmt: skip
def test_near_duplicates_are_found_without_spaces(text, end, other):
    assert jaccard(shingles(text), shingles(text + end)) > 0.8
    assert jaccard(shingles(text), shingles(other)) < 0.2


def test_a_large_document_is_announced_before_it_is_read(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(readers, "LARGE_DOCUMENT", 100)
    path = written(tmp_path / "a.json", ROWS)
    with caplog.at_level(logging.WARNING, logger="embedtune"):
        found = check(path)
    assert any("JSON lines (`.jsonl`) need a fraction of the memory" in n for n in found["notes"])
    assert "is one JSON document of" in caplog.text
