"""Write and parse the log lines of a run: `TIME what: event key=value …`.

A value with spaces is quoted; `step=3/30` means `step=3` and `steps=30`. A score is written last,
as `dim_128_cosine_ndcg@10: 0.7234`. A line with only a score has no colon after `what`.
SageMaker's metric definitions match both forms.
The message of a warning begins with `warning: `. Progress is `texts done=1200 total=5400
per_second=310`, with the unit as message; `total` is missing if it is unknown.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

Value = int | float | str
# What the message of a warning begins with.
WARNING = "warning: "
TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Line:
    """A parsed line; `time` is the UTC text, and numeric facts are numbers."""

    time: str
    what: str
    event: str
    facts: Mapping[str, Value]


# Alternatives start with different characters, so untrusted text cannot cause backtracking.
QUOTED = r'"(?:[^"\\]|\\.)*"'
FACT = rf'[A-Za-z_][\w.@-]*=(?:{QUOTED}|[^\s"]\S*)'
SCORE_KEY = r"\w+@\d+"
SCORE = rf"{SCORE_KEY}: \d\.\d+"
LINE = re.compile(
    # With several hosts, CloudWatch lines start with the host's name.
    r"(?:[\w-]+: )?(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) "
    rf"(?P<what>[a-z][a-z0-9 ]*?)(?::|(?= {SCORE}$))(?P<rest> .*)"
)
REST = re.compile(rf"(?P<event>.*?)(?P<facts>(?: (?:{FACT}|{SCORE}))*)")
PAIR = re.compile(rf" ({FACT}|{SCORE})")
# A longer string of digits is a name, not a count.
COUNT = re.compile(r"-?(?:0|[1-9]\d{0,17})")
DECIMAL = re.compile(r"-?\d{1,18}(?:\.\d+(?:e[+-]\d{1,3})?|e[+-]\d{1,3})|nan|-?inf")
STEP = re.compile(r"(\d{1,18})/(\d{1,18})")


def write_line(what: str, event: str, facts: Mapping[str, object]) -> str:
    """Return the line without its time."""
    is_only_a_score = not event and len(facts) == 1 and re.fullmatch(SCORE_KEY, next(iter(facts)))
    start = what if is_only_a_score else f"{what}:"
    return " ".join([start, *([event] if event else []), *_format_facts(facts)])


def _format_facts(facts: Mapping[str, object]) -> Iterator[str]:
    has_steps = {"step", "steps"} <= facts.keys()
    for key, value in facts.items():
        if key == "step" and has_steps:
            yield f"step={value}/{facts['steps']}"
        elif re.fullmatch(SCORE_KEY, key):
            yield f"{key}: {value:.4f}"
        elif key != "steps" or not has_steps:
            yield f"{key}={_quote(value)}"


def _quote(value: object) -> str:
    as_json = value is None or isinstance(value, (bool, list, dict))
    text = json.dumps(value, ensure_ascii=False) if as_json else str(value)
    if text and not re.search(r'\s|^"', text):
        return text
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


def parse_line(line: str) -> Line | None:
    """Parse a line; return None if it is not a log line of a run."""
    found = LINE.fullmatch(line.rstrip("\n"))
    rest = REST.fullmatch(found["rest"]) if found else None
    if found is None or rest is None or not _is_time(found["time"]):
        return None
    facts = dict(fact for pair in PAIR.findall(rest["facts"]) for fact in _parse_fact(pair))
    return Line(found["time"], found["what"], rest["event"].strip(), facts)


def _is_time(text: str) -> bool:
    try:
        parse_time(text)
    except ValueError:
        # Such as the 31st of February, in text that is no line of ours.
        return False
    return True


def parse_time(text: str) -> datetime:
    """Parse the time of a line, which is UTC."""
    return datetime.strptime(text, TIME).replace(tzinfo=UTC)


def _parse_fact(pair: str) -> Iterator[tuple[str, Value]]:
    key, text = re.split("=|: ", pair, maxsplit=1)
    if step := STEP.fullmatch(text):
        yield key, int(step[1])
        yield f"{key}s", int(step[2])
    else:
        yield key, _parse_value(text)


def _parse_value(text: str) -> Value:
    if text.startswith('"'):
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    if COUNT.fullmatch(text):
        return int(text)
    return float(text) if DECIMAL.fullmatch(text) else text
