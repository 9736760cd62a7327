"""Watch columns that are not read: labels in one of them would make wrong contexts answers."""

from array import array
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from job.core.errors import DataError
from job.data.column_names import (
    COUNTING,
    MAX_UNNAMED_LABELS,
    NO_LABEL,
    TEACHER_NAME,
    plain_name,
)
from job.data.labels import label_number

# Similarities go from 0 (cosines from -1) to 1 or to 5.
MAX_LIST = 100
LOWEST, HIGHEST_SCORE = -1, 5
MASK = 2**64 - 1


class UnreadColumns:
    """Looks at every row: the first ones of a sorted file may all be answers."""

    def __init__(
        self, source: str, anchor: str, read: Collection[str], command: Callable[..., str]
    ) -> None:
        """`read` are the columns to leave out; `command` writes one with other settings."""
        self._source, self._anchor, self._command = source, anchor, command
        self._columns: dict[str, _Values | None] = dict.fromkeys(read)

    def add(self, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            if name not in self._columns:
                is_known = COUNTING.search(name) or TEACHER_NAME.fullmatch(plain_name(name))
                self._columns[name] = None if is_known else _Values()
            column = self._columns[name]
            if column is None or value is None or value == "":
                continue
            values = value if isinstance(value, list) else [value]
            question = fields.get(self._anchor)
            # Long lists of numbers are vectors.
            if len(values) > MAX_LIST or not all(column.add(one, question) for one in values):
                self._columns[name] = None

    def refuse(self) -> None:
        """Refuse a column of which a question has several values, one of them a "no"."""
        for name, column in self._columns.items():
            if column is not None and column.are_labels() and column.differ():
                labels, none = (self._command(**{"columns.label": n}) for n in (name, NO_LABEL))
                msg = f"`{self._source}` has the same question with several values of `{name}`, "
                msg += f"which may say whether a context answers it. If it does: `{labels}`; "
                raise DataError(msg + f"if it says nothing of that: `{none}`.")

    def warnings(self) -> list[str]:
        found = []
        for name, column in self._columns.items():
            if column is None:
                continue
            if column.are_labels():
                command = self._command(**{"columns.label": name})
                what = "has values that may be labels"
            elif column.are_scores():
                middle = 0.5 if column.high <= 1 else 3
                command = self._command(**{"columns.label": name, "min_label": middle})
                what = f"has numbers from {column.low:g} to {column.high:g}"
            else:
                continue
            found.append(
                f"`{name}` {what} and is not read: all rows count as answers. If it says how well "
                f"a context answers its question: `{command}`; if not: "
                f"`{self._command(**{'columns.label': NO_LABEL})}`"
            )
        return found


class _Values:
    """The values of one column; with few of them, also the question of each."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self._is_whole = True
        # None: there are too many values for labels.
        self._codes: dict[float, int] | None = {}
        self._values, self._questions = array("b"), array("Q")

    def add(self, value: object, question: object) -> bool:
        """Add a value; return whether the column may still be labels or scores."""
        number = label_number(value)
        if number is None or number < LOWEST:
            return False
        self.low, self.high = min(self.low, number), max(self.high, number)
        self._is_whole = self._is_whole and number == int(number)
        if self._codes is None:
            return self.high <= HIGHEST_SCORE
        code = self._codes.setdefault(number, len(self._codes))
        if not self._is_whole or code >= MAX_UNNAMED_LABELS:
            self._codes = None
            self._values, self._questions = array("b"), array("Q")
            return self.high <= HIGHEST_SCORE
        self._values.append(code)
        self._questions.append(hash(str(question)) & MASK)
        return True

    def are_labels(self) -> bool:
        return self._codes is not None and len(self._codes) > 1 and self.low <= 0

    def are_scores(self) -> bool:
        return not self._is_whole and self.high <= HIGHEST_SCORE

    def differ(self) -> bool:
        """Tell whether a question has several values."""
        questions = np.frombuffer(self._questions, dtype=np.uint64)
        each = np.stack([questions, np.frombuffer(self._values, np.int8).astype(np.uint64)])
        return len(np.unique(each, axis=1).T) > len(np.unique(questions))
