"""The stage as a whole: documents in, pairs, rejected questions and facts out."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import read_jsonl, write_jsonl

from job.core.errors import DataError, SpecError
from job.generation.hopeless import HOPELESS
from job.generation.language_models import Host
from job.generation.llm.kinds import KINDS
from job.generation.llm.protocol import Answer
from job.generation.stage import data_of_pairs, generate_once
from job.model.device import Machine
from job.report.pairs_page import write_page
from job.spec.parse import build_spec
from job.spec.schema import JobSpec

COUNT = 80


class Writer:
    """Writes two questions about each chunk, and grades."""

    def __init__(self):
        self.asked, self.answers = 0, {}

    def __call__(self, messages, _):
        self.asked += 1
        prompt = messages[-1]["content"]
        name = prompt.rpartition("page ")[2].split()[0]
        if prompt.startswith("Grade"):
            return Answer(self.answers.get(f"grade {name}", "5"), 10, 1)
        usual = f"natural: How do I use {name} today?\nkeywords: {name} manual"
        return Answer(self.answers.get(name, usual), 100, 20)


@pytest.fixture
def writer(monkeypatch):
    found = Writer()
    monkeypatch.setitem(KINDS, "openai", lambda *_: found)
    return found


@pytest.fixture
def documents(tmp_path):
    texts = [
        f"This is the page thing{n} of our handbook, which tells its use." for n in range(COUNT)
    ]
    rows = [{"id": f"c{n}", "text": text, "product": f"p{n % 3}"} for n, text in enumerate(texts)]
    return write_jsonl(tmp_path / "docs" / "chunks.jsonl", rows)


@pytest.fixture
def run(tmp_path, documents):
    """Run the stage with fields of the spec; returns the facts, and rows by file."""

    def stage(**fields):
        given = {"data.documents": str(documents), "generation.llm": "openai:m"}
        given |= {"generation.kinds": "[natural, keywords]", "generation.concurrency": "2"}
        # Texts that differ in one word are near-duplicates.
        given |= {"data.near_duplicate_threshold": "null", "data.min_test_queries": "5"}
        given |= {key.replace("__", "."): value for key, value in fields.items()}
        spec = build_spec({}, given)
        folder = tmp_path / "generation"
        host = Host(Machine("cpu", "float32", ""), pytest.fail)
        facts = generate_once(documents, spec, folder, pytest.fail, searches, write_page, host)
        return facts, {path.name: path for path in folder.iterdir()}

    def searches():
        return [find, find]

    def find(questions, corpus, depth):
        named = [question.split("thing")[1].split()[0] for question in questions]
        places = np.array([int(name) for name in named])
        return np.stack([places, places - 1], axis=1)[:, :depth] % len(corpus)

    return stage


def test_each_chunk_becomes_pairs_in_the_split_of_its_document(run, writer):
    facts, files = run()
    assert (facts.chunks, facts.requests, facts.answers, writer.asked) == (COUNT,) * 4
    assert (facts.questions, facts.kept, facts.rejected) == (2 * COUNT, 2 * COUNT, {})
    assert facts.splits == {"train": 128, "test": 16, "validation": 16}
    assert (facts.tokens_read, facts.tokens_written, facts.usd) == (8000, 1600, None)
    rows = read_jsonl(files["pairs.jsonl"])
    by_chunk = {(row["chunk_id"], row["source"], row["split"]) for row in rows}
    assert len(by_chunk) == COUNT
    assert {row["kind"] for row in rows} == {"natural", "keywords"}
    first = next(row for row in rows if row["chunk_id"] == "c7")
    assert "thing7" in first["question"]
    assert first["context"].startswith("This is the page thing7")
    corpus = read_jsonl(files["corpus.jsonl"])
    assert [row["id"] for row in corpus] == [f"c{n}" for n in range(COUNT)]
    assert corpus[4]["product"] == "p1"
    assert json.loads(files["generation.json"].read_text("utf-8"))["llm"] == "openai:m"


def test_each_rejected_question_has_its_reason_and_a_place_on_the_page(run, writer):
    writer.answers |= {
        "thing0": "natural: What does the passage say?\nkeywords: thing0 manual",
        "thing1": "I am sorry.",
        "thing2": "natural: How do I use thing3 today?\nkeywords: thing9 <b>bold</b> advice",
    }
    facts, files = run(data__test_fraction="0", data__validation_fraction="0.1")
    reasons = Counter(row["reason"] for row in read_jsonl(files["rejected.jsonl"]))
    assert reasons == facts.rejected
    assert facts.questions == facts.kept + sum(reasons.values()) == 2 * COUNT - 1
    expected = {"names the text": 1, "no question in the answer": 1, "like another question": 1}
    assert expected.items() <= reasons.items()
    # The keywords about another thing: no search finds their chunk.
    assert reasons["not found again"] == 1
    page = files["pairs.html"].read_text("utf-8")
    assert all(reason in page.lower() for reason in reasons)
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page


def test_a_second_start_asks_nothing_and_other_documents_are_refused(run, writer, documents):
    facts, files = run()
    written = files["pairs.jsonl"].read_bytes()
    assert run()[0] == facts
    assert writer.asked == COUNT
    files["generation.json"].unlink()
    assert run()[0] == facts
    assert writer.asked == COUNT
    assert files["pairs.jsonl"].read_bytes() == written
    rows = read_jsonl(documents)
    write_jsonl(documents, [rows[0] | {"text": "Another text about other things."}, *rows[1:]])
    with pytest.raises(DataError, match=r"1 changed \(`c0`\)"):
        run()


def test_the_budget_leaves_an_even_sample(run, writer):
    price = {"generation__input_price": "10", "generation__output_price": "10"}
    facts, files = run(**price, generation__max_cost="0.05", generation__max_output_tokens="20")
    assert facts.usd <= 0.05
    assert 30 <= facts.answers == writer.asked < COUNT
    assert {*facts.splits} == {"train", "validation", "test"}
    assert len(read_jsonl(files["corpus.jsonl"])) == COUNT


def test_a_limit_asks_about_fewer_chunks_and_keeps_the_corpus(run, writer):
    facts, files = run(generation__limit="30", data__min_test_queries="2")
    assert (facts.answers, writer.asked) == (30, 30)
    assert len(read_jsonl(files["corpus.jsonl"])) == COUNT


def test_half_a_question_at_the_end_of_a_cut_answer_is_not_one(run, writer, monkeypatch):
    """The facts also name what the model was asked without."""

    def cut(messages, settings):
        text = writer(messages, settings).text
        text = text if "thing7 " in messages[-1]["content"] else f"{text}\nnatural: How is th"
        return Answer(text, 10, 10, is_cut=True, without=("seed",))

    monkeypatch.setitem(KINDS, "openai", lambda *_: cut)
    facts, files = run()
    assert (facts.kept, facts.without) == (2 * COUNT - 1, ["seed"])
    assert "How is th" not in files["pairs.jsonl"].read_text("utf-8")


def test_an_answer_that_is_cut_before_its_first_question_says_why(run, writer, monkeypatch):
    def cut(messages, settings):
        answer = writer(messages, settings)
        is_cut = "thing7 " in messages[-1]["content"]
        return Answer("natural: How do I" if is_cut else answer.text, 10, 10, is_cut=is_cut)

    monkeypatch.setitem(KINDS, "openai", lambda *_: cut)
    _, files = run()
    (row,) = read_jsonl(files["rejected.jsonl"])
    assert row["answer"] == "cut off at `generation.max_output_tokens`: natural: How do I"


@pytest.mark.parametrize("answer", ["I am a language model.", "", "natural: A complete question"])
def test_nonsense_ends_the_run_after_a_few_answers(run, writer, answer):
    writer.answers |= {f"thing{n}": answer for n in range(COUNT)}
    with pytest.raises(DataError, match=f"{HOPELESS} answers"):
        run()
    assert HOPELESS <= writer.asked < HOPELESS + 4


def test_nonsense_about_few_chunks_is_an_error_too(run, writer):
    writer.answers |= {f"thing{n}": "Sorry!" for n in range(COUNT)}
    with pytest.raises(DataError, match="`Sorry!`"):
        run(generation__limit="5", data__test_fraction="0")


def test_a_judge_rejects_and_finds_second_positives(run, writer):
    writer.answers |= {
        "grade thing1": "2",
        "grade thing2": "no idea",
        # Both searches rank the chunk of thing5 first; the judge says that it answers, too.
        "thing4": "natural: How do I use thing5 tomorrow?",
        # And here that it does not.
        "thing6": "natural: How do I use thing7 tomorrow?",
        "grade thing7": "1",
    }
    everything = {"data__test_fraction": "0", "data__validation_fraction": "0"}
    facts, files = run(
        **everything, generation__judge="openai:j", generation__round_trip_depth="100"
    )
    rows = read_jsonl(files["pairs.jsonl"])
    assert facts.rejected["graded low by the judge"] == 6
    assert not [row for row in rows if row["chunk_id"] in ("c1", "c2", "c7")]
    tomorrow = [(r["question"], r["chunk_id"]) for r in rows if "tomorrow" in r["question"]]
    about = [(question.split()[4], chunk) for question, chunk in tomorrow]
    assert sorted(about) == [("thing5", "c4"), ("thing5", "c5"), ("thing7", "c6")]
    assert facts.judge == "openai:j"


def test_a_run_whose_questions_are_all_rejected_ends_with_the_reasons(run, writer, tmp_path):
    writer.answers |= {f"grade thing{number}": "2" for number in range(COUNT)}
    given = {"generation__judge": "openai:j", "data__test_fraction": "0"}
    with pytest.raises(DataError, match=r"None of 160 .* 160 graded low .*rejected\.jsonl"):
        run(**given)
    assert len(read_jsonl(tmp_path / "generation" / "rejected.jsonl")) == 160
    asked = writer.asked
    facts, _ = run(**given, generation__judge_threshold="2")
    assert (facts.kept, writer.asked) == (160, asked)


@pytest.mark.parametrize("limit", ["80", "10"])
def test_a_judge_that_gives_no_grades_ends_the_run_instead_of_rejecting_everything(
    run, writer, limit
):
    writer.answers |= {f"grade thing{number}": "<think>The text" for number in range(COUNT)}
    with pytest.raises(DataError, match=r"`generation.judge` has a grade.*without thinking first"):
        run(generation__judge="openai:j", generation__limit=limit, data__test_fraction="0")
    assert writer.asked <= int(limit) + HOPELESS + 2


def test_a_judge_has_a_price_of_its_own(run, writer):
    prices = {"input_price": "10", "output_price": "100", "judge_input_price": "1"}
    prices |= {"judge": "openai:j", "judge_output_price": "2"}
    facts, _ = run(**{f"generation__{name}": value for name, value in prices.items()})
    questions = COUNT * (100 * 10 + 20 * 100)
    grades = 2 * COUNT * (10 * 1 + 1 * 2)
    assert facts.usd == round((questions + grades) / 1e6, 4)


def test_without_a_judge_a_question_that_another_chunk_answers_better_is_rejected(run, writer):
    writer.answers["thing4"] = "natural: How do I use thing5 tomorrow?"
    facts, _ = run(data__test_fraction="0", data__validation_fraction="0")
    assert facts.rejected == {"found better elsewhere": 1}


def test_columns_of_a_given_test_name_those_of_the_pairs(run, writer):
    fields = {"data__columns__anchor": "frage", "data__columns__group": "product"}
    _, files = run(**fields, data__test="real.jsonl")
    rows, apart = (read_jsonl(files[name]) for name in ("pairs.jsonl", "synthetic_test.jsonl"))
    assert {row["split"] for row in rows} == {"train", "validation"}
    assert {row["split"] for row in apart} == {"test"}
    assert {"frage", "context", "product"} <= rows[0].keys()


def test_the_written_pairs_are_read_with_their_documents_and_splits():
    spec = build_spec({}, {"data.documents": "docs", "data.split": "a+b"}).data
    found = data_of_pairs(spec)
    assert (found.source, found.documents, found.split) == ("docs", None, "train")
    assert found.columns.document == "source"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"generation__limit": "9"}, "needs at least 5"),
        ({"data__columns__document": "product"}, "`p0`, has 27"),
    ],
)
def test_too_few_documents_to_test_with_are_refused_before_anything_is_asked(
    run, writer, fields, message
):
    """A real test set needs no synthetic one."""
    with pytest.raises(DataError, match=message):
        run(**fields)
    assert writer.asked == 0
    run(data__test="real.jsonl", data__validation="real.jsonl", **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"generation__llm": "null"}, "generation.llm"),
        ({"data__source": "pairs.jsonl"}, "both set"),
        ({"generation__prompt": "no place"}, "contains no"),
        (
            {"generation__prompt": "{text}", "generation__examples": '["vpn slow"]'},
            "no `{examples}`",
        ),
        ({"generation__max_cost": "1"}, "input_price"),
        ({"generation__judge_input_price": "1"}, "another model"),
        (
            {
                "generation__judge": "openai:j",
                "generation__judge_input_price": "1",
                "generation__input_price": "1",
                "generation__output_price": "1",
                "generation__max_cost": "1",
            },
            "--judge-price-per-million-tokens",
        ),
        ({"generation__llm_url": "localhost"}, "http://"),
        ({"generation__llm": "bedrock:m", "generation__llm_url": "http://x/v1"}, "not used for"),
        ({"generation__llm": "bedrock:m", "generation__temperature": "1.5"}, "takes 0 to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(run, writer, fields, message):
    with pytest.raises(SpecError, match=message):
        run(**fields)
    assert writer.asked == 0


def test_a_prompt_has_the_chunk_the_kinds_and_the_examples():
    from job.generation.chunks import Chunk
    from job.generation.prompting import question_messages

    chunk = Chunk("c", "d", "The {text}", "Body {kinds} of it.")
    spec = JobSpec().generation.model_copy(update={"kinds": ("task",), "examples": ("vpn slow",)})
    ((_, prompt),) = [message.values() for message in question_messages(chunk, spec)]
    assert "Text:\nThe {text} Body {kinds} of it." in prompt
    assert "- vpn slow\n" in prompt
    assert "- task:" in prompt
    assert "- natural:" not in prompt
    own = spec.model_copy(update={"prompt": "Ask about {text} in {braces}"})
    asked = question_messages(chunk, own)[0]["content"]
    assert asked == "Ask about The {text} Body {kinds} of it. in {braces}"


def test_rows_that_all_name_one_document_are_refused_with_the_setting(run, writer, documents):
    rows = [row | {"source": "wiki"} for row in read_jsonl(documents)]
    write_jsonl(documents, rows)
    with pytest.raises(DataError, match=r"`wiki`, has 80.*data.columns.document=COLUMN"):
        run()
    facts, _ = run(data__columns__document="id")
    assert facts.kept == 2 * COUNT


def test_a_budget_for_no_request_is_named(run, writer):
    prices = {"generation__input_price": "1", "generation__output_price": "1"}
    with pytest.raises(DataError, match=r"`generation.max_cost` is \$1e-06.* no request"):
        run(generation__max_cost="0.000001", **prices)
    assert writer.asked == 0


def test_requests_that_the_server_refuses_are_no_fault_of_the_prompt(run, writer, monkeypatch):
    refused = Answer("", refusal="HTTP 400: the context is too long")
    monkeypatch.setitem(KINDS, "openai", lambda *_: lambda *_: refused)
    with pytest.raises(DataError, match="the context is too long") as caught:
        run()
    assert "generation.llm_url" in str(caught.value)
    assert "larger model" not in str(caught.value)
    # The next start asks again: somebody has mended the server.
    monkeypatch.setitem(KINDS, "openai", lambda *_: writer)
    facts, _ = run()
    assert facts.kept == 2 * COUNT


def test_the_answers_of_an_earlier_start_count_as_hopeless(run, writer):
    """A second start asks no further requests to learn the same."""
    writer.answers |= {f"thing{number}": "I cannot." for number in range(COUNT)}
    for _ in range(2):
        with pytest.raises(DataError, match=f"None of {HOPELESS} answers"):
            run()
    assert writer.asked <= HOPELESS + 2
