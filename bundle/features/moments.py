"""Moments as arrays: microseconds since 1970, UTC, in int64.

How they are made of datetimes and of texts, and what the clock of a time zone shows at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np

from bundle.features.operators import DAY, SECOND

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Moments = NDArray[np.int64]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
_PARTS = (attrgetter("days"), attrgetter("seconds"), attrgetter("microseconds"))
# Of 2013-02-01T14:15:00Z: what is not a digit, and where the pairs of digits begin (century, year,
# month, day, hour, minute, second).
_SIGNS = {4: "-", 7: "-", 10: "T", 13: ":", 16: ":", 19: "Z"}
_PAIRS = (0, 2, 5, 8, 11, 14, 17)
# Days of a request that are looked up in a table rather than sorted.
_FEW_DAYS = 100


def moment(value: datetime) -> int:
    """Microseconds of a datetime since 1970, UTC."""
    return (value - EPOCH) // MICROSECOND


# What Python's datetimes can hold in every time zone.
_LEAST = moment(datetime(1, 1, 3, tzinfo=UTC))
_GREATEST = moment(datetime(9999, 12, 29, tzinfo=UTC))


def moments(values: Sequence[datetime]) -> Moments:
    """`moment` of many."""
    since = [value - EPOCH for value in values]
    days, seconds, microseconds = (
        np.fromiter(map(part, since), np.int64, len(since)) for part in _PARTS
    )
    return (days * 86_400 + seconds) * SECOND + microseconds


def plain_moments(texts: Sequence[str | None]) -> Moments | None:
    """`moment` of times that are all written like 2013-02-01T14:15:00Z.

    None where one is written otherwise, or does not exist.
    """
    try:
        content = "".join(texts).encode()  # type: ignore[arg-type]
    except TypeError:
        return None
    if set(map(len, texts)) != {20} or len(content) != 20 * len(texts):  # type: ignore[arg-type]
        return None

    letters = np.ascontiguousarray(np.frombuffer(content, dtype=np.uint8).reshape(-1, 20).T)
    if any((letters[place] != ord(sign)).any() for place, sign in _SIGNS.items()):
        return None

    # A letter before 0 becomes a large number.
    zero = np.uint8(ord("0"))
    tens, ones = letters[list(_PAIRS)] - zero, letters[[place + 1 for place in _PAIRS]] - zero
    if tens.max() > 9 or ones.max() > 9:
        return None
    return _since_1970((tens * np.uint8(10) + ones).astype(np.int64))


def _since_1970(pairs: NDArray[np.int64]) -> Moments | None:
    """Moments of (century, year, ..., second); None where one does not exist."""
    century, year, month, day, hour, minute, second = pairs
    year = year + 100 * century
    if year.min() < 1 or month.min() < 1 or month.max() > 12:
        return None
    if hour.max() > 23 or minute.max() > 59 or second.max() > 59:
        return None

    months = (12 * (year - 1970) + month - 1).view("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    if (days.astype("datetime64[M]") != months).any():
        return None
    seconds: Moments = (days.astype(np.int64) * 24 + hour) * 3600 + minute * 60 + second
    return seconds * SECOND


def local_days(moments: Moments, zone: ZoneInfo) -> Moments:
    """The local day of each moment, counted from 1970."""
    days: Moments = local(moments, zone) // DAY
    return days


def local(moments: Moments, zone: ZoneInfo) -> Moments:
    """Moments as the clock of a time zone shows them, in the same unit.

    The zone is asked once for each day that begins and ends with one offset, and for each moment of
    the few days that do not.
    """
    moments = np.atleast_1d(moments)
    if not len(moments):
        return moments

    earliest, latest = int(moments.min()), int(moments.max())
    if earliest < _LEAST or latest > _GREATEST:
        # Where a value is null any number may stand.
        moments = np.clip(moments, _LEAST, _GREATEST)
        earliest, latest = max(earliest, _LEAST), min(latest, _GREATEST)

    first, last = earliest // DAY, latest // DAY
    if first == last and (offset := _offset_of_day(zone, first)) is not None:
        shifted: Moments = moments + offset
        return shifted

    days = moments // DAY
    if last - first < _FEW_DAYS:
        asked, places = list(range(first, last + 1)), days - first
    else:
        different, places = np.unique(days, return_inverse=True)
        asked = different.tolist()

    offsets = [_offset_of_day(zone, day) for day in asked]
    known = np.array([0 if offset is None else offset for offset in offsets], dtype=np.int64)
    clock: Moments = moments + known[places]
    if None in offsets:
        changes = np.array([offset is None for offset in offsets])
        changing = np.flatnonzero(changes[places])
        each = [_offset(zone, at) for at in moments[changing].tolist()]
        clock[changing] = moments[changing] + np.array(each, dtype=np.int64)
    return clock


@lru_cache(maxsize=1 << 14)
def _offset_of_day(zone: ZoneInfo, day: int) -> int | None:
    """Offset of a zone on a UTC day, in microseconds; None where it changes on it."""
    offset = _offset(zone, day * DAY)
    return offset if offset == _offset(zone, (day + 1) * DAY - 1) else None


def _offset(zone: ZoneInfo, at: int) -> int:
    offset = (EPOCH + timedelta(microseconds=at)).astimezone(zone).utcoffset()
    assert offset is not None, "a zone has an offset at every moment"
    return offset // MICROSECOND
