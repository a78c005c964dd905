"""The online snapshot: what the endpoint looks up for a request.

How it is published stands in `bundle.online_file`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

import msgspec

FORMAT = 1
Key = tuple[Any, ...]
Values = tuple[Any, ...]
Finder = Callable[[Key, datetime, int | None], Values | None]


class LatestRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows of one key, oldest first: when each was known, and its values."""

    known_at: tuple[datetime, ...]
    values: tuple[Values, ...]


class LatestTable(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="latest"
):
    """Newest rows per key of a source: those of the last days, and the newest older one."""

    keys: tuple[str, ...]
    values: tuple[str, ...]
    rows: tuple[tuple[Key, LatestRows], ...]


class Refresh(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Aggregates as of one daily refresh."""

    moment: datetime
    rows: tuple[tuple[Key, Values], ...]


class AggregateTable(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="aggregate"
):
    """Rolling aggregates per key, of the last refreshes, oldest first."""

    keys: tuple[str, ...]
    values: tuple[str, ...]
    refreshes: tuple[Refresh, ...]


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A snapshot as it is written: MessagePack, canonical order."""

    pipeline: str
    as_of: date
    created: datetime
    tables: dict[str, LatestTable | AggregateTable]
    version: int = FORMAT


class Snapshot:
    """Tables as of data day `as_of`.

    `created` is the data time of the newest refresh, never a wall clock. Equal data gives equal
    bytes. Times are UTC, keys and values plain Python (numbers are finite floats, or null).
    """

    def __init__(
        self,
        pipeline: str,
        as_of: date,
        created: datetime,
        tables: Mapping[str, LatestTable | AggregateTable],
    ) -> None:
        self.pipeline, self.as_of, self.created = pipeline, as_of, created
        self.tables = dict(tables)
        self._finders = {name: _finder(table) for name, table in self.tables.items()}

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(
            Document(self.pipeline, self.as_of, self.created, self.tables), order="deterministic"
        )

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.encode()).hexdigest()

    @staticmethod
    def decode(content: bytes) -> Snapshot:
        """Read a snapshot back. Raises ValueError for anything but a complete one."""
        try:
            document = msgspec.msgpack.decode(content, type=Document)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"not an online snapshot: {error}") from error
        if document.version != FORMAT:
            raise ValueError(
                f"online snapshot of format {document.version}; "
                f"this release reads format {FORMAT}, so publish it again"
            )
        for name, table in document.tables.items():
            _check(name, table)
        return Snapshot(document.pipeline, document.as_of, document.created, document.tables)

    @staticmethod
    def empty(pipeline: str, as_of: date, created: datetime) -> Snapshot:
        """A snapshot that holds nothing: every lookup is null."""
        return Snapshot(pipeline, as_of, created, {})

    def values(self, table: str) -> tuple[str, ...]:
        """Names of the values of a table; none where the snapshot has no such table."""
        return self.tables[table].values if table in self.tables else ()

    def finder(self, table: str) -> Finder:
        """The lookup of a table: (key, predicted at, within seconds) -> values, or None."""
        return self._finders.get(table, _nothing)

    def lookup(
        self, table: str, key: Key, predicted_at: datetime, within: int | None = None
    ) -> dict[str, Any] | None:
        """Values by name of the newest row of the key known at `predicted_at`.

        From a table of aggregates: those at the newest refresh. None where there is no such row or
        it is older than `within` seconds.
        """
        found = self.finder(table)(key, predicted_at, within)
        return None if found is None else dict(zip(self.values(table), found, strict=True))

    def age(self, moment: datetime) -> timedelta:
        """How old the newest refresh is at a moment of data time."""
        return moment - self.created

    def stale(self, moment: datetime, limit: timedelta = timedelta(hours=36)) -> bool:
        """Whether the snapshot was not refreshed for longer than `limit`.

        That is a daily refresh and half a day of grace.
        """
        return self.age(moment) > limit


def _nothing(key: Key, predicted_at: datetime, within: int | None) -> Values | None:
    return None


def _finder(table: LatestTable | AggregateTable) -> Finder:
    if isinstance(table, AggregateTable):
        moments = [refresh.moment for refresh in table.refreshes]
        by_key = [dict(refresh.rows) for refresh in table.refreshes]
        if not moments:
            return _nothing
        newest, of_newest = moments[-1], by_key[-1]

        def aggregate(key: Key, predicted_at: datetime, within: int | None) -> Values | None:
            # Nearly every request comes after the newest refresh.
            if predicted_at >= newest:
                return of_newest.get(key)
            position = bisect_right(moments, predicted_at)
            return by_key[position - 1].get(key) if position else None

        return aggregate
    rows = {key: (found.known_at, found.values) for key, found in table.rows}

    def latest(key: Key, predicted_at: datetime, within: int | None) -> Values | None:
        found = rows.get(key)
        if found is None:
            return None
        known_at, values = found
        position = bisect_right(known_at, predicted_at) - 1
        if position < 0 or (
            within is not None and predicted_at - known_at[position] > timedelta(seconds=within)
        ):
            return None
        return values[position]

    return latest


def _check(name: str, table: LatestTable | AggregateTable) -> None:
    """Raises ValueError for a table whose rows do not have the shape that its names promise."""
    if isinstance(table, AggregateTable):
        for refresh in table.refreshes:
            for key, values in refresh.rows:
                _check_row(name, table, key, values)
        return

    for key, of in table.rows:
        if len(of.known_at) != len(of.values):
            raise ValueError(
                f"online snapshot: table {name!r}, key {key!r}: {len(of.known_at)} times "
                f"for {len(of.values)} rows"
            )
        for values in of.values:
            _check_row(name, table, key, values)


def _check_row(name: str, table: LatestTable | AggregateTable, key: Key, values: Values) -> None:
    if len(key) != len(table.keys) or len(values) != len(table.values):
        raise ValueError(
            f"online snapshot: table {name!r}, key {key!r}: {len(values)} values "
            f"where {len(table.values)} are named"
        )
