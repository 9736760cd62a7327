"""`embedtune export`: a finished run's model as ONNX or OpenVINO."""

import sys

import click

from launcher.commands.options import account_options, output_option
from launcher.job_command import run_job


@click.command()
@click.argument("name")
@output_option
@click.option(
    "--format", "kind", type=click.Choice(["onnx", "openvino"]), required=True, help="Its runtime."
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="Number format of the weights; float16 is OpenVINO's only.",
)
@account_options
def export(name: str, output: str, kind: str, precision: str) -> None:
    """Export the model of the run NAME (or s3://…/NAME), and measure the export.

    The export goes to exports/FORMAT-PRECISION in the run's folder. It is loaded, scored on the
    run's test set and timed on this machine's CPU. Report, model card and manifest get the result,
    those in S3 too. Needs the extra `exports`.
    """
    from launcher.lookup import find_result
    from launcher.runs.run import fetch_results

    run = find_result(output, name)
    if run.is_remote:
        fetch_results(run, run.folder, with_model=True)
    command = ["export", str(run.folder)]
    command += ["--format", kind, "--precision", precision, "--store", run.store.uri]
    sys.exit(run_job(command))
