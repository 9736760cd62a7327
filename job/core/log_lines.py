"""The grammar of a run's log lines, written and read: `TIME what: event key=value …`.

A value with spaces stands in quotes; `step=3/30` is `step` and `steps`. A score ends its line as
`dim_128_cosine_ndcg@10: 0.7234`, and alone follows `what` without a colon: SageMaker's metric
definitions look for both.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Value = int | float | str


@dataclass(frozen=True)
class Line:
    """`time` is UTC, as it is written; facts that read as numbers are numbers."""

    time: str
    what: str
    event: str
    facts: Mapping[str, Value]


# No two branches begin alike, so a stranger's text in a line cannot make reading it slow.
QUOTED = r'"(?:[^"\\]|\\.)*"'
FACT = rf'[A-Za-z_][\w.@-]*=(?:{QUOTED}|[^\s"]\S*)'
SCORE_KEY = r"\w+@\d+"
SCORE = rf"{SCORE_KEY}: \d\.\d+"
LINE = re.compile(
    # With several hosts, CloudWatch's lines come after their host's name.
    r"(?:[\w-]+: )?(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) "
    rf"(?P<what>[a-z][a-z0-9 ]*?)(?::|(?= {SCORE}$))(?P<rest> .*)"
)
REST = re.compile(rf"(?P<event>.*?)(?P<facts>(?: (?:{FACT}|{SCORE}))*)")
PAIR = re.compile(rf" ({FACT}|{SCORE})")
# More digits than these are a name, not a count.
COUNT = re.compile(r"-?(?:0|[1-9]\d{0,17})")
DECIMAL = re.compile(r"-?\d{1,18}(?:\.\d+(?:e[+-]\d{1,3})?|e[+-]\d{1,3})|nan|-?inf")
STEP = re.compile(r"(\d{1,18})/(\d{1,18})")


def write_line(what: str, event: str, facts: Mapping[str, object]) -> str:
    """Write what follows the time."""
    only_a_score = not event and len(facts) == 1 and re.fullmatch(SCORE_KEY, next(iter(facts)))
    start = what if only_a_score else f"{what}:"
    return " ".join([start, *([event] if event else []), *_written(facts)])


def _written(facts: Mapping[str, object]) -> Iterator[str]:
    of_steps = {"step", "steps"} <= facts.keys()
    for key, value in facts.items():
        if key == "step" and of_steps:
            yield f"step={value}/{facts['steps']}"
        elif re.fullmatch(SCORE_KEY, key):
            yield f"{key}: {value:.4f}"
        elif key != "steps" or not of_steps:
            yield f"{key}={_quoted(value)}"


def _quoted(value: object) -> str:
    as_json = value is None or isinstance(value, (bool, list, dict))
    text = json.dumps(value, ensure_ascii=False) if as_json else str(value)
    if text and not re.search(r'\s|^"', text):
        return text
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


def parse_line(line: str) -> Line | None:
    """Read a line; nothing where it is none of a run's."""
    found = LINE.fullmatch(line.rstrip("\n"))
    rest = REST.fullmatch(found["rest"]) if found else None
    if found is None or rest is None:
        return None
    facts = dict(fact for pair in PAIR.findall(rest["facts"]) for fact in _facts(pair))
    return Line(found["time"], found["what"], rest["event"].strip(), facts)


def _facts(pair: str) -> Iterator[tuple[str, Value]]:
    key, text = re.split("=|: ", pair, maxsplit=1)
    if step := STEP.fullmatch(text):
        yield key, int(step[1])
        yield f"{key}s", int(step[2])
    else:
        yield key, _value(text)


def _value(text: str) -> Value:
    if text.startswith('"'):
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    if COUNT.fullmatch(text):
        return int(text)
    return float(text) if DECIMAL.fullmatch(text) else text
