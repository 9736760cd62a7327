"""Every field of the spec with its schema, and values at its bounds, beyond them, and odd ones."""

import math
from dataclasses import dataclass
from typing import Any

from job.spec.schema import JobSpec

SCHEMA = JobSpec.model_json_schema()


@dataclass(frozen=True)
class Field:
    name: str
    # The field's alternative types: JSON schemas without references.
    kinds: tuple[dict[str, Any], ...]

    def kinds_alone(self) -> list[dict[str, Any]]:
        words = ("description", "title", "default")
        return [{key: kind[key] for key in kind if key not in words} for kind in self.kinds]

    def document(self, value) -> dict[str, Any]:
        """Return a job file's document that sets only this field."""
        for part in reversed(self.name.split(".")):
            value = {part: value}
        return value


def resolved(schema):
    return SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def fields(schema=SCHEMA, prefix=""):
    """Yield all fields; names of fields in sections have dots."""
    for name, given in schema["properties"].items():
        kinds = [resolved(kind) for kind in given.get("anyOf", [given])]
        if "properties" in kinds[0]:
            yield from fields(kinds[0], f"{prefix}{name}.")
        else:
            yield Field(prefix + name, tuple(kinds))


def sections(schema=SCHEMA, prefix=""):
    yield prefix
    for name, given in schema["properties"].items():
        if "properties" in (inner := resolved(given)):
            yield from sections(inner, f"{prefix}{name}.")


FIELDS = list(fields())


def after(value, kind):
    return value + 1 if kind["type"] == "integer" else math.nextafter(value, math.inf)


def before(value, kind):
    return value - 1 if kind["type"] == "integer" else math.nextafter(value, -math.inf)


def bounds(kind):
    """Yield pairs of a value at a bound and the next value beyond it."""
    if "minimum" in kind:
        yield kind["minimum"], before(kind["minimum"], kind)
    if "exclusiveMinimum" in kind:
        yield after(kind["exclusiveMinimum"], kind), kind["exclusiveMinimum"]
    if "maximum" in kind:
        yield kind["maximum"], after(kind["maximum"], kind)
    if "exclusiveMaximum" in kind:
        yield before(kind["exclusiveMaximum"], kind), kind["exclusiveMaximum"]
    if kind.get("type") == "array" and "items" in kind:
        inner = resolved(kind["items"])
        yield from (([good], [bad]) for good, bad in bounds(inner))
    if "minItems" in kind:
        yield None, []


def members(kind):
    return kind.get("enum") or ([kind["const"]] if "const" in kind else [])


HUGE = 10**400
ODD_VALUES = [
    *(None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 5e-324, HUGE, -HUGE, 2**63, 1e16),
    *(math.nan, math.inf, -math.inf, "", " ", "\n", "\0", "a\0b", "\ud800", "x" * 300, "x" * 5000),
    *("no", "yes", "auto", "null", "~", "nan", "inf", "1e400", "0x10", "1_000", "٣", "3", "3.0"),
    *("\x1b[31m", "\u202e", "a/b", "../..", "s3://", "=1", "{{x}}", "`x`", "a: b", "[1", "!!x"),
    *([], [None], [[]], [True], [1, 1], ["a", "a"], [HUGE], [math.nan], ["\0"], ["x"] * 99),
    *({}, {"a": 1}, {"": {}}, {"auto": None}),
]
