"""Which column asks and which answers: by the names people use, or as the spec says."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from job.errors import DataError
from job.records import SURPLUS
from job.spec import Columns

ANCHOR_NAMES = ("anchor", "query", "question")
POSITIVE_NAMES = ("positive", "context", "document", "passage", "answer", "pos")
NEGATIVE_NAME = re.compile(r"(hard_?)?neg(ative)?s?(_?\d+)?")
SCORE_NAMES = ("score", "similarity", "similarity_score", "label", "labels")


@dataclass(frozen=True)
class ColumnChoice:
    anchor: str
    positive: str
    negatives: tuple[str, ...]


def choose_columns(fields: Mapping[str, Any], wanted: Columns, source: str) -> ColumnChoice:
    """Choose from a first row's fields; explicit names win over found ones."""
    names = [name for name in fields if isinstance(name, str) and name != SURPLUS]
    if not (wanted.anchor and wanted.positive):
        _refuse_scores(fields, source)
    anchor = _choose(names, wanted.anchor, ANCHOR_NAMES, "anchor", source)
    positive = _choose(names, wanted.positive, POSITIVE_NAMES, "positive", source)
    negatives = wanted.negatives
    if negatives is None:
        negatives = tuple(name for name in names if NEGATIVE_NAME.fullmatch(name.lower().strip()))
    for name in negatives:
        _choose(names, name, (), "negatives", source)
    return ColumnChoice(anchor, positive, negatives)


def _choose(
    names: list[str], wanted: str | None, known: Collection[str], field: str, source: str
) -> str:
    found = [wanted] if wanted in names else [n for n in names if n.lower().strip() in known]
    key = f"data.columns.{field}"
    if wanted and wanted not in names:
        msg = f"`{source}` has no column `{wanted}` (`{key}`); it has {_listed(names)}."
        raise DataError(msg)
    if not found:
        msg = (
            f"`{source}` has no column for `{key}`: none of {_listed(known)} is among "
            f"{_listed(names)}. Name it with `--set {key}=NAME`."
        )
        raise DataError(msg)
    if len(found) > 1:
        msg = (
            f"`{source}` has several columns for `{key}`: {_listed(found)}. "
            f"Choose one with `--set {key}={found[0]}`."
        )
        raise DataError(msg)
    return found[0]


def _refuse_scores(fields: Mapping[str, Any], source: str) -> None:
    scored = [name for name in fields if str(name).lower().strip() in SCORE_NAMES]
    if scored:
        msg = (
            f"`{source}` has a column `{scored[0]}`: pairs with a similarity score or a label are "
            "not accepted, only pairs in which the context answers the question. Keep those rows "
            "and name the columns with `--set data.columns.anchor=…` and "
            "`--set data.columns.positive=…`."
        )
        raise DataError(msg)


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "(no columns)"
