"""Moments of data time: local days, predictions and daily refreshes of a pipeline.

Everything is UTC; a local day is one of the pipeline's time zone, 23 to 25 hours long.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

from assets.names import DAY
from declare.source import DATE, EVENT_TIME, KNOWN_AT
from declare.tabular import Tabular

if TYPE_CHECKING:
    import polars as pl


def start(pipeline: Tabular, day: date) -> datetime:
    """The first moment of a local day."""
    return datetime.combine(day, time(), ZoneInfo(pipeline.timezone)).astimezone(UTC)


def refresh(pipeline: Tabular, day: date) -> datetime:
    """When the aggregates of a day are computed; what is known later does not count in them.

    Wall time: a refresh at 04:00 is at 04:00 on days that change the clock too.
    """
    # Adding to an aware local datetime is wall-time arithmetic.
    return (
        datetime.combine(day, time(), ZoneInfo(pipeline.timezone)) + pipeline.refresh
    ).astimezone(UTC)


def label_lag(pipeline: Tabular) -> int:
    """How many days before a refresh the newest day lies whose labels are all mature then."""
    beyond = pipeline.label.matures_after - pipeline.refresh
    return 1 + max(0, math.ceil(beyond / DAY))


def local_day(pipeline: Tabular, moment: datetime) -> date:
    return moment.astimezone(ZoneInfo(pipeline.timezone)).date()


def newest_refresh(pipeline: Tabular, moment: datetime) -> date:
    """Day of the newest refresh at a moment: refresh(D) <= moment < refresh(D + 1)."""
    day = local_day(pipeline, moment)
    while refresh(pipeline, day) > moment:
        day -= DAY
    return day


def of_local_day(pipeline: Tabular, moment: pl.Expr) -> pl.Expr:
    """Local day of each moment."""
    return moment.dt.convert_time_zone(pipeline.timezone).dt.date()


def newest_refreshes(pipeline: Tabular, moments: pl.Series) -> pl.Series:
    """Day of the newest refresh at each moment."""
    return _searched(pipeline, moments, "right", -1)


def first_refreshes(pipeline: Tabular, known_at: pl.Series) -> pl.Series:
    """Day of the first refresh that sees what is known at each moment.

    The smallest D with refresh(D) >= known_at.
    """
    return _searched(pipeline, known_at, "left", 0)


def _searched(
    pipeline: Tabular, moments: pl.Series, side: Literal["left", "right"], offset: int
) -> pl.Series:
    import polars as pl

    earliest, latest = moments.min(), moments.max()
    if not isinstance(earliest, datetime) or not isinstance(latest, datetime):
        return pl.Series(moments.name, [None], dtype=pl.Date).new_from_index(0, len(moments))
    first = newest_refresh(pipeline, earliest)
    days = (newest_refresh(pipeline, latest) - first).days + 2
    refreshes = pl.Series(
        [refresh(pipeline, first + index * DAY) for index in range(days)],
        dtype=pl.Datetime("us", "UTC"),
    )
    found = refreshes.to_physical().search_sorted(moments.fill_null(earliest).to_physical(), side)
    epoch_day = (first - date(1970, 1, 1)).days + offset
    return (
        (found.cast(pl.Int32) + epoch_day)
        .cast(pl.Date)
        .set(moments.is_null(), None)
        .alias(moments.name)
    )


def stamped(pipeline: Tabular, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Raw rows with times in UTC microseconds, and `known_at` no earlier than their delivery day.

    A delivery cannot tell what was known before it came; without this, one that dates itself back
    would change partitions that were computed already. Columns: those of `rows` less `date`.
    """
    import polars as pl

    utc = pl.Datetime("us", "UTC")
    names = rows.collect_schema().names()
    known = pl.col(KNOWN_AT).cast(utc)
    if DATE in names:
        # A day begins at midnight, at the earlier one where there are two, at 01:00 where there is
        # none.
        begins = pl.coalesce(
            (pl.col(DATE).cast(pl.Datetime("us")) + later).dt.replace_time_zone(
                pipeline.timezone, ambiguous="earliest", non_existent="null"
            )
            for later in (timedelta(0), timedelta(hours=1))
        )
        # max_horizontal skips nulls: rows without a day of delivery keep what they say.
        known = pl.max_horizontal(known, begins.dt.convert_time_zone("UTC"))
    return rows.with_columns(pl.col(EVENT_TIME).cast(utc), known.alias(KNOWN_AT)).drop(
        DATE, strict=False
    )
