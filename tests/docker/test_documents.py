"""Documents in, a tuned model out, in a container that is killed while it asks."""

import json
from collections import Counter

import pytest
from conftest import make_pairs
from containers import docker
from docker_desk import COMMAND
from llm_server import llm_server
from remote import wait_until

pytestmark = pytest.mark.docker
DOCUMENTS, THREADS = 160, 4
KEY = "sk-of-this-test"
SETTINGS = {
    "generation.kinds": "[natural, keywords]",
    "generation.concurrency": str(THREADS),
    # The untrained tiny encoder finds nothing again.
    "generation.round_trip_depth": "null",
    "data.near_duplicate_threshold": "null",
    "evaluation.dimensions": "[32]",
    "training.epochs": "1",
}


def test_a_killed_container_resumes_and_asks_for_no_journaled_answer(
    desk, tiny_encoder, tiny_settings
):
    cli = desk()
    cli.environment["EMBEDTUNE_LLM_KEY"] = KEY
    documents = cli.folder / "docs"
    documents.mkdir()
    for number, pair in enumerate(make_pairs(DOCUMENTS)):
        text = f"This is what the page tells you about: {pair['context']}"
        (documents / f"page{number}.md").write_text(text, "utf-8")
    with llm_server(pause=0.05) as server:
        command = [*COMMAND, "launch", "--documents", "docs", "--model", str(tiny_encoder)]
        command += ["--llm", "openai:tiny", "--llm-url", server.url, "--name", "r"]
        command += ["--backend", "docker", "--image", cli.image, "--network", "host"]
        for name, value in (tiny_settings | SETTINGS).items():
            command += ["--set", f"{name}={value}"]
        detached = cli.run(*command, "--detach")
        assert detached.returncode == 0, detached.stderr
        wait_until(lambda: len(server.requests) > DOCUMENTS / 3)
        docker("kill", *cli.containers())
        done = cli.run(*command)
        assert done.returncode == 0, done.stderr
        asked = Counter(json.dumps(body["messages"]) for _, _, body in server.requests)
        keys = {headers["Authorization"] for _, headers, _ in server.requests}

    assert len(asked) == DOCUMENTS
    assert sum(asked.values()) <= DOCUMENTS + THREADS
    assert keys == {f"Bearer {KEY}"}
    assert KEY not in done.stdout + done.stderr
    assert cli.report()["verdict"]["test_by"] == "openai:tiny"
    assert (cli.results / "generation" / "pairs.html").is_file()
