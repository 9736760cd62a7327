"""Choose the columns of questions, contexts and negatives: by usual names, or as the spec says."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from job.core.errors import DataError
from job.data.formats.values import fill_template, object_template, passage
from job.data.labels import label_number
from job.data.readers import SURPLUS
from job.spec.commands import check_command
from job.spec.schema import Columns, DataSpec

# Of each tuple, the first with a column in the file decides.
ANCHOR_NAMES = (
    ("anchor", "query", "question", "queries", "questions", "user_input", "user_query"),
)
CONTEXT_NAMES = ("positive", "positives", "pos", "context", "contexts", "document", "documents",
                 "passage", "passages", "chunk", "chunks", "reference_contexts")  # fmt: skip
ANSWER_NAMES = ("answer", "answers")
POSITIVE_NAMES = (CONTEXT_NAMES, ("text", "texts"), ANSWER_NAMES)
# Two texts of one kind; read if the file has both and no other names.
TWINS = (("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2"),
         ("premise", "hypothesis"))  # fmt: skip
# What a model said: shown when a context is chosen instead.
SAID_NAMES = (*ANSWER_NAMES, "response", "output", "completion")
NEGATIVE_NAME = re.compile(
    r"(hard[ _-]?)?neg(ative)?s?([ _-]?(passage|context|document|doc|text|ctx|chunk|sample)s?)?"
    r"([ _-]?\d+)?|rejected"
)
# The likeliest names of labels; also names that end in one of these words: `esci_label`.
LABEL_NAMES = ("label", "labels", "gold_label", "relevance", "relevance_label", "is_relevant",
               "relevant", "relevance_score", "score", "scores", "similarity")  # fmt: skip
LABEL_NAME = re.compile(
    r"(.*[\s_-])?(label|rel|urteil|ähnlichkeit|pertinen(t|ce)|relevan(cia|te)|関連度|正解|relevance|relevanz|relevant|relevancy|score|similarity|grade|rating|"
    r"judge?ment)s?|is_?(relevant|positive|match|duplicate|correct|answer|paraphrase)"
)
# Scores of a teacher model, one for each negative or positive.
TEACHER_NAME = re.compile(r"(pos|neg)\w*scores?")
# Spec value that means: no column at all.
NO_LABEL = "none"
MAX_LABEL_CHARACTERS = 40
# A column of an unknown name with so few values, one of them a "no", may be labels.
MAX_UNNAMED_LABELS = 4
# Columns that count or name parts of a text.
COUNTING = re.compile(
    r"(^|[\s_-])(index|idx|id|no|nr|num|number|part|page|position|offset|order|rank|line|turn|count)$",
    re.IGNORECASE,
)
# Columns listed in a message. In a file without a header, each name may be a whole text.
MAX_LISTED = 20
QUESTION_MARKS = ("?", "？", "؟", "՞", "፧")
# How the word for "question" begins in headings, and how those for texts that answer do.
ASKING = re.compile(
    r"quer|quest|frage|anfrage|preg|domand|pergunt|vraag|fråga|spørg|kysym|pytan|otáz|întreb|kérd|"
    r"soru|вопрос|запрос|ερώτ|سؤال|प्रश्न|คำถาม|prompt|input|premise|ask|问|問|質問|질문|search|anchor",
    re.IGNORECASE,
)
ANSWERING = re.compile(
    r"answ|antwort|resp|rispost|réponse|repons|antwoord|svar|vastau|odpow|odpov|răsp|válasz|cevap|"
    r"ответ|απάντ|جواب|उत्तर|คำตอบ|context|kontext|text|passag|dokum|docum|absatz|abschnitt|inhalt|"
    r"content|body|chunk|hypothesis|complet|output|答|回|文|답",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ColumnChoice:
    anchor: str
    positive: str
    negatives: tuple[str, ...]
    group: str | None = None
    label: str | None = None
    # Sentences for `check` about what was decided.
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return the columns by role, for the report."""
        named = {"anchor": self.anchor, "positive": self.positive, "group": self.group}
        named |= {"label": self.label} if self.label else {}
        return named | {"negatives": list(self.negatives)}


