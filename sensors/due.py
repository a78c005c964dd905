"""Which days are due, in data time: from what was delivered and what was processed, never from the clock on the wall."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Due:
    """A range of days, both ends included, that one stage of the nightly work has to process."""

    stage: Literal["ingest", "monitor"]
    first: date
    last: date


def data_day(delivered: Mapping[str, Collection[date]]) -> date | None:
    """Today in data time: the newest day on which, or after which, every daily source has delivered. None before that."""
    if not delivered or not all(delivered.values()):
        return None
    return min(max(days) for days in delivered.values())


def due(
    delivered: Mapping[str, Collection[date]],
    featured: Collection[date],
    monitored: Collection[date],
    served_since: date | None,
    start: date,
    redelivered: Collection[date] = (),
    reach: int = 0,
) -> Due | None:
    """The next range of days to process, None when everything is.

    Days up to today are ingested first: those without features, or, where a processed day was `redelivered`, that day and
    the `reach` days after it, whose aggregates read it. A day is monitored once it is over, that is when the next day has
    been delivered. Before anything has been served, only the newest finished day is: it asks for the first model.
    """
    today = data_day(delivered)
    if today is None:
        return None
    first_delivery = max(start, min(min(days) for days in delivered.values()))
    stale = {day + DAY * offset for day in redelivered for offset in range(reach + 1)}
    pending = [day for day in _days(first_delivery, today) if day not in featured or day in stale]
    if pending:
        return Due("ingest", *_first_run(pending))
    yesterday = today - DAY
    finished = _days(max(served_since, start), yesterday) if served_since else [yesterday]
    pending = [day for day in finished if day in featured and day not in monitored]
    return Due("monitor", *_first_run(pending)) if pending else None


def _days(first: date, last: date) -> list[date]:
    return [first + DAY * offset for offset in range((last - first).days + 1)]


def _first_run(days: list[date]) -> tuple[date, date]:
    """The first and last day of the first unbroken run of days."""
    last = days[0]
    for day in days[1:]:
        if day != last + DAY:
            break
        last = day
    return days[0], last
