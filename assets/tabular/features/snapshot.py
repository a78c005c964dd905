"""The online snapshot of a day: what the endpoint looks up to compute the features of a request.

The feature table computes the same values for the same requests (`point_in_time`). What both read
stands there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from assets.names import DAY
from assets.tabular.features.aggregates import REFRESH, aggregates
from assets.tabular.features.declared_program import program
from assets.tabular.features.moments import refresh, start
from assets.tabular.features.point_in_time import (
    latest_rows,
    newest_refreshes_of,
    summed_cells,
    value_names,
)
from assets.tabular.features.versions import Reader
from bundle.features.online import AggregateTable, LatestRows, LatestTable, Refresh, Snapshot
from bundle.features.program import Lookup
from declare.source import KNOWN_AT
from declare.tabular import Tabular

if TYPE_CHECKING:
    import polars as pl

# Rows of "latest" tables that a snapshot keeps: those known in the last days before its own, and
# one older per key.
SNAPSHOT_DAYS = 2


def snapshot(pipeline: Tabular, day: date, read: Reader) -> Snapshot:
    """What the endpoint looks up from the deliveries up to a day.

    The rows and aggregates that requests of that day, and of the days after it until the next
    snapshot, need.
    """
    made = program(pipeline)
    first, last = newest_refreshes_of(pipeline, day, day)
    summed = summed_cells(pipeline, made, read, day, day)
    tables: dict[str, LatestTable | AggregateTable] = {}
    for lookup in made.lookups:
        if lookup.kind == "aggregate":
            what, found = summed[lookup.source]
            tables[lookup.table] = _aggregate_table(
                pipeline, lookup, aggregates(what, lookup, found, first, last), first, last
            )
        elif lookup.table not in tables:
            sharing = [other for other in made.lookups if other.table == lookup.table]
            tables[lookup.table] = _latest_table(pipeline, sharing, read, day)
    return Snapshot(pipeline.name, day, refresh(pipeline, day), tables)


def _aggregate_table(
    pipeline: Tabular, lookup: Lookup, values: pl.DataFrame, first: date, last: date
) -> AggregateTable:
    import polars as pl

    width = len(lookup.keys)
    refreshes = []
    for offset in range((last - first).days + 1):
        day = first + offset * DAY
        rows = (
            values.filter(pl.col(REFRESH) == day)
            .select(*lookup.keys, *lookup.values)
            .sort(*lookup.keys or lookup.values)
            .rows()
        )
        refreshes.append(
            Refresh(refresh(pipeline, day), tuple((row[:width], row[width:]) for row in rows))
        )
    return AggregateTable(lookup.keys, lookup.values, tuple(refreshes))


def _latest_table(
    pipeline: Tabular, lookups: Sequence[Lookup], read: Reader, day: date
) -> LatestTable:
    import polars as pl

    keys, values = lookups[0].columns, tuple(value_names(lookups))
    withins = [lookup.within for lookup in lookups]
    longest = None if None in withins else max(within for within in withins if within is not None)
    kept_from = start(pipeline, day) - pipeline.lead - SNAPSHOT_DAYS * DAY
    rows = latest_rows(
        pipeline,
        lookups,
        read,
        kept_from - timedelta(seconds=longest or 0),
        start(pipeline, day + DAY) - timedelta(microseconds=1),
    )
    newest_older = rows.filter(pl.col(KNOWN_AT) < kept_from).unique(
        list(keys), keep="last", maintain_order=True
    )
    kept = pl.concat([newest_older, rows.filter(pl.col(KNOWN_AT) >= kept_from)]).sort(
        *keys, KNOWN_AT
    )
    by_key: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for row in kept.select(*keys, KNOWN_AT, *(f"={value}" for value in values)).iter_rows():
        by_key.setdefault(row[: len(keys)], []).append(row[len(keys) :])
    found: list[tuple[tuple[Any, ...], LatestRows]] = []
    for key, of in by_key.items():
        known = tuple(row[0] for row in of)
        found.append((key, LatestRows(known, tuple(row[1:] for row in of))))

    return LatestTable(keys, values, tuple(found))
