"""Updates the generated sections of READMEs: `python -m launcher.reference README.md`.

A section lies between `<!-- generated: NAME -->` and `<!-- end -->`; a test checks them.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from job.core.errors import EXIT_CODES
from job.spec.parse import field_rows
from launcher.cli import main

SECTION = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def command_line() -> str:
    """Return each command's help, as a terminal shows it."""
    return "\n".join(_helps(main, "embedtune")).rstrip()


def spec_table() -> str:
    rows = [
        f"| `{name}` | `{default}` | {text.replace('|', '/')} |"
        for name, default, text in field_rows()
    ]
    return "\n".join(["| field | default | meaning |", "|---|---|---|", *rows])


def exit_codes() -> str:
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(["| code | meaning |", "|---:|---|", *rows])


SECTIONS = {"commands": command_line, "spec": spec_table, "exit_codes": exit_codes}


def render(text: str) -> str:
    """Replace all generated sections of a Markdown text."""
    return SECTION.sub(lambda m: f"{m[1]}\n{SECTIONS[m[2]]()}\n\n{m[3]}", text)


def _helps(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(command, info_name=path, terminal_width=88, **main.context_settings)
    yield f"```text\n$ {path} --help\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _helps(command.commands[name], f"{path} {name}")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(render(Path(name).read_text("utf-8")), "utf-8")
