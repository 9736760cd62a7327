"""Layouts of rows that other tools write, recognized by their fields."""

from collections.abc import Callable, Sequence
from typing import Any

from job.data.formats.layout import Fields, RowLayout

# Names of the fields that `convert` adds.
CONVERTED = ("question", "positive")
NEGATIVES = ("negatives",)


def _present(fields: Fields, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in fields)


def _has(*names: str) -> Callable[[Fields], bool]:
    return lambda fields: all(name in fields for name in names)


def _named(anchor: str, positive: str) -> Callable[[Fields], tuple[str, str]]:
    return lambda _: (anchor, positive)


TEVATRON = RowLayout(
    "tevatron",
    "`query`, `positive_passages`, `negative_passages` (also MIRACL's)",
    _has("query", "positive_passages"),
    _named("query", "positive_passages"),
    ("negative_passages",),
)
DPR = RowLayout(
    "dpr",
    "`question`, `positive_ctxs`, `negative_ctxs`, `hard_negative_ctxs`",
    _has("question", "positive_ctxs"),
    _named("question", "positive_ctxs"),
    ("hard_negative_ctxs", "negative_ctxs"),
)


# Pairs [instruction, text], as in the training data of INSTRUCTOR.


def _is_instructed(fields: Fields) -> bool:
    query, positive = fields.get("query"), fields.get("pos")
    return _is_instruction(query) and (
        _is_instruction(positive)
        or (isinstance(positive, list) and all(map(_is_instruction, positive)))
    )


def _is_instruction(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)


def _without_instructions(fields: dict[str, Any]) -> dict[str, Any]:
    def texts(value: Any) -> Any:  # noqa: ANN401  what a file holds
        if _is_instruction(value):
            return value[1]
        return [texts(v) for v in value] if isinstance(value, list) else value

    found = {"question": texts(fields.get("query")), "positive": texts(fields.get("pos"))}
    return found | ({"negatives": texts(fields["neg"])} if "neg" in fields else {})


def _instruction_notes(fields: Fields) -> list[str]:
    note = f"Instructions are not trained on; the first is `{fields['query'][0]}`. "
    return [note + "`model.query_prompt` and `model.document_prompt` set them."]


INSTRUCTIONS = RowLayout(
    "instructions",
    "`query`, `pos`, `neg` of pairs `[instruction, text]`",
    _is_instructed,
    _named(*CONVERTED),
    NEGATIVES,
    _without_instructions,
    _instruction_notes,
)


def _flag_notes(fields: Fields) -> list[str]:
    notes = []
    if isinstance(prompt := fields.get("prompt"), str) and prompt.strip():
        notes.append(
            f"The rows' `prompt` is not read; its first value is `{prompt.strip()}`. "
            "Set it as `model.query_prompt` to train with it."
        )
    if scores := _present(fields, ["pos_scores", "neg_scores"]):
        notes.append(f"{' and '.join(f'`{n}`' for n in scores)} are not read: no teacher is used.")
    return notes


FLAGEMBEDDING = RowLayout(
    "flagembedding",
    "`query`, `pos`, `neg`, and optionally `prompt`, `pos_scores`, `neg_scores`",
    lambda fields: isinstance(fields.get("pos"), list) and "query" in fields,
    _named("query", "pos"),
    notes=_flag_notes,
)


def _from_set(fields: dict[str, Any]) -> dict[str, Any]:
    inner = fields.get("set")
    if isinstance(inner, list):
        return {"question": inner[0] if inner else None, "positive": inner[1:]}
    if not isinstance(inner, dict):
        return {"question": None, "positive": None}
    found = {"question": inner.get("query"), "positive": inner.get("pos")}
    return found | ({"negatives": inner["neg"]} if "neg" in inner else {})


SET = RowLayout(
    "sentence-transformers",
    '`{"set": {"query", "pos", "neg"}}`, or a list of texts that mean the same',
    lambda fields: isinstance(fields.get("set"), dict | list),
    _named(*CONVERTED),
    NEGATIVES,
    _from_set,
    lambda fields: (
        ["The first text of each `set` is the question, the others are its contexts."]
        if isinstance(fields["set"], list)
        else []
    ),
)


def _from_messages(fields: dict[str, Any]) -> dict[str, Any]:
    found = {
        "question": _said(fields.get("messages")),
        "positive": [_said(messages) for messages in fields.get("positive_messages") or []],
    }
    wrong = fields.get("negative_messages")
    return found | ({"negatives": [_said(m) for m in wrong or []]} if wrong is not None else {})


