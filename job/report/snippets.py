"""Code to copy: how to use the tuned model with the recommended vectors."""

import shlex

from job.core.formatting import RESCORED
from job.evaluation.metrics import DEPTH
from job.evaluation.quantization import RESCORE_MULTIPLIER, stored_as
from job.evaluation.results import Recommendation
from job.report.document import Usage
from job.report.templating import render
from job.spec.schema import JobSpec

# For NVIDIA A10G and similar GPUs; its documentation lists the images for other GPUs.
SERVER = "ghcr.io/huggingface/text-embeddings-inference:86-1.8"


def usage(spec: JobSpec, run: str, advice: Recommendation, *, pushed: bool) -> Usage:
    """Return the snippets for the recommended vectors."""
    hub, dimension, precision = spec.output.hub, advice.dimension, advice.precision
    model = hub if pushed and hub else f"{_results(spec.output.uri, run)}/model"
    return Usage(
        python=_python(model, dimension, "float32"),
        quantized=None if precision == "float32" else _python(model, dimension, precision),
        serve=_serve(model, dimension, on_hub=pushed),
    )


def repeat(run: str, uri: str) -> str:
    """Return the command that repeats the run."""
    fetch = f"embedtune fetch {shlex.quote(f'{uri}/{run}')} && " if uri.startswith("s3://") else ""
    spec = f"{_results(uri, run)}/spec.json"
    return f"{fetch}embedtune launch {shlex.quote(spec)} --name {shlex.quote(f'{run}-again')}"


def _results(uri: str, run: str) -> str:
    # `embedtune fetch` copies a run from S3 to the folder `runs`.
    return f"runs/{run}" if uri.startswith("s3://") else f"{uri}/{run}"


def _python(model: str, dimension: int, precision: str) -> str:
    return render(
        "usage.txt",
        model=repr(model),
        dimension=dimension,
        stored_as=stored_as(precision),
        rescore=RESCORE_MULTIPLIER * DEPTH if precision.endswith(RESCORED) else 0,
    )


def _serve(model: str, dimension: int, *, on_hub: bool) -> str:
    # Docker reads a relative path as the name of a volume.
    start = "" if model.startswith("/") else '"$PWD"/'
    mount = "" if on_hub else f"-v {start}{shlex.quote(model)}:/model:ro "
    return f"""\
docker run --gpus all -p 8080:80 {mount}{SERVER} --model-id {model if on_hub else "/model"}

curl localhost:8080/embed -H 'Content-Type: application/json' \\
  -d '{{"inputs": "a question", "prompt_name": "query", "truncate": true}}'
# For documents, use "prompt_name": "document". Keep the first {dimension} numbers of each vector.
"""
