"""The command `embedtune`; it turns every expected error into one line and its exit code.

Commands are thin, and import what they need when they run, so that `--help` loads only Click.
"""

from typing import Any

import click

from job.core.errors import EmbedtuneError
from launcher.commands.check import check
from launcher.commands.compare import compare
from launcher.commands.doctor import doctor
from launcher.commands.export import export
from launcher.commands.fetch import fetch
from launcher.commands.image import image
from launcher.commands.index import index
from launcher.commands.infra import infra
from launcher.commands.init import init
from launcher.commands.launch import launch
from launcher.commands.logs import logs
from launcher.commands.ls import ls
from launcher.commands.pairs import pairs
from launcher.commands.report import report
from launcher.commands.schema import schema
from launcher.commands.status import status
from launcher.commands.stop import stop
from launcher.commands.verify import verify


class _Group(click.Group):
    """Prints expected errors as one line, and exits with their exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  click's signature
        try:
            return super().invoke(ctx)
        except EmbedtuneError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="embedtune")
def main() -> None:
    """Fine-tune an embedding model on your question-context pairs, and measure the gain."""


for command in (
    *(check, compare, doctor, export, fetch, image, index, infra, init),
    *(launch, logs, ls, pairs, report, schema, status, stop, verify),
):
    main.add_command(command)


if __name__ == "__main__":
    main()
