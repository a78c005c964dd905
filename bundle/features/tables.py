"""Tables of the online snapshot as arrays: what `Snapshot.finder` finds for one request, for many.

A table is laid out for one lookup: the rows of each key side by side, oldest first, one column for
each value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.features.columns import DTYPES, Column, Value, any_of, text_value
from bundle.features.moments import EPOCH, moment
from bundle.features.online import AggregateTable, LatestTable, Snapshot
from bundle.features.operators import SECOND
from bundle.features.program import EARLIEST, LATEST, Kind, Lookup

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST, LAST = moment(EARLIEST), moment(LATEST)
Rows = list[tuple[datetime, tuple[Any, ...] | None]]


class Table:
    """A table of a snapshot for one lookup. A refresh without a key is a row without values."""

    def __init__(self, online: Snapshot, lookup: Lookup) -> None:
        self._lookup = lookup
        rows_of = _rows_by_key(online, lookup.table)

        single = len(lookup.keys) == 1
        self._index = {key[0] if single else key: place for place, key in enumerate(rows_of)}
        # After the last key comes that of keys that the table does not hold; it has no rows.
        self._ends = np.cumsum([*(len(rows) for rows in rows_of.values()), 0])
        self._starts = np.concatenate([[0], self._ends[:-1]])

        flat: Rows = []
        for rows in rows_of.values():
            flat += rows
        # One more row, without values, stands for what is not in the table.
        self._known_at = np.array([*(moment(at) for at, _ in flat), 0], dtype=np.int64)

        names = online.values(lookup.table)
        self._columns = {
            lookup.wide(value): _column(_values(flat, names, value), kind)
            for value, kind in zip(lookup.values, lookup.kinds, strict=True)
        }

    def values_of(
        self, columns: Mapping[str, Column], predicted_at: NDArray[np.int64]
    ) -> dict[str, Value]:
        """The values known for each row's key when it is predicted, by their wide names."""
        rows = self._rows(self._keys(columns, len(predicted_at)), predicted_at)
        return {
            name: Value(values[rows], None if null is None else any_of(null[rows]))
            for name, (values, null) in self._columns.items()
        }

    def _keys(self, columns: Mapping[str, Column], rows: int) -> NDArray[np.int64]:
        """The place of each row's key."""
        nowhere, place_of = len(self._index), self._index.get
        keys = [columns[name] for name in self._lookup.keys]
        if not keys:
            # All rows have the empty key, which no column could count.
            return np.full(rows, place_of((), nowhere), dtype=np.int64)

        if len(keys) == 1 and keys[0].kind == "string":
            codes, words = keys[0].texts.coded
            # The last of these is what -1, a null, means.
            places = [place_of(word, nowhere) for word in (*words, None)]
            return np.array(places, dtype=np.int64)[codes]

        # Integers are no floats in a key, and a key beside integers is as it was sent.
        exact = any(key.kind == "integer" for key in keys)
        plain = [_key_values(key, exact) for key in keys]
        of_rows = plain[0] if len(plain) == 1 else list(zip(*plain, strict=True))
        return np.array([place_of(key, nowhere) for key in of_rows], dtype=np.int64)

    def _rows(self, keys: NDArray[np.int64], predicted_at: NDArray[np.int64]) -> NDArray[np.int64]:
        """The newest row of each key that was known; the last row where there is none."""
        known_at, starts = self._known_at, self._starts[keys]
        nothing = len(known_at) - 1
        after = self._ends[keys]

        # Nearly every request comes after the newest row of its key.
        older = np.flatnonzero((after > starts) & (known_at[after - 1] > predicted_at))
        if len(older):
            after[older] = self._after_known(starts[older], after[older], predicted_at[older])

        rows: NDArray[np.int64] = np.where(after > starts, after - 1, nothing)
        if self._lookup.within is not None:
            rows[predicted_at - known_at[rows] > self._lookup.within * SECOND] = nothing
        return rows

    def _after_known(
        self, low: NDArray[np.int64], high: NDArray[np.int64], at: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The place after the last row of [low, high) known at a moment: one search for all."""
        while (low < high).any():
            middle = (low + high) // 2
            known = (self._known_at[middle] <= at) & (low < high)
            low, high = (
                np.where(known, middle + 1, low),
                np.where(known, high, np.minimum(middle, high)),
            )
        return low


def _rows_by_key(online: Snapshot, table: str) -> dict[tuple[Any, ...], Rows]:
    match online.tables.get(table):
        case AggregateTable(refreshes=refreshes):
            held = [(refresh.moment, dict(refresh.rows)) for refresh in refreshes]
            keys: dict[tuple[Any, ...], None] = {}
            for _, rows in held:
                keys |= dict.fromkeys(rows)
            rows_of: dict[tuple[Any, ...], Rows] = {}
            for key in keys:
                rows_of[key] = [(at, rows.get(key)) for at, rows in held]
            return rows_of

        case LatestTable(rows=latest):
            return {key: list(zip(of.known_at, of.values, strict=True)) for key, of in latest}

    return {}


def _values(rows: Rows, names: Sequence[str], value: str) -> list[Any]:
    """One value of each row; None where the row or the table does not have it."""
    if value not in names:
        return [None] * len(rows)
    place = names.index(value)
    return [None if values is None else values[place] for _, values in rows]


def _key_values(key: Column, exact: bool) -> list[Any]:
    values = key.plain()
    if key.kind == "datetime" and not exact:
        return [value if value is None or EARLIEST <= value < LATEST else None for value in values]
    return values


def _column(values: Sequence[Any], kind: Kind) -> Value:
    """A column of a table, with one more row that is null."""
    rows = [*values, None]
    null = np.array([value is None for value in rows])
    if kind == "string":
        return Value(text_value(rows).values, null)

    if kind == "datetime":
        moments = [moment(EPOCH if value is None else value) for value in rows]
        numbers = np.array(moments, dtype=np.int64)
        return Value(numbers, null | (numbers < FIRST) | (numbers >= LAST))

    plain = [0 if value is None else value for value in rows]
    return Value(np.array(plain, dtype=np.float64 if kind == "integer" else DTYPES[kind]), null)
