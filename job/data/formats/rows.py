"""Read rows by their columns: question, contexts, hard negatives.

A record in any layout becomes one `RawRow` for each of its questions.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from job.core.errors import DataError
from job.data.column_names import NEGATIVE_NAME, NO_LABEL, column_names, listed, plain_name
from job.data.columns import ColumnChoice, choose_columns
from job.data.formats.layout import (
    Document,
    Fields,
    Record,
    Request,
    RowLayout,
    Source,
)
from job.data.formats.row_layouts import unfit_columns
from job.data.formats.row_reader import FIRST_ROWS, SPLIT_COLUMNS, RowReader
from job.data.formats.values import (
    CONTEXT_ID_KEYS,
    PLACEHOLDER,
    QUERY_ID_KEYS,
    as_list,
    fill_template,
    is_template,
    object_template,
)
from job.data.readers import LISTS, RecordFiles
from job.data.unread_columns import UnreadColumns
from job.spec.schema import Columns

TITLES = ("title", "titel", "titre", "título", "titolo", "heading", "headline")
# Fields of passages that say whether they answer. A `score` may be that of a search.
LABEL_OF_PASSAGE = re.compile(
    r"is_?(selected|relevant|positive|correct|gold)|has_answer|label|rel|relevan(t|ce)|grade"
)


def open_rows(
    request: Request,
    files: RecordFiles,
    layouts: Sequence[RowLayout] = (),
    documents: Iterable[Document] = (),
) -> Source:
    """Choose the columns by the first rows; the other rows are read lazily."""
    records = files.records()
    first = list(itertools.islice(records, FIRST_ROWS))
    if not first:
        msg = (
            f"`{request.name}` has no rows. Each row needs a question and the context that answers "
        )
        raise DataError(msg + "it.")
    fields = _first_values(first)
    layout = _recognize(request, files, layouts, fields)
    _refuse_unfit(request, layout, fields)
    templates = _templates(request.columns)

    def plain(record: Record) -> Record:
        given = record.fields
        if layout is not None and layout.convert is not None:
            given = given | layout.convert(given)
        if templates:
            given = given | {name: fill_template(name, given) for name in templates}
        return record if given is record.fields else record._replace(fields=given)

    shown = [plain(record) for record in first]
    seen = _first_values(shown)
    wanted, notes = request.columns, list[str]()
    if layout is not None:
        wanted = _filled(wanted, layout, seen)
        notes += layout.notes(seen) if layout.notes is not None else ()
    seen |= _later_columns(files, wanted, seen)
    if wanted and request.label_is_optional and wanted.label not in (*seen, NO_LABEL):
        wanted = wanted.model_copy(update={"label": None})
    samples = [record.fields for record in shown]
    found_columns = choose_columns(seen, wanted, request.name, samples, request.spec)
    choice = dataclasses.replace(found_columns, group=request.group, parent=request.parent)
    if choice.label is None and (label := _label_of_passages(request, layout, choice, shown)):
        templates.append(label)
        choice = dataclasses.replace(choice, label=label)
    rows = _row_reader(request, files, layout, choice, shown)
    _refuse_objects(request, choice, shown)
    notes = [*files.notes, *notes, *choice.notes, *rows.notes]
    notes += _unread(request, choice, fields, notes) if layout is None else ()
    columns = choice.facts() | {"negatives": rows.negatives}
    every = map(plain, itertools.chain(first, records))
    name = _format_name(layout, files)
    return Source(rows.read(every), columns, documents, name, notes, rows.warnings)


def _unread(
    request: Request, choice: ColumnChoice, fields: Fields, notes: Sequence[str]
) -> list[str]:
    """Name the columns that are not read, and the command that reads titles."""
    named = (choice.anchor, choice.positive, choice.group, choice.parent, choice.label)
    used = (*named, *choice.negatives)
    used += (*SPLIT_COLUMNS,) if not request.pooled else ()
    mentioned = {*QUERY_ID_KEYS, *CONTEXT_ID_KEYS} | {
        part for n in notes for part in n.split("`")[1::2]
    }
    parts = {part for name in used if name for part in PLACEHOLDER.findall(name)}
    names = [name for name in column_names(fields) if name not in (*used, *mentioned)]
    names = [name for name in names if name not in {field for field, _ in parts}]
    if request.columns is None or not names:
        return []
    note = f"not read: {listed(names)}"
    title = next((name for name in names if plain_name(name) in TITLES), None)
    if title and isinstance(fields.get(choice.positive), str) and not is_template(choice.positive):
        whole = f"{{{title}}} {{{choice.positive}}}"
        note += f"; with the title before each context: `{request.command(positive=whole)}`"
    return [note]


def _recognize(
    request: Request, files: RecordFiles, layouts: Sequence[RowLayout], fields: Fields
) -> RowLayout | None:
    """Return the layout of the first rows, if it is one of these; refuse rows of another one."""
    layout = next((known for known in layouts if known.recognizes(fields)), None)
    # A document of the layout names its columns as plain rows do.
    forced = layouts[0].name if layouts and request.format == layouts[0].name else None
    if layout is None and forced and forced not in files.layouts:
        msg = f"`{request.name}` has no rows of `data.format={request.format}`, which are "
        msg += f"{layouts[0].summary}. Leave it out to have the layout recognized."
        raise DataError(msg)
    return layout


def _row_reader(
    request: Request,
    files: RecordFiles,
    layout: RowLayout | None,
    choice: ColumnChoice,
    shown: Sequence[Record],
) -> RowReader:
    """Build the reader of all rows, which minds columns that the first rows lack."""
    later = late_label = unread = None
    if request.columns is not None and request.columns.negatives is None:
        later = _negative_names(layout)
    if request.columns is not None and request.columns.label is None and choice.label is None:
        late_label = partial(_refuse_late_label, request)
        used = (choice.anchor, choice.positive, *choice.negatives, request.group, request.parent)
        read = [name for name in used if name is not None]
        unread = UnreadColumns(request.name, choice.anchor, read, request.command_with)
    refuse_file = partial(_refuse_file, request, several=len(files.files) > 1)
    return RowReader(choice, shown, later, late_label, refuse_file, unread, pooled=request.pooled)


def _format_name(layout: RowLayout | None, files: RecordFiles) -> str:
    """Name what was recognized: the rows' layout, and those of the files around them."""
    found = ([layout.name] if layout else []) + [n for n in files.layouts if n != "rows"]
    return LISTS if found == [LISTS] else ", ".join(n for n in found if n != LISTS) or "rows"


