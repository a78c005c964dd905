"""Days that are judged again: labels may come, or be corrected, after a day's report was made.

The first report of a day stays, for it is what the day's decision knew. What later labels make of
it is a new version beside it, as known on a later day. How a report is computed belongs to `daily`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

from assets.data.raw import reader
from assets.names import DAY
from assets.reporting.report import Report, load_report, save_report
from assets.tabular.features.moments import label_lag, of_local_day, refresh, stamped
from assets.tabular.monitoring.champion import NOBODY
from assets.tabular.monitoring.daily import Days, monitor_day
from assets.tabular.monitoring.monitors import Monitor
from declare.source import DATE, EVENT_TIME, KNOWN_AT

if TYPE_CHECKING:
    from declare.tabular import Tabular
    from resources.lake import Lake

# Deliveries in which later labels are looked for: those of so many days before a day.
REACH_DAYS = 60


class Rejudged(NamedTuple):
    """The first report of a day, and what it would be with the labels that came since."""

    first: Report
    newer: Report


def version_name(monitor: str, known_on: date) -> str:
    """The name of a report's later version: `performance/as_known_on/2013-04-09`."""
    return f"{monitor}/as_known_on/{known_on.isoformat()}"


def judge_again(monitor: Monitor, days: Days, known_on: date) -> list[Rejudged]:
    """Judge earlier days again, as known on a day, and store what differs as new versions.

    Each day is judged again once, a whole window of days after its first report, when nearly all
    labels are known. After that it is judged again whenever labels of its window came or changed.
    """
    found = []
    for day in due_again(days.pipeline, days.lake, known_on):
        again = days.as_known_on(day, known_on)
        subject = again.subject(day)
        first = None
        if subject != NOBODY:
            first = load_report(days.reports, days.pipeline.name, monitor.name, day, subject)
        if first is None:
            continue

        newer = monitor_day(monitor, again, day)
        if newer.measures != first.measures:
            version = newer.model_copy(update={"name": version_name(monitor.name, known_on)})
            save_report(days.reports, version)
            found.append(Rejudged(first, newer))
    return found


def due_again(pipeline: Tabular, lake: Lake, known_on: date) -> list[date]:
    """Days whose reports are judged again on a day, in order."""
    width, lag = pipeline.monitors.performance_days, label_lag(pipeline)
    settled = known_on - width * DAY

    windows = set()
    for event_day in changed_label_days(pipeline, lake, known_on):
        windows |= {event_day + (lag + offset) * DAY for offset in range(width)}

    older = {day for day in windows if day < settled}
    return sorted({settled, *older})


def changed_label_days(pipeline: Tabular, lake: Lake, known_on: date) -> set[date]:
    """Event days of the label rows that became known in the day before a day's refresh."""
    import polars as pl

    after, until = refresh(pipeline, known_on - DAY), refresh(pipeline, known_on)
    read = reader(lake, pipeline.name)
    try:
        rows = read(pipeline.label.source, known_on - REACH_DAYS * DAY, known_on)
    except FileNotFoundError:
        return set()

    told = stamped(pipeline, rows.select(EVENT_TIME, KNOWN_AT, DATE))
    new = told.filter((pl.col(KNOWN_AT) > after) & (pl.col(KNOWN_AT) <= until))
    event_days = new.select(of_local_day(pipeline, pl.col(EVENT_TIME)).unique().alias(DATE))
    return set(event_days.collect().get_column(DATE))


def table_rows(rejudged: Iterable[Rejudged]) -> list[tuple[str, ...]]:
    """One row a day: log loss and labelled rows of the first report and of the newer version."""
    return [(str(each.first.day), *_shown(each.first), *_shown(each.newer)) for each in rejudged]


HEADER = ("day", "log loss then", "labelled then", "log loss now", "labelled now")


def _shown(report: Report) -> tuple[str, str]:
    loss = report.measure("log_loss")
    if loss is None or loss.value is None:
        return "–", "0"
    return f"{loss.value:.4f}", f"{loss.n:,}"
