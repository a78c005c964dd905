"""Columns of a request with many rows: arrays instead of rows of Python objects.

Values are float64, int64, bool, or for a datetime int64 (microseconds since 1970, UTC); texts are `Texts`. Where `null` says so a
value is missing, and what stands in its place means nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.features.program import Kind

    Mask = NDArray[np.bool_]
    Array = NDArray[Any]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
_PARTS = (attrgetter("days"), attrgetter("seconds"), attrgetter("microseconds"))
# Kinds of numbers, as the module `struct` writes them.
PACKED = {"float": "d", "integer": "q"}
# Of 2013-02-01T14:15:00Z: what is no digit, and where the pairs of digits begin (century, year, month, day, hour, minute, second).
_SIGNS, _PAIRS = {4: "-", 7: "-", 10: "T", 13: ":", 16: ":", 19: "Z"}, (0, 2, 5, 8, 11, 14, 17)
DTYPES: dict[str, type[np.generic]] = {
    "float": np.float64,
    "integer": np.int64,
    "boolean": np.bool_,
    "datetime": np.int64,
}


class Texts:
    """Texts of a column, None where there is none: as a list, or as `words` and the place of each row's word in them (-1: none).
    Either is made of the other when it is asked for; words need not be used, nor be different."""

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
        found: list[Any] = self.values.tolist()
        if self.kind == "datetime":
            found = [EPOCH + timedelta(microseconds=value) for value in found]
        if self.null is not None:
            found = [
                None if missing else value
                for value, missing in zip(found, self.null.tolist(), strict=True)
            ]
        return found


def column(kind: Kind, values: Sequence[Any]) -> Column:
    """The column of plain Python values, as `Column.plain` gives them. Raises OverflowError for an integer beyond 64 bits."""
    if kind == "string":
        texts = Texts(list(values))
        return Column(kind, texts, texts.null)
    if kind in PACKED:
        try:
            # A third of the time that NumPy takes, and it refuses None.
            return Column(
                kind,
                np.frombuffer(struct.pack(f"{len(values)}{PACKED[kind]}", *values), DTYPES[kind]),
            )
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


def moments(values: Sequence[datetime]) -> NDArray[np.int64]:
    """`moment` of many."""
    since = [value - EPOCH for value in values]
    days, seconds, microseconds = (
        np.fromiter(map(part, since), np.int64, len(since)) for part in _PARTS
    )
    return (days * 86_400 + seconds) * 1_000_000 + microseconds


def plain_moments(texts: Sequence[str | None]) -> NDArray[np.int64] | None:
    """`moment` of times that are all written like 2013-02-01T14:15:00Z; None where one is not, or does not exist."""
    try:
        content = "".join(texts).encode()  # type: ignore[arg-type]
    except TypeError:
        return None
    if set(map(len, texts)) != {20} or len(content) != 20 * len(texts):  # type: ignore[arg-type]
        return None
    letters = np.ascontiguousarray(np.frombuffer(content, dtype=np.uint8).reshape(-1, 20).T)
    if any((letters[place] != ord(sign)).any() for place, sign in _SIGNS.items()):
        return None
    # What stands before 0 becomes a large number.
    tens, ones = (
        letters[list(_PAIRS)] - np.uint8(ord("0")),
        letters[[place + 1 for place in _PAIRS]] - np.uint8(ord("0")),
    )
    if tens.max() > 9 or ones.max() > 9:
        return None
    century, year, month, day, hour, minute, second = (tens * np.uint8(10) + ones).astype(np.int64)
    year += 100 * century
    if (
        year.min() < 1
        or month.min() < 1
        or month.max() > 12
        or hour.max() > 23
        or minute.max() > 59
        or second.max() > 59
    ):
        return None
    months = (12 * (year - 1970) + month - 1).view("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    if (days.astype("datetime64[M]") != months).any():
        return None
    found: NDArray[np.int64] = (
        (days.astype(np.int64) * 24 + hour) * 3600 + minute * 60 + second
    ) * 1_000_000
    return found


def moment(value: datetime) -> int:
    """Microseconds of a datetime since 1970, UTC."""
    return (value - EPOCH) // MICROSECOND
