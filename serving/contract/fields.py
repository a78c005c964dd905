"""What one field of a request demands: a type for msgspec, limits, words, and an example."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bundle.features.program import EVENT_TIME
from bundle.manifest import Manifest, RequestField

TIME = Annotated[datetime, Meta(tz=True)]
# Up to here float64 holds all whole numbers.
_EXACT = 2**53
_EXPECTED = {
    "string": "text",
    "float": "a finite number",
    "integer": "a whole number",
    "boolean": "true or false",
    "datetime": "a time as ISO 8601 text with an offset, such as 2013-02-01T14:15:00Z, "
    "between 1900 and 2100",
}


def describe(field: RequestField, text_limit: int) -> tuple[str, str]:
    """Short code and sentence of all that a field demands."""
    rules: list[str] = [field.kind]
    says = [_EXPECTED[field.kind]]
    if field.kind == "string":
        says.append(f"of up to {text_limit} characters")
    for code, sign, limit in (("ge", "at least", field.ge), ("le", "at most", field.le)):
        if limit is not None:
            rules.append(f"{code} {limit:g}")
            says.append(f"{sign} {limit:g}")
    if field.values is not None:
        rules.append("values")
        says.append(
            f"one of {', '.join(field.values[:20])}{', ...' if len(field.values) > 20 else ''}"
        )
    if field.pattern is not None:
        rules.append("pattern")
        says.append(f"matching {field.pattern}")
    if field.nullable:
        rules.append("nullable")
        says.append("or null")
    return ", ".join(rules), ", ".join(says)


def json_type(field: RequestField, text_limit: int | None) -> Any:
    """The msgspec type of a field."""
    kind: Any
    match field.kind:
        case "string":
            text = Annotated[
                str,
                Meta(max_length=text_limit, pattern=field.pattern and to_the_end(field.pattern)),
            ]
            kind = text if field.values is None else Literal[field.values]
        case "float":
            kind = Annotated[float, Meta(ge=field.ge, le=field.le)]
        case "integer":
            low, high = integer_limits(field)
            kind = Annotated[int, Meta(ge=low, le=high)]
        case "boolean":
            kind = bool
        case "datetime":
            kind = TIME
    return kind | None if field.nullable else kind


def loose_type(field: RequestField) -> Any:
    """The msgspec type of a field without its limits; times are still text."""
    if field.kind == "datetime":
        return str | None if field.nullable else str
    return json_type(msgspec.structs.replace(field, ge=None, le=None, pattern=None), None)


def to_the_end(pattern: str) -> str:
    """The same pattern, with the final `$` meaning the end of the text, as in JSON Schema.

    Python's `$` lets a line break follow.
    """
    return (
        pattern[:-1] + r"\Z" if pattern.endswith("$") and not pattern.endswith(r"\$") else pattern
    )


def integer_limits(field: RequestField) -> tuple[int, int]:
    """Beyond 64 bits no column could hold it."""
    low = -(2**63) if field.ge is None else max(math.ceil(field.ge), -(2**63))
    high = 2**63 - 1 if field.le is None else min(math.floor(field.le), 2**63 - 1)
    return low, high


def exact_limits(field: RequestField) -> tuple[float, float] | None:
    """Both limits of a number's field, where a float64 tells every number from them."""
    if field.kind not in ("float", "integer") or field.ge is None or field.le is None:
        return None
    low, high = integer_limits(field) if field.kind == "integer" else (field.ge, field.le)
    return (low, high) if low >= -_EXACT and high <= _EXACT else None


def example(manifest: Manifest) -> dict[str, Any]:
    """A request that keeps the contract, for documentation. No value in it comes from data."""
    return {name: _example(name, field, manifest) for name, field in manifest.request.items()}


def _example(name: str, field: RequestField, manifest: Manifest) -> Any:
    match field.kind:
        case "string":
            return (
                field.values[0]
                if field.values
                else ("example-1" if name == manifest.entity else "example")
            )
        case "float" | "integer":
            low = (
                field.ge
                if field.ge is not None
                else min(0.0, field.le if field.le is not None else 0.0)
            )
            high = field.le if field.le is not None else low + 1
            middle = (low + high) / 2
            return math.ceil(low) if field.kind == "integer" else middle
        case "boolean":
            return False
        case "datetime":
            return (
                f"{manifest.created_as_of}T12:00:00Z"
                if name == EVENT_TIME
                else f"{manifest.created_as_of}T00:00:00Z"
            )