def choose_columns(
    fields: Mapping[str, Any],
    wanted: Columns | None,
    source: str,
    samples: Sequence[Mapping[str, Any]] = (),
    spec: DataSpec | None = None,
) -> ColumnChoice:
    """Choose columns from the fields of a first row; names in the spec win over usual names.

    `wanted` is None if the spec cannot name columns, as for out-of-domain data: then negatives are
    ignored. `samples` are rows by which columns are suggested if none has a known name. `spec` is
    all that is set, for commands.
    """
    names = _column_names(fields)
    explicit = wanted or Columns(negatives=())
    pair = _find_pair(names, fields, explicit)
    missing = [key for key, found in pair.items() if len(found) != 1]
    if missing:
        advice = _Advice(fields, samples or [fields], wanted, source, spec)
        raise DataError(advice.refusal(missing[0], pair[missing[0]]))
    anchor, positive = (found[0] for found in pair.values())
    negatives = explicit.negatives
    if negatives is None:
        negatives = tuple(name for name in names if NEGATIVE_NAME.fullmatch(_plain(name)))
    chosen = [(anchor, "anchor"), (positive, "positive")]
    for name, field in [*chosen, *((name, "negatives") for name in negatives)]:
        _require(names, name, field, source)
    require_group(fields, explicit.group, source)
    taken = {anchor, positive, *negatives}
    others = {name: value for name, value in fields.items() if name in names and name not in taken}
    label = _label_column(fields, others, wanted, source, (anchor, positive), spec)
    if label is None and wanted is not None and wanted.label is None:
        _refuse_unnamed_label(others, wanted, source, anchor, samples, spec)
    return ColumnChoice(
        anchor,
        positive,
        negatives,
        explicit.group,
        label,
        _notes(positive, others, explicit),
    )


def require_group(fields: Mapping[str, Any], wanted: str | None, source: str) -> None:
    if wanted is not None:
        _require(_column_names(fields), wanted, "group", source)


def _plain(name: str) -> str:
    return name.lower().strip()


def _column_names(fields: Mapping[str, Any]) -> list[str]:
    return [name for name in fields if isinstance(name, str) and name != SURPLUS]


def _find_pair(
    names: list[str], fields: Mapping[str, Any], explicit: Columns
) -> dict[str, list[str]]:
    """Return the candidates for `anchor` and `positive`; one each, if they are clear."""
    readable = [name for name in names if not _holds_objects(fields[name])]
    # Contexts that are objects without a known text are refused, with a template that reads them;
    # an answer must not take their place.
    positive = (
        _first_tier(readable, POSITIVE_NAMES[:1])
        or _first_tier(names, POSITIVE_NAMES[:1])
        or _first_tier(readable, POSITIVE_NAMES)
    )
    found = {
        "anchor": [explicit.anchor] if explicit.anchor else _first_tier(readable, ANCHOR_NAMES),
        "positive": [explicit.positive] if explicit.positive else positive,
    }
    plain = {_plain(name): name for name in readable}
    for first, second in TWINS:
        is_open = not (found["anchor"] or found["positive"] or explicit.anchor)
        if is_open and first in plain and second in plain:
            return {"anchor": [plain[first]], "positive": [plain[second]]}
    return found


def _first_tier(names: list[str], tiers: Sequence[Collection[str]]) -> list[str]:
    found = ([name for name in names if _plain(name) in tier] for tier in tiers)
    return next(filter(None, found), [])