def _refuse_unfit(request: Request, layout: RowLayout | None, fields: Fields) -> None:
    """Refuse exports of chats, unless the spec names both columns."""
    named = request.columns is not None and request.columns.anchor and request.columns.positive
    if layout is None and not named and (unfit := unfit_columns(fields)):
        what, columns = unfit
        msg = f"`{request.name}` is {what}: what a model answers is rarely what a search should "
        raise DataError(msg + f"find. To train on it all the same: `{request.command(**columns)}`.")


def _refuse_file(request: Request, file: str, *, several: bool) -> None:
    """Refuse one of several files without any question: its rows would all be dropped."""
    if several:
        command = request.command_with(corpus=file)
        msg = f"`{file}` has no question in any row, unlike the files beside it. Move it to another"
        raise DataError(msg + f" folder, or, if it contains documents to search: `{command}`.")


def _refuse_late_label(request: Request, record: Record, name: str) -> None:
    """Refuse labels that the rows before lack: their 0 would be taken for an answer."""
    labels, none = (request.command(label=label) for label in (name, NO_LABEL))
    msg = f"`{record.file}` row {record.row} is the first with `{name}`, which may say whether a "
    raise DataError(
        msg + f"context answers its question. If it does: `{labels}`; if it says nothing of that: "
        f"`{none}`."
    )


