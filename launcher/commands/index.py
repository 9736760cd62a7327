"""`embedtune index`: a corpus, encoded with a run's model, in files or in a database."""

import sys
from typing import Any

import click

from job.spec.index_options import index_options
from job.spec.options import as_arguments
from launcher.commands.options import output_option
from launcher.job_command import run_job


@click.command()
@click.argument("name")
@output_option
@index_options
def index(name: str, output: str, **given: Any) -> None:  # noqa: ANN401  the options, by name
    """Encode a corpus with the model of the run NAME (or s3://…/NAME) into an index.

    Vectors are cut to the recommended dimension, normalized, and stored in the recommended
    precision, in Parquet files; a database is loaded from these. An interrupted command continues
    when it is repeated. It runs on this machine, not on a backend; on another, `python -m job
    index` does the same in the image.
    """
    from launcher.lookup import find_result
    from launcher.runs.run import fetch_results

    run = find_result(output, name)
    if run.is_remote:
        fetch_results(run, run.folder, with_model=True)
    command = ["index", str(run.folder), *as_arguments(given)]
    sys.exit(run_job(command))