def _holds_objects(value: Any) -> bool:  # noqa: ANN401  what a file holds
    """Tell whether a value is an object, or a list of objects, without a text."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and not isinstance(passage(first)[0], str)


def _label_column(
    fields: Mapping[str, Any],
    others: Mapping[str, Any],
    wanted: Columns | None,
    source: str,
    pair: tuple[str, str],
    spec: DataSpec | None,
) -> str | None:
    named_label = wanted.label if wanted else None
    if named_label is not None:
        if named_label == NO_LABEL:
            return None
        _require(_column_names(fields), named_label, "label", source)
        return named_label
    found = [name for name in others if is_label(name, others[name])]
    order = {name: place for place, name in enumerate(LABEL_NAMES)}
    found.sort(key=lambda name: order.get(_plain(name), len(order)))
    if len(found) > 1 and wanted is not None:
        named = {"columns.anchor": pair[0], "columns.positive": pair[1], "columns.label": found[0]}
        msg = f"`{source}` has several columns that may say whether a context answers its question:"
        msg += f" {_listed(found)}. Choose one, or `{NO_LABEL}`: "
        raise DataError(msg + f"`{check_command(source, spec or wanted, **named)}`.")
    return found[0] if found else None


def _refuse_unnamed_label(
    others: Collection[str],
    wanted: Columns,
    source: str,
    anchor: str,
    samples: Sequence[Mapping[str, Any]],
    spec: DataSpec | None,
) -> None:
    """Refuse a column that looks like labels: otherwise a "no" would be taken for an answer."""
    for name in others:
        if COUNTING.search(name) or not _looks_like_labels(name, anchor, samples):
            continue
        labels, none = (
            check_command(source, spec or wanted, **{"columns.label": label})
            for label in (name, NO_LABEL)
        )
        msg = f"`{source}` has the same question with several values of `{name}`, which may say "
        msg += f"whether a context answers it. If it does: `{labels}`; "
        raise DataError(msg + f"if it says nothing of that: `{none}`.")


def _looks_like_labels(name: str, anchor: str, samples: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a column has few values, one of them a "no", and a question has several."""
    found: dict[str, set[float]] = {}
    for sample in samples:
        value = sample.get(name)
        if value is None or value == "":
            continue
        number = label_number(value)
        if number is None or number != int(number):
            return False
        found.setdefault(str(sample.get(anchor)), set()).add(number)
    values = set().union(*found.values())
    few = 1 < len(values) <= MAX_UNNAMED_LABELS and -1 <= min(values) <= 0
    return few and any(len(several) > 1 for several in found.values())


def is_label(name: str, value: Any) -> bool:  # noqa: ANN401  what a file holds
    """Tell by its name and a value whether a column says that a context answers its question."""
    plain = _plain(name)
    if not LABEL_NAME.fullmatch(plain) or TEACHER_NAME.fullmatch(plain):
        return False
    if isinstance(value, list):
        return bool(value) and all(isinstance(part, bool | int | float) for part in value)
    # A text of some length is what is relevant, not whether something is.
    return not isinstance(value, dict) and len(str(value)) <= MAX_LABEL_CHARACTERS


def _notes(positive: str, others: Mapping[str, Any], explicit: Columns) -> tuple[str, ...]:
    said = [name for name in others if _plain(name) in SAID_NAMES]
    if explicit.positive or not said or _plain(positive) in SAID_NAMES:
        return ()
    note = f"`{positive}` is trained on, not {_listed(said)}: a retriever must find the context, "
    return (note + "whatever was said about it",)


def _require(names: list[str], wanted: str, field: str, source: str) -> None:
    if wanted not in names:
        msg = f"`{source}` has no column `{wanted}` (`data.columns.{field}`). "
        raise DataError(msg + f"Its columns: {_listed(names)}.")


class _Advice:
    """Suggests the likeliest columns for a file whose names are unknown or ambiguous."""

    def __init__(
        self,
        fields: Mapping[str, Any],
        samples: Sequence[Mapping[str, Any]],
        wanted: Columns | None,
        source: str,
        spec: DataSpec | None,
    ) -> None:
        self._names, self._wanted, self._source = _column_names(fields), wanted, source
        self._settings = spec or wanted
        # What is wrong is never suggested as the context.
        names = [name for name in self._names if not NEGATIVE_NAME.fullmatch(_plain(name))]
        texts = {name: list(_texts_of(name, samples)) for name in names}
        for name in names:
            template = object_template(name, [sample.get(name) for sample in samples])
            if template and not texts[name]:
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
            msg = f"`{self._source}` has several columns for `{field}`: {_listed(found)}. "
        else:
            known = [name for tier in tiers for name in tier]
            msg = f"`{self._source}` has no column for `{field}`. Its columns: "
            msg += f"{_listed(self._names)}. Recognized names: {_listed(known)}. "
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
        known = {role: _first_tier([*self._texts], names) for role, names in tiers.items()}
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


def _listed(names: Collection[str]) -> str:
    shown = [f"`{name}`" for name in names][:MAX_LISTED]
    more = [f"{len(names) - MAX_LISTED} more"] if len(names) > MAX_LISTED else []
    return ", ".join(shown + more) or "(no columns)"
