"""Moments of data time: local days, predictions and daily refreshes of a pipeline.

Everything is UTC; a local day is one of the pipeline's time zone, 23 to 25 hours long.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from assets.data.source import DATE, EVENT_TIME, KNOWN_AT
from assets.declaration import Pipeline

if TYPE_CHECKING:
    import polars as pl

DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)


def start(pipeline: Pipeline, day: date) -> datetime:
    """The first moment of a local day."""
    return datetime.combine(day, time(), ZoneInfo(pipeline.timezone)).astimezone(UTC)


def refresh(pipeline: Pipeline, day: date) -> datetime:
    """When the aggregates of a day are computed; what is known later does not count in them."""
    return start(pipeline, day) + pipeline.refresh


def local_day(pipeline: Pipeline, moment: datetime) -> date:
    return moment.astimezone(ZoneInfo(pipeline.timezone)).date()


def newest_refresh(pipeline: Pipeline, moment: datetime) -> date:
    """Day of the newest refresh at a moment: refresh(D) <= moment < refresh(D + 1)."""
    return local_day(pipeline, moment - pipeline.refresh)


def of_local_day(pipeline: Pipeline, moment: pl.Expr) -> pl.Expr:
    """Local day of each moment."""
    return moment.dt.convert_time_zone(pipeline.timezone).dt.date()


def of_newest_refresh(pipeline: Pipeline, moment: pl.Expr) -> pl.Expr:
    """Day of the newest refresh at each moment."""
    return of_local_day(pipeline, moment - pipeline.refresh)


def of_first_refresh(pipeline: Pipeline, known_at: pl.Expr) -> pl.Expr:
    """Day of the first refresh that sees what is known at each moment: the smallest D with refresh(D) >= known_at."""
    return of_local_day(pipeline, known_at - pipeline.refresh - MICROSECOND) + DAY


def stamped(pipeline: Pipeline, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Raw rows with their times in UTC microseconds, and `known_at` no earlier than the day of their delivery.

    A delivery cannot tell what was known before it came; without this, one that dates itself back would change
    partitions that were computed already. Columns: those of `rows` less `date`.
    """
    import polars as pl

    utc = pl.Datetime("us", "UTC")
    names = rows.collect_schema().names()
    known = pl.col(KNOWN_AT).cast(utc)
    if DATE in names:
        # max_horizontal skips nulls: rows without a day of delivery keep what they say. (Local midnight; earliest where there are two.)
        midnight = pl.col(DATE).cast(pl.Datetime("us")).dt.replace_time_zone(pipeline.timezone, ambiguous="earliest", non_existent="null")
        known = pl.max_horizontal(known, midnight.dt.convert_time_zone("UTC"))
    return rows.with_columns(pl.col(EVENT_TIME).cast(utc), known.alias(KNOWN_AT)).drop(DATE, strict=False)
