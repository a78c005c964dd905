"""Predictions of one request by one arm as one entry of the prediction log: what they have in common as JSON, and the bytes of their
columns one behind the other. That is written and compressed many times faster than a line for each row; readers get the same records.
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

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bundle.records.log import Stored

EPOCH_DAY = EPOCH.date()
_REQUEST, _CODES, _NULL = "request ", "codes ", "null "
_JSON = "json"
_MANY = 1_000
_encode = msgspec.json.Encoder().encode


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What the predictions of a batch have in common, and how many `bytes` of columns, of which checksum, follow.

    `days` counts them by event day (first in the line: readers tell it by that from a record). A prediction's id is `prefix` and its
    number as 12 hexadecimal digits. `layout` says of each column in turn its name, what its bytes are (NumPy's name of a type, or
    "json" for texts), and how many. `request` are the logged columns of the request, `kinds` theirs and those of entity and event
    time, `width` is the number of values of the model's row, of which the columns of `kept` lie in "rows", one behind the other, and
    those of `copied` are columns of the request; `ood` holds each set of features that lies outside in some row.
    """

    days: dict[str, int]
    bytes: int
    crc: int
    prefix: str
    at: datetime
    pipeline: str
    bundle: str
    arm: str
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
    """Predictions to be logged together; the fields are those of `prediction_log.Record`, with columns of n rows.

    `numbers` are those of the ids, `days` the events' local days since 1970, `columns` those of the request, of which `entity`,
    `event_time` and those in `request` are logged. `matrix` is (n, k), NaN for missing; `withheld` tells which of its columns are
    not logged, `same` which are columns of the request as they are (numbers without nulls), which need not be stored twice. `ood` are the features outside, of each row that has any by its place.
    """

    prefix: str
    numbers: NDArray[np.int64]
    at: datetime
    pipeline: str
    bundle: str
    arm: str
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
        import numpy as np

        days, places, counts = _counted(self.days)
        parts: list[tuple[str, str, bytes]] = []

        def add(name: str, values: NDArray[Any]) -> None:
            parts.append((name, values.dtype.str, values.tobytes()))

        add("number", _narrow(self.numbers))
        add("output", self.outputs)
        if len(days) > 1:
            add("day", _narrow(places))
        held = dict.fromkeys((self.entity, self.event_time, *self.request))
        for name in held:
            column = self.columns[name]
            if isinstance(column.values, Texts):
                words: Sequence[str | None] = column.values.values
                if column.values.is_coded:
                    codes, words = column.values.coded
                    add(_CODES + name, codes.astype(np.int8 if len(words) < 1 << 7 else np.int32))
                parts.append((_REQUEST + name, _JSON, _encode(words)))
                continue
            add(
                _REQUEST + name,
                _narrow(column.values)
                if column.kind == "integer" and column.null is None
                else column.values,
            )
            if column.null is not None:
                add(_NULL + name, column.null)
        # Values of one feature side by side compress best.
        rows = self.matrix.T
        copied = self._copied(rows)
        kept = [
            index
            for index, withheld in enumerate(self.withheld)
            if not withheld and index not in copied
        ]
        add("rows", rows[kept])
        outside = {
            features: place + 1 for place, features in enumerate(dict.fromkeys(self.ood.values()))
        }
        if outside:
            which = np.zeros(len(self.outputs), dtype=np.int64)
            which[list(self.ood)] = [outside[features] for features in self.ood.values()]
            add("ood", _narrow(which))
        content = b"".join([part for _, _, part in parts])
        head = Head(
            days={day_text(day): count for day, count in zip(days, counts, strict=True)},
            bytes=len(content), crc=crc32(content), prefix=self.prefix, at=self.at, pipeline=self.pipeline, bundle=self.bundle, arm=self.arm,
            entity=self.entity, event_time=self.event_time, kinds={name: self.columns[name].kind for name in held}, request=tuple(self.request),
            layout=tuple((name, kind, len(part)) for name, kind, part in parts), width=len(rows), kept=tuple(kept), copied=copied,
            online_as_of=self.online_as_of, latency_us=self.latency_us, ood=tuple(outside),
        )  # fmt: skip
        return head, content

    def _copied(self, rows: NDArray[np.float32]) -> dict[int, str]:
        """Features that are to be read from the logged columns of the request, by their places."""
        import numpy as np

        maybe = {
            place: name
            for place, name in self.same.items()
            if name in self.request and self.columns[name].null is None
        }
        found = np.empty((len(maybe), rows.shape[1]), dtype=np.float32)
        with np.errstate(over="ignore"):
            for index, name in enumerate(maybe.values()):
                found[index] = self.columns[name].array
        equal = (found == rows[list(maybe)]).all(axis=1)
        return {
            place: name
            for (place, name), same in zip(maybe.items(), equal.tolist(), strict=True)
            if same
        }


