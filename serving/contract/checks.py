"""What a field demands of a column: limits, patterns and lengths of all its values, in NumPy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from bundle.features.columns import Column, Texts
from bundle.features.moments import moment
from bundle.features.program import EARLIEST, LATEST
from bundle.manifest import RequestField
from serving.contract.fields import integer_limits, to_the_end

if TYPE_CHECKING:
    from bundle.features.columns import Array, Mask

_FIRST, _LAST = moment(EARLIEST), moment(LATEST)
# What a datetime can hold.
_LEAST, _GREATEST = (
    moment(datetime.min.replace(tzinfo=UTC)),
    moment(datetime.max.replace(tzinfo=UTC)),
)
# Patterns of characters, classes of them and counts alone.
_PLAIN = re.compile(r"\^((?:[\w\-/:# ]|\\[dw]|\[[\w\-/:# ]+\])(?:[+*?]|\{\d+(?:,\d*)?\})?)+\$")

Wrong = tuple["Mask | None", "Mask | None"]
"""Rows of a column that break a limit; then rows that are no finite number or too far in time.

The second are looked for where no row breaks a limit.
"""


def column_check(field: RequestField, text_limit: int) -> Callable[[Column], Wrong]:
    """What a field demands of a column, apart from nulls.

    What stands in the place of a null may be called wrong.
    """
    match field.kind:
        case "float":
            bounded = field.ge is not None and field.le is not None

            def floats(values: Column) -> Wrong:
                beyond = _beyond(values.array, field.ge, field.le)
                return beyond, None if bounded and beyond is None else _some(
                    ~np.isfinite(values.array)
                )

            return floats
        case "integer":
            low, high = integer_limits(field)
            return lambda values: (_beyond(values.array, low, high), None)
        case "datetime":
            return lambda values: (
                _beyond(values.array, _LEAST, _GREATEST),
                _beyond(values.array, _FIRST, _LAST - 1),
            )
        case "string":
            allowed = _text_check(field, text_limit)
            return lambda values: (_wrong_texts(values.texts, allowed), None)
    return lambda values: (None, None)


def _beyond(values: Array, low: float | None, high: float | None) -> Mask | None:
    # NaN keeps no limit, and is the least and the greatest where there is one.
    if (low is None or values.min() >= low) and (high is None or values.max() <= high):
        return None
    wrong: Mask = np.zeros(len(values), dtype=np.bool_)
    if low is not None:
        wrong |= ~(values >= low)
    if high is not None:
        wrong |= ~(values <= high)
    return _some(wrong)


def _some(mask: Mask) -> Mask | None:
    return mask if mask.any() else None


def _text_check(field: RequestField, text_limit: int) -> Callable[[Iterable[str]], bool]:
    """Whether all texts of a column are allowed."""
    if field.values is not None:
        return frozenset(field.values).issuperset
    matches = matching(field.pattern) if field.pattern else None

    def allowed(texts: Iterable[str]) -> bool:
        found = list(texts)
        return max(map(len, found), default=0) <= text_limit and (matches is None or matches(found))

    return allowed


def matching(pattern: str) -> Callable[[Sequence[str]], bool]:
    """Whether all texts match a pattern."""
    search = re.compile(to_the_end(pattern)).search
    if not _PLAIN.fullmatch(pattern):
        return lambda texts: all(map(search, texts))
    # No line feed can match, so all texts are matched as one, a line each. That takes a third of
    # the time. What matched is not tried in other ways when a later text does not match.
    lines = re.compile(f"(?>{pattern[1:-1]}\n)*+").fullmatch

    def matches(texts: Sequence[str]) -> bool:
        joined = "\n".join([*texts, ""])
        return lines(joined) is not None and joined.count("\n") == len(texts)

    return matches


def _wrong_texts(texts: Texts, allowed: Callable[[Iterable[str]], bool]) -> Mask | None:
    if texts.is_coded:
        codes, words = texts.coded
        if allowed(words):
            return None
        # Of words that no row uses nothing is wrong.
        return _some(np.array([*(not allowed((word,)) for word in words), False])[codes])
    known = (
        texts.values if texts.null is None else [text for text in texts.values if text is not None]
    )
    if allowed(known):  # type: ignore[arg-type]
        return None
    return np.array([text is not None and not allowed((text,)) for text in texts.values])
