"""Names of assets and lake tables, and the days that partition them: made here and nowhere else.

An asset's name is its key below the pipeline's name, as people write it: `features`, `raw/weather`,
`validation/rollout`. Names that more than one room uses stand here. Names that only one stage uses
stand in that stage. What an asset computes, and when, belongs to its stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import dagster as dg

if TYPE_CHECKING:
    from declare.pipeline import Pipeline

DAY = timedelta(days=1)

RAW, QUARANTINE = "raw", "quarantine"
FEATURES, ONLINE_FEATURES = "features", "online_features"
TRAINING_SET, STUDY, BASELINE, CANDIDATE = "training_set", "tuning_study", "baseline", "candidate"
BUNDLE, APPROVAL, RELEASE = "bundle", "approval", "release"
ENDPOINT = "endpoint"
PREDICTIONS = "predictions"
ROLLOUT, EXPERIMENT = "validation/rollout", "validation/experiment"
RETRAINING_DECISION = "retraining_decision"


def asset_path(pipeline: str, name: str) -> str:
    """The whole name of an asset: `flight_delays/features`. Its lake table has that name too."""
    return f"{pipeline}/{name}"


def asset_key(pipeline: str, name: str) -> dg.AssetKey:
    """The Dagster key of an asset."""
    return dg.AssetKey([pipeline, *name.split("/")])


def asset_name(key: dg.AssetKey) -> str:
    """The name of an asset below its pipeline, from its Dagster key."""
    return "/".join(key.path[1:])


def asset_op(pipeline: str, name: str) -> str:
    """The name of an asset's step, as run configuration calls it."""
    return "__".join((pipeline, *name.split("/")))


def raw_name(source: str) -> str:
    """The name of the asset that holds a source's raw rows."""
    return f"{RAW}/{source}"


def raw_table(pipeline: str, source: str) -> str:
    """The lake table of a source's raw rows."""
    return asset_path(pipeline, raw_name(source))


def quarantine_table(pipeline: str, source: str) -> str:
    """The lake table of the rows that broke a source's contract. It is no asset of its own."""
    return asset_path(pipeline, f"{QUARANTINE}/{source}")


def days(pipeline: Pipeline) -> dg.DailyPartitionsDefinition:
    """Local days from `pipeline.start` to `pipeline.end`, both included. No `end`: for ever."""
    return _days(pipeline.start, pipeline.end, pipeline.timezone)


@lru_cache(maxsize=64)
def _days(start: date, end: date | None, timezone: str) -> dg.DailyPartitionsDefinition:
    # Dagster's end is the first day that is no partition.
    after = None if end is None else (end + DAY).isoformat()
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
    """The UTC moment at `after_midnight` of wall time on a local day.

    04:00 is 04:00 also on days on which the clock changes.
    """
    # Adding to an aware local datetime is wall-time arithmetic.
    midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(timezone))
    return (midnight + after_midnight).astimezone(ZoneInfo("UTC"))


def day_range(first: date, last: date) -> list[date]:
    """All days from `first` to `last`, both included."""
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
