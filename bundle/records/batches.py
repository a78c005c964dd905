"""Predictions of one request by one arm as one entry of the log.

What they have in common is JSON, the bytes of their columns lie one behind the other. That is
written and compressed many times faster than a line for each row; readers get the same records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import msgspec

from bundle.features.columns import Column, Texts
from bundle.features.moments import EPOCH
from bundle.features.program import Kind
from bundle.records.record import ANYONE, Stored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EPOCH_DAY = EPOCH.date()
_REQUEST, _CODES, _NULL = "request ", "codes ", "null "
_JSON = "json"
_MANY = 1_000
_encode = msgspec.json.Encoder().encode


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What the predictions of a batch have in common, and what columns follow.

    `bytes` of columns follow, with checksum `crc`. `days` counts the predictions by event day
    (first in the line: readers tell a head from a record by it). A prediction's id is `prefix` and
    its number as 12 hexadecimal digits. `layout` says of each column in turn its name, what its
    bytes are (NumPy's name of a type, or "json" for texts), and how many. `request` are the logged
    columns of the request, `kinds` theirs and those of entity and event time. `width` is the number
    of values of the model's row: the columns of `kept` lie in "rows", one behind the other, those
    of `copied` are columns of the request. `ood` holds each set of features that lies outside in
    some row.
    """

    days: dict[str, int]
    bytes: int
    crc: int
    prefix: str
    at: datetime
    pipeline: str
    bundle: str
    arm: str
    caller: str = ANYONE
    entity: str
    event_time: str
    kinds: dict[str, Kind]
    request: tuple[str, ...]
    layout: tuple[tuple[str, str, int], ...]
    width: int
    kept: tuple[int, ...]
    copied: dict[int, str]
    online_as_of: str | None
    latency_us: int
    ood: tuple[tuple[str, ...], ...]


