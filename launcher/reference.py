"""Write the generated parts of the READMEs: `python -m launcher.reference README.md …`.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. `make docs` renders every
README; a test compares them with the code.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from job.core.errors import EXIT_CODES
from job.spec.parse import field_rows
from launcher.cli import main

PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def command_help() -> str:
    """Return the help of every command as the terminal shows it."""
    return "\n".join(_help_blocks(main, "embedtune")).rstrip()


def spec_table() -> str:
    rows = [
        f"| `{name}` | `{default}` | {description.replace('|', '/')} |"
        for name, default, description in field_rows()
    ]
    return "\n".join(["| field | default | meaning |", "|---|---|---|", *rows])


def exit_codes() -> str:
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(["| code | meaning |", "|---:|---|", *rows])


PARTS = {"commands": command_help, "spec": spec_table, "exit_codes": exit_codes}


def render(text: str) -> str:
    """Replace every generated part of a Markdown text."""
    return PART.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n\n{found[3]}", text)


def _help_blocks(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(command, info_name=path, terminal_width=88, **main.context_settings)
    yield f"```text\n$ {path} --help\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _help_blocks(command.commands[name], f"{path} {name}")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(render(Path(name).read_text("utf-8")), "utf-8")
