"""`embedtune check`: looks at the data before anything is launched."""

import sys

import click

from launcher.job_command import run_job


@click.command()
@click.argument("data")
@click.option("--model", help="Base model, to count the texts that it would truncate.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Set a spec field; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the facts as one JSON document.")
def check(data: str, model: str | None, settings: tuple[str, ...], *, as_json: bool) -> None:
    """Check DATA (a path, s3://…, a Hub id, builtin:aws-docs) before you launch a job.

    Recognized layouts (--set data.format=NAME selects one): rows (JSONL, JSON, CSV, TSV,
    Parquet, Arrow, Excel), lists, beir (also of the Hub), autorag, saved, llamaindex, squad,
    splits, pandas, mapping, columns, tevatron, dpr, instructions, flagembedding,
    sentence-transformers, swift, msmarco, ragas, nemo, questions. job/README.md describes each.
    """
    command = ["check", data]
    command += ["--model", model] if model else []
    command += ["--json"] if as_json else []
    for setting in settings:
        command += ["--set", setting]
    sys.exit(run_job(command))