class Batch(NamedTuple):
    """Predictions to be logged together; the fields are those of `Record`, with columns of n rows.

    `numbers` are those of the ids, `days` the events' local days since 1970. `columns` are those of
    the request, of which `entity`, `event_time` and those in `request` are logged. `matrix` is
    (n, k), NaN for missing. `withheld` says which of its columns are not logged, `same` which are
    columns of the request as they are (numbers without nulls): they need not be stored twice. `ood`
    are the features outside, of each row that has any by its place.
    """

    prefix: str
    numbers: NDArray[np.int64]
    at: datetime
    pipeline: str
    bundle: str
    arm: str
    caller: str
    entity: str
    event_time: str
    days: NDArray[np.int64]
    columns: Mapping[str, Column]
    request: Sequence[str]
    matrix: NDArray[np.float32]
    withheld: Sequence[bool]
    same: Mapping[int, str]
    outputs: NDArray[np.float64]
    online_as_of: str | None
    latency_us: int
    ood: Mapping[int, tuple[str, ...]]

    def packed(self) -> tuple[Head, bytes]:
        """The entry: its head, and the bytes of its columns."""
        days, places, counts = _counted(self.days)
        parts: list[_Part] = [
            _array("number", _narrow(self.numbers)),
            _array("output", self.outputs),
        ]
        if len(days) > 1:
            parts.append(_array("day", _narrow(places)))

        logged = dict.fromkeys((self.entity, self.event_time, *self.request))
        for name in logged:
            parts += _column_parts(name, self.columns[name])

        # Values of one feature side by side compress best.
        rows = self.matrix.T
        copied = self._copied(rows)
        kept = [
            place
            for place, withheld in enumerate(self.withheld)
            if not withheld and place not in copied
        ]
        parts.append(_array("rows", rows[kept]))

        sets = list(dict.fromkeys(self.ood.values()))
        if sets:
            parts.append(_array("ood", _narrow(self._sets_outside(sets))))

        content = b"".join([part for _, _, part in parts])
        head = Head(
            days=dict(zip(map(day_text, days), counts, strict=True)),
            bytes=len(content),
            crc=crc32(content),
            prefix=self.prefix,
            at=self.at,
            pipeline=self.pipeline,
            bundle=self.bundle,
            arm=self.arm,
            caller=self.caller,
            entity=self.entity,
            event_time=self.event_time,
            kinds={name: self.columns[name].kind for name in logged},
            request=tuple(self.request),
            layout=tuple((name, kind, len(part)) for name, kind, part in parts),
            width=len(rows),
            kept=tuple(kept),
            copied=copied,
            online_as_of=self.online_as_of,
            latency_us=self.latency_us,
            ood=tuple(sets),
        )
        return head, content

    def _sets_outside(self, sets: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
        """Which of the sets of features lies outside in each row, from 1; 0 for none."""
        import numpy as np

        which = np.zeros(len(self.outputs), dtype=np.int64)
        which[list(self.ood)] = [sets.index(features) + 1 for features in self.ood.values()]
        return which

    def _copied(self, rows: NDArray[np.float32]) -> dict[int, str]:
        """Features that are to be read from the logged columns of the request, by their places."""
        import numpy as np

        maybe = {
            place: name
            for place, name in self.same.items()
            if name in self.request and self.columns[name].null is None
        }
        values = np.empty((len(maybe), rows.shape[1]), dtype=np.float32)
        with np.errstate(over="ignore"):
            for index, name in enumerate(maybe.values()):
                values[index] = self.columns[name].array

        equal = (values == rows[list(maybe)]).all(axis=1)
        return {
            place: name
            for (place, name), same in zip(maybe.items(), equal.tolist(), strict=True)
            if same
        }


_Part = tuple[str, str, bytes]
"""Name of a column of an entry, what its bytes are, and the bytes."""


def _array(name: str, values: NDArray[Any]) -> _Part:
    return name, values.dtype.str, values.tobytes()


def _column_parts(name: str, column: Column) -> list[_Part]:
    """A column of the request, and where it is null."""
    import numpy as np

    if isinstance(column.values, Texts):
        if not column.values.is_coded:
            return [(_REQUEST + name, _JSON, _encode(column.values.values))]
        codes, words = column.values.coded
        narrow = codes.astype(np.int8 if len(words) < 1 << 7 else np.int32)
        return [_array(_CODES + name, narrow), (_REQUEST + name, _JSON, _encode(words))]

    if column.null is None:
        integers = column.kind == "integer"
        return [_array(_REQUEST + name, _narrow(column.values) if integers else column.values)]
    return [_array(_REQUEST + name, column.values), _array(_NULL + name, column.null)]


def unpacked(head: Head, content: bytes) -> list[Stored]:
    """The records of an entry, in the order of the request."""
    parts = _parts(head, content)
    count = len(parts["number"])

    texts = list(head.days)
    days = [texts[place] for place in parts["day"].tolist()] if "day" in parts else texts * count
    sets = ((), *head.ood)
    outside = [sets[place] for place in parts["ood"].tolist()] if "ood" in parts else [()] * count

    moments = _plain(head.event_time, "datetime", parts)
    columns = {name: _plain(name, kind, parts) for name, kind in head.kinds.items()}
    for name, kind in head.kinds.items():
        if kind == "datetime":
            columns[name] = [msgspec.to_builtins(value) for value in columns[name]]

    requests = _side_by_side([columns[name] for name in head.request], count)
    rows = _side_by_side(_features(head, parts, count), count)
    return [
        Stored(
            day=days[place],
            id=f"{head.prefix}{number:012x}",
            at=head.at,
            event_time=moments[place],
            pipeline=head.pipeline,
            bundle=head.bundle,
            arm=head.arm,
            caller=head.caller,
            entity=columns[head.entity][place],
            request=dict(zip(head.request, requests[place], strict=True)),
            row=rows[place],
            output=output,
            online_as_of=head.online_as_of,
            latency_us=head.latency_us,
            ood=outside[place],
        )
        for place, (number, output) in enumerate(
            zip(parts["number"].tolist(), parts["output"].tolist(), strict=True)
        )
    ]


def _parts(head: Head, content: bytes) -> dict[str, Any]:
    """The columns of an entry by name: arrays, or lists of texts."""
    import numpy as np

    parts: dict[str, Any] = {}
    start = 0
    for name, kind, size in head.layout:
        part = content[start : start + size]
        parts[name] = msgspec.json.decode(part) if kind == _JSON else np.frombuffer(part, kind)
        start += size
    return parts


def _plain(name: str, kind: Kind, parts: Mapping[str, Any]) -> list[Any]:
    """Plain Python values of a column of the request."""
    values = parts[_REQUEST + name]
    if kind == "string":
        if _CODES + name not in parts:
            return list(values)
        # The last of these is what -1 means.
        words = [*values, None]
        return [words[code] for code in parts[_CODES + name].tolist()]

    null = parts.get(_NULL + name)
    return Column(kind, values, null).plain()


def _features(head: Head, parts: Mapping[str, Any], count: int) -> list[list[float | None]]:
    """Values of each feature, null for missing and for what was withheld."""
    import numpy as np

    features: list[list[float | None]] = [[None] * count] * head.width
    kept = zip(head.kept, parts["rows"].reshape(len(head.kept), count), strict=True)
    copied = (
        (place, parts[_REQUEST + name].astype(np.float32) + np.float32(0))
        for place, name in head.copied.items()
    )
    for place, values in (*kept, *copied):
        features[place] = [None if value != value else value for value in values.tolist()]
    return features


def _side_by_side(columns: Sequence[Sequence[Any]], count: int) -> list[tuple[Any, ...]]:
    """The rows of columns."""
    return list(zip(*columns, strict=True)) if columns else [()] * count


def day_text(day: int) -> str:
    """ISO 8601 of a day since 1970."""
    return (EPOCH_DAY + timedelta(days=day)).isoformat()


def _counted(days: NDArray[np.int64]) -> tuple[list[int], NDArray[np.int64], list[int]]:
    """Different days in order, the place of each row's day among them, and their rows."""
    import numpy as np

    if (days == days[0]).all():
        return [int(days[0])], np.zeros(len(days), dtype=np.int64), [len(days)]
    different, places, counts = np.unique(days, return_inverse=True, return_counts=True)
    return different.tolist(), places, counts.tolist()


def _narrow(values: NDArray[np.int64]) -> NDArray[Any]:
    """Integers in the fewest bytes that hold them all, where there are enough of them."""
    import numpy as np

    if len(values) < _MANY:
        return values
    return values.astype(
        np.promote_types(np.min_scalar_type(values.min()), np.min_scalar_type(values.max()))
    )
