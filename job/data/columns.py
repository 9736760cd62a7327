"""Choose the columns of questions, contexts and negatives: by usual names, or as the spec says."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from job.core.errors import DataError
from job.data.readers import SURPLUS
from job.spec.schema import Columns

ANCHOR_NAMES = ("anchor", "query", "question")
POSITIVE_NAMES = ("positive", "context", "document", "passage", "answer", "pos")
NEGATIVE_NAME = re.compile(r"(hard_?)?neg(ative)?s?(_?\d+)?")
# Columns listed in a message. In a file without a header, each name may be a whole text.
MAX_LISTED = 20
SCORE_NAMES = ("score", "similarity", "similarity_score", "label", "labels")


@dataclass(frozen=True)
class ColumnChoice:
    anchor: str
    positive: str
    negatives: tuple[str, ...]
    group: str | None = None


def choose_columns(fields: Mapping[str, Any], wanted: Columns | None, source: str) -> ColumnChoice:
    """Choose columns from the fields of a first row; names in the spec win over usual names.

    `wanted` is None if the spec cannot name columns, as for out-of-domain data: then negatives are
    ignored.
    """
    names = _column_names(fields)
    explicit = wanted or Columns(negatives=())
    if not (explicit.anchor and explicit.positive):
        _refuse_scores(fields, source, nameable=wanted is not None)
    section = "data.columns." if wanted else ""
    anchor = explicit.anchor or _find(names, ANCHOR_NAMES, f"{section}anchor", source)
    positive = explicit.positive or _find(names, POSITIVE_NAMES, f"{section}positive", source)
    negatives = explicit.negatives
    if negatives is None:
        negatives = tuple(name for name in names if NEGATIVE_NAME.fullmatch(name.lower().strip()))
    chosen = [(anchor, "anchor"), (positive, "positive")]
    for name, field in [*chosen, *((name, "negatives") for name in negatives)]:
        _require(names, name, field, source)
    require_group(fields, explicit.group, source)
    return ColumnChoice(anchor, positive, negatives, explicit.group)


def require_group(fields: Mapping[str, Any], wanted: str | None, source: str) -> None:
    if wanted is not None:
        _require(_column_names(fields), wanted, "group", source)


def _column_names(fields: Mapping[str, Any]) -> list[str]:
    return [name for name in fields if isinstance(name, str) and name != SURPLUS]


def _find(names: list[str], known: Collection[str], key: str, source: str) -> str:
    """Return the only column with a known name.

    `key` is the spec field that names another one; without a dot, there is no such field.
    """
    found = [name for name in names if name.lower().strip() in known]
    if len(found) == 1:
        return found[0]
    if found:
        advice = f"Choose one with `--set {key}={found[0]}`" if "." in key else "Keep only one"
        msg = f"`{source}` has several columns for `{key}`: {_listed(found)}. {advice}."
    else:
        advice = f"Name it with `--set {key}=NAME`" if "." in key else "Rename a column"
        msg = f"`{source}` has no column for `{key}`. Its columns: {_listed(names)}. "
        msg += f"Recognized names: {_listed(known)}. {advice}."
    raise DataError(msg)


def _require(names: list[str], wanted: str, field: str, source: str) -> None:
    if wanted not in names:
        msg = f"`{source}` has no column `{wanted}` (`data.columns.{field}`). "
        raise DataError(msg + f"Its columns: {_listed(names)}.")


def _refuse_scores(fields: Mapping[str, Any], source: str, *, nameable: bool) -> None:
    scored = [name for name in fields if str(name).lower().strip() in SCORE_NAMES]
    if scored:
        naming = "name the columns with `--set data.columns.anchor=… --set data.columns.positive=…`"
        msg = f"`{source}` has a column `{scored[0]}`, but scores and labels are not supported: "
        msg += "in each row, the context must answer the question. Keep only such rows, then "
        raise DataError(msg + f"{naming if nameable else 'remove that column'}.")


def _listed(names: Collection[str]) -> str:
    shown = [f"`{name}`" for name in names][:MAX_LISTED]
    more = [f"{len(names) - MAX_LISTED} more"] if len(names) > MAX_LISTED else []
    return ", ".join(shown + more) or "(no columns)"
