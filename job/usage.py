"""How to use the tuned model: code to copy, for the recommended vectors."""

import shlex

from job.precision import RESCORE_MULTIPLIER, stored_as
from job.ranking import DEPTH
from job.report_document import Usage
from job.report_scores import Recommendation
from job.spec import JobSpec
from job.wording import RESCORED

# NVIDIA A10G and its kin; the server's own documentation lists the images of other GPUs.
SERVER = "ghcr.io/huggingface/text-embeddings-inference:86-1.8"


def usage(spec: JobSpec, run: str, advice: Recommendation, *, pushed: bool) -> Usage:
    """Write the snippets, for the recommended vectors."""
    model = (
        spec.output.hub if pushed and spec.output.hub else f"{_results(spec.output.uri, run)}/model"
    )
    dimension, precision = advice.dimension, advice.precision
    quantized = None
    if precision != "float32":
        numpy = "import numpy as np\n" if stored_as(precision) == "binary" else ""
        names = "SentenceTransformer, quantize_embeddings"
        quantized = numpy + _load(model, dimension, names) + _quantized(precision)
    return Usage(
        python=_load(model, dimension, "SentenceTransformer") + SEARCH,
        quantized=quantized,
        serve=_serve(model, dimension, on_hub=pushed),
    )


def repeat(run: str, uri: str) -> str:
    """Write the command that does the same job again."""
    fetch = f"embedtune fetch {shlex.quote(f'{uri}/{run}')} && " if uri.startswith("s3://") else ""
    spec = f"{_results(uri, run)}/spec.json"
    return f"{fetch}embedtune launch {shlex.quote(spec)} --name {shlex.quote(f'{run}-again')}"


def _results(uri: str, run: str) -> str:
    # `embedtune fetch` brings a run in S3 to the folder `runs`.
    return f"runs/{run}" if uri.startswith("s3://") else f"{uri}/{run}"


def _load(model: str, dimension: int, names: str) -> str:
    return f"""\
from sentence_transformers import {names}

texts = ["a document", "another document"]
questions = ["a question"]

model = SentenceTransformer({model!r}, truncate_dim={dimension})
# Each applies the prompt that the model was tuned with.
documents = model.encode_document(texts, normalize_embeddings=True)
queries = model.encode_query(questions, normalize_embeddings=True)
"""


SEARCH = """
# Cosine similarity, (questions, texts), and the ten best texts of each question.
scores = queries @ documents.T
best = scores.argsort(axis=1)[:, ::-1][:, :10]
"""

# What the index holds comes first, then how it is searched.
INT8 = """
stored = quantize_embeddings(documents, "int8", calibration_embeddings=documents)

codes = quantize_embeddings(queries, "int8", calibration_embeddings=documents)
numbers = stored.astype("float32")
scores = codes.astype("float32") @ numbers.T
"""

BINARY = """
stored = quantize_embeddings(documents, "ubinary")

codes = quantize_embeddings(queries, "ubinary")
signs, numbers = (
    np.unpackbits(packed, axis=1, count=documents.shape[1]) * 2.0 - 1.0
    for packed in (codes, stored)
)
# Largest where the Hamming distance is smallest.
scores = signs @ numbers.T
"""

BY_CODES = """best = scores.argsort(axis=1)[:, ::-1][:, :10]
"""

RESCORED_INT8 = """
# What a code counts, one value a component.
weights = queries * (documents.max(axis=0) - documents.min(axis=0)) / 255
"""

RESCORED_BINARY = """
weights = queries
"""

RESCORE = f"""\
# The {RESCORE_MULTIPLIER * DEPTH} best by codes, ranked again by the float32 question.
found = scores.argsort(axis=1)[:, ::-1][:, :{RESCORE_MULTIPLIER * DEPTH}]
best = [
    own[(numbers[own] @ weight).argsort()[::-1][:10]]
    for own, weight in zip(found, weights, strict=True)
]
"""


def _quantized(precision: str) -> str:
    is_int8 = stored_as(precision) == "int8"
    codes = INT8 if is_int8 else BINARY
    if not precision.endswith(RESCORED):
        return codes + BY_CODES
    return codes + (RESCORED_INT8 if is_int8 else RESCORED_BINARY) + RESCORE


def _serve(model: str, dimension: int, *, on_hub: bool) -> str:
    # Docker takes a relative path for a volume's name.
    start = "" if model.startswith("/") else '"$PWD"/'
    mount = "" if on_hub else f"-v {start}{shlex.quote(model)}:/model:ro "
    return f"""\
docker run --gpus all -p 8080:80 {mount}{SERVER} --model-id {model if on_hub else "/model"}

curl localhost:8080/embed -H 'Content-Type: application/json' \\
  -d '{{"inputs": "a question", "prompt_name": "query", "truncate": true}}'
# Documents with "prompt_name": "document". Keep the first {dimension} numbers of each vector.
"""
