"""The snippets run unchanged, and rank texts as the evaluation does."""

import numpy as np
import pytest
import torch
from conftest import build_encoder
from sentence_transformers import SentenceTransformer

from job.evaluation.quantization import rank
from job.evaluation.results import Recommendation
from job.report.snippets import repeat, usage
from job.spec.parse import build_spec

TEXTS = [f"tell{i} the tell{i + 1}" for i in range(20)]
QUESTIONS = [f"ask{i} of tell{i + 3}" for i in range(6)]
PRECISIONS = ("int8", "int8_rescored", "binary", "binary_rescored")


def spec_of(uri="runs", hub=None):
    return build_spec({}, {"output.uri": uri} | ({"output.hub": hub} if hub else {}))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a saved model with prompts, laid out as a run does."""
    folder = tmp_path_factory.mktemp("usage")
    stored = build_encoder(folder / "built")
    encoder = SentenceTransformer(str(stored), device="cpu")
    encoder.prompts = {"query": "ask0 ask1 ", "document": "tell0 "}
    encoder.save_pretrained(str(folder / "runs" / "my-run" / "model"), create_model_card=False)
    return folder


def run(code, folder, monkeypatch):
    """Run a snippet in its folder with more texts; return its variables."""
    monkeypatch.chdir(folder)
    start, _, rest = code.partition("texts = ")
    _, _, rest = rest.partition("\n\n")
    names = {}
    exec(f"{start}texts = {TEXTS!r}\nquestions = {QUESTIONS!r}\n\n{rest}", names)
    return names


def vectors(folder, dimension):
    encoder = SentenceTransformer(
        str(folder / "runs" / "my-run" / "model"), device="cpu", truncate_dim=dimension
    )
    return (
        encoder.encode_query(QUESTIONS, normalize_embeddings=True),
        encoder.encode_document(TEXTS, normalize_embeddings=True),
    )


def snippets(precision="float32", dimension=16, stored="float32", *, pushed=False, **output):
    advice = Recommendation.model_construct(dimension=dimension, precision=precision)
    return usage(spec_of(**output), "my-run", advice, stored, pushed=pushed)


@pytest.mark.parametrize("precision", ["float32", *PRECISIONS])
def test_the_snippet_for_full_vectors_applies_prompts_and_truncates(model, precision, monkeypatch):
    """The first snippet always uses float32, at the recommended dimension."""
    found = run(snippets(precision).python, model, monkeypatch)

    queries, documents = vectors(model, 16)
    assert found["queries"].shape == (6, 16)
    np.testing.assert_allclose(found["scores"], queries @ documents.T, atol=1e-6)
    assert (np.diff(np.take_along_axis(found["scores"], found["best"], axis=1)) <= 0).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_snippet_for_smaller_vectors_ranks_as_the_evaluation(model, precision, monkeypatch):
    """It finds the same top texts, unless scores are equal."""
    found = run(snippets(precision).quantized, model, monkeypatch)

    queries, documents = map(torch.from_numpy, vectors(model, 16))
    stored_as = precision.removesuffix("_rescored")
    expected = rank(queries, documents, [16], [stored_as])[16][precision][:, :10]
    assert found["stored"].nbytes == len(TEXTS) * (16 if stored_as == "int8" else 2)
    # Texts with equal codes have equal scores: any order of them is right.
    best, numbers = np.array(found["best"]), found["numbers"]
    if precision.endswith("rescored"):
        assert numbers[best[:, 0]].tolist() == numbers[expected[:, 0]].tolist()
    else:
        scores = found["scores"]
        chosen, right = (np.take_along_axis(scores, rows, axis=1) for rows in (best, expected))
        assert chosen.tolist() == right.tolist()


def test_a_recommendation_of_float32_has_no_snippet_for_quantized_vectors():
    assert snippets("float32").quantized is None


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_the_snippet_computes_in_float32_whatever_the_file_has(model, stored, monkeypatch):
    """The library would compute in the format of the file, unlike the report."""
    target = model / "runs" / "my-run" / "model"
    kept = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    encoder = SentenceTransformer(str(target), device="cpu", model_kwargs={"dtype": stored})
    encoder.save_pretrained(str(target), create_model_card=False)

    found = run(snippets(stored=stored).python, model, monkeypatch)

    for path, content in kept.items():
        path.write_bytes(content)
    assert {str(weights.dtype) for weights in found["model"].parameters()} == {"torch.float32"}


def test_a_snippet_trusts_the_code_that_the_job_trusted():
    """Without it, the model cannot be loaded."""
    spec = build_spec({}, {"model.trust_remote_code": "true"})
    advice = Recommendation.model_construct(dimension=8, precision="float32")
    code = usage(spec, "my-run", advice, "float32", pushed=False).python
    assert "truncate_dim=8, trust_remote_code=True)" in code


def test_a_pushed_model_is_named_by_its_hub_id():
    """In Python and for the server, which then needs no volume."""
    found = snippets(dimension=8, pushed=True, hub="me/finance")

    assert "SentenceTransformer('me/finance', truncate_dim=8)" in found.python
    assert "--model-id me/finance\n" in found.serve
    assert "-v" not in found.serve


@pytest.mark.parametrize(
    ("uri", "volume"),
    [("my runs", "\"$PWD\"/'my runs/my-run/model'"), ("/data/runs", "/data/runs/my-run/model")],
)
def test_a_local_model_is_mounted_into_the_server(uri, volume):
    """The volume is the result folder; the client names the prompt and truncates the vectors."""
    serve = snippets(dimension=8, uri=uri).serve

    assert f"-v {volume}:/model:ro " in serve
    assert '"prompt_name": "query"' in serve
    # The server cuts first and normalizes then.
    assert '"dimensions": 8' in serve


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("runs", "embedtune launch runs/my-run/spec.json --name my-run-again"),
        ("/a b", "embedtune launch '/a b/my-run/spec.json' --name my-run-again"),
        (
            "s3://bucket/runs",
            (
                "embedtune fetch s3://bucket/runs/my-run && "
                "embedtune launch runs/my-run/spec.json --name my-run-again"
            ),
        ),
    ],
)
def test_the_command_to_repeat_can_be_pasted(uri, command):
    assert repeat("my-run", uri) == command
