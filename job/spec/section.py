"""What all sections of the spec share: frozen fields, described and strictly typed."""

import re
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

# Fields that may hold a path, and the lengths that file systems allow.
PATH_FIELDS = (
    *("source", "documents", "validation", "test", "corpus", "base", "out_of_domain", "uri"),
)
PATH_BYTES, NAME_BYTES = 4095, 255


def _unwrap_descriptions(schema: dict[str, Any]) -> None:
    for field in schema["properties"].values():
        if "description" in field:
            field["description"] = field["description"].replace("\n", " ")


class Section(BaseModel):
    # The text below a field is its description, in job/README.md's table and in the JSON Schema.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_extra=_unwrap_descriptions,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _check_kind(cls, given: object, info: ValidationInfo) -> object:
        """Refuse what pydantic would convert silently: YAML's `no` is false, which becomes 0."""
        field = info.field_name or ""
        kind = cls.model_fields[field].annotation
        # A Literal refuses other values itself, but `True` equals its 1.
        is_choice = get_origin(kind) is Literal and given not in get_args(kind)
        for value in given if isinstance(given, list | tuple) else [given]:
            if isinstance(value, bool) and not (kind is bool or is_choice):
                msg = "expected a number or a string, found true or false; quote it if it is a word"
                raise ValueError(msg)
            if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
                msg = "contains a zero byte or is not valid UTF-8"
                raise ValueError(msg)
        if field in PATH_FIELDS and given is not None:
            _check_path(str(given))
        return given


def _check_path(path: str) -> None:
    """Refuse paths that no file system accepts."""
    if not path:
        msg = "is empty"
        raise ValueError(msg)
    if len(path.encode()) > PATH_BYTES or max(map(len, path.encode().split(b"/"))) > NAME_BYTES:
        msg = f"a path has at most {PATH_BYTES} bytes, and each part of it at most {NAME_BYTES}"
        raise ValueError(msg)