def _said(messages: Any) -> Any:  # noqa: ANN401  what a file holds
    """Return the text of the last message."""
    entries = [messages] if isinstance(messages, dict) else messages
    if not isinstance(entries, list):
        return messages
    texts = [entry.get("content") for entry in entries if isinstance(entry, dict)]
    return texts[-1] if texts else None


SWIFT = RowLayout(
    "swift",
    "`messages`, `positive_messages`, `negative_messages` (ms-swift)",
    _has("messages", "positive_messages"),
    _named(*CONVERTED),
    NEGATIVES,
    _from_messages,
)

RAGAS_QUESTIONS, RAGAS_CONTEXTS = ("user_input", "question"), ("reference_contexts", "contexts")
RAGAS_ANSWERS = ("answer", "response", "reference", "ground_truth", "ground_truths")


def _is_ragas(fields: Fields) -> bool:
    contexts = _present(fields, RAGAS_CONTEXTS)
    return bool(_present(fields, RAGAS_QUESTIONS) and contexts and _present(fields, RAGAS_ANSWERS))


def _ragas_notes(fields: Fields) -> list[str]:
    answers = " and ".join(f"`{name}`" for name in _present(fields, RAGAS_ANSWERS))
    contexts = _present(fields, RAGAS_CONTEXTS)[0]
    left = f"`{contexts}` are trained on, as a search must find them; {answers} are not."
    return [left]


RAGAS = RowLayout(
    "ragas",
    "`user_input`, `reference_contexts`, or `question`, `contexts`, `answer`",
    _is_ragas,
    lambda fields: (
        _present(fields, RAGAS_QUESTIONS)[0],
        _present(fields, RAGAS_CONTEXTS)[0],
    ),
    notes=_ragas_notes,
)


def _is_msmarco(fields: Fields) -> bool:
    passages = fields.get("passages")
    return isinstance(passages, dict) and isinstance(passages.get("passage_text"), list)


def _from_msmarco(fields: dict[str, Any]) -> dict[str, Any]:
    passages = fields.get("passages")
    found = passages if isinstance(passages, dict) else {}
    labels = found.get("is_selected") or None
    return {"positive": found.get("passage_text"), "is_selected_label": labels}


MSMARCO = RowLayout(
    "msmarco",
    "`query` and `passages` of lists `passage_text` and `is_selected` (MS MARCO)",
    _is_msmarco,
    lambda fields: (_present(fields, ["query", "question"])[0], "positive"),
    convert=_from_msmarco,
)

NEMO = RowLayout(
    "nemo",
    "`query`, `pos_doc`, `neg_doc` (NVIDIA NeMo)",
    lambda fields: "pos_doc" in fields and bool(_present(fields, ["query", "question"])),
    lambda fields: (
        _present(fields, ["query", "question"])[0],
        "pos_doc",
    ),
    ("neg_doc",),
)

MANY = ("questions", "queries")


def _is_many(fields: Fields) -> bool:
    names = _present(fields, MANY)
    return (
        len(names) == 1 and isinstance(fields[names[0]], list) and _context_of(fields) is not None
    )


def _context_of(fields: Fields) -> str | None:
    found = _present(fields, ["context", "passage", "document", "chunk", "text", "positive"])
    return found[0] if found else None


QUESTIONS = RowLayout(
    "questions",
    "one `context` and a list of `questions`",
    _is_many,
    lambda fields: (_present(fields, MANY)[0], _context_of(fields) or ""),
)


# Training data of chat models is refused: what a model answers is rarely what is retrieved.

SPEAKERS = ("role", "from")
CHATS = ("messages", "conversations", "conversation")


def unfit_columns(fields: Fields) -> tuple[str, dict[str, str]] | None:
    """Recognize training data of chat models; return its kind and columns that can read it."""
    if "instruction" in fields and "output" in fields:
        asked = "{instruction} {input}" if "input" in fields else "instruction"
        return "an instruction data set (Alpaca)", {"anchor": asked, "positive": "output"}
    for name in CHATS:
        turns = fields.get(name)
        if isinstance(turns, list) and turns and all(_speaker(turn) for turn in turns):
            first = next((n for n, turn in enumerate(turns) if _speaker(turn) != "system"), 0)
            said = "content" if "content" in turns[first] else "value"
            columns = {"anchor": first, "positive": first + 1}
            return "a chat export", {
                key: f"{{{name}[{number}][{said}]}}" for key, number in columns.items()
            }
    return None


def _speaker(turn: object) -> str | None:
    if not isinstance(turn, dict):
        return None
    return next((str(turn[key]) for key in SPEAKERS if key in turn), None)
