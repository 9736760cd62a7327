"""Choose the columns of questions, contexts and negatives: by usual names, or as the spec says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from job.core.errors import DataError
from job.data.column_advice import ColumnAdvice
from job.data.column_names import (
    ANCHOR_NAMES,
    LABEL_NAME,
    LABEL_NAMES,
    MAX_LABEL_CHARACTERS,
    NEGATIVE_NAME,
    NO_LABEL,
    POSITIVE_NAMES,
    SAID_NAMES,
    TEACHER_NAME,
    TWINS,
    column_names,
    first_tier,
    listed,
    plain_name,
)
from job.data.formats.values import passage
from job.spec.commands import check_command
from job.spec.schema import Columns, DataSpec


@dataclass(frozen=True)
class ColumnChoice:
    anchor: str
    positive: str
    negatives: tuple[str, ...]
    group: str | None = None
    label: str | None = None
    parent: str | None = None
    # Sentences for `check` about what was decided.
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return the columns by role, for the report."""
        named = {"anchor": self.anchor, "positive": self.positive, "group": self.group}
        named |= {"label": self.label} if self.label else {}
        named |= {"document": self.parent} if self.parent else {}
        return named | {"negatives": list(self.negatives)}


def choose_columns(
    fields: Mapping[str, Any],
    wanted: Columns | None,
    source: str,
    samples: Sequence[Mapping[str, Any]] = (),
    spec: DataSpec | None = None,
) -> ColumnChoice:
    """Choose columns from the fields of a first row; names in the spec win over usual names.

    `wanted` is None if the spec cannot name columns, as for out-of-domain data: then negatives are
    ignored. `samples` are rows by which columns are suggested if none has a known name. `spec` is
    all that is set, for commands.
    """
    names = column_names(fields)
    explicit = wanted or Columns(negatives=())
    pair = _find_pair(names, fields, explicit)
    missing = [key for key, found in pair.items() if len(found) != 1]
    if missing:
        advice = ColumnAdvice(fields, samples or [fields], wanted, source, spec)
        raise DataError(advice.refusal(missing[0], pair[missing[0]]))
    anchor, positive = (found[0] for found in pair.values())
    negatives = explicit.negatives
    if negatives is None:
        negatives = tuple(name for name in names if NEGATIVE_NAME.fullmatch(plain_name(name)))
    chosen = [(anchor, "anchor"), (positive, "positive")]
    for name, field in [*chosen, *((name, "negatives") for name in negatives)]:
        _require(names, name, field, source)
    require_group(fields, explicit.group, source)
    if explicit.document is not None:
        _require(names, explicit.document, "document", source)
    taken = {anchor, positive, *negatives}
    others = {name: value for name, value in fields.items() if name in names and name not in taken}
    label = _label_column(fields, others, wanted, source, (anchor, positive), spec)
    return ColumnChoice(
        anchor,
        positive,
        negatives,
        explicit.group,
        label,
        explicit.document,
        _notes(positive, others, explicit),
    )


def require_group(fields: Mapping[str, Any], wanted: str | None, source: str) -> None:
    if wanted is not None:
        _require(column_names(fields), wanted, "group", source)


def _find_pair(
    names: list[str], fields: Mapping[str, Any], explicit: Columns
) -> dict[str, list[str]]:
    """Return the candidates for `anchor` and `positive`; one each, if they are clear."""
    readable = [name for name in names if not _holds_objects(fields[name])]
    # Contexts that are objects without a known text are refused, with a template that reads them;
    # an answer must not take their place.
    positive = (
        first_tier(readable, POSITIVE_NAMES[:1])
        or first_tier(names, POSITIVE_NAMES[:1])
        or first_tier(readable, POSITIVE_NAMES)
    )
    found = {
        "anchor": [explicit.anchor] if explicit.anchor else first_tier(readable, ANCHOR_NAMES),
        "positive": [explicit.positive] if explicit.positive else positive,
    }
    plain = {plain_name(name): name for name in readable}
    for first, second in TWINS:
        is_open = not (found["anchor"] or found["positive"] or explicit.anchor)
        if is_open and first in plain and second in plain:
            return {"anchor": [plain[first]], "positive": [plain[second]]}
    return found


def _holds_objects(value: Any) -> bool:  # noqa: ANN401  what a file holds
    """Tell whether a value is an object, or a list of objects, without a text."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and not isinstance(passage(first)[0], str)


def _label_column(
    fields: Mapping[str, Any],
    others: Mapping[str, Any],
    wanted: Columns | None,
    source: str,
    pair: tuple[str, str],
    spec: DataSpec | None,
) -> str | None:
    named_label = wanted.label if wanted else None
    if named_label is not None:
        if named_label == NO_LABEL:
            return None
        _require(column_names(fields), named_label, "label", source)
        return named_label
    found = [name for name in others if is_label(name, others[name])]
    order = {name: place for place, name in enumerate(LABEL_NAMES)}
    found.sort(key=lambda name: order.get(plain_name(name), len(order)))
    if len(found) > 1 and wanted is not None:
        named = {"columns.anchor": pair[0], "columns.positive": pair[1], "columns.label": found[0]}
        msg = f"`{source}` has several columns that may say whether a context answers its question:"
        msg += f" {listed(found)}. Choose one, or `{NO_LABEL}`: "
        raise DataError(msg + f"`{check_command(source, spec or wanted, **named)}`.")
    return found[0] if found else None


def is_label(name: str, value: Any) -> bool:  # noqa: ANN401  what a file holds
    """Tell by its name and a value whether a column says that a context answers its question."""
    plain = plain_name(name)
    if not LABEL_NAME.fullmatch(plain) or TEACHER_NAME.fullmatch(plain):
        return False
    if isinstance(value, list):
        return bool(value) and all(isinstance(part, bool | int | float) for part in value)
    # A text of some length is what is relevant, not whether something is.
    return not isinstance(value, dict) and len(str(value)) <= MAX_LABEL_CHARACTERS


def _notes(positive: str, others: Mapping[str, Any], explicit: Columns) -> tuple[str, ...]:
    said = [name for name in others if plain_name(name) in SAID_NAMES]
    if explicit.positive or not said or plain_name(positive) in SAID_NAMES:
        return ()
    note = f"`{positive}` is trained on, not {listed(said)}: a retriever must find the context, "
    return (note + "whatever was said about it",)


def _require(names: list[str], wanted: str, field: str, source: str) -> None:
    if wanted not in names:
        msg = f"`{source}` has no column `{wanted}` (`data.columns.{field}`). "
        raise DataError(msg + f"Its columns: {listed(names)}.")
