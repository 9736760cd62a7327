"""Interpret values of fields: passages as objects, lists written as text, ids, templates."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from job.data.formats.layout import titled

# Fields of a passage that is an object: its text and its id, the likeliest first.
TEXT_KEYS = ("text", "contents", "content", "passage", "document", "page_content", "context")
ID_KEYS = ("docid", "doc_id", "document_id", "_id", "id", "pid", "passage_id", "corpus_id")
QUERY_ID_KEYS = ("query_id", "query-id", "queryid", "qid", "question_id", "_id", "id")
CONTEXT_ID_KEYS = ("document_id", "doc_id", "docid", "context_id", "passage_id", "corpus_id", "pid")
# A placeholder in a template: a field, then keys or positions in it, `{messages[0][content]}`.
PLACEHOLDER = re.compile(r"\{([^{}\[\]]+)((?:\[[^\[\]{}]+\])*)\}")


def passage(value: Any) -> tuple[Any, str | None]:  # noqa: ANN401  what a file holds
    """Return the text and id of a passage, which may be an object; other values are unchanged."""
    if not isinstance(value, dict):
        return value, None
    text = next((value[key] for key in TEXT_KEYS if isinstance(value.get(key), str)), None)
    return (value if text is None else titled(value.get("title"), text)), first_id(value, ID_KEYS)


def first_id(fields: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    """Return the id in the first of these fields that has one."""
    for key in keys:
        value = fields.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return identifier(value)
    return None


def identifier(given: object) -> str:
    """Make an id safe for tables: without white space, and not a spreadsheet formula."""
    name = re.sub(r"\s|[\x00-\x1f\x7f]", "_", str(given))
    return f"_{name}" if name[:1] in ("=", "+", "-", "@") else name


def encodable(text: str) -> str:
    """Replace lone surrogates, which some PDF files and JSON escapes have, by U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def as_list(value: Any) -> list[Any]:  # noqa: ANN401  what a file holds
    return value if isinstance(value, list) else [value]


def list_in_text(value: object) -> list[Any] | None:
    """Parse a list that was written as text, in the syntax of JSON, Python or numpy.

    Return None if the text is not a list of strings or objects.
    """
    if not (isinstance(value, str) and value.lstrip()[:1] == "[" and value.rstrip()[-1:] == "]"):
        return None
    text = value.strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = _python_list(text)
    if isinstance(found, list) and found and all(isinstance(item, str | dict) for item in found):
        return found
    return [] if found == [] else None


def _python_list(text: str) -> Any:  # noqa: ANN401  whatever the text holds
    try:
        tokens = [token.string for token in tokenize.generate_tokens(io.StringIO(text).readline)]
        # numpy writes no commas, and Python concatenates adjacent strings.
        inner = [token for token in tokens if token.strip() and token not in ("[", "]", ",")]
        if inner and all(token[:1] in "'\"" for token in inner):
            return [ast.literal_eval(token) for token in inner]
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError):
        return None


def is_template(name: str | None) -> bool:
    return name is not None and PLACEHOLDER.search(name) is not None


def fill_template(template: str, fields: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Replace a template's placeholders; None if all of them are empty.

    A template that is a single placeholder may give a list: `{passages[*][body]}`.
    """
    if whole := PLACEHOLDER.fullmatch(template):
        value = _found(fields, whole)
        return value.strip() or None if isinstance(value, str) else value
    texts = [_text(_found(fields, part)) for part in PLACEHOLDER.finditer(template)]
    if not any(texts):
        return None
    filled = iter(texts)
    return PLACEHOLDER.sub(lambda _: next(filled), template).strip()


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else "" if value is None else str(value)


def _found(fields: Mapping[str, Any], part: re.Match[str]) -> Any:  # noqa: ANN401
    return _inside(fields.get(part[1]), re.findall(r"\[([^\[\]]+)\]", part[2]))


def _inside(value: Any, path: Sequence[str]) -> Any:  # noqa: ANN401
    """Follow keys and positions into a value; `*` means every entry of a list."""
    if not path:
        return value
    key, *rest = path
    if isinstance(value, dict):
        return _inside(value.get(key), rest)
    if isinstance(value, list) and key == "*":
        return [_inside(entry, rest) for entry in value]
    if isinstance(value, list) and re.fullmatch(r"-?\d{1,9}", key):
        is_there = -len(value) <= int(key) < len(value)
        return _inside(value[int(key)], rest) if is_there else None
    return None


def object_template(column: str, given: Sequence[Any]) -> str | None:
    """Return the likeliest template for a column of objects without a known text field."""
    values = [value for entry in given for value in as_list(entry) if value is not None]
    if values and all(_is_list_of_texts(value) for value in values):
        longest = max(range(len(values[0])), key=lambda place: len(values[0][place]))
        return f"{{{column}[*][{longest}]}}"
    if not values or not all(isinstance(passage(value)[0], dict) for value in values):
        return None
    texts = {
        key: len(text)
        for key, text in values[0].items()
        if isinstance(text, str) and key not in ID_KEYS
    }
    if not texts:
        return None
    key = max(texts, key=lambda name: texts[name])
    return f"{{{column}{'[*]' if any(isinstance(v, list) for v in given) else ''}[{key}]}}"


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
