"""Suggest the likeliest columns of a file whose names are unknown or ambiguous."""

from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

from job.data.column_names import (
    ANCHOR_NAMES,
    ANSWERING,
    ASKING,
    NEGATIVE_NAME,
    POSITIVE_NAMES,
    QUESTION_MARKS,
    column_names,
    first_tier,
    listed,
    plain_name,
)
from job.data.formats.values import fill_template, object_template, passage
from job.spec.commands import check_command
from job.spec.schema import Columns, DataSpec


class ColumnAdvice:
    """Suggests the likeliest columns for a file whose names are unknown or ambiguous."""

    def __init__(
        self,
        fields: Mapping[str, Any],
        samples: Sequence[Mapping[str, Any]],
        wanted: Columns | None,
        source: str,
        spec: DataSpec | None,
    ) -> None:
        self._names, self._wanted, self._source = column_names(fields), wanted, source
        self._settings = spec or wanted
        # What is wrong is never suggested as the context.
        names = [name for name in self._names if not NEGATIVE_NAME.fullmatch(plain_name(name))]
        texts = {name: list(_texts_of(name, samples)) for name in names}
        for name in names:
            template = object_template(name, [sample.get(name) for sample in samples])
            if template and not texts[name]:
                filled = [{template: fill_template(template, sample)} for sample in samples]
                texts[template] = list(_texts_of(template, filled))
        if sum(map(bool, texts.values())) < 2:
            # Both texts are in one column of objects.
            for template in _inner_fields(names, samples):
                filled = [{template: fill_template(template, sample)} for sample in samples]
                texts[template] = list(_texts_of(template, filled))
        self._texts = {name: found for name, found in texts.items() if found}
        lengths = {name: median(map(len, found)) for name, found in self._texts.items()}
        longest = max(lengths.values(), default=0) or 1
        # A column's median length as a share of the longest column's.
        self._lengths = {name: length / longest for name, length in lengths.items()}

    def refusal(self, key: str, found: list[str]) -> str:
        """Say which column is missing or ambiguous, with the command that names both."""
        field = f"data.columns.{key}" if self._wanted else key
        tiers = ANCHOR_NAMES if key == "anchor" else POSITIVE_NAMES
        if found:
            msg = f"`{self._source}` has several columns for `{field}`: {listed(found)}. "
        else:
            known = [name for tier in tiers for name in tier]
            msg = f"`{self._source}` has no column for `{field}`. Its columns: "
            msg += f"{listed(self._names)}. Recognized names: {listed(known)}. "
        if self._wanted is None:
            return msg + ("Keep only one." if found else "Rename a column.")
        return msg + self._command(key, found)

    def _command(self, key: str, found: list[str]) -> str:
        pair = self._likeliest(key, found)
        if pair is None:
            return "It needs a column of questions and one of contexts, both of them texts."
        named = {"columns.anchor": pair[0], "columns.positive": pair[1]}
        return f"Name both: `{check_command(self._source, self._settings, **named)}`."

    def _likeliest(self, key: str, found: list[str]) -> tuple[str, str] | None:
        wanted = self._wanted or Columns()
        tiers = {"anchor": ANCHOR_NAMES, "positive": POSITIVE_NAMES}
        known = {role: first_tier([*self._texts], names) for role, names in tiers.items()}
        known[key] = found
        anchors = [wanted.anchor] if wanted.anchor else known["anchor"] or [*self._texts]
        positives = [wanted.positive] if wanted.positive else known["positive"] or [*self._texts]
        # Names that are clear for one role are none for the other.
        if not known["anchor"] and len(positives) < len(self._texts):
            anchors = [name for name in anchors if name not in positives] or anchors
        asks = {name: self._asks(name) for name in anchors}
        answers = {name: self._answers(name) for name in positives}
        pairs = [
            (asks[anchor] + answers[positive], anchor, positive)
            for anchor in anchors
            for positive in positives
            if anchor != positive
        ]
        # Of equals, the first in the file's order.
        best = max(pairs, key=lambda pair: pair[0], default=None)
        return best[1:] if best else None

    def _asks(self, name: str) -> float:
        """Score a column as questions: question marks, a heading that says so, shorter texts."""
        if not (texts := self._texts.get(name)):
            return 0.0
        heading = bool(ASKING.search(name)) - bool(ANSWERING.search(name))
        return 3 * _marked(texts) + heading + _distinct(texts) - self._lengths[name]

    def _answers(self, name: str) -> float:
        """Score a column as contexts: longer texts, few question marks, few repetitions."""
        if not (texts := self._texts.get(name)):
            return 0.0
        heading = bool(ANSWERING.search(name)) - bool(ASKING.search(name))
        return heading + _distinct(texts) + self._lengths[name] - 3 * _marked(texts)


def _texts_of(name: str, samples: Sequence[Mapping[str, Any]]) -> Collection[str]:
    """Return a column's texts; none if it holds anything else, such as objects or numbers."""
    texts: list[str] = []
    for sample in samples:
        value = sample.get(name)
        for entry in value if isinstance(value, list) else [value]:
            part = passage(entry)[0]
            if isinstance(part, str):
                texts.append(part)
            elif part is not None:
                return ()
    return [] if all(_is_number(text) for text in texts) else texts


def _inner_fields(names: Collection[str], samples: Sequence[Mapping[str, Any]]) -> dict[str, None]:
    """Return templates of the fields of columns that hold objects."""
    columns = [(name, sample.get(name)) for name in names for sample in samples]
    return {
        f"{{{name}[{key}]}}": None
        for name, value in columns
        if isinstance(value, dict)
        for key in value
    }


def longest_column(samples: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the column with the longest texts, of rows that each hold one text."""
    names = dict.fromkeys(name for sample in samples for name in column_names(sample))
    texts = {name: found for name in names if (found := _texts_of(name, samples))}
    return max(texts, key=lambda name: median(map(len, texts[name])), default=None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text.strip()
    return True


def _marked(texts: Collection[str]) -> float:
    return sum(text.rstrip().endswith(QUESTION_MARKS) for text in texts) / len(texts)


def _distinct(texts: Collection[str]) -> float:
    return len({*texts}) / len(texts)
