"""Documents in, a tuned model out: launched, killed at a random moment, and resumed."""

import json
import os
import random
import signal
import time
from collections import Counter

import pytest
from conftest import make_pairs, read_jsonl, write_jsonl
from killed_commands import kill_when, start_command
from llm_server import llm_server
from tiny_writers import NAMES, build_encoder, build_writer

pytestmark = pytest.mark.exhaustive

DOCUMENTS, THREADS = 160, 4
SETTINGS = {
    "generation.kinds": "[natural, keywords]",
    "generation.concurrency": str(THREADS),
    # The untrained tiny encoder finds nothing again.
    "generation.round_trip_depth": "null",
    "data.near_duplicate_threshold": "null",
    "evaluation.permutations": "100",
    "evaluation.dimensions": "[32]",
}


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    for number, pair in enumerate(make_pairs(DOCUMENTS)):
        text = f"This is what the page tells you about: {pair['context']}"
        (folder / f"page{number}.md").write_text(text, "utf-8")
    return folder


def busy(number, _):
    """Every seventh request meets a fault that passes."""
    return ("429", "500", "half JSON")[number // 7 % 3] if number % 7 == 0 else None


def asked_texts(server):
    return Counter(json.dumps(body["messages"]) for _, _, body in server.requests)


def killed(process, server, count):
    """Kill a command once the server has so many requests."""
    kill_when(process, lambda: len(server.requests) >= count)


@pytest.fixture(scope="module")
def launched(tmp_path_factory, documents, tiny_encoder, tiny_settings):
    """A run killed while it asked; returns its folder, the output and the requests."""
    folder = tmp_path_factory.mktemp("run")
    settings = tiny_settings | SETTINGS
    with llm_server(busy, pause=0.02) as server:
        arguments = ["launch", "--documents", documents, "--llm", "openai:tiny"]
        arguments += ["--llm-url", server.url, "--model", tiny_encoder, "--name", "from-documents"]
        for name, value in settings.items():
            arguments += ["--set", f"{name}={value}"]
        killed(start_command(folder, *arguments), server, random.Random(0).randrange(20, DOCUMENTS))
        # The job is in a session of its own, and it still answers to its lock.
        record = folder / "runs" / "from-documents" / ".work" / "launch.json"
        os.kill(json.loads(record.read_text("utf-8"))["pid"], signal.SIGKILL)
        out, err = (process := start_command(folder, *arguments)).communicate()
        assert process.returncode == 0, err
        return folder / "runs" / "from-documents", out, asked_texts(server), server.requests


def test_no_journaled_answer_is_asked_for_again(launched):
    """The kill loses the requests that are running; each fault makes one more."""
    _, _, asked, requests = launched
    faults = sum(busy(number + 1, None) is not None for number in range(len(requests)))
    assert len(asked) == DOCUMENTS
    assert sum(asked.values()) <= DOCUMENTS + faults + THREADS


def test_the_report_says_that_the_test_questions_are_synthetic(launched):
    folder, out, *_ = launched
    report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    assert "synthetic" in report["verdict"]["sentence"]
    assert report["verdict"]["test_by"] == "openai:tiny"
    assert report["verdict"]["improved"]
    assert report["generation"]["kept"] == 2 * DOCUMENTS
    assert report["seconds"]["generate"] > 0
    assert "openai:tiny" in " ".join(out.split())
    for name in ("report.md", "report.html"):
        assert f"{2 * DOCUMENTS} were kept" in (folder / "report" / name).read_text("utf-8")


def test_the_results_have_the_pairs_the_page_and_the_journal(launched):
    folder, *_ = launched
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    names = {"pairs.jsonl", "corpus.jsonl", "rejected.jsonl", "pairs.html", "journal.jsonl"}
    assert {f"generation/{name}" for name in names} <= manifest.keys()
    pairs = read_jsonl(folder / "generation" / "pairs.jsonl")
    trained = {row["anchor"] for row in read_jsonl(folder / "data" / "train.jsonl")}
    assert trained == {row["question"] for row in pairs if row["split"] == "train"}
    assert "sk-of-this-test" not in (folder / "generation" / "journal.jsonl").read_text("utf-8")


@pytest.mark.parametrize("llm", ["openai:tiny", "bedrock:amazon.tiny-v1:0"])
def test_pairs_are_written_to_a_file_and_read_by_the_command_it_prints(
    tmp_path, documents, tiny_encoder, llm
):
    target = tmp_path / "out" / "pairs.jsonl"
    target.parent.mkdir()
    with llm_server(busy, pause=0.02) as server:
        arguments = ["pairs", documents, "--llm", llm, "--to", target, "--model", tiny_encoder]
        arguments += ["--llm-url", server.url] if llm.startswith("openai") else []
        arguments += ["--price-per-million-tokens", "0.06,0.24"]
        account = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        account |= {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": server.endpoint}
        for name, value in SETTINGS.items():
            arguments += ["--set", f"{name}={value}"]
        killed(start_command(tmp_path, *arguments, **account), server, 100)
        # The job is a child of the command, in the same session.
        out, err = start_command(tmp_path, *arguments, **account).communicate()
        assert target.is_file(), err
        asked, count = asked_texts(server), len(server.requests)
    assert len(asked) == DOCUMENTS
    faults = sum(busy(number + 1, None) is not None for number in range(count))
    assert sum(asked.values()) <= DOCUMENTS + faults + THREADS
    assert f"{100 * DOCUMENTS:,} read, {50 * DOCUMENTS:,} written, $0.0029" in out
    written = {path.name for path in target.parent.iterdir()}
    endings = ("jsonl", "corpus.jsonl", "rejected.jsonl", "journal.jsonl", "html")
    assert written == {f"pairs.{ending}" for ending in endings}
    command = next(line for line in out.splitlines() if line.startswith("Next"))
    words = command.split()[3:]
    data = words[words.index("--data") + 1]
    settings = [word for word in words if "=" in word]
    checked = start_command(tmp_path, "check", data, *(f"--set={word}" for word in settings))
    said = checked.communicate()[0]
    assert checked.returncode == 0
    assert "train 256, validation 32, test 32; corpus 160 documents" in said


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Arguments for rows about one subject each, and the tiny model that writes about them."""
    folder = tmp_path_factory.mktemp("local")
    texts = [f"This is the page {name} of our handbook, which tells its use" for name in NAMES]
    documents = write_jsonl(folder / "docs.jsonl", [{"text": text} for text in texts])
    writer = build_writer(folder / "writer")
    settings = SETTINGS | {"generation.kinds": "[natural]", "generation.batch_size": "4"}
    settings |= {"generation.max_output_tokens": "20", "data.min_test_queries": "5"}
    options = ["--llm", f"local:{writer}", "--model", build_encoder(folder / "base")]
    return documents, options, settings


def as_options(settings):
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def test_a_local_model_continues_after_it_was_killed(tmp_path, local):
    documents, options, settings = local
    arguments = ["pairs", documents, *options, "--device", "cpu", *as_options(settings)]
    journal, target = tmp_path / "pairs.journal.jsonl", tmp_path / "pairs.jsonl"
    process = start_command(tmp_path, *arguments)
    while process.poll() is None and (not journal.is_file() or len(read_jsonl(journal)) < 10):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = journal.read_bytes()
    assert not target.exists()
    out, err = (process := start_command(tmp_path, *arguments)).communicate()
    assert process.returncode == 0, err
    assert f"Kept       {len(NAMES)} of {len(NAMES)} questions" in out
    assert journal.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    keys = [row["key"] for row in read_jsonl(journal) if "key" in row]
    assert len(keys) == len({*keys}) == len(NAMES)


def test_a_local_model_writes_on_the_first_of_two_processes(tmp_path, local, tiny_settings):
    """Its weights are gone when the training starts; the report names it."""
    documents, options, settings = local
    arguments = ["launch", "--documents", documents, *options, "--name", "local"]
    arguments += as_options(tiny_settings | settings)
    variables = {"EMBEDTUNE_PROCESSES": "2", "EMBEDTUNE_DEVICE": "cpu"}
    _, err = (process := start_command(tmp_path, *arguments, **variables)).communicate()
    assert process.returncode == 0, err
    folder = tmp_path / "runs" / "local"
    report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    assert report["generation"]["llm"] == options[1] == report["verdict"]["test_by"]
    assert (report["generation"]["kept"], report["generation"]["usd"]) == (len(NAMES), 0)
    keys = [r["key"] for r in read_jsonl(folder / "generation" / "journal.jsonl") if "key" in r]
    assert len(keys) == len({*keys}) == len(NAMES)
