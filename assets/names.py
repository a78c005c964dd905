"""Daily partitions of a pipeline, in its own timezone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import dagster as dg

if TYPE_CHECKING:
    from declare.pipeline import Pipeline


def days(pipeline: Pipeline) -> dg.DailyPartitionsDefinition:
    """Local days from `pipeline.start` to `pipeline.end` (both included; open where there is no end)."""
    return _days(pipeline.start, pipeline.end, pipeline.timezone)


@lru_cache(maxsize=64)
def _days(start: date, end: date | None, timezone: str) -> dg.DailyPartitionsDefinition:
    # Dagster's end is the first day that is no partition.
    after = None if end is None else (end + timedelta(days=1)).isoformat()
    return dg.DailyPartitionsDefinition(
        start_date=start.isoformat(), end_date=after, timezone=timezone
    )


def keys_to_days(keys: Iterable[str]) -> list[date]:
    """Partition keys as dates, in order."""
    return sorted(date.fromisoformat(key) for key in keys)


def local_day(moment: datetime, timezone: str) -> date:
    """The local day of an aware moment."""
    return moment.astimezone(ZoneInfo(timezone)).date()


def local_moment(day: date, timezone: str, after_midnight: timedelta = timedelta(0)) -> datetime:
    """The moment `after_midnight` of wall time into a local day (so 04:00 is 04:00 on days that change the clock too)."""
    # Adding to an aware local datetime is wall-time arithmetic.
    midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(timezone))
    return (midnight + after_midnight).astimezone(ZoneInfo("UTC"))


def day_range(first: date, last: date) -> list[date]:
    """All days from `first` to `last`, both included."""
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
