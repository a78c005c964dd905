"""The monitors of a day: each gathers what it compares, computes its report, and says so where there was nothing to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from assets.monitoring import champion, feature_drift, live_fairness, performance, service, skew
from assets.monitoring.champion import NOBODY, Served
from assets.partitions import local_moment
from resources.reports import Measure, Report, Verdict

if TYPE_CHECKING:
    import polars as pl

    from assets.declaration import Pipeline
    from assets.monitoring.drift import Reference
    from resources.artifacts import Artifacts
    from resources.lake import Lake
    from resources.ledger import Entry, Ledger
    from resources.reports import Reports

DATA_DRIFT, PREDICTION_DRIFT, PERFORMANCE = "monitoring/data_drift", "monitoring/prediction_drift", "monitoring/performance"
SKEW, FAIRNESS, SERVICE = "monitoring/skew", "monitoring/fairness", "monitoring/service"

Result = tuple[tuple[Measure, ...], tuple[Verdict, ...], tuple[str, ...]]


class Monitor(NamedTuple):
    """One monitor: the name of its report, the rules that it judges, and what computes a day."""

    name: str
    rules: Callable[[Pipeline], tuple[str, ...]]
    day: Callable[[Days, date, str, Served | None], Result]


@dataclass
class Days:
    """What the monitors of a run of days read, each thing once. `first` and `last` are the days of the run."""

    pipeline: Pipeline
    first: date
    last: date
    lake: Lake
    artifacts: Artifacts
    ledger: Ledger
    reports: Reports
    _served: dict[str, Served] = field(default_factory=dict)
    _references: dict[str, Reference] = field(default_factory=dict)

    @property
    def table(self) -> str:
        return predictions_table(self.pipeline.name)

    @cached_property
    def entries(self) -> list[Entry]:
        return self.ledger.entries(self.pipeline.name)

    @cached_property
    def predictions(self) -> pl.DataFrame:
        """Predictions of the run's days and of the window before them; without rows and with the fixed columns alone where there are none."""
        from assets.monitoring.predictions import empty

        first, _ = performance.window(self.first, self.pipeline.monitors.performance_days)
        try:
            return self.lake.scan(self.table, first, self.last).collect()
        except FileNotFoundError:
            return empty(self.pipeline)

    def of(self, day: date) -> pl.DataFrame:
        """Predictions about events of a day."""
        import polars as pl

        return self.predictions.filter(pl.col("date") == day)

    def answered(self, day: date, bundle: str) -> pl.DataFrame:
        """The predictions of a day that one bundle made."""
        import polars as pl

        return self.of(day).filter(pl.col("bundle") == bundle)

    def subject(self, day: date) -> str:
        return champion.subject(self.of(day), self.entries, day)

    def served(self, bundle: str) -> Served:
        if bundle not in self._served:
            self._served[bundle] = champion.load(self.artifacts, self.entries, bundle)
        return self._served[bundle]

    def reference(self, served: Served) -> Reference:
        if served.bundle not in self._references:
            found = champion.load_reference(self.pipeline, served, self.artifacts, self.lake, self.reports)
            self._references[served.bundle] = found
        return self._references[served.bundle]

    def refreshed(self, day: date) -> datetime:
        """The moment of a day up to which labels have matured for its monitors."""
        return local_moment(day, self.pipeline.timezone, self.pipeline.refresh)

    def matured(self, day: date) -> pl.DataFrame:
        """Predictions of the window before a day with the labels known at its refresh."""
        import polars as pl

        from assets.data.raw import reader
        from assets.features.point_in_time import labels

        first, last = performance.window(day, self.pipeline.monitors.performance_days)
        predictions = self.predictions.filter(pl.col("date").is_between(first, last))
        if predictions.is_empty():
            return predictions.with_columns(y=pl.lit(None, dtype=pl.Float64))
        known = labels(self.pipeline, reader(self.lake, self.pipeline.name), first, last, day)
        return performance.matured(predictions, known, self.pipeline.entity, self.pipeline.label.name, self.refreshed(day))


def predictions_table(pipeline: str) -> str:
    """Lake table of a pipeline's compacted prediction log."""
    return f"{pipeline}/predictions"


def monitor_day(monitor: Monitor, days: Days, day: date) -> Report:
    """The report of a day. On a day when nothing was served it says so, and judges nothing."""
    subject = days.subject(day)
    if subject == NOBODY:
        verdicts = tuple(not_judged(rule, "nothing was served on this day, and nothing is released") for rule in monitor.rules(days.pipeline))
        notes: tuple[str, ...] = (f"Nothing was served by {day}: there is nothing to monitor.",)
        return Report(pipeline=days.pipeline.name, name=monitor.name, subject=NOBODY, day=day, verdicts=verdicts, notes=notes)
    measures, verdicts, notes = monitor.day(days, day, subject, days.served(subject))
    bundles = sorted(set(days.of(day)["bundle"].to_list()))
    if len(bundles) > 1:
        notes = (*notes, f"{len(bundles)} bundles answered on this day ({', '.join(each[:12] for each in bundles)}); this speaks of {subject[:12]}.")
    return Report(pipeline=days.pipeline.name, name=monitor.name, subject=subject, day=day, measures=measures, verdicts=verdicts, notes=notes)


def not_judged(rule: str, reason: str) -> Verdict:
    return Verdict(rule=rule, passed=None, value=None, limit=None, n=0, reason=reason)


def _data_drift(days: Days, day: date, subject: str, served: Served) -> Result:
    return feature_drift.data_drift(days.answered(day, subject), days.reference(served), days.pipeline.monitors)


def _prediction_drift(days: Days, day: date, subject: str, served: Served) -> Result:
    return feature_drift.prediction_drift(days.answered(day, subject), days.reference(served).output, days.pipeline.monitors)


def _performance(days: Days, day: date, subject: str, served: Served) -> Result:
    return performance.performance(days.matured(day), subject, served.test, served.test_rows, days.pipeline.monitors)


def _skew(days: Days, day: date, subject: str, served: Served) -> Result:
    from assets.training.manifest import features_table

    online = days.answered(day, subject)
    try:
        offline = days.lake.scan(features_table(days.pipeline.name), day, day).collect()
    except FileNotFoundError:
        offline = online.clear()
    words = served.program.vocabularies
    kinds = {
        name: frozenset(words.get(name, ())) if categorical else None
        for name, categorical in zip(served.program.names, served.program.categorical, strict=True)
    }
    return skew.report(skew.compare(online, offline, days.pipeline.entity, kinds), days.pipeline.monitors)


def _fairness(days: Days, day: date, subject: str, served: Served) -> Result:
    return live_fairness.report(days.matured(day), subject, days.pipeline)


def _service(days: Days, day: date, subject: str, served: Served) -> Result:
    return service.report(days.of(day), days.samples(day), days.pipeline.monitors)
