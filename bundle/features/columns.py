"""Columns of a request with many rows, and values computed from them: arrays, not Python objects.

A column's values are float64, int64, bool, or for a datetime int64 (`bundle.features.moments`);
texts are `Texts`. Where `null` says so a value is missing, and what stands in its place means
nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bundle.features.moments import EPOCH, moments
from bundle.features.program import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Array = NDArray[Any]

# Kinds of numbers, as the module `struct` writes them.
PACKED = {"float": "d", "integer": "q"}
DTYPES: dict[str, type[np.generic]] = {
    "float": np.float64,
    "integer": np.int64,
    "boolean": np.bool_,
    "datetime": np.int64,
}


class Texts:
    """Texts of a column, None where there is none.

    They are a list, or `words` and the place of each row's word in them (-1: none). Either is made
    of the other when it is asked for. Words may be unused, and equal to each other.
    """

    def __init__(
        self,
        values: list[str | None] | None = None,
        codes: NDArray[np.int64] | None = None,
        words: Sequence[str] = (),
    ) -> None:
        if values is not None:
            self.values = values
        elif codes is not None:
            self.coded = codes, words
        else:
            raise ValueError("texts are a list, or codes and words")

    def __len__(self) -> int:
        return len(self.values) if "values" in self.__dict__ else len(self.coded[0])

    @property
    def is_coded(self) -> bool:
        return "coded" in self.__dict__

    @cached_property
    def values(self) -> list[str | None]:
        codes, words = self.coded
        # The last of these is what -1 means.
        named = [*words, None]
        return [named[code] for code in codes.tolist()]

    @cached_property
    def coded(self) -> tuple[NDArray[np.int64], Sequence[str]]:
        places: dict[str | None, int] = {
            word: place for place, word in enumerate(dict.fromkeys(self.values))
        }
        codes = np.fromiter(map(places.__getitem__, self.values), np.int64, len(self.values))
        if None in places:
            none = places[None]
            codes[codes == none] = -1
            codes[codes > none] -= 1
            del places[None]
        return codes, [word for word in places if word is not None]

    @cached_property
    def null(self) -> Mask | None:
        """Where there is no text; None where there is one everywhere."""
        if self.is_coded:
            missing = self.coded[0] < 0
            return missing if missing.any() else None
        return np.array([value is None for value in self.values]) if None in self.values else None

    def taken(self, places: NDArray[np.int64]) -> Texts:
        if self.is_coded:
            codes, words = self.coded
            return Texts(codes=codes[places], words=words)
        values = self.values
        return Texts([values[place] for place in places.tolist()])


@dataclass(frozen=True)
class Column:
    """One column of a request."""

    kind: Kind
    values: Array | Texts
    null: Mask | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def texts(self) -> Texts:
        """Raises TypeError for a column of another kind."""
        if not isinstance(self.values, Texts):
            raise TypeError(f"a column of kind {self.kind} has no texts")
        return self.values

    @property
    def array(self) -> Array:
        """Raises TypeError for texts."""
        if isinstance(self.values, Texts):
            raise TypeError("texts are no array")
        return self.values

    def taken(self, places: NDArray[np.int64]) -> Column:
        """The rows at some places."""
        null = None if self.null is None else self.null[places]
        return Column(
            self.kind,
            self.values.taken(places) if isinstance(self.values, Texts) else self.values[places],
            null,
        )

    def plain(self) -> list[Any]:
        """Plain Python values: texts, numbers, booleans, UTC datetimes, or None."""
        if isinstance(self.values, Texts):
            return self.values.values
        plain: list[Any] = self.values.tolist()
        if self.kind == "datetime":
            plain = [EPOCH + timedelta(microseconds=value) for value in plain]
        if self.null is None:
            return plain
        nulls = zip(plain, self.null.tolist(), strict=True)
        return [None if null else value for value, null in nulls]


class Value(NamedTuple):
    """Values that were computed or looked up, and where they are null (None: nowhere).

    A constant has no rows; it is broadcast.
    """

    values: Array
    null: Mask | None = None


def column(kind: Kind, values: Sequence[Any]) -> Column:
    """The column of plain Python values, as `Column.plain` gives them.

    Raises OverflowError for an integer beyond 64 bits.
    """
    if kind == "string":
        texts = Texts(list(values))
        return Column(kind, texts, texts.null)
    if kind in PACKED:
        # A third of the time that NumPy takes, and it refuses None.
        try:
            packed = struct.pack(f"{len(values)}{PACKED[kind]}", *values)
            return Column(kind, np.frombuffer(packed, DTYPES[kind]))
        except struct.error:
            pass

    null = None
    if None in values:
        null = np.array([value is None for value in values])
        filler = EPOCH if kind == "datetime" else 0
        values = [filler if value is None else value for value in values]
    if kind == "datetime":
        return Column(kind, moments(values), null)
    return Column(kind, np.array(values, dtype=DTYPES[kind]), null)


def text_value(texts: Sequence[str | None]) -> Value:
    """Texts as an array of objects."""
    missing = None in texts
    values = np.empty(len(texts), dtype=object)
    values[:] = ["" if text is None else text for text in texts] if missing else texts
    return Value(values, np.array([text is None for text in texts]) if missing else None)


def either(*masks: Mask | None) -> Mask | None:
    """Where one of the masks is set."""
    either: Mask | None = None
    for mask in masks:
        if mask is not None:
            either = mask if either is None else either | mask
    return either


def any_of(mask: Mask) -> Mask | None:
    """A mask, or None where it is set nowhere."""
    return mask if mask.any() else None
