"""Every refusal of data that suggests a command: the very command is run, and reads the data."""

import gzip
import json

import pytest
from click.testing import CliRunner
from conftest import distinct_rows, write_jsonl
from fuzz.ugly_files import as_lines, as_table
from suggested_commands import commands_in, run_command

from job.__main__ import main

# Enough for the default number of test queries.
COUNT = 320
ROWS = distinct_rows(COUNT)
PAIRS = [(row["question"], row["context"]) for row in ROWS]


def lines(make):
    """Return what writes a row for each number, question and context."""

    def write(path):
        write_jsonl(path, [make(n, question, context) for n, (question, context) in
                           enumerate(PAIRS)])  # fmt: skip

    return write


def labelled(relevant, other, names=("question", "context"), column="label"):
    """Return what writes each question with its answer and with another text."""
    rows = [
        {names[0]: question, names[1]: text, column: label}
        for n, (question, context) in enumerate(PAIRS)
        for text, label in ((context, relevant), (f"else{n} is not{n} it{n}", other))
    ]
    return lambda path: write_jsonl(path, rows)


def table(rows, encoding="utf-8"):
    return lambda path: path.write_bytes(as_table(rows).encode(encoding))


def headless(delimiter):
    text = "".join(delimiter.join(pair) + "\n" for pair in PAIRS)

    def write(path):
        data = text.encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)

    return write


def late_label(path):
    later = [row | {"label": 1} for row in distinct_rows(COUNT, "late")]
    write_jsonl(path, [*ROWS, *later, later[0] | {"context": later[9]["context"], "label": 0}])


def passages(texts):
    return [{"url": "u", "body": text} for text in texts]


FRENCH = [{"question": f"Où est la vanne n° {n} située ?", "context": f"Fermée à côté du mur {n}."}
          for n in range(COUNT)]  # fmt: skip
CYRILLIC = [{"question": f"Где красный клапан {n}?", "context": f"Он на полке {n}, внизу."}
            for n in range(COUNT)]  # fmt: skip
READS = "question `{}`, context `{}`"

