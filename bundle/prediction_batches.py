"""Predictions of one request by one arm as one entry of the prediction log: what they have in common as JSON, and their columns as an
Arrow IPC stream. That is written and compressed many times faster than a line for each row; readers get the same records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import msgspec

from bundle.columns import EPOCH, Column, Texts
from bundle.program import Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bundle.prediction_log import Stored

EPOCH_DAY = EPOCH.date()
_REQUEST, _ROW = "request ", "row "
_MANY = 1_000


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What the predictions of a batch have in common, and how many `bytes` of columns, of which checksum, follow.

    `days` counts them by event day (first in the line: readers tell it by that from a record). A prediction's id is `prefix` and its
    number as 12 hexadecimal digits. `request` are the logged columns of the request with their kinds, `width` is the number of
    values of the model's row (a withheld one has no column), `ood` holds each set of features that lies outside in some row.
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
    width: int
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
        import pyarrow as pa

        days, places, counts = np.unique(self.days, return_inverse=True, return_counts=True)
        arrays = {"number": pa.array(_narrow(self.numbers)), "output": pa.array(self.outputs)}
        if len(days) > 1:
            arrays["day"] = pa.array(_narrow(places))
        held = dict.fromkeys((self.entity, self.event_time, *self.request))
        arrays |= {_REQUEST + name: _array(self.columns[name]) for name in held}
        # Values of one feature side by side compress best.
        count, flat = len(self.outputs), pa.array(self.matrix.T.ravel())
        copied = {index: name for index, name in self.same.items() if name in self.request and self._is_copied(index, name)}
        kept = [index for index, withheld in enumerate(self.withheld) if not withheld and index not in copied]
        arrays |= {f"{_ROW}{index}": flat.slice(index * count, count) for index in kept}
        outside = {features: place + 1 for place, features in enumerate(dict.fromkeys(self.ood.values()))}
        if outside:
            which = np.zeros(len(self.outputs), dtype=np.int64)
            which[list(self.ood)] = [outside[features] for features in self.ood.values()]
            arrays["ood"] = pa.array(_narrow(which))
        table = pa.record_batch(list(arrays.values()), names=list(arrays))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_batch(table)
        content: bytes = sink.getvalue().to_pybytes()
        head = Head(
            days={day_text(day): count for day, count in zip(days.tolist(), counts.tolist(), strict=True)},
            bytes=len(content), crc=crc32(content), prefix=self.prefix, at=self.at, pipeline=self.pipeline, bundle=self.bundle, arm=self.arm,
            entity=self.entity, event_time=self.event_time, kinds={name: self.columns[name].kind for name in held}, request=tuple(self.request),
            width=self.matrix.shape[1], copied=copied, online_as_of=self.online_as_of, latency_us=self.latency_us, ood=tuple(outside),
        )  # fmt: skip
        return head, content

    def _is_copied(self, index: int, name: str) -> bool:
        import numpy as np

        column = self.columns[name]
        with np.errstate(over="ignore"):
            return column.null is None and np.array_equal(self.matrix[:, index], column.array.astype(np.float32))


def unpacked(head: Head, content: bytes) -> list[Stored]:
    """The records of an entry, in the order of the request."""
    import numpy as np
    import pyarrow as pa

    from bundle.prediction_log import Stored

    table = pa.ipc.open_stream(content).read_all()
    count = table.num_rows
    texts = list(head.days)
    days = [texts[place] for place in table["day"].to_pylist()] if "day" in table.column_names else texts * count
    sets = ((), *head.ood)
    outside = [sets[place] for place in table["ood"].to_pylist()] if "ood" in table.column_names else [()] * count
    columns = {name: table[_REQUEST + name].to_pylist() for name in head.kinds}
    moments = [EPOCH + timedelta(microseconds=value) for value in columns[head.event_time]]
    for name, kind in head.kinds.items():
        if kind == "datetime":
            written = (None if value is None else EPOCH + timedelta(microseconds=value) for value in columns[name])
            columns[name] = [msgspec.to_builtins(moment) for moment in written]
    nothing = [None] * count
    features = [table[f"{_ROW}{index}"].to_numpy() if f"{_ROW}{index}" in table.column_names else None for index in range(head.width)]
    for index, name in head.copied.items():
        features[index] = table[_REQUEST + name].to_numpy().astype(np.float32) + np.float32(0)
    plain = [nothing if values is None else [None if value != value else value for value in values.tolist()] for values in features]
    rows = list(zip(*plain, strict=True)) if plain else [()] * count
    requests = list(zip(*(columns[name] for name in head.request), strict=True)) if head.request else [()] * count
    numbers, outputs, entities = table["number"].to_pylist(), table["output"].to_pylist(), columns[head.entity]
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


def _narrow(values: NDArray[np.int64]) -> NDArray[Any]:
    """Integers in the fewest bytes that hold them all, where there are enough of them."""
    import numpy as np

    if len(values) < _MANY:
        return values
    return values.astype(np.promote_types(np.min_scalar_type(values.min()), np.min_scalar_type(values.max())))


def _array(column: Column) -> Any:
    """A column as an Arrow array; datetimes as microseconds since 1970."""
    import numpy as np
    import pyarrow as pa

    if not isinstance(column.values, Texts):
        values = _narrow(column.values) if column.kind == "integer" and column.null is None else column.values
        return pa.array(values, mask=column.null)
    if not column.values.is_coded:
        return pa.array(column.values.values, pa.string())
    codes, words = column.values.coded
    kind = np.int8 if len(words) < 1 << 7 else np.int32
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(kind), mask=codes < 0), pa.array(words, pa.string()))
