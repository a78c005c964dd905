"""The monitors of a day.

Each gathers what it compares, computes its report, and says so where there was nothing to compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from assets.names import FEATURES, PREDICTIONS, asset_path
from assets.reporting.report import Measure, Report, Verdict
from assets.tabular.features.moments import label_lag, refresh
from assets.tabular.monitoring import champion, live_fairness, performance, service, skew
from assets.tabular.monitoring.champion import NOBODY, Served
from assets.tabular.monitoring.drift import report as feature_drift
from assets.tabular.monitoring.monitors import (
    DATA_DRIFT,
    FAIRNESS,
    PERFORMANCE,
    PREDICTION_DRIFT,
    SERVICE,
    SKEW,
    Monitor,
)
from assets.tabular.monitoring.predictions import as_used, empty
from assets.traffic.entries import LedgerEntry, entries as read_entries
from bundle.records.service import Sample, read as read_samples

if TYPE_CHECKING:
    import polars as pl

    from assets.tabular.monitoring.drift.reference import Reference
    from declare.tabular import Tabular
    from resources.artifacts import Artifacts
    from resources.lake import Lake
    from resources.ledger import Ledger
    from resources.reports import Reports

# An alarm that comes back within a week is the same alarm: its page exists, and the weekly one
# follows.
ALARM_DAYS = 7

Result = tuple[tuple[Measure, ...], tuple[Verdict, ...], tuple[str, ...]]


@dataclass
class Days:
    """What a monitor of a run of days reads, each thing once.

    `first` and `last` are the days of the run. `windowed` monitors read predictions of the window
    before them as well. Labels are those known at each day's refresh, or at that of `known_on`.
    """

    pipeline: Tabular
    first: date
    last: date
    lake: Lake
    artifacts: Artifacts
    ledger: Ledger
    reports: Reports
    samples_folders: Sequence[Path]
    windowed: bool = True
    known_on: date | None = None
    _served: dict[str, Served] = field(default_factory=dict)
    _references: dict[str, Reference] = field(default_factory=dict)

    @property
    def table(self) -> str:
        return asset_path(self.pipeline.name, PREDICTIONS)

    @cached_property
    def entries(self) -> list[LedgerEntry]:
        return read_entries(self.ledger, self.pipeline.name)

    @cached_property
    def predictions(self) -> pl.DataFrame:
        """Predictions of the run's days, and of the window before them.

        Where there are none: no rows, and the fixed columns alone.
        """
        first = self.window(self.first)[0] if self.windowed else self.first
        try:
            return self.lake.scan(self.table, first, self.last).collect()
        except FileNotFoundError:
            return empty(self.pipeline)

    def of(self, day: date) -> pl.DataFrame:
        """Predictions about events of a day."""
        import polars as pl

        return self.predictions.filter(pl.col("date") == day)

    def answered(self, day: date, served: Served) -> pl.DataFrame:
        """The predictions of a day that one bundle made, with the features that it used."""
        import polars as pl

        return as_used(self.of(day).filter(pl.col("bundle") == served.bundle), served.program)

    def features(self, day: date) -> pl.DataFrame:
        """The feature table of a day."""

        return self.lake.scan(asset_path(self.pipeline.name, FEATURES), day, day).collect()

    def samples(self, day: date) -> list[Sample]:
        """The endpoint's samples of the wall time in which the day's predictions were answered."""
        window = service.wall_window(self.of(day))
        if window is None:
            return []
        read = (read_samples(folder, *window) for folder in self.samples_folders)
        return list(chain.from_iterable(read))

    def subject(self, day: date) -> str:
        return champion.subject(self.of(day), self.entries, day)

    def served(self, bundle: str) -> Served:
        if bundle not in self._served:
            self._served[bundle] = champion.load(self.artifacts, self.entries, bundle)
        return self._served[bundle]

    def reference(self, served: Served) -> Reference:
        if served.bundle not in self._references:
            found = champion.load_reference(
                self.pipeline, served, self.artifacts, self.lake, self.reports
            )
            self._references[served.bundle] = found
        return self._references[served.bundle]

    def refreshed(self, day: date) -> datetime:
        """The moment of a day up to which labels have matured for its monitors."""
        return refresh(self.pipeline, self.known_on or day)

    def as_known_on(self, day: date, known_on: date) -> Days:
        """The same for one earlier day, with the labels known at a later day's refresh."""
        return replace(
            self, first=day, last=day, known_on=known_on, _served=self._served,
            _references=self._references,
        )  # fmt: skip

    def window(self, day: date) -> tuple[date, date]:
        """First and last event day that the performance of a day looks at."""
        newest = day - timedelta(days=label_lag(self.pipeline))
        return performance.window(newest, self.pipeline.monitors.performance_days)

    def matured(self, day: date) -> pl.DataFrame:
        """Predictions of the window before a day with the labels known at its refresh."""
        import polars as pl

        from assets.data.raw import reader
        from assets.tabular.features.point_in_time import labels

        first, last = self.window(day)
        predictions = self.predictions.filter(pl.col("date").is_between(first, last))
        if predictions.is_empty():
            return predictions.with_columns(y=pl.lit(None, dtype=pl.Float64))
        known = labels(
            self.pipeline, reader(self.lake, self.pipeline.name), first, last, self.known_on or day
        )
        return performance.matured(
            predictions, known, self.pipeline.entity, self.pipeline.label.name, self.refreshed(day)
        )


