"""Parse job files and dotted assignments into a JobSpec, and explain errors in them."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from job.core.errors import SpecError
from job.spec.schema import JobSpec, Section

# Old names of fields, from before the first release.
RENAMED = {
    "training.cluster": "training.hard_group_size",
    "evaluation.probe": "evaluation.out_of_domain",
    "evaluation.probe_limit": "evaluation.out_of_domain_limit",
}


def build_spec(
    document: Mapping[str, Any], assignments: Mapping[str, str] | None = None
) -> JobSpec:
    """Merge a document with dotted assignments (`training.epochs` → `"3"`), which win.

    Raises `SpecError`, which names up to three wrong fields and the nearest valid names.
    """
    merged = _as_json(document)
    for key, text in (assignments or {}).items():
        _assign(merged, key, _as_json(_parse_value(key, text), key))
    try:
        return JobSpec.model_validate(merged)
    except ValidationError as error:
        # A field of several types fails once per type.
        problems: dict[str, list[ErrorDetails]] = {}
        for problem in error.errors():
            problems.setdefault(_field_of(problem), []).append(problem)
        found = [_explain(key, problems[key]) for key in [*problems][:3]]
        raise SpecError("; ".join(found)) from None


def _as_json(value: object, prefix: str = "") -> Any:  # noqa: ANN401  the spec validates it
    """Copy a value, refusing what JSON lacks: YAML's dates, sets and cycles.

    `prefix` is the dotted name of the value. A section without any field (all commented out) is
    dropped and gets its defaults.
    """
    try:
        if not isinstance(value, Mapping):
            return json.loads(json.dumps(value))
        sections = {name for name, field in _fields() if _section(field)}
        copy = {}
        for given, inner in value.items():
            # Keys as JSON writes them: an unquoted `no` is YAML's false.
            key = json.dumps(given) if isinstance(given, bool | int | float | None) else str(given)
            name = f"{prefix}.{key}" if prefix else key
            if inner is not None or name not in sections:
                copy[key] = _as_json(inner, name)
    except (TypeError, ValueError, RecursionError) as error:
        field = prefix[:80] or "the spec"
        msg = f"`{field}` is not a string, number, list or mapping: {error}. Put it in quotes."
        raise SpecError(msg) from None
    return copy


def _fields(model: type[BaseModel] = JobSpec, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield all fields by dotted name, in the spec's order, each section before its fields."""
    for name, field in model.model_fields.items():
        yield prefix + name, field
        if section := _section(field):
            yield from _fields(section, f"{prefix}{name}.")


def _section(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Split `section.field=value` strings into names and values."""
    values = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            msg = f"`--set {assignment}` has no `=`; expected `--set section.field=value`."
            raise SpecError(msg)
        values[key.strip()] = value
    return values


def read_document(path: Path, name: str | None = None) -> dict[str, Any]:
    """Read a job file; errors call it `name`, by default its path."""
    name = name or str(path)
    try:
        return parse_document(path.read_text("utf-8"), name)
    except UnicodeDecodeError as error:
        msg = f"`{name}` is not UTF-8: byte 0x{error.object[error.start]:02x}. Save it as UTF-8."
        raise SpecError(msg) from None
    except OSError as error:
        msg = f"`{name}` cannot be read: {error.strerror}."
        raise SpecError(msg) from None


def parse_document(text: str, name: str) -> dict[str, Any]:
    """Parse a spec from YAML or JSON; errors call the source `name`."""
    try:
        document = _load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", error)).splitlines()[0]
        msg = f"`{name}` is not valid YAML{line}: {problem}."
        raise SpecError(msg) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        msg = f"`{name}` contains a {type(document).__name__}; expected sections such as `data:`."
        raise SpecError(msg)
    return document


class _Loader(yaml.SafeLoader):
    """Loads plain data and refuses aliases: a small file of them can expand beyond memory."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            problem = "aliases (`*name`) are not supported; write the value out"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002
        """Explain values on which PyYAML's constructors crash, such as a month 13 or `0x_`."""
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"{str(node.value)[:40]!r} is not a valid number or date; put it in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        """Refuse a duplicate key: PyYAML would silently keep the last value."""
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key `{key.value}` is here twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _load(text: str) -> Any:  # noqa: ANN401  any YAML value
    return yaml.load(text, _Loader)  # noqa: S506  a SafeLoader


def differing_fields(a: JobSpec, b: JobSpec) -> list[str]:
    """Return the dotted names of the fields whose values differ."""
    values = ((name, attrgetter(name)) for name, _, _ in field_rows())
    return [name for name, value in values if value(a) != value(b)]


def field_rows() -> list[tuple[str, str, str]]:
    """List every field as (dotted name, default, description), in the spec's order."""
    return [
        (name, json.dumps(field.default), (field.description or "").replace("\n", " "))
        for name, field in _fields()
        if not _section(field)
    ]


def _assign(document: dict[str, Any], key: str, value: object) -> None:
    *sections, field = key.split(".")
    for section in sections:
        document = document.setdefault(section, {})
        if not isinstance(document, dict):
            msg = f"`{key}` cannot be set: `{section}` is {document!r}, not a section."
            raise SpecError(msg)
    document[field] = value


def _parse_value(key: str, text: str) -> object:
    # A string field takes the text as it is, even if YAML would read a mapping or a boolean: a
    # prompt may end in `: `, a language code may be `no`. Quotes and `null` mean what YAML says.
    kind = next((field.annotation for name, field in _fields() if name == key), None)
    if kind in (str, str | None) and text[:1] not in ("'", '"') and text not in ("", "~", "null"):
        return text
    try:
        return _load(text)
    except (yaml.YAMLError, RecursionError):
        msg = f"`{key}`: the value {text[:80]!r} is not valid YAML; put it in quotes."
        raise SpecError(msg) from None


def _field_of(problem: ErrorDetails) -> str:
    # For a union, pydantic appends the member's name to the location, which users do not know.
    known = dict(_fields())
    parts = [str(part) for part in problem["loc"]]
    while parts and ".".join(parts) not in known and problem["type"] != "extra_forbidden":
        parts.pop()
    return ".".join(parts) or "the spec"


def _explain(key: str, problems: list[ErrorDetails]) -> str:
    if problems[0]["type"] == "extra_forbidden":
        return f"`{key}` is not a field of the spec. {_nearest(key)}"
    messages = dict.fromkeys(p["msg"].removeprefix("Value error, ") for p in problems)
    if not problems[0]["loc"]:
        # Of fields in several sections, which the message names.
        return " or ".join(messages)
    found = repr(problems[0]["input"])
    if problems[0]["type"] in ("list_type", "tuple_type"):
        # pydantic calls it a tuple.
        messages = {"Input should be a list, in brackets: `[…]`": None}
    return f"`{key}`: {' or '.join(messages)} (found {found[:80]})"


def _nearest(key: str) -> str:
    if key in RENAMED:
        return f"It is now called `{RENAMED[key]}`."
    known = {name.rsplit(".", 1)[-1]: name for name, _ in _fields()}
    leaf = key.rsplit(".", 1)[-1]
    near = (
        [known[leaf]]
        if leaf in known
        else difflib.get_close_matches(key, dict(_fields()), 1)
        or [known[name] for name in difflib.get_close_matches(leaf, known, 1)]
    )
    return f"Did you mean `{near[0]}`?" if near else "`embedtune schema` lists the fields."
