"""Labels and relevance grades: which rows are answers, hard negatives, or neither."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from job.core.errors import DataError
from job.core.formatting import counted
from job.data.formats.layout import RawRow
from job.spec.commands import check_command
from job.spec.schema import DataSpec

RELEVANT_WORDS = ("true", "yes", "y", "good", "right", "pos", "relevant", "positive", "match",
                  "duplicate", "correct",
                  "oui", "vrai", "ja", "wahr", "richtig", "si", "sí", "sì", "vero", "verdadero",
                  "sim", "да", "так", "tak", "ano", "igen", "evet", "ναι", "نعم", "हाँ", "はい",
                  "是", "예", "네")  # fmt: skip
OTHER_WORDS = ("false", "no", "n", "irrelevant", "not relevant", "non relevant", "nonrelevant",
               "negative", "no match", "not duplicate", "incorrect", "wrong", "bad", "neg",
               "non", "faux", "nein", "nej", "nee", "falsch", "falso", "não", "nao", "нет", "ні",
               "nie", "ne", "nem", "hayır", "hayir", "όχι", "لا", "नहीं", "いいえ", "否", "不是",
               "아니요")  # fmt: skip
ENTAILMENT_WORDS = ("entailment", "neutral", "contradiction", "not_entailment")
# Decimals as in `0,5` and `1.234,5`, and those as in `1,234.5`.
DECIMAL_COMMA = re.compile(r"-?(\d+|\d{1,3}(\.\d{3})+),\d+")
THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+\.\d+")
# Larger whole numbers are votes or percentages; no scheme of grades goes so far.
MAX_GRADE = 10
# After so many labels without a meaning, the rest of the file will not give them one.
MAX_UNCLEAR = 10_000
# Class labels, scores and grades have few values; of more, the rest is counted together.
MAX_COUNTED = 50


class Label(NamedTuple):
    """`relevant` is None if the label says nothing."""

    relevant: bool | None
    grade: float | None = None


NO_LABEL = Label(None)


class LabelReader:
    """Reads the labels of one source, counts them, and refuses those whose meaning is open."""

    def __init__(
        self, source: str, columns: Mapping[str, Any], spec: DataSpec, main: str | None = None
    ) -> None:
        """Read the labels of `source`; `main` is the source of pairs, if `source` is another."""
        self._source, self._columns, self._spec = source, columns, spec
        self._main = main
        self.column: str | None = columns.get("label")
        self.counts: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self._unclear: Counter[str] = Counter()
        self._minus_ones = 0
        self._range = (math.inf, -math.inf)

    def read(self, row: RawRow) -> list[Label] | None:
        """Return a label for each positive of the row; None if the source has no labels."""
        if self.column is None:
            return None
        count = len(row.positives)
        if not isinstance(row.label, list):
            return [self._read(row.label)] * max(1, count)
        if not row.label and not count:
            return [NO_LABEL]
        if len(row.label) != count:
            msg = f"`{row.file}` row {row.row} has {len(row.label)} labels in `{self.column}` for "
            msg += f"{counted(count, 'context')}. Give each context one label, or, if it says "
            raise DataError(msg + f"nothing of that: `{self._command(label='none')}`.")
        return [self._read(value) for value in row.label]

    def _read(self, value: object) -> Label:
        number = label_number(value)
        label = self._judge(value, number)
        if label is None:
            self._unclear[_shown(value) if len(self._unclear) < MAX_COUNTED else "…"] += 1
            if number is not None:
                self._range = (min(self._range[0], number), max(self._range[1], number))
            if self._unclear.total() >= MAX_UNCLEAR:
                self.finish()
            return NO_LABEL
        names = {True: "relevant", False: "not relevant", None: "no label"}
        self.verdicts[names[label.relevant]] += 1
        self._count(value, number, label)
        return label

    def _judge(self, value: object, number: float | None) -> Label | None:
        """Return what a value means, None if that is open."""
        if _is_blank(value):
            return NO_LABEL
        if self._spec.positive_labels is not None:
            wanted = {_shown(label).casefold() for label in self._spec.positive_labels}
            relevant = _shown(value).casefold() in wanted
            return NO_LABEL if _shown(value) == "-1" and not relevant else Label(relevant)
        return None if number is None else self._graded(number)

    def _graded(self, number: float) -> Label | None:
        is_grade = number == int(number) and 0 <= number <= MAX_GRADE
        grade = number if is_grade and number > 0 else None
        if self._spec.min_label is not None:
            relevant = number >= self._spec.min_label
            return Label(relevant, grade if relevant else None)
        if number == -1:
            self._minus_ones += 1
            return NO_LABEL
        return Label(number > 0, grade) if is_grade else None

    def _count(self, value: object, number: float | None, label: Label) -> None:
        name = "no label" if label.relevant is None else _shown(value)
        if number is not None and number != int(number):
            name = f"{'at least' if label.relevant else 'below'} {self._spec.min_label:g}"
        if name not in self.counts and len(self.counts) >= MAX_COUNTED:
            name = "other"
        self.counts[name] += 1

    def finish(self) -> None:
        """Refuse the source if its labels may mean several things."""
        if self.column is None or self._spec.positive_labels is not None:
            return
        if self._spec.min_label is None and self._are_classes_of_sentences():
            raise DataError(self._entailment())
        if self._unclear:
            numbers = self._range[1] >= self._range[0]
            raise DataError(self._similarity() if numbers else self._classes())

    def _are_classes_of_sentences(self) -> bool:
        names = {str(self._columns.get(key)).lower().strip() for key in ("anchor", "positive")}
        found = {*self.counts, *self._unclear} - {"no label"}
        if any(name.casefold() in ENTAILMENT_WORDS for name in found):
            return True
        sentences = names == {"sentence1", "sentence2"} and "2" in found
        is_score = str(self.column).lower().strip() not in ("label", "labels", "gold_label")
        return bool(found) and (names == {"premise", "hypothesis"} or (sentences and not is_score))

    def _entailment(self) -> str:
        words = [name for name in self._unclear if name.casefold() == "entailment"]
        keep = self._command(positive_labels=(words[0] if words else "0",))
        return (
            f"`{self._source}` has the classes of natural language inference in `{self.column}` "
            f"({self._found()}), of which only entailment makes a pair (0: entailment, 1: neutral, "
            f"2: contradiction, -1: none). Keep it, with the others as hard negatives: `{keep}`."
        )

    def _similarity(self) -> str:
        low, high = self._range
        middle = 0.5 if high <= 1 else 3 if high <= 5 else round((low + high) / 2)
        return (
            f"`{self._source}` has scores from {low:g} to {high:g} in `{self.column}`, and nothing "
            "says from which one on a context answers its question. Set `data.min_label`; lower "
            f"scores become hard negatives: `{self._command(min_label=middle)}`. "
            f"If they are no such scores: `{self._command(label='none')}`."
        )

    def _classes(self) -> str:
        first = next(iter(self._unclear))
        return (
            f"`{self._source}` has labels in `{self.column}` that do not say whether the context "
            f"answers the question ({self._found()}). Name those that do; rows with others become "
            f"hard negatives: `{self._command(positive_labels=(first,))}`. "
            f"If they say nothing of that: `{self._command(label='none')}`."
        )

    def _command(self, **changes: object) -> str:
        if self._main is not None and "label" not in changes:
            # The column is found by its name; the pairs may not have it.
            return check_command(self._main, self._spec, **changes)
        named = {f"columns.{key}": self._columns[key] for key in ("anchor", "positive")}
        for key, value in {"label": self.column, **changes}.items():
            named["columns.label" if key == "label" else key] = value
        return check_command(self._main or self._source, self._spec, **named)

    def _found(self) -> str:
        found = (self._unclear + self.counts).most_common(5)
        return ", ".join(f"`{name}`: {count}" for name, count in found)

    def warning(self) -> str | None:
        """Say that all grades are relevant, as on a scale whose lowest grade is not 0."""
        grades = sorted(int(name) for name in self.counts if name.isdecimal())
        given = self._spec.min_label is not None or self._spec.positive_labels is not None
        if not given and self._minus_ones and grades and grades[0] > 0:
            return (
                f"-1 in `{self.column}` counts as no label ({counted(self._minus_ones, 'row')}), "
                f"and none is 0; if it means not relevant: `{self._command(min_label=grades[0])}`"
            )
        if given or len(grades) < 2 or grades[0] == 0:
            return None
        return (
            f"all labels in `{self.column}` ({grades[0]} to {grades[-1]}) count as relevant, as "
            f"none is 0; if the low ones are not: `{self._command(min_label=grades[1])}`"
        )


def label_facts(readers: list[LabelReader]) -> dict[str, Any] | None:
    """Count the labels of all sources; None if none has any."""
    columns = [reader.column for reader in readers if reader.column is not None]
    if not columns:
        return None
    counts = sum((reader.counts for reader in readers), Counter[str]())
    verdicts = sum((reader.verdicts for reader in readers), Counter[str]())
    return {
        "column": columns[0],
        "counts": dict(sorted(counts.items())),
        "relevant": verdicts["relevant"],
        "not_relevant": verdicts["not relevant"],
        "no_label": verdicts["no label"],
    }


def _is_blank(value: object) -> bool:
    if isinstance(value, float) and math.isnan(value):
        return True
    return value is None or (isinstance(value, str) and not value.strip())


def label_number(value: object) -> float | None:
    """Read numbers, truth values, and words that mean one of these; None: another word."""
    if isinstance(value, str):
        word = " ".join(value.casefold().replace("-", " ").replace("_", " ").split())
        if word in RELEVANT_WORDS or word in OTHER_WORDS:
            return float(word in RELEVANT_WORDS)
    elif not isinstance(value, bool | int | float):
        return None
    value = value.strip().removesuffix("%").rstrip() if isinstance(value, str) else value
    if isinstance(value, str) and DECIMAL_COMMA.fullmatch(value.strip()):
        value = value.replace(".", "").replace(",", ".")
    elif isinstance(value, str) and THOUSANDS.fullmatch(value.strip()):
        value = value.replace(",", "")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _shown(value: object) -> str:
    """Write a label as text: 1, 1.0 and "1" are the same."""
    text = str(value).strip()
    is_number = isinstance(value, int | float) or label_number(text) is not None
    return text.removesuffix(".0") if is_number else text[:40]
