"""`verify` passes a server that serves the run's model, and names the mistake of one that does not.

The servers are real: they serve a tiny model over HTTP, by sentence-transformers.
"""

import subprocess
import sys

import pytest
from embedding_server import embedding_server
from stored_runs import load_pairs, store_run

from job.core.errors import GateNotMet, StorageError
from job.serving.endpoints import open_endpoint
from job.serving.test_set import read_test_set
from job.verify import Options, verify_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pairs_file):
    """Store runs of models with prompts: one pools by the first token, one has a dense layer."""
    folder = tmp_path_factory.mktemp("runs")
    for shape in ("cls pooling", "dense layer"):
        store_run(folder / shape, shape, pairs_file)
    return folder


@pytest.fixture
def verified(runs):
    """Verify a server with a mistake; return all lines, and what is wrong or None."""

    def verify(mistake=None, kind="tei", shape="cls pooling", documents=20, **options):
        lines = []
        with embedding_server(runs / shape / "model", mistake) as server:
            endpoint = open_endpoint(server.url, kind, None, None, 60.0)
            try:
                verify_run(runs / shape, endpoint, Options(documents, **options), lines.append)
            except GateNotMet as error:
                return lines, str(error)
        return lines, None

    return verify


@pytest.mark.parametrize("kind", ["tei", "openai"])
def test_a_server_that_serves_the_model_passes(verified, kind):
    lines, wrong = verified(kind=kind)
    assert wrong is None
    assert lines[-1] == "The endpoint serves the model of `cls pooling` as it is stored."
    topics = [line.partition(" ")[0] for line in lines[:-1]]
    wanted = ["Endpoint:", "Cosine", "Cosine", "nDCG@10", "nDCG@10", "Latency", "Throughput:"]
    assert topics == wanted


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ("no prompt", "the endpoint puts no prompt before queries and documents"),
        ("prompt twice", "the endpoint puts the prompt before queries and documents twice"),
        (
            "mean pooling",
            "pools by the mean of all tokens instead of the first token in queries and documents",
        ),
        ("float16 overflow", "vectors hold values that are no numbers, as when float16 overflows"),
        ("other weights", "the endpoint serves another model"),
        ("reversed", "the endpoint has the right numbers in another order"),
        ("half the tokens", "the endpoint cuts long texts elsewhere than after 64 tokens"),
        ("truncated", "vectors have 16 numbers, those of the model 64"),
    ],
)
def test_a_wrong_server_is_named_in_words(verified, mistake, sentence):
    assert sentence in verified(mistake)[1]


def test_a_server_without_the_dense_layer_is_named(verified):
    wrong = verified("no dense layer", shape="dense layer")[1]
    assert "vectors have 64 numbers, those of the model 48" in wrong


@pytest.mark.parametrize(
    ("mistake", "note"),
    [
        ("cut without normalizing", "the endpoint cuts vectors to 16 numbers without normalizing"),
        ("not normalized", "vectors are not normalized (lengths 3 to 3)"),
        ("refuses dimensions", "the endpoint refuses `dimensions` ("),
        ("ignores dimensions", "the endpoint ignores `dimensions`: keep the first 16 numbers"),
        ("refuses long texts", "the endpoint refuses texts of more than 64 tokens ("),
    ],
)
def test_what_a_client_has_to_do_itself_is_a_note(verified, mistake, note):
    """Such vectors are the proven ones, if they are searched by cosine."""
    lines, wrong = verified(mistake)
    assert wrong is None
    assert any(line.startswith(f"Note: {note}") for line in lines)


@pytest.mark.parametrize(
    ("mistake", "float16", "is_refused"),
    [("rounded", False, True), ("rounded", True, False), ("rounded to float16", False, False)],
)
def test_half_precision_may_differ_more(verified, mistake, float16, is_refused):
    """Cosines of .995 pass if the server says that it computes in float16, or the user does.

    The scores do not: random weights rank by small differences.
    """
    wrong = verified(mistake, float16=float16)[1]
    assert ("serves another model" in wrong) == is_refused
    assert "nDCG@10 at 64 dimensions" in wrong


@pytest.mark.parametrize(("mistake", "code"), [(None, 0), ("mean pooling", 9), ("error 500", 13)])
def test_the_exit_code_says_whether_the_endpoint_is_right(runs, mistake, code):
    from click.testing import CliRunner

    from job.__main__ import main

    with embedding_server(runs / "cls pooling" / "model", mistake) as server:
        given = [str(runs / "cls pooling"), "--endpoint", server.url, "--documents", "20"]
        done = CliRunner().invoke(main, ["verify", *given])
    assert done.exit_code == code, done.output


@pytest.mark.exhaustive
def test_the_launcher_verifies_a_run_by_its_name(runs):
    with embedding_server(runs / "dense layer" / "model", "no dense layer") as server:
        command = [sys.executable, "-P", "-m", "launcher.cli", "verify", "dense layer"]
        command += ["--output", str(runs), "--endpoint", server.url, "--served-model", "tiny"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    assert "vectors have 64 numbers" in done.stderr


def test_the_stored_test_set_is_that_of_the_run(runs, pairs_file):
    """Queries, their documents and the corpus, in order, are read as they were written."""
    dataset = load_pairs(pairs_file)
    queries, corpus = read_test_set(runs / "cls pooling" / "data")
    assert corpus.ids.to_pylist() == dataset.corpus.ids.to_pylist()
    assert corpus.texts.to_pylist() == dataset.corpus.texts.to_pylist()
    of_query = {
        id_: set(dataset.test.relevant(n).tolist())
        for n, id_ in enumerate(dataset.test.ids.to_pylist())
    }
    found = {
        id_: set(queries.relevant(n).tolist()) for n, id_ in enumerate(queries.ids.to_pylist())
    }
    assert found == of_query
    assert set(queries.texts.to_pylist()) == set(dataset.test.texts.to_pylist())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("qrels.tsv", None, r"lacks `qrels\.tsv`"), ("corpus.jsonl", "{", "is damaged")],
)
def test_a_damaged_test_set_is_an_error(runs, tmp_path, name, text, message):
    source = runs / "cls pooling" / "data"
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(StorageError, match=message):
        read_test_set(tmp_path)


def test_a_run_without_its_model_is_an_error(tmp_path):
    with pytest.raises(StorageError, match="has no report, or no model"):
        verify_run(tmp_path, None, Options(), print)
