"""Commands that messages advise: complete, with all that was set so far."""

import json
import re
import shlex
from collections.abc import Iterator

from job.spec.schema import DataSpec, Section

# What YAML reads as a text, and as the same one.
PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
WORDS_OF_YAML = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")


def check_command(source: str, spec: Section | None = None, **changes: object) -> str:
    """Write `embedtune check` with the fields of `spec` that are set, and others given by name.

    `spec` is the section `data`, or its `columns`. Names may have dots: `columns.anchor`.
    """
    prefix = "data." if spec is None or isinstance(spec, DataSpec) else "data.columns."
    settings = {f"{prefix}{name}": value for name, value in _set_fields(spec)} if spec else {}
    settings |= {f"data.{name}": value for name, value in changes.items()}
    settings.pop("data.source", None)
    words = ["embedtune", "check", source]
    for name, value in settings.items():
        words += ["--set", f"{name}={_written(value)}"]
    return shlex.join(words)


def _set_fields(section: Section, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _set_fields(value, f"{prefix}{name}.")
        elif value != field.default:
            yield f"{prefix}{name}", value


def _written(value: object) -> str:
    """Write a value so that `--set` reads the same one."""
    if isinstance(value, tuple | list):
        [first, *others] = value or [None]
        is_plain = isinstance(first, str) and not others and PLAIN.fullmatch(first)
        if is_plain and str(first).lower() not in WORDS_OF_YAML:
            return str(first)
        return json.dumps(list(value), ensure_ascii=False)
    if isinstance(value, str):
        quoted = value[:1] in ("'", '"') or value in ("", "~", "null")
        return json.dumps(value, ensure_ascii=False) if quoted else value
    return json.dumps(value)
