"""Turns the fields of `MachineOptions` into command-line options."""

from collections.abc import Callable
from dataclasses import fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import click

from launcher.plan.machine import MachineOptions, option_name


def machine_options(*names: str, **defaults: object) -> Callable[..., Any]:
    """Add the named fields, or all, as options; the command gets them as keyword arguments."""
    chosen = [each for each in fields(MachineOptions) if not names or each.name in names]
    # Without `--backend`, option help does not name the backends.
    has_backends = "backend" in [each.name for each in chosen]

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for each in reversed(chosen):
            default = defaults.get(each.name, each.default)
            backends = ", ".join(each.metadata["backends"] if has_backends else ())
            text = each.metadata["help"]
            given = {
                "default": default,
                "show_default": bool(default),
                "help": f"{backends}: {text}" if backends else text[:1].upper() + text[1:],
            }
            shown = each.metadata["shown"]
            option = click.option(option_name(each.name), **_kind(each.type) | given | shown)
            command = option(command)
        return command

    return add


def _kind(hint: Any) -> dict[str, Any]:  # noqa: ANN401  a type, or a form of typing's
    """Translate a field's type into arguments for Click; integers are at least 1."""
    if NoneType in get_args(hint):
        (hint,) = set(get_args(hint)) - {NoneType}
    if get_origin(hint) is Literal:
        return {"type": click.Choice(get_args(hint))}
    if hint is bool:
        return {"is_flag": True}
    if get_origin(hint) is tuple:
        return {"multiple": True}
    kinds = {int: click.IntRange(min=1), float: click.FloatRange(min=0)}
    return {"type": kinds.get(hint)}
