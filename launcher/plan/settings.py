"""The user's default output: `EMBEDTUNE_OUTPUT`, or `output` in the settings file."""

import os
import tomllib
from pathlib import Path

import click

from job.core.errors import SpecError
from launcher.plan.plan import DEFAULT_OUTPUT


def settings_file() -> Path:
    return Path(click.get_app_dir("embedtune")) / "config.toml"


def default_output() -> str:
    """Return the output where commands write and find runs without `--output`."""
    if given := os.environ.get("EMBEDTUNE_OUTPUT"):
        return given
    path = settings_file()
    try:
        settings = tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        msg = f"`{path}` cannot be read: {error}."
        raise SpecError(msg) from None
    output = settings.get("output", DEFAULT_OUTPUT)
    if unknown := ", ".join(f"`{key}`" for key in settings.keys() - {"output"}):
        msg = f'`{path}` has {unknown}; the only setting is `output`, as in `output = "s3://…"`.'
        raise SpecError(msg)
    if not isinstance(output, str) or not output:
        msg = f"`{path}`: `output` is {output!r}; expected a folder or `s3://bucket/prefix`."
        raise SpecError(msg)
    return output
