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


def usage(spec: JobSpec, run: str, advice: Recommendation, stored: str, *, pushed: bool) -> Usage:
    """Return the snippets for the recommended vectors; `stored` is the weights' number format."""
    hub, dimension, precision = spec.output.hub, advice.dimension, advice.precision
    model = hub if pushed and hub else f"{_results(spec.output.uri, run)}/model"
    load = load_expression(model, dimension, stored, trust_code=spec.model.trust_remote_code)
    return Usage(
        python=_python(load, "float32"),
        quantized=None if precision == "float32" else _python(load, precision),
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


def load_expression(model: str, dimension: int, stored: str, *, trust_code: bool) -> str:
    """Return the expression that loads the model with the vectors that the report scored."""
    options = [f"truncate_dim={dimension}"]
    if stored != "float32":
        # By default, the library computes, and rounds the vectors, in the format of the file.
        options.append('model_kwargs={"dtype": "float32"}')
    if trust_code:
        options.append("trust_remote_code=True")
    return f"SentenceTransformer({model!r}, {', '.join(options)})"


def _python(load: str, precision: str) -> str:
    return render(
        "usage.txt",
        load=load,
        stored_as=stored_as(precision),
        rescore=RESCORE_MULTIPLIER * DEPTH if precision.endswith(RESCORED) else 0,
    )


def _serve(model: str, dimension: int, *, on_hub: bool) -> str:
    # Docker reads a relative path as the name of a volume.
    start = "" if model.startswith("/") else '"$PWD"/'
    mount = "" if on_hub else f"-v {start}{shlex.quote(model)}:/model:ro "
    options = f'"prompt_name": "query", "truncate": true, "dimensions": {dimension}'
    return f"""\
docker run --gpus all -p 8080:80 {mount}{SERVER} --model-id {model if on_hub else "/model"}

curl localhost:8080/embed -H 'Content-Type: application/json' \\
  -d '{{"inputs": "a question", {options}}}'
# For documents, use "prompt_name": "document". Vectors are cut, then normalized to length 1.
"""
