"""Redelivery: files of a day that was stored already bring new versions of rows, never other rows.

What was known stays known. A row that a redelivery tells differently is appended with a `known_at`
of its own, so that features and training sets of earlier moments do not change. Parsing and judging
files belong to their own modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from declare.source import DATE, KNOWN_AT, Source

if TYPE_CHECKING:
    import polars as pl

Row = dict[str, Any]
Version = tuple[object, ...]

INSTANT = timedelta(microseconds=1)
# Rows appended by one redelivery are known within this time of its moment.
SPAN = timedelta(minutes=1)


def with_new_versions(
    source: Source, stored: pl.DataFrame, delivered: pl.DataFrame, moment: datetime, *, same: bool
) -> pl.DataFrame:
    """The stored rows of one delivery, with what its redelivery tells anew.

    Both frames have the columns of the source's stored rows. Rows are compared by its keys.
    The versions of a key that are stored already change nothing; others are appended, in their
    order, with a `known_at` just after `moment`. `same` says that the files are those that were
    stored: then only keys that have no stored row are appended (a contract that was widened).

    What an interrupted attempt appended at `moment`, which no prediction has seen yet, is replaced.
    """
    import polars as pl

    known = stored
    if not same:
        unseen = pl.col(KNOWN_AT).is_between(moment, moment + SPAN, closed="right")
        known = stored.filter(~unseen)
    keys = pl.concat(
        [_apart(delivered, known), _apart(_of_keys(known, delivered, source.keys), delivered)]
    )
    keys = keys.select(source.keys).unique()
    if keys.is_empty():
        return known

    before = _by_key(source, _of_keys(known, keys, source.keys))
    after = _by_key(source, _of_keys(delivered, keys, source.keys))

    appended: list[Row] = []
    for key, rows in after.items():
        old = before.get(key, [])
        if not old:
            appended += _stamped(rows, moment)
        elif not same:
            appended += _stamped(_news(old, rows), moment)

    return pl.concat([known, pl.DataFrame(appended, schema=known.schema)])


def _apart(rows: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Rows that are not among others to the last value."""
    return rows.join(others, on=rows.columns, how="anti", nulls_equal=True)


def _of_keys(rows: pl.DataFrame, others: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Rows whose keys others have."""
    return rows.join(others, on=list(keys), how="semi", nulls_equal=True)


def _by_key(source: Source, rows: pl.DataFrame) -> dict[Version, list[Row]]:
    """Rows of each key in the order in which they became known."""
    found: dict[Version, list[Row]] = {}
    for row in rows.sort(KNOWN_AT).iter_rows(named=True):
        found.setdefault(tuple(row[key] for key in source.keys), []).append(row)
    return found


def _news(old: list[Row], rows: list[Row]) -> list[Row]:
    """The rows that tell something other than the newest stored versions do."""
    told, telling = [_content(row) for row in old], [_content(row) for row in rows]
    if told[-len(telling) :] == telling:
        return []

    common = 0
    while common < min(len(told), len(telling)) and told[common] == telling[common]:
        common += 1
    # All of it was told before, and something else since: it is told again.
    return rows if common == len(rows) else rows[common:]


def _content(row: Row) -> Version:
    return tuple(value for name, value in row.items() if name not in (KNOWN_AT, DATE))


def _stamped(rows: list[Row], moment: datetime) -> list[Row]:
    """Rows known from just after a moment on, one after the other."""
    return [
        {**row, KNOWN_AT: max(row[KNOWN_AT], moment + index * INSTANT)}
        for index, row in enumerate(rows, 1)
    ]
