"""Documents on SageMaker: the key comes from a secret, and a spot interruption costs no answer.

Amazon Bedrock is asked with the credentials of the job's role, here those of the local account.
"""

import json
from collections import Counter

import pytest
from conftest import make_pairs
from llm_server import llm_server
from moto.backends import get_backend
from remote import wait_until
from sagemaker_server import ACCOUNT, REGION

pytestmark = pytest.mark.exhaustive
DOCUMENTS, THREADS = 160, 4
KEY = "sk-in-a-secret"


def options_of(account, folder, name):
    """Write the documents; return the options of a job that asks about them."""
    (folder / "docs").mkdir()
    for number, pair in enumerate(make_pairs(DOCUMENTS)):
        text = f"This is what the page tells you about: {pair['context']}"
        (folder / "docs" / f"page{number}.txt").write_text(text, "utf-8")
    # Not the pairs of the tiny job.
    tiny = account.tiny[2:]
    options = ["--backend", "sagemaker", "--name", name, *tiny, *account.places]
    options += ["--documents", "docs"]
    settings = {"kinds": "[natural, keywords]", "concurrency": THREADS}
    settings["round_trip_depth"] = "null"
    for field, value in settings.items():
        options += ["--set", f"generation.{field}={value}"]
    options += ["--set", "data.near_duplicate_threshold=null"]
    # What was trained is not tested here.
    return [*options, "--set", "training.epochs=1", "--set", "evaluation.dimensions=[32]"]


@pytest.fixture(scope="module")
def launched(account, tmp_path_factory):
    """A spot job, interrupted while it asks; returns its output, results and requests."""
    folder = tmp_path_factory.mktemp("here")
    secrets = get_backend("secretsmanager")[ACCOUNT][REGION]
    nothing = dict.fromkeys(("secret_binary", "description", "kms_key_id"))
    made = secrets.create_secret(
        "llm", KEY, **nothing, tags=[], client_request_token=None, replica_regions=[],
        force_overwrite=False,
    )  # fmt: skip
    options = options_of(account, folder, "docs")
    with llm_server(pause=0.05) as server:
        options += ["--spot", "--llm", "openai:tiny", "--llm-url", server.url]
        options += ["--llm-key-secret", json.loads(made)["ARN"]]
        launcher = account.start(folder, "launch", *options)
        wait_until(lambda: len(server.requests) > DOCUMENTS / 3)
        account.server.interrupt("docs")
        account.wait_for("docs", "for the end of this machine")
        account.server.reclaim("docs")
        return account.finish(launcher), server.requests


def test_amazon_bedrock_is_asked_with_the_credentials_and_in_the_region_of_the_job(
    account, tmp_path
):
    """The launcher finds no price of such a model, says so, and starts the job all the same."""
    options = options_of(account, tmp_path, "nova")
    with llm_server() as server:
        options += ["--env", f"AWS_ENDPOINT_URL_BEDROCK_RUNTIME={server.endpoint}"]
        done = account.run(tmp_path, "launch", "--llm", "bedrock:amazon.tiny-v1:0", *options)
    assert done.code == 0, done.err
    assert "The price of the language model is unknown" in done.err
    assert len(server.requests) == DOCUMENTS
    signed = {headers["Authorization"].split("Credential=")[1] for _, headers, _ in server.requests}
    assert all(f"/{REGION}/bedrock/" in each for each in signed)
    report = json.loads(account.server.s3.get("box", "runs/nova/report/report.json"))
    assert report["verdict"]["test_by"] == "bedrock:amazon.tiny-v1:0"
    assert report["generation"]["without"] == ["seed"]


def test_an_interruption_loses_no_journaled_answer(account, launched):
    done, requests = launched
    assert done.code == 0, done.err
    asked = Counter(json.dumps(body["messages"]) for _, _, body in requests)
    assert len(asked) == DOCUMENTS
    assert sum(asked.values()) <= DOCUMENTS + THREADS
    keys = account.server.s3.keys("box")
    names = ("pairs.jsonl", "pairs.html", "rejected.jsonl", "journal.jsonl")
    assert {f"runs/docs/generation/{name}" for name in names} <= {*keys}
    report = json.loads(account.server.s3.get("box", "runs/docs/report/report.json"))
    assert report["verdict"]["test_by"] == "openai:tiny"


def test_the_key_reaches_the_language_model_and_nothing_else(account, launched):
    done, requests = launched
    assert {headers["Authorization"] for _, headers, _ in requests} == {f"Bearer {KEY}"}
    assert KEY not in json.dumps(account.server.jobs["docs"].describe(), default=str)
    assert KEY not in done.out + done.err
    assert KEY not in "".join(account.lines("docs"))
