"""Live performance: the champion's predictions with matured labels, against its test metrics."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assets.reporting.report import Measure, Verdict
from assets.tabular.tasks.metrics import NAMES, ROW_WISE, Array, Ranked, row_metric
from assets.tabular.validation.bootstrap import SEED, Interval, compare, percentile_interval
from assets.tabular.validation.examinations.slices import measure
from declare.monitors import Monitors

if TYPE_CHECKING:
    import polars as pl

# Whole days are drawn, so that the intervals speak of other weeks. Those that are judged get many
# draws, since sums by day make them nearly free; the ranking ones are drawn row by row and get few.
RESAMPLES = 100
DAY_DRAWS = 5_000
TEST, ALL = "test", "all bundles"


def matured(
    predictions: pl.DataFrame, labels: pl.DataFrame, entity: str, label: str, by: datetime
) -> pl.DataFrame:
    """One row per entity and bundle: its newest prediction, with the label `y` as known at `by`.

    `y` is null while there is no label. `predictions` has prediction_id, the entity, date,
    known_at, bundle, output; `labels` has the entity, known_at and the label.
    """
    import polars as pl

    newest = predictions.sort("known_at", "prediction_id").unique(
        [entity, "bundle"], keep="last", maintain_order=True
    )
    known = labels.filter(pl.col("known_at") <= by).select(
        entity, pl.col(label).cast(pl.Float64).alias("y")
    )
    return newest.join(known, on=entity, how="left", maintain_order="left")


def performance(
    rows: pl.DataFrame, subject: str, test: Mapping[str, float], test_rows: int, limits: Monitors
) -> tuple[tuple[Measure, ...], tuple[Verdict, ...], tuple[str, ...]]:
    """Measures, verdicts and notes over `matured` rows of the window.

    Metrics of the bundle `subject` with intervals over days, its test metrics (`group` "test"), and
    log loss over whatever was served (`group` "all bundles"). Rule: `live_log_loss`, the lower end
    of whose interval may not exceed the test log loss plus the margin.
    """
    import polars as pl

    labelled = rows.filter(pl.col("y").is_not_null())
    own = labelled.filter(pl.col("bundle") == subject)
    y, p, n = _array(own, "y"), _array(own, "output"), own.height
    days = (
        np.asarray(own["date"].rank("dense").to_numpy() if n else np.zeros(0), dtype=np.int64) - 1
    )
    compared = compare(
        y, {"live": p}, resamples=RESAMPLES, days=days if n and days.max() > 0 else None
    )
    intervals = {name: compared.interval("live", name) for name in NAMES} | day_intervals(
        y, p, days
    )
    measures = [measure(name, compared.value("live", name), n, intervals[name]) for name in NAMES]
    measures += [
        Measure(name=name, value=value, n=test_rows, group=TEST)
        for name, value in test.items()
        if name in NAMES
    ]
    measures += [
        measure("base_rate", float(y.mean()) if n else np.nan, n),
        measure("mean_prediction", float(p.mean()) if n else np.nan, n),
        measure(
            "labelled_share", labelled.height / rows.height if rows.height else np.nan, rows.height
        ),
    ]
    if labelled.height:
        everything = Ranked(_array(labelled, "y"), _array(labelled, "output")).metrics()
        measures += [
            measure(name, float(value), labelled.height, group=ALL)
            for name, value in zip(NAMES, everything, strict=True)
        ]
    notes = [] if n else ["No prediction of the champion has a matured label yet."]
    single = bool(n) and len(set(days.tolist())) == 1
    if single:
        notes.append(
            "All labels are of one day: the interval draws rows and says nothing about other days."
        )
    verdict = _log_loss(
        compared.value("live", "log_loss"), intervals["log_loss"], test.get("log_loss"), n, limits
    )
    return tuple(measures), (verdict,), tuple(notes)


def day_intervals(y: Array, p: Array, days: NDArray[np.int64]) -> dict[str, Interval]:
    """Intervals of the metrics that are means over rows, by drawing whole days.

    Empty for fewer than two days.
    """
    count = int(days.max()) + 1 if len(days) else 0
    if count < 2:
        return {}
    drawn = (
        np.random.default_rng(SEED)
        .multinomial(count, np.full(count, 1 / count), size=DAY_DRAWS)
        .astype(np.float64)
    )
    rows = drawn @ np.bincount(days, minlength=count)
    return {
        name: percentile_interval(
            (drawn @ np.bincount(days, weights=row_metric(name, y, p), minlength=count)) / rows
        )
        for name in sorted(ROW_WISE)
    }


def arrays(rows: pl.DataFrame, subject: str) -> tuple[Array, Array]:
    """Labels and predictions (n,) of the matured rows that the bundle `subject` answered."""
    import polars as pl

    own = rows.filter(pl.col("y").is_not_null() & (pl.col("bundle") == subject))
    return _array(own, "y"), _array(own, "output")


def window(newest: date, days: int) -> tuple[date, date]:
    """First and last event day of the `days` days up to `newest`.

    `newest` is the newest day with mature labels.
    """
    return newest - timedelta(days=days - 1), newest


def _log_loss(
    live: float, interval: Interval, test: float | None, n: int, limits: Monitors
) -> Verdict:
    if n < limits.minimum_rows or not np.isfinite(live):
        reason = (
            f"{n} matured rows are too few to judge; the monitor asks for {limits.minimum_rows}"
        )
        return Verdict(
            rule="live_log_loss", passed=None, value=None, limit=None, n=n, reason=reason
        )
    if test is None:
        reason = "the champion has no test log loss to compare with"
        return Verdict(
            rule="live_log_loss", passed=None, value=live, limit=None, n=n, reason=reason
        )
    limit = test + limits.log_loss_margin
    passed = not interval.low > limit
    reason = (
        f"live log loss {live:.3f} (95 % interval {interval.low:.3f} to {interval.high:.3f}, "
        f"n={n}) against {limit:.3f}: test log loss {test:.3f} plus {limits.log_loss_margin:g}; "
        "it fails when the whole interval lies above"
    )
    return Verdict(rule="live_log_loss", passed=passed, value=live, limit=limit, n=n, reason=reason)


def _array(frame: pl.DataFrame, column: str) -> Array:
    return np.asarray(frame[column].to_numpy(), dtype=np.float64)
