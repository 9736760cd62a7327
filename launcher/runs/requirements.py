"""Conditions that a result must meet: `lift>0`, `ndcg@10>=0.8 at 128 as int8`.

The interval's lower bound must reach the threshold, so chance rarely passes.
"""

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass

from job.core.errors import GateNotMet, SpecError
from job.report.document import Compared, Report

GRAMMAR = re.compile(
    r"(?P<subject>lift|ndcg@10)\s*(?P<sign>>=|>)\s*(?P<value>[-+]?\d*\.?\d+)"
    r"(?:\s+at\s+(?P<dimension>\d+))?(?:\s+as\s+(?P<precision>\w+))?"
)
SIGNS = {">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Requirement:
    """One condition; without a dimension, it applies to the main dimension."""

    text: str
    subject: str
    sign: str
    value: float
    dimension: str | None
    precision: str


def parse_requirement(text: str) -> Requirement:
    found = GRAMMAR.fullmatch(text.strip().lower())
    if found is None:
        msg = f"`--require {text}`: expected `lift>0` or `ndcg@10>=0.8 at DIMENSION as PRECISION`."
        raise SpecError(msg)
    precision = found["precision"] or "float32"
    if found["subject"] == "lift" and precision != "float32":
        msg = f"`--require {text}`: lifts are measured for float32 vectors only."
        raise SpecError(msg)
    value = float(found["value"])
    return Requirement(text, found["subject"], found["sign"], value, found["dimension"], precision)


def require(report: Report, requirements: Iterable[Requirement]) -> None:
    """Raise `GateNotMet`, naming all requirements that the report does not meet."""
    unmet = [line for each in requirements if (line := _shortfall(report, each))]
    if unmet:
        raise GateNotMet(" ".join(unmet))


def _shortfall(report: Report, required: Requirement) -> str | None:
    """Return why the report does not meet a requirement, or None if it does."""
    comparison = report.comparison.items()
    measured = {
        (d, precision): found for d, each in comparison for precision, found in each.items()
    }
    dimension = required.dimension or report.main
    found = measured.get((dimension, required.precision))
    if found is None:
        known = ", ".join(f"{d} as {precision}" for d, precision in measured)
        missing = f"{dimension} as {required.precision}"
        msg = f"`--require {required.text}`: {missing} was not measured. Measured: {known}."
        raise SpecError(msg)
    low, high = found.score_ci
    if required.subject == "lift" and isinstance(found, Compared):
        low, high = found.ci
    if SIGNS[required.sign](low, required.value):
        return None
    return (
        f"Required: `{required.text}`, but the interval at {dimension} dimensions is "
        f"[{low:.3f}, {high:.3f}]; its lower bound must meet the condition."
    )
