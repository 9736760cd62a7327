"""`embedtune schema`: the JSON Schema of the job file, or of report.json."""

import json

import click


@click.command()
@click.option("--report", "of_report", is_flag=True, help="Print that of report.json instead.")
def schema(*, of_report: bool) -> None:
    """Print the JSON Schema of the job file."""
    from job.report.document import Report
    from job.spec.schema import JobSpec

    model = Report if of_report else JobSpec
    click.echo(json.dumps(model.model_json_schema(), indent=2))
