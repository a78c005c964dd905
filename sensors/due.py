"""Which days are due, in data time.

It follows from what was delivered and what was processed, never from the clock on the wall.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

from assets.names import DAY, day_range


@dataclass(frozen=True)
class Due:
    """A range of days, both ends included, that one stage of the nightly work has to process."""

    stage: Literal["ingest", "monitor"]
    first: date
    last: date


def data_day(delivered: Mapping[str, Collection[date]]) -> date | None:
    """Today in data time: the newest day by which every daily source has delivered.

    A source that has delivered a later day counts. None before that.
    """
    if not delivered or not all(delivered.values()):
        return None
    return min(max(days) for days in delivered.values())


def due(
    delivered: Mapping[str, Collection[date]],
    ingested: Collection[date],
    monitored: Collection[date],
    served_since: date | None,
    start: date,
) -> list[Due]:
    """The next range of days to process of each stage that has any; both may be worked on at once.

    Days up to today are ingested unless they are `ingested` from the files that lie there. A day is
    monitored once it is over, that is when the next day has been delivered, from what was known by
    then: it waits for its own features, not for those of the next day. Before anything has been
    served, only the newest finished day is: it asks for the first model.
    """
    today = data_day(delivered)
    if today is None:
        return []

    first_delivery = max(start, min(min(days) for days in delivered.values()))
    pending = [day for day in day_range(first_delivery, today) if day not in ingested]

    yesterday = today - DAY
    finished = day_range(max(served_since, start), yesterday) if served_since else [yesterday]
    unseen = [day for day in finished if day in ingested and day not in monitored]

    stages: list[tuple[Literal["ingest", "monitor"], list[date]]] = [
        ("ingest", pending),
        ("monitor", unseen),
    ]
    return [Due(stage, *_first_run(days)) for stage, days in stages if days]


def _first_run(days: list[date]) -> tuple[date, date]:
    """The first and last day of the first unbroken run of days."""
    last = days[0]
    for day in days[1:]:
        if day != last + DAY:
            break
        last = day
    return days[0], last