def unpacked(head: Head, content: bytes) -> list[Stored]:
    """The records of an entry, in the order of the request."""
    import numpy as np

    from bundle.records.log import Stored

    found, start = dict[str, Any](), 0
    for name, kind, size in head.layout:
        part = content[start : start + size]
        found[name] = msgspec.json.decode(part) if kind == _JSON else np.frombuffer(part, kind)
        start += size
    count = len(found["number"])
    texts = list(head.days)
    days = [texts[place] for place in found["day"].tolist()] if "day" in found else texts * count
    sets = ((), *head.ood)
    outside = [sets[place] for place in found["ood"].tolist()] if "ood" in found else [()] * count
    columns: dict[str, list[Any]] = {}
    for name, kind in head.kinds.items():
        values = found[_REQUEST + name]
        if kind == "string":
            if _CODES + name in found:
                # The last of these is what -1 means.
                words = [*values, None]
                values = [words[code] for code in found[_CODES + name].tolist()]
            columns[name] = values
            continue
        plain: list[Any] = values.tolist()
        if kind == "datetime":
            plain = [EPOCH + timedelta(microseconds=value) for value in plain]
        if name == head.event_time:
            moments = plain
        if kind == "datetime":
            plain = [msgspec.to_builtins(moment) for moment in plain]
        null = found.get(_NULL + name)
        columns[name] = (
            plain
            if null is None
            else [
                None if missing else value
                for value, missing in zip(plain, null.tolist(), strict=True)
            ]
        )
    features: list[NDArray[np.float32] | None] = [None] * head.width
    for index, values in zip(head.kept, found["rows"].reshape(len(head.kept), count), strict=True):
        features[index] = values
    for index, name in head.copied.items():
        features[index] = found[_REQUEST + name].astype(np.float32) + np.float32(0)
    nothing = [None] * count
    used = [
        nothing
        if values is None
        else [None if value != value else value for value in values.tolist()]
        for values in features
    ]
    rows = list(zip(*used, strict=True)) if used else [()] * count
    requests = (
        list(zip(*(columns[name] for name in head.request), strict=True))
        if head.request
        else [()] * count
    )
    numbers, outputs, entities = (
        found["number"].tolist(),
        found["output"].tolist(),
        columns[head.entity],
    )
    return [
        Stored(
            day=day, id=f"{head.prefix}{number:012x}", at=head.at, event_time=moment, pipeline=head.pipeline, bundle=head.bundle, arm=head.arm,
            entity=entity, request=dict(zip(head.request, request, strict=True)), row=row, output=output, online_as_of=head.online_as_of,
            latency_us=head.latency_us, ood=ood,
        )
        for day, number, moment, entity, request, row, output, ood in zip(
            days, numbers, moments, entities, requests, rows, outputs, outside, strict=True
        )
    ]  # fmt: skip


def day_text(day: int) -> str:
    """ISO 8601 of a day since 1970."""
    return (EPOCH_DAY + timedelta(days=day)).isoformat()


def _counted(days: NDArray[np.int64]) -> tuple[list[int], NDArray[np.int64], list[int]]:
    """Different days in order, the place of each row's day among them, and how many rows each has."""
    import numpy as np

    if (days == days[0]).all():
        return [int(days[0])], np.zeros(len(days), dtype=np.int64), [len(days)]
    found, places, counts = np.unique(days, return_inverse=True, return_counts=True)
    return found.tolist(), places, counts.tolist()


def _narrow(values: NDArray[np.int64]) -> NDArray[Any]:
    """Integers in the fewest bytes that hold them all, where there are enough of them."""
    import numpy as np

    if len(values) < _MANY:
        return values
    return values.astype(
        np.promote_types(np.min_scalar_type(values.min()), np.min_scalar_type(values.max()))
    )
