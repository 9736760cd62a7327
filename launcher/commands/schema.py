"""`embedtune schema`: the JSON Schema of the job file, or of report.json, or the metrics."""

import json
from typing import Any

import click


@click.command()
@click.option("--report", "kind", flag_value="report", help="Print that of report.json instead.")
@click.option(
    "--metrics",
    "kind",
    flag_value="metrics",
    help="Print SageMaker's metric definitions instead, as an automatic tuning needs them.",
)
def schema(kind: str | None) -> None:
    """Print the JSON Schema of the job file."""
    document: Any
    if kind == "metrics":
        from launcher.backends.sagemaker.training_job import metric_definitions

        document = metric_definitions()
    elif kind == "report":
        from job.report.document import Report

        document = Report.model_json_schema()
    else:
        from job.spec.schema import JobSpec

        document = JobSpec.model_json_schema()
    click.echo(json.dumps(document, indent=2))
