"""Convert the records of a file to rows, by the chosen columns."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from job.core.formatting import counted
from job.data.columns import ColumnChoice, is_label
from job.data.formats.layout import Absent, Fields, RawRow, Record
from job.data.formats.splits import split_of
from job.data.formats.values import (
    CONTEXT_ID_KEYS,
    QUERY_ID_KEYS,
    as_list,
    first_id,
    list_in_text,
    passage,
)
from job.data.readers import SURPLUS
from job.data.unread_columns import UnreadColumns

SPLIT_COLUMNS = ("split", "data_split", "dataset_split", "partition", "subset", "fold")
# Rows to read to find the columns: JSON lines may omit fields without a value.
FIRST_ROWS = 100


class RowReader:
    """Convert records to rows; `negatives` grows if later rows have more columns of negatives."""

    def __init__(
        self,
        choice: ColumnChoice,
        first: Sequence[Record],
        is_negative: Callable[[object], bool] | None,
        refuse_label: Callable[[Record, str], None] | None,
        refuse_file: Callable[[str], None],
        unread: UnreadColumns | None,
        *,
        pooled: bool = False,
    ) -> None:
        """The first two functions are for columns of later rows, if the spec names none.

        `is_negative` recognizes those of negatives, `refuse_label` refuses those of labels.
        `refuse_file` refuses a file in which no row has a question, `unread` columns of labels that
        have other names. Unless `pooled`, a column of splits is kept.
        """
        self.choice = choice
        self.negatives = list(choice.negatives)
        self._is_negative, self._refuse_label = is_negative, refuse_label
        self._refuse_file, self._unread = refuse_file, unread
        self.warnings: list[str] = []
        # The first row with as many questions as contexts, and the number of such rows.
        self._parallel: tuple[str, int] | None = None
        self._parallel_rows = 0
        self._known = {key for record in first for key in record.fields}
        texts = [choice.anchor, choice.positive, *self.negatives]
        self._lists = {name for name in texts if _holds_lists(name, first)}
        self.notes = [
            f"`{name}` contains lists written as text; they are read as lists."
            for name in texts
            if name in self._lists
        ]
        self._split = None if pooled else _split_column(first)
        self._query_ids = _fields_of(first, QUERY_ID_KEYS, texts)
        self._context_ids = _fields_of(first, CONTEXT_ID_KEYS, texts)

    def read(self, records: Iterable[Record]) -> Iterator[RawRow]:
        file, is_asked = None, True
        for number, record in enumerate(records, start=1):
            if record.file != file:
                if file is not None and not is_asked:
                    self._refuse_file(file)
                file, is_asked = record.file, False
            is_asked = is_asked or self.choice.anchor in record.fields
            if not self._known.issuperset(record.fields):
                self._add_columns(record)
            if self._unread is not None:
                self._unread.add(record.fields)
                if number == FIRST_ROWS:
                    self._unread.refuse()
            yield from self._rows(record)
        if file is not None and not is_asked:
            self._refuse_file(file)
        self._finish()

    def _finish(self) -> None:
        if self._unread is not None:
            self._unread.refuse()
            self.warnings += self._unread.warnings()
        if self._parallel is not None:
            file, row = self._parallel
            self.warnings.append(
                f"{counted(self._parallel_rows, 'row')} with as many questions as contexts (first: "
                f"{file}:{row}): each question is paired with every context of its row; if each "
                "has a context of its own, write a row for each pair"
            )

    def _add_columns(self, record: Record) -> None:
        for name, value in record.fields.items():
            if name in self._known:
                continue
            self._known.add(name)
            if self._is_negative is not None and self._is_negative(name):
                self.negatives.append(name)
            elif self._refuse_label is not None and is_label(name, value):
                self._refuse_label(record, name)

    def _rows(self, record: Record) -> Iterator[RawRow]:
        fields, choice = record.fields, self.choice
        found = [passage(value) for value in self._values(record, choice.positive)]
        if _is_unanswered(fields):
            found = [(Absent("the context does not answer it, as its row says"), None)]
        negatives: list[Any] = []
        for column in self.negatives:
            negatives += [passage(value)[0] for value in self._values(record, column)]
        ids = [name for _, name in found]
        if self._context_ids and len(found) == 1 and ids[0] is None:
            ids = [first_id(fields, self._context_ids)]
        anchors = self._values(record, choice.anchor) or [None]
        if len(anchors) == len(found) > 1:
            self._parallel = self._parallel or (record.file, record.row)
            self._parallel_rows += 1
        for anchor in anchors:
            text, own_id = passage(anchor)
            yield RawRow(
                record.file,
                record.row,
                text,
                [value for value, _ in found],
                negatives,
                group=fields.get(choice.group) if choice.group is not None else None,
                parent=fields.get(choice.parent) if choice.parent is not None else None,
                label=fields.get(choice.label) if choice.label is not None else None,
                surplus=SURPLUS in fields,
                query_id=own_id or (first_id(fields, self._query_ids) if self._query_ids else None),
                document_ids=ids if any(ids) else [],
                split=record.split or self._split_of(fields),
            )

    def _split_of(self, fields: Fields) -> str | None:
        value = fields.get(self._split) if self._split is not None else None
        return split_of(value, whole=True) if isinstance(value, str) else None

    def _values(self, record: Record, column: str) -> list[Any]:
        value = record.fields.get(column)
        if column in self._lists and (inner := list_in_text(value)) is not None:
            return inner
        return as_list(value)


def _split_column(first: Sequence[Record]) -> str | None:
    """Return the column that names the split of every row, if there is one."""
    for name in SPLIT_COLUMNS:
        values = [record.fields.get(name) for record in first]
        if all(isinstance(value, str) and split_of(value, whole=True) for value in values):
            return name
    return None


def _is_unanswered(fields: Fields) -> bool:
    """Tell whether a row of SQuAD says that its context does not answer the question."""
    answers = fields.get("answers")
    nothing = isinstance(answers, dict) and "answer_start" in answers and not answers.get("text")
    return nothing or fields.get("is_impossible") is True


def _holds_lists(name: str, first: Sequence[Record]) -> bool:
    """Tell whether every value of a column is a list written as text."""
    values = [value for record in first if (value := record.fields.get(name)) not in (None, "")]
    return bool(values) and all(list_in_text(value) is not None for value in values)


def _fields_of(first: Sequence[Record], keys: Sequence[str], taken: Sequence[str]) -> list[str]:
    return [
        key
        for key in keys
        if key not in taken and any(record.fields.get(key) is not None for record in first)
    ][:1]
