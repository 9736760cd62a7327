"""Retrieval data sets on the Hub: a corpus, queries and judgements, each in its configuration."""

import json
import shlex
import subprocess
import sys

import pytest
from hub_server import Hub
from suggested_commands import commands_in

CARD = """\
---
configs:
- config_name: {prefix}corpus
  data_files: [{{split: corpus, path: {folder}corpus.jsonl}}]
- config_name: {prefix}queries
  data_files: [{{split: queries, path: {folder}queries.jsonl}}]
"""
JUDGED = """\
- config_name: {name}
  data_files:
  - {{split: train, path: {folder}qrels/train.jsonl}}
  - {{split: test, path: {folder}qrels/test.jsonl}}
"""


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def retrieval(folder=""):
    """Make forty judged questions, the last ten to test on, and a document that nobody asks for."""
    documents = [{"_id": f"d{n}", "title": "", "text": f"It {n} lies on shelf {n}."}
                 for n in range(41)]  # fmt: skip
    queries = [{"_id": f"q{n}", "text": f"Where lies number {n}?"} for n in range(40)]
    qrels = [{"query-id": f"q{n}", "corpus-id": f"d{n}", "score": 1} for n in range(40)]
    files = {"corpus": documents, "queries": queries, "qrels/train": qrels[:30]}
    files |= {"qrels/test": qrels[30:]}
    return {f"{folder}{name}.jsonl": jsonl(rows) for name, rows in files.items()}


def card(*parts):
    return "".join(parts).encode() + b"---\n"


DATA_SETS = {
    "mteb/tiny": {
        "README.md": card(
            CARD.format(prefix="", folder=""), JUDGED.format(name="default", folder="")
        )
    }
    | retrieval(),
    "mteb/many": {
        "README.md": card(
            CARD.format(prefix="en-", folder="en/"),
            JUDGED.format(name="en-qrels", folder="en/"),
            CARD.format(prefix="de-", folder="de/").partition("configs:\n")[2],
            JUDGED.format(name="de-qrels", folder="de/"),
        )
    }
    | retrieval("en/")
    | retrieval("de/"),
    "beir/bare": {"README.md": card(CARD.format(prefix="", folder=""))} | retrieval(),
    "mteb/broken": {
        "README.md": card(
            CARD.format(prefix="", folder=""), JUDGED.format(name="default", folder="")
        )
    }
    | retrieval()
    | {"queries.jsonl": b"oops\n"},
    "me/odd": {
        "train.jsonl": jsonl([{"frage": f"Wo {n}?", "antwort": f"Da {n}."} for n in "abcdefghij"])
    },
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Return what checks a data set of a local Hub, in a process of its own."""
    with Hub() as hub:
        for name, files in DATA_SETS.items():
            hub.add("dataset", name, files)
        environment = hub.environment(tmp_path_factory.mktemp("cache"))

        def check(name, *settings):
            command = [sys.executable, "-m", "job", "check", name]
            for setting in ("data.min_test_queries=1", *settings):
                command += ["--set", setting]
            return subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )

        yield check


@pytest.mark.parametrize(
    ("name", "settings"), [("mteb/tiny", ()), ("mteb/many", ("data.subset=de",))]
)
def test_all_three_parts_are_fetched_and_joined(checked, name, settings):
    """Texts, not ids, are trained on; what the authors test on stays theirs."""
    done = checked(name, *settings)
    assert done.returncode == 0, done.stderr
    assert f"{name}: 40 rows, 40 usable" in done.stdout
    assert "question `queries.text`, context `corpus.text`" in done.stdout
    assert "test 10; corpus 41 documents" in done.stdout


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mteb/many", "holds several collections: `en`, `de`"),
        ("beir/bare", "holds a corpus and queries, and no judgements"),
        ("mteb/broken", "`mteb/broken/queries/queries-0.jsonl` line 1 is not valid JSON"),
        ("me/odd", "`me/odd` has no column"),
    ],
)
def test_errors_name_the_data_set(checked, name, told):
    """Never the folder that it was fetched to."""
    done = checked(name)
    assert done.returncode == 4
    assert told in done.stderr
    assert "/tmp" not in done.stderr
    assert "fetched" not in done.stderr


@pytest.mark.parametrize("name", ["mteb/many", "me/odd"])
def test_the_command_that_an_error_suggests_works(checked, name):
    """It names the data set, and what was missing."""
    (command,) = commands_in(checked(name).stderr)
    _, _, named, *settings = shlex.split(command)
    done = checked(named, *settings[1::2])
    assert (named, done.returncode) == (name, 0), done.stderr