def _refuse_objects(request: Request, choice: ColumnChoice, first: Sequence[Record]) -> None:
    """Refuse columns of objects without a known text field: all values would be dropped."""
    columns = (choice.positive, *choice.negatives)
    templates = {
        name: found
        for name in columns
        if (found := object_template(name, [record.fields.get(name) for record in first]))
    }
    if not templates:
        return
    name, template = next(iter(templates.items()))
    positive = templates.get(choice.positive, choice.positive)
    negatives = [templates.get(column, column) for column in choice.negatives]
    named = {"anchor": choice.anchor, "positive": positive}
    named |= {"negatives": json.dumps(negatives, ensure_ascii=False)} if negatives else {}
    if template.removesuffix("]}")[-1].isdigit() and "[*]" in template:
        msg = f"`{request.name}` has lists of texts in the lists of the column `{name}`. "
        msg += f"Write one list, or name the texts, if they are those of `{template}`: "
        raise DataError(msg + f"`{request.command(**named)}`.")
    msg = f"`{request.name}` has objects in the column `{name}`, and none of their fields is known "
    msg += f"as the text. Rename it to `text`, or name it, if it is that of `{template}`: "
    raise DataError(msg + f"`{request.command(**named)}`.")


def _label_of_passages(
    request: Request, layout: RowLayout | None, choice: ColumnChoice, first: Sequence[Record]
) -> str | None:
    """Return the template of a label that stands in the passages: `is_selected`, `relevance` …"""
    if layout is not None or request.columns is None or request.columns.label is not None:
        return None
    column = choice.positive
    values = [record.fields.get(column) for record in first]
    passages = [v for value in values for v in as_list(value) if isinstance(v, dict)]
    keys = dict.fromkeys(key for found in passages for key in found if isinstance(key, str))
    key = next((name for name in keys if LABEL_OF_PASSAGE.fullmatch(name.lower())), None)
    every = "[*]" if any(isinstance(value, list) for value in values) else ""
    return f"{{{column}{every}[{key}]}}" if key else None


def _first_values(records: Iterable[Record]) -> dict[str, Any]:
    """Return the fields of all records, each with its first value."""
    fields: dict[str, Any] = {}
    for record in records:
        for key, value in record.fields.items():
            if fields.get(key) is None:
                fields[key] = value
    return fields


def _templates(columns: Columns | None) -> list[str]:
    named = (
        [columns.anchor, columns.positive, columns.label, *(columns.negatives or ())]
        if columns
        else []
    )
    return [name for name in named if name is not None and is_template(name)]


def _filled(wanted: Columns | None, layout: RowLayout, fields: Fields) -> Columns:
    """Fill in the columns that the spec does not name with those of the layout."""
    anchor, positive = layout.columns(fields)
    given = wanted or Columns(negatives=())
    negatives = given.negatives
    if negatives is None:
        negatives = tuple(name for name in fields if _negative_names(layout)(name))
    named = {
        "anchor": given.anchor or anchor,
        "positive": given.positive or positive,
        "negatives": negatives,
    }
    return given.model_copy(update=named)


def _later_columns(files: RecordFiles, wanted: Columns | None, fields: Fields) -> dict[str, Any]:
    """Search all rows for the columns that the spec names and the first rows lack."""
    named = [wanted.anchor, wanted.positive, *(wanted.negatives or ())] if wanted else []
    named += [wanted.group, wanted.document, wanted.label] if wanted else []
    missing = {name for name in named if name not in (None, NO_LABEL) and name not in fields}
    found: dict[str, Any] = {}
    if not missing or len(fields) == 0:
        return found
    for record in itertools.islice(files.records(), FIRST_ROWS, None):
        for name in missing & record.fields.keys():
            found[name] = record.fields[name]
        if not (missing := missing - found.keys()):
            break
    return found


def _negative_names(layout: RowLayout | None) -> Callable[[object], bool]:
    """Return a function that recognizes columns of hard negatives by their names."""

    def is_negative(name: object) -> bool:
        if layout is not None and name in layout.negatives:
            return True
        by_name = layout is None or layout.convert is None
        return by_name and isinstance(name, str) and is_negative_name(name)

    return is_negative


def is_negative_name(name: str) -> bool:
    return NEGATIVE_NAME.fullmatch(name.lower().strip()) is not None
