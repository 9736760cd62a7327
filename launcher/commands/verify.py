"""`embedtune verify`: what an endpoint serves, against what a run proved."""

import sys

import click

from launcher.commands.options import output_option
from launcher.job_command import run_job


@click.command()
@click.argument("name")
@output_option
@click.option(
    "--endpoint",
    required=True,
    metavar="URL",
    help="Where the model is served: http://HOST:PORT, a whole URL, or sagemaker:ENDPOINT.",
)
@click.option(
    "--kind",
    type=click.Choice(["tei", "openai"]),
    help="Protocol: text-embeddings-inference, or OpenAI's (vLLM, infinity, Ollama, …).  "
    "[default: detected]",
)
@click.option(
    "--served-model",
    metavar="NAME",
    help="Name of the model at the endpoint.  [default: the first that it lists]",
)
@click.option(
    "--documents",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Documents to search; those that answer the test queries are always among them.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds that a request may take.",
)
@click.option("--float16", is_flag=True, help="The endpoint computes in half precision.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "mps", "cpu"]),
    default="auto",
    show_default=True,
    help="Device that computes the proven vectors.",
)
def verify(
    name: str,
    output: str,
    endpoint: str,
    kind: str | None,
    served_model: str | None,
    documents: int,
    timeout: float,
    device: str,
    *,
    float16: bool,
) -> None:
    """Compare an endpoint with the run NAME (or s3://…/NAME) whose model it should serve.

    The test queries and documents are embedded by the endpoint and by the stored model on this
    machine, and searched. Exits with 9 unless each cosine is at least .999 (.99 in half precision)
    and nDCG@10 differs by .005 at most. EMBEDTUNE_ENDPOINT_KEY is sent as a bearer token.
    """
    from launcher.lookup import find_result
    from launcher.runs.run import fetch_results

    run = find_result(output, name)
    if run.is_remote:
        fetch_results(run, run.folder, with_model=True)
    command = ["verify", str(run.folder)]
    command += ["--endpoint", endpoint, "--documents", str(documents), "--timeout", str(timeout)]
    command += ["--device", device]
    command += ["--kind", kind] if kind else []
    command += ["--served-model", served_model] if served_model else []
    command += ["--float16"] if float16 else []
    sys.exit(run_job(command))
