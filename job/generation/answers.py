"""Read a language model's answers: the questions about a chunk, or a judge's grade."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

# How models begin a line of a list, or stress a word.
BULLET = re.compile(r"^\s*(?:[-*•]\s+|\d{1,2}[.)]\s+|#+\s+)*")
# At the edges of words only: `max_tokens` and `count(*)` stay whole.
MARKUP = re.compile(
    r"""(?<![^\s"“])[*_`]{1,3}(?=[\w"“])|(?<=[\w?!.:：'"”)\]}])[*_`]{1,3}(?=[\s:：.,;?!"”)]|$)"""
)
# What models put before a question without a kind.
PREFIX = re.compile(r"^(?:question|query|q)\s*\d*\s*[:：.)]\s*", re.I)
LABEL = re.compile(
    r"^[(\[]?([A-Za-z]{3,20})[)\]]?(?: (?:question|query|search terms))?"
    r"(?:\s*[:：]|\s[–—-]\s)\s*(.+)$",
    re.I,
)
# What reasoning models write before their answer; without an end, the answer is missing.
THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.I)
GRADE = re.compile(r"(?<!\d)(?<!\d\.)([1-5])(?!\d|\.\d)")
SCALE = re.compile(r"\b(?:from\s+)?1\s*(?:to|-|–)\s*5\b", re.IGNORECASE)
# Other sentences around the list, such as "Here are five queries:", are no questions.
QUESTION_END = ("?", "？", "؟")
MAX_CHARACTERS = 400
UNLABELED = "question"


@dataclass(frozen=True)
class Written:
    kind: str
    text: str


def read_questions(answer: str, kinds: tuple[str, ...]) -> list[Written]:
    """Return the questions of an answer: lines with a kind, JSON, or a list of questions."""
    answer = THOUGHTS.sub("", answer)
    # Questions about code contain JSON themselves.
    found = [*_labeled(answer, kinds)] or [*_from_json(answer, kinds)] or [*_listed(answer)]
    return [each for each in found if 0 < len(each.text) <= MAX_CHARACTERS]


def _labeled(answer: str, kinds: tuple[str, ...]) -> Iterator[Written]:
    for line in answer.splitlines():
        label = LABEL.match(_plain(line))
        if label and label[1].lower() in kinds:
            yield Written(label[1].lower(), _clean(label[2]))


def _listed(answer: str) -> Iterator[Written]:
    for line in answer.splitlines():
        text = _clean(PREFIX.sub("", _plain(line)))
        if text.endswith(QUESTION_END):
            yield Written(UNLABELED, text)


def _from_json(answer: str, kinds: tuple[str, ...]) -> Iterator[Written]:
    found = re.search(r"[\[{].*[\]}]", answer, re.DOTALL)
    try:
        document = json.loads(found[0]) if found else None
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict):
        only = next(iter(document.values()), None)
        document = only if len(document) == 1 and isinstance(only, list) else document
    if isinstance(document, dict):
        document = [{"kind": kind, "question": text} for kind, text in document.items()]
    for entry in document if isinstance(document, list) else ():
        if isinstance(entry, str):
            yield Written(UNLABELED, _clean(entry))
        elif isinstance(entry, dict):
            text = entry.get("question", entry.get("query", entry.get("text")))
            kind = str(entry.get("kind", entry.get("type", UNLABELED))).lower()
            if isinstance(text, str):
                yield Written(kind if kind in kinds else UNLABELED, _clean(text))


def _plain(line: str) -> str:
    """Return a line without the marks of a list, and without those of stress."""
    return MARKUP.sub("", BULLET.sub("", line)).strip()


def _clean(text: str) -> str:
    return " ".join(text.split()).strip("\"“”„«»'*_` ")


def read_grade(answer: str) -> int | None:
    """Return a judge's grade, from 1 to 5; None if there is none."""
    # Not the scale that some models repeat: "on a scale of 1 to 5: 4".
    found = GRADE.search(SCALE.sub("", THOUGHTS.sub("", answer)))
    return int(found[1]) if found else None
