"""A real, small language model writes questions about documents, and a model is trained on them.

The run is killed while the model writes, and resumed.
"""

import json
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import pytest
from conftest import read_jsonl, write_jsonl
from killed_commands import kill_job, kill_when, start_command

pytestmark = pytest.mark.llm
HERE = Path(__file__).parent
# Until the server has read its model, on a busy machine.
SECONDS = 300
# Of 5,400 texts, evenly.
CHUNKS, STEP = 60, 89
THREADS = 2
# Requests before the kill.
FIRST = 15
# Questions that pass all filters, at least; it asks for two about each chunk.
KEPT = 30
LLM = "openai:smollm2"
SETTINGS = {
    # At a higher temperature so small a model rambles.
    "generation.temperature": 0.3,
    "generation.max_output_tokens": 100,
    "generation.concurrency": THREADS,
    "generation.timeout": 900,
    "data.min_test_queries": 3,
    "training.epochs": 1,
    "evaluation.permutations": 1000,
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Serve SmolLM2 by llama.cpp on a free port; returns its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [os.environ["EMBEDTUNE_TEST_LLM"], str(HERE / "serve.py"), "--port", str(port)]
    log = tmp_path_factory.mktemp("log") / "llama.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield wait_for(f"http://127.0.0.1:{port}", server, log)
    finally:
        server.kill()
        server.wait(30)


def wait_for(address, server, log):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{address}/health"):
                return address
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


class Forward(BaseHTTPRequestHandler):
    """Passes requests on, and keeps them."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(body)
        request = urllib.request.Request(
            self.server.target + self.path, body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            data = answer.read()
        try:
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            # The client was killed.
            self.close_connection = True


@pytest.fixture(scope="module")
def server(llama):
    """A server in front of the model's, with the requests so far: `asked`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
    server.daemon_threads = True
    server.target, server.asked = llama, []
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    from job.data.builtin_aws_docs import mine_pairs

    texts = (pair["context"] for pair in islice(mine_pairs(), 0, None, STEP))
    rows = [{"id": f"aws-{n}", "text": text} for n, text in enumerate(islice(texts, CHUNKS))]
    return write_jsonl(tmp_path_factory.mktemp("documents") / "aws.jsonl", rows)


@pytest.fixture(scope="module")
def options(server):
    """What `launch` and `pairs` have in common."""
    found = ["--llm", LLM, "--llm-url", f"http://127.0.0.1:{server.server_port}/v1"]
    found += ["--model", "builtin:minilm"]
    prompt = (HERE / "prompt.md").read_text("utf-8")
    for name, value in {**SETTINGS, "generation.prompt": json.dumps(prompt)}.items():
        found += ["--set", f"{name}={value}"]
    return found


@pytest.fixture(scope="module")
def results(server, documents, options, tmp_path_factory):
    """The results of a run that was killed while the model wrote."""
    folder = tmp_path_factory.mktemp("run")
    command = ["launch", "--documents", documents, "--name", "smol", *options]
    kill_when(start_command(folder, *command), lambda: len(server.asked) >= FIRST)
    kill_job(folder / "runs" / "smol")
    out, err = (process := start_command(folder, *command)).communicate()
    assert process.returncode == 0, err[-3000:]
    print(out)
    return folder / "runs" / "smol"


@pytest.fixture(scope="module")
def report(results):
    return json.loads((results / "report" / "report.json").read_text("utf-8"))


def test_the_kill_costs_at_most_the_requests_that_were_running(results, server):
    asked = Counter(server.asked)
    assert len(asked) == CHUNKS
    assert CHUNKS <= asked.total() <= CHUNKS + THREADS


def test_each_question_is_kept_or_rejected_with_a_reason(results, report, documents):
    found = report["generation"]
    print(json.dumps(found, indent=2))
    reasons = Counter(row["reason"] for row in read_jsonl(results / "generation/rejected.jsonl"))
    assert found["answers"] == CHUNKS
    assert found["questions"] == found["kept"] + reasons.total()
    assert found["rejected"] == reasons
    assert all(reasons)
    pairs = read_jsonl(results / "generation" / "pairs.jsonl")
    assert len(pairs) == found["kept"] >= KEPT
    texts = {row["text"] for row in read_jsonl(documents)}
    assert {row["context"] for row in pairs} <= texts


def test_the_report_says_that_this_model_wrote_the_test(results, report):
    assert report["verdict"]["test_by"] == LLM
    assert report["training"]["steps"] > 0
    for name in ("report.md", "report.html"):
        text = " ".join((results / "report" / name).read_text("utf-8").split())
        assert "The test questions are synthetic" in text
        assert LLM in text


def test_the_journal_alone_gives_the_same_pairs(results, server, documents, options, tmp_path):
    before = len(server.asked)
    journal = (results / "generation" / "journal.jsonl").read_bytes()
    (tmp_path / "pairs.journal.jsonl").write_bytes(journal)
    process = start_command(tmp_path, "pairs", documents, "--to", "pairs.jsonl", *options)
    _, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    assert len(server.asked) == before
    written = (results / "generation" / "pairs.jsonl").read_bytes()
    assert (tmp_path / "pairs.jsonl").read_bytes() == written
