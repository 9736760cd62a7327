"""Conditions that a result must meet: `lift>0`, `improved`, `ndcg@10>=0.8 at 128 as int8`.

Lower bounds decide, so chance rarely passes. Without a dimension, a condition is about the
recommended vectors. Their bounds are simultaneous, as they were chosen among several; the score of
vectors that the condition names has the bound of its own interval.
"""

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass

from job.core.errors import GateNotMet, SpecError
from job.report.document import Compared, Lift, Quality, Report

GRAMMAR = re.compile(
    r"(?P<subject>lift|ndcg@10|retention|probe)\s*(?P<sign>>=|>)\s*(?P<value>[-+]?\d*\.?\d+)"
    r"(?:\s+at\s+(?P<dimension>\d+))?(?:\s+as\s+(?P<precision>\w+))?"
)
SIGNS = {">": operator.gt, ">=": operator.ge}
EXPECTED = (
    "`improved`, `lift>0`, `probe>=-0.02`, or `retention>=0.99` or `ndcg@10>=0.8`, with or "
    "without `at DIMENSION as PRECISION`"
)


@dataclass(frozen=True)
class Requirement:
    """One condition; without a dimension, it is about the recommended vectors."""

    text: str
    subject: str
    sign: str = ">="
    value: float = 0.0
    dimension: str | None = None
    precision: str | None = None


def parse_requirement(text: str) -> Requirement:
    plain = text.strip().lower()
    if plain == "improved":
        return Requirement(text, "improved")
    found = GRAMMAR.fullmatch(plain)
    if found is None:
        msg = f"`--require {text}`: expected {EXPECTED}."
        raise SpecError(msg)
    subject, dimension, precision = found["subject"], found["dimension"], found["precision"]
    if subject in ("lift", "probe") and precision not in (None, "float32"):
        msg = f"`--require {text}`: with a dimension, these are measured for float32 vectors only."
        raise SpecError(msg)
    return Requirement(text, subject, found["sign"], float(found["value"]), dimension, precision)


def require(report: Report, requirements: Iterable[Requirement]) -> None:
    """Raise `GateNotMet`, naming all requirements that the report does not meet."""
    unmet = [line for each in requirements if (line := _shortfall(report, each))]
    if unmet:
        raise GateNotMet(" ".join(unmet))


def _shortfall(report: Report, required: Requirement) -> str | None:
    """Return why the report does not meet a requirement, or None if it does."""
    if required.subject == "improved":
        if report.verdict.improved:
            return None
        return f"Required: `{required.text}`, but the verdict is: {report.verdict.sentence}"
    if required.subject == "lift":
        return _lift_shortfall(report, required)
    if required.subject == "probe":
        return _probe_shortfall(report, required)
    dimension, precision, found = _vectors(report, required)
    bound = found.score_ci[0]
    if required.dimension is None and found.score_at_least is not None:
        # The recommended vectors were chosen among several, so theirs is a simultaneous bound.
        bound = found.score_at_least
    if required.subject == "retention":
        if found.retention.at_least is None:
            # Reports of older images have the bound of a single vector only.
            bound = found.retention.ci[0]
        else:
            bound = found.retention.at_least
    if SIGNS[required.sign](bound, required.value):
        return None
    return (
        f"Required: `{required.text}`, but for {dimension} dimensions as {precision} the lower "
        f"bound is {bound:.3f}."
    )


def _lift_shortfall(report: Report, required: Requirement) -> str | None:
    """Test the recommended swap, or base and tuned at one dimension, as the verdict does."""
    found: Lift
    if required.dimension is None and required.precision is None and report.swap:
        found, name = report.swap, "the recommended vectors"
        is_gain = bool(report.verdict.deploy)
    else:
        dimension, _, compared = _vectors(report, required, "float32")
        found, name = _compared(compared), f"{dimension} dimensions"
        is_gain = found.is_gain
    low, high = found.ci if required.value >= 0 else found.bounds
    # A lift that is not significant is no gain, and an untouched model does not reach `lift>=0`.
    if SIGNS[required.sign](low, required.value) and (is_gain or required.value < 0):
        return None
    why = "its lower bound must meet the condition"
    if required.value >= 0:
        why += ", and the gain must be significant"
        if found is report.swap and found.is_gain and not report.verdict.improved:
            why += " at full width first, which it is not"
    return (
        f"Required: `{required.text}`, but the interval of {name} is [{low:.3f}, {high:.3f}], "
        f"p = {found.p_value:.3f}; {why}."
    )


def _probe_shortfall(report: Report, required: Requirement) -> str | None:
    """Test the lower bound of the lift on out-of-domain data."""
    probe = report.out_of_domain
    if probe is None:
        msg = (
            f"`--require {required.text}`: the run has no out-of-domain test. Set "
            "`evaluation.out_of_domain`, such as `--set evaluation.out_of_domain=builtin:aws-docs`."
        )
        raise SpecError(msg)
    dimension = required.dimension or str(probe.dimension or report.main)
    if dimension not in probe.comparison:
        measured = ", ".join(probe.comparison)
        msg = f"`--require {required.text}`: {dimension} was not measured. Measured: {measured}."
        raise SpecError(msg)
    low, high = probe.comparison[dimension].bounds
    if SIGNS[required.sign](low, required.value):
        return None
    return (
        f"Required: `{required.text}`, but on out-of-domain data the interval at {dimension} "
        f"dimensions is [{low:.3f}, {high:.3f}]; its lower bound must meet the condition."
    )


def _vectors(
    report: Report, required: Requirement, precision: str | None = None
) -> tuple[str, str, Quality]:
    """Return the vectors of a requirement: by default the recommended ones.

    Older reports have no swap; there the default is float32 at the main dimension, as it was.
    """
    recommended = report.recommendation
    dimension = required.dimension or (str(recommended.dimension) if report.swap else report.main)
    precision = required.precision or precision
    if precision is None:
        is_default = required.dimension is None and report.swap is not None
        precision = recommended.precision if is_default else "float32"
    measured = {(d, name): q for d, each in report.comparison.items() for name, q in each.items()}
    if (dimension, precision) not in measured:
        known = ", ".join(f"{d} as {name}" for d, name in measured)
        msg = (
            f"`--require {required.text}`: {dimension} as {precision} was not measured. "
            f"Measured: {known}."
        )
        raise SpecError(msg)
    return dimension, precision, measured[dimension, precision]


def _compared(found: Quality) -> Lift:
    assert isinstance(found, Compared)
    return found
