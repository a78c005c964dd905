"""Strict JSON: no duplicate fields, no NaN or Infinity, no lone surrogates."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

import msgspec
import numpy as np

from serving.contract.refusal import Refusal, shown

_BATCH = re.compile(rb'\s*\{\s*"instances"\s*:')


def is_batch(body: bytes) -> bool:
    """Whether a JSON body is `{"instances": [...]}` rather than one row."""
    return b'"instances"' in body and _BATCH.match(body) is not None


def count_quotes(body: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(body, dtype=np.uint8) == ord('"')))


def malformed() -> Refusal:
    return Refusal(
        400, "json", "The body is not valid JSON (RFC 8259, UTF-8; NaN and Infinity are no JSON)."
    )


def duplicate(name: str, where: str) -> Refusal:
    """A field that an object has more than once; `where` is the path before its name."""
    name = shown(name)
    return Refusal(
        422, "duplicate_field", f"The field {name} is there more than once.", where + name
    )


def parse(body: bytes, where: str = "") -> Any:
    """The value of JSON: without duplicate fields, NaN, Infinity and lone surrogates.

    Raises Refusal; `where` is the path of the value in the request.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            raise duplicate(
                next(name for name, count in Counter(names).items() if count > 1), where
            )
        return found

    def refuse(_: str) -> Any:
        raise malformed()

    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise malformed()
        return number

    try:
        # Texts that cannot be UTF-8 (lone surrogates) cannot be logged either.
        text = body.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=unique, parse_constant=refuse, parse_float=finite
        )
        if "\\u" in text:
            msgspec.json.encode(value)
    except (ValueError, RecursionError):
        raise malformed() from None
    return value


def parse_place(error: msgspec.ValidationError) -> str:
    """Where in a list msgspec found what is wrong, such as `[3]`."""
    found = re.search(r"at `\$(\[\d+\])", str(error))
    return found.group(1) if found else ""