# What is wrong → name of the file, what writes it, and what each suggested command prints.
REFUSED = {
    "unknown names": (
        "a.jsonl",
        lines(lambda n, q, c: {"Nr": n, "Frage": q, "Antwort": c}),
        [READS.format("Frage", "Antwort")],
    ),
    "names for a shell to quote": (
        "my $pairs.jsonl",
        lines(lambda _, q, c: {"the question": q, "der 'Text'": c}),
        [READS.format("the question", "der 'Text'")],
    ),
    "names that are words of YAML": (
        "a.jsonl",
        lines(lambda _, q, c: {"null": q, "yes": c}),
        [READS.format("null", "yes")],
    ),
    "a context and a passage": (
        "a.jsonl",
        lines(lambda n, q, c: {"question": q, "context": c, "passage": f"{c} At length {n}."}),
        [READS.format("question", "passage")],
    ),
    "two labels": (
        "a.jsonl",
        lines(lambda _, q, c: {"query": q, "passage": c, "score": 3, "label": 1}),
        ["label `label`"],
    ),
    "late labels": ("a.jsonl", late_label, ["Labels     `label`", "negatives none"]),
    "similarities": (
        "a.jsonl",
        labelled(0.9, 0.1, column="score"),
        [f"{COUNT} hard negatives", f"{2 * COUNT} usable"],
    ),
    "similarities up to five": (
        "a.jsonl",
        labelled(4.8, 1.2, column="score"),
        [f"{COUNT} hard negatives", f"{2 * COUNT} usable"],
    ),
    "classes of inference": (
        "a.jsonl",
        labelled("entailment", "neutral", ("premise", "hypothesis")),
        [f"{COUNT} answers, {COUNT} hard negatives"],
    ),
    "numbered classes of inference": (
        "a.jsonl",
        labelled(0, 2, ("premise", "hypothesis")),
        [f"{COUNT} answers, {COUNT} hard negatives"],
    ),
    "other classes": (
        "a.jsonl",
        labelled("billing", "refund"),
        [f"{COUNT} answers, {COUNT} hard negatives", f"{2 * COUNT} usable"],
    ),
    "no header": ("a.tsv", headless("\t"), [f"{COUNT} rows, {COUNT} usable"]),
    "no header, compressed": ("a b.csv.gz", headless(","), [f"{COUNT} rows, {COUNT} usable"]),
    "objects of unknown fields": (
        "a.jsonl",
        lines(lambda n, q, c: {"query": q, "passages": passages([c]), "negatives":
                               passages([f"Nothing{n} like it{n}."])}),
        [f"Negatives  {COUNT} hard negatives"],
    ),
    "Alpaca": (
        "a.jsonl",
        lines(lambda _, q, c: {"instruction": "Say", "input": q, "output": c}),
        [READS.format("{instruction} {input}", "output")],
    ),
    "chat": (
        "a.jsonl",
        lines(lambda _, q, c: {"messages": [{"role": who, "content": text} for who, text in
                                            (("user", q), ("assistant", c))]}),
        [f"{COUNT} rows, {COUNT} usable"],
    ),
    "another encoding in a table": (
        "a.csv", table(FRENCH, "cp1252"), [f"{COUNT} rows, {COUNT} usable"],
    ),
    "another encoding in lines": (
        "a b.jsonl",
        lambda path: path.write_bytes(as_lines(CYRILLIC).encode("cp1251")),
        [f"{COUNT} rows, {COUNT} usable"],
    ),
    "UTF-16 without a mark": (
        "a.jsonl",
        lambda path: path.write_bytes(as_lines(ROWS).encode("utf-16-le")),
        [f"{COUNT} rows, {COUNT} usable"],
    ),
    "all in one group": (
        "a.jsonl",
        lambda path: write_jsonl(path, [
            {"question": q, "context": PAIRS[m % COUNT][1]}
            for n, (q, _) in enumerate(PAIRS) for m in (n, n + 1)
        ]),
        [f"{2 * COUNT} rows, {2 * COUNT} usable"],
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(*arguments):
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_a_refusal_suggests_works(folder, wrong):
    """Each of its commands, without another word."""
    name, write, expected = REFUSED[wrong]
    write(folder / name)
    refused = check(name)
    assert refused.exit_code == 4, refused.output
    commands = commands_in(refused.stderr)
    assert len(commands) == len(expected), refused.stderr
    for command, told in zip(commands, expected, strict=True):
        assert told in run_command(command)


def test_suggested_commands_keep_what_was_set(folder):
    """Here the encoding, without which the columns could not be read."""
    (folder / "a.csv").write_bytes(
        as_table([{"Frage": r["question"], "Antwort": r["context"]} for r in FRENCH]).encode(
            "cp1252"
        )
    )
    (first,) = commands_in(check("a.csv").stderr)
    (second,) = commands_in(check("a.csv", "--set", first.split()[-1]).stderr)
    assert f"{COUNT} rows, {COUNT} usable" in run_command(second)


@pytest.mark.parametrize("is_corpus_latin", [True, False])
def test_the_encoding_of_one_of_several_files(folder, is_corpus_latin):
    """The command checks all of the data, and does not garble the files that are UTF-8."""
    write_jsonl(folder / "a.jsonl", FRENCH)
    documents = [{"id": n, "text": row["context"]} for n, row in enumerate(FRENCH)]
    encoding = "cp1252" if is_corpus_latin else "utf-8"
    (folder / "c.csv").write_bytes(as_table(documents).encode(encoding))
    checked = check("a.jsonl", "--set", "data.corpus=c.csv")
    if is_corpus_latin:
        (command,) = commands_in(checked.stderr)
        assert "a.jsonl" in command
        output = run_command(command)
    else:
        output = checked.stdout
    assert f"{COUNT} of {COUNT} contexts found" in output


@pytest.mark.parametrize(
    "make",
    [
        lambda q, c: {"query": {"text": q, "id": 1}, "doc": {"title": "T", "body": c}},
        lambda q, c: {"question": q, "ctxs": [{"text": c, "score": 1.5}]},
        lambda q, c: {"question": q, "found": [{"body": c, "url": "u"}]},
    ],
)
def test_texts_in_objects_are_suggested(folder, make):
    """A template names the field if its name is unknown."""
    write_jsonl(folder / "a.jsonl", [make(q, c) for q, c in PAIRS])
    (command,) = commands_in(check("a.jsonl").stderr)
    assert f"{COUNT} rows, {COUNT} usable" in run_command(command)


def test_lists_in_lists(folder):
    """Which of the inner texts is the context cannot be known."""
    rows = [{"question": q, "contexts": [["Title", c]]} for q, c in PAIRS]
    write_jsonl(folder / "a.jsonl", rows)
    (command,) = commands_in(check("a.jsonl").stderr)
    assert f"{COUNT} rows, {COUNT} usable" in run_command(command)


def test_what_is_wrong_is_never_suggested_as_the_context(folder):
    """`rejected` and the like are negatives."""
    rows = [{"question": q, "chosen": c, "rejected": f"not {n} that"}
            for n, (q, c) in enumerate(PAIRS)]  # fmt: skip
    write_jsonl(folder / "a.jsonl", rows)
    (command,) = commands_in(check("a.jsonl").stderr)
    assert "positive=chosen" in command
    assert f"{COUNT} hard negatives" in run_command(command)


@pytest.mark.parametrize("role", ["test", "validation"])
def test_what_is_suggested_if_a_given_set_holds_all_rows_works(folder, role):
    """The rows are split instead."""
    write_jsonl(folder / "a.jsonl", ROWS)
    write_jsonl(folder / "b.jsonl", ROWS)
    refused = check("a.jsonl", "--set", f"data.{role}=b.jsonl")
    assert refused.exit_code == 4
    (command,) = commands_in(refused.stderr)
    assert f"{COUNT} rows, {COUNT} usable" in run_command(command)


def test_what_a_warning_suggests_works(folder):
    """Grades whose lowest is 1."""
    labelled(5, 1, column="rating")(folder / "a.jsonl")
    document = json.loads(check("a.jsonl", "--json").stdout)
    commands = [command for text in document["warnings"] for command in commands_in(text)]
    assert commands
    for command in commands:
        assert f"{COUNT} hard negatives" in run_command(command)