def monitor_day(monitor: Monitor, days: Days, day: date) -> Report:
    """The report of a day. On a day when nothing was served it says so, and judges nothing."""
    subject = days.subject(day)
    if subject == NOBODY:
        verdicts = tuple(
            not_judged(rule, "nothing was served on this day, and nothing is released")
            for rule in monitor.rules(days.pipeline)
        )
        notes: tuple[str, ...] = (f"Nothing was served by {day}: there is nothing to monitor.",)
        return Report(
            pipeline=days.pipeline.name,
            name=monitor.name,
            subject=NOBODY,
            day=day,
            verdicts=verdicts,
            notes=notes,
        )
    measures, verdicts, notes = COMPUTED[monitor.name](days, day, days.served(subject))
    bundles = sorted(set(days.of(day)["bundle"].to_list()))
    if len(bundles) > 1:
        answered = ", ".join(each[:12] for each in bundles)
        notes = (
            *notes,
            f"{len(bundles)} bundles answered on this day ({answered}); "
            f"this speaks of {subject[:12]}.",
        )
    return Report(
        pipeline=days.pipeline.name,
        name=monitor.name,
        subject=subject,
        day=day,
        measures=measures,
        verdicts=verdicts,
        notes=notes,
    )


def not_judged(rule: str, reason: str) -> Verdict:
    return Verdict(rule=rule, passed=None, value=None, limit=None, n=0, reason=reason)


def _data_drift(days: Days, day: date, served: Served) -> Result:
    return feature_drift.data_drift(
        days.answered(day, served), days.reference(served), days.pipeline.monitors
    )


def _prediction_drift(days: Days, day: date, served: Served) -> Result:
    return feature_drift.prediction_drift(
        days.answered(day, served), days.reference(served).output, days.pipeline.monitors
    )


def _performance(days: Days, day: date, served: Served) -> Result:
    return performance.performance(
        days.matured(day), served.bundle, served.test, served.test_rows, days.pipeline.monitors
    )


def _skew(days: Days, day: date, served: Served) -> Result:
    online = days.answered(day, served)
    words = served.program.vocabularies
    kinds = {
        name: frozenset(words.get(name, ())) if categorical else None
        for name, categorical in zip(served.program.names, served.program.categorical, strict=True)
    }
    return skew.report(
        skew.compare(online, days.features(day), days.pipeline.entity, kinds),
        days.pipeline.monitors,
    )


def _fairness(days: Days, day: date, served: Served) -> Result:
    return live_fairness.report(
        as_used(days.matured(day), served.program), served.bundle, days.pipeline
    )


def _service(days: Days, day: date, served: Served) -> Result:
    return service.report(
        days.of(day), days.samples(day), days.pipeline.name, days.pipeline.monitors
    )


COMPUTED: Mapping[str, Callable[[Days, date, Served], Result]] = {
    DATA_DRIFT: _data_drift,
    PREDICTION_DRIFT: _prediction_drift,
    PERFORMANCE: _performance,
    SKEW: _skew,
    FAIRNESS: _fairness,
    SERVICE: _service,
}
"""What computes a day of each monitor."""
