"""The commands other than `train`: before a run (`check`, `init`, `pairs`) and after it.

Each takes its options and calls one function, which is imported when the command runs.
"""

import os
import sys
from pathlib import Path
from typing import Any

import click

from job.core.formatting import escape_to_one_line, for_terminal
from job.outcome import exit_code
from job.runtime.libraries import set_library_variables
from job.spec.index_options import index_options
from job.spec.options import DEVICE
from job.spec.pairs_options import pairs_options, settings_of
from job.spec.parse import build_spec, parse_assignments


@click.command()
@click.argument("data")
@click.option("--model", default=None, help="Base model, to count tokens.")
@click.option(
    "--set", "settings", multiple=True, help="Set a field of the spec, such as data.limit=2000."
)
@click.option("--json", "as_json", is_flag=True, help="Print the facts as one JSON document.")
def check(data: str, model: str | None, settings: tuple[str, ...], *, as_json: bool) -> None:
    """Check pairs without training.

    Reports which rows are used and dropped, the splits, and the smallest provable effect.
    """

    def work() -> None:
        from job.check import check_data

        given: dict[str, dict[str, str]] = {"data": {"source": data}}
        if model:
            given["model"] = {"base": model}
        spec = build_spec(given, parse_assignments(settings))
        write = click.echo if as_json else echo_line
        check_data(spec, write, count_tokens=model is not None, as_json=as_json)

    sys.exit(exit_code(work, None, extra="data"))


@click.command()
@click.argument("data")
@click.option("--model", default=None, help="Base model.")
@click.option("--set", "settings", multiple=True, help="Set a field of the spec.")
def init(data: str, model: str | None, settings: tuple[str, ...]) -> None:
    """Print a commented job file for pairs, with what was recognized in them."""

    def work() -> None:
        from job.draft import draft_job_file

        given: dict[str, dict[str, str]] = {"data": {"source": data}}
        if model:
            given["model"] = {"base": model}
        text = draft_job_file(build_spec(given, parse_assignments(settings)))
        # Job files are UTF-8, whatever the terminal is.
        click.echo(text.encode("utf-8"), nl=False)

    sys.exit(exit_code(work, None, extra="data"))


@click.command()
@click.argument("documents")
@pairs_options
def pairs(documents: str, **given: Any) -> None:  # noqa: ANN401  the options, by name
    """Write questions about documents, by a language model, as pairs to train on."""
    set_library_variables()

    def work() -> None:
        from job.pairs import make_pairs
        from job.runtime.logs import log_to_stderr

        log_to_stderr()
        spec = build_spec({"data": {"documents": documents}}, parse_assignments(settings_of(given)))
        options = {name: given[name] for name in ("dry_run", "yes")}
        make_pairs(spec, given["to"], given["device"], echo_line, **options)

    sys.exit(exit_code(work, None))


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--endpoint", required=True, help="URL, or sagemaker:NAME.")
@click.option("--kind", type=click.Choice(["tei", "openai"]), help="Protocol of the endpoint.")
@click.option("--served-model", help="Name of the model at the endpoint.")
@click.option("--documents", default=2000, help="Documents to search.")
@click.option("--timeout", default=60.0, help="Seconds for a request.")
@click.option("--float16", is_flag=True, help="The endpoint computes in half precision.")
@click.option("--device", type=DEVICE, default="auto", help="Device of the proven model.")
def verify(
    run: Path,
    endpoint: str,
    kind: str | None,
    served_model: str | None,
    documents: int,
    timeout: float,
    device: str,
    *,
    float16: bool,
) -> None:
    """Compare an endpoint with the run (a folder) whose model it should serve."""
    set_library_variables()

    def work() -> None:
        from job.runtime.logs import disable_progress_bars
        from job.serving.endpoints import KEY_VARIABLE, open_endpoint
        from job.verify import Options, verify_run

        disable_progress_bars()
        key = os.environ.get(KEY_VARIABLE)
        client = open_endpoint(endpoint, kind, served_model, key, timeout)
        verify_run(run, client, Options(documents, float16, device), echo_line)

    sys.exit(exit_code(work, None))


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--format", "kind", type=click.Choice(["onnx", "openvino"]), required=True)
@click.option("--precision", type=click.Choice(["float32", "float16", "int8"]), default="float32")
@click.option("--store", help="Where the run is published.  [default: the folder]")
def export(run: Path, kind: str, precision: str, store: str | None) -> None:
    """Export the model of a run (a folder), measure the export, and add it to the report."""
    set_library_variables()

    def work() -> None:
        from job.export import export_run
        from job.exports.kinds import kind_of
        from job.runtime.logs import disable_progress_bars

        disable_progress_bars()
        export_run(run, kind_of(f"{kind}-{precision}"), store or str(run), echo_line)

    sys.exit(exit_code(work, None))


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@index_options
def index(run: Path, **given: Any) -> None:  # noqa: ANN401  the options, by name
    """Encode a corpus with the model of a run (a folder), and load a database with it."""
    set_library_variables()

    def work() -> None:
        from job.index import Options, index_corpus
        from job.runtime.logs import disable_progress_bars, log_to_stderr

        disable_progress_bars()
        log_to_stderr()
        index_corpus(run, Options(**given), echo_line)

    sys.exit(exit_code(work, None, extra="train,index"))


def echo_line(line: str) -> None:
    click.echo(for_terminal(escape_to_one_line(line), sys.stdout.encoding))
