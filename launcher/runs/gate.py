"""Results that a pipeline requires: `lift>0`, `ndcg@10>=0.8 at 128 as int8`.

What has to reach the value is the lower bound of the 95 % interval, not the mean: a gate that luck
opens is none.
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
    """`dimension` None is the report's main one."""

    text: str
    subject: str
    sign: str
    value: float
    dimension: str | None
    precision: str


def parse(text: str) -> Requirement:
    found = GRAMMAR.fullmatch(text.strip().lower())
    if found is None:
        msg = f"`--require {text}`: expected `lift>0` or `ndcg@10>=0.8 at DIMENSION as PRECISION`."
        raise SpecError(msg)
    precision = found["precision"] or "float32"
    if found["subject"] == "lift" and precision != "float32":
        msg = f"`--require {text}`: the lift is measured with float32 vectors alone."
        raise SpecError(msg)
    value = float(found["value"])
    return Requirement(text, found["subject"], found["sign"], value, found["dimension"], precision)


def check(report: Report, requirements: Iterable[Requirement]) -> None:
    """Raise `GateNotMet` with every requirement that the report does not meet."""
    unmet = [line for each in requirements if (line := _shortfall(report, each))]
    if unmet:
        raise GateNotMet(" ".join(unmet))


def _shortfall(report: Report, wanted: Requirement) -> str | None:
    comparison = report.comparison.items()
    measured = {
        (d, precision): found for d, each in comparison for precision, found in each.items()
    }
    dimension = wanted.dimension or report.main
    found = measured.get((dimension, wanted.precision))
    if found is None:
        known = ", ".join(f"{d} as {precision}" for d, precision in measured)
        asked = f"{dimension} as {wanted.precision}"
        msg = f"`--require {wanted.text}`: {asked} was not measured, but {known}."
        raise SpecError(msg)
    low, high = found.score_ci
    if wanted.subject == "lift" and isinstance(found, Compared):
        low, high = found.ci
    if SIGNS[wanted.sign](low, wanted.value):
        return None
    return (
        f"Required: `{wanted.text}`; the interval at {dimension} dimensions is "
        f"[{low:.3f}, {high:.3f}], and its lower bound decides."
    )
