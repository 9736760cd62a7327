"""`embedtune pairs`: questions about documents, to be read before they are trained on."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from job.spec.options import as_arguments
from job.spec.pairs_options import pairs_options, settings_of
from launcher.job_command import run_job


@click.command()
@click.argument("documents")
@pairs_options
def pairs(documents: str, **given: Any) -> None:  # noqa: ANN401  the options, by name
    """Write questions about DOCUMENTS (a folder, s3://…, a Hub id), for `embedtune launch --data`.

    Text, Markdown, HTML, PDF and Word files are cut into chunks; rows with a text (JSONL, CSV,
    Parquet) stay whole. The folder of the pairs also gets the corpus, the rejected questions with
    reasons, a page to read (HTML), and a journal, from which the same command continues after an
    interruption. EMBEDTUNE_LLM_KEY is sent as the server's key; Amazon Bedrock is asked with the
    AWS credentials.
    """
    given["set"] = (*given["set"], *token_prices(documents, settings_of(given)))
    sys.exit(run_job(["pairs", *as_arguments(given), "--", documents]))


def token_prices(documents: str, settings: Sequence[str]) -> list[str]:
    """Return settings of Amazon Bedrock's prices, unless they are set or unknown."""
    from job.spec.parse import build_spec, parse_assignments
    from launcher.aws.token_prices import with_token_prices

    spec = build_spec({"data": {"documents": documents}}, parse_assignments(settings))
    found = with_token_prices(spec, None, None).generation
    if found == spec.generation:
        return []
    return [f"generation.{name}={getattr(found, name)}" for name in ("input_price", "output_price")]
