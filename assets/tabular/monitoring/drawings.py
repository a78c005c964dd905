"""What is drawn of a monitor's report, and on which days: drawing costs more than the report."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from assets.reporting.page import Image
from assets.reporting.report import Report, load_report
from assets.tabular.monitoring import performance
from assets.tabular.monitoring.champion import NOBODY
from assets.tabular.monitoring.daily import Days
from assets.tabular.monitoring.drift import evidently_page, report as drift_report
from assets.tabular.monitoring.monitors import DATA_DRIFT, PERFORMANCE

if TYPE_CHECKING:
    import polars as pl

# An alarm that comes back within a week is the same alarm: its page exists, the weekly one follows.
ALARM_DAYS = 7


def worth_a_look(report: Report, days: Days) -> str | None:
    """Why a day's report is drawn in full; None on days when it is not.

    It is drawn on the weekday on which people look, and when an alarm begins.
    """
    if report.subject == NOBODY:
        return None
    if report.day.isoweekday() == days.pipeline.monitors.report_weekday:
        return f"weekly, on {report.day:%A}s"
    if report.passed:
        return None

    earlier = [_earlier(report, days, offset) for offset in range(1, ALARM_DAYS + 1)]
    lasts = any(each is not None and not each.passed for each in earlier)
    return None if lasts else "an alarm began"


def images(report: Report, days: Days) -> list[Image]:
    """The plots of a report that is looked at."""
    if report.name == DATA_DRIFT:
        return drift_images(report)
    if report.name == PERFORMANCE:
        return performance_images(days.matured(report.day), report)
    return []


def evidently(report: Report, days: Days) -> evidently_page.Page | None:
    """Evidently's page of a data-drift report's day; None for other reports, or with no rows."""
    if report.name != DATA_DRIFT or report.subject == NOBODY:
        return None

    served = days.served(report.subject)
    rows = days.answered(report.day, served)
    if rows.is_empty():
        return None

    reference = days.reference(served)
    judged = drift_report.compared(rows, reference, days.pipeline.monitors)
    return evidently_page.render(rows, reference, judged)


def drift_images(report: Report, most: int = 12) -> list[Image]:
    """The features nearest to their limits, as multiples of the limit."""
    from assets.reporting.plots import bars, png

    ratios: dict[str, float] = {}
    for measure in report.measures:
        if measure.name != "limit" or not measure.group or not measure.value:
            continue
        number = report.measure("kolmogorov_smirnov", measure.group) is not None
        judged = report.measure("psi" if number else "jensen_shannon", measure.group)
        if judged is not None and judged.value is not None:
            ratios[measure.group] = judged.value / measure.value
    if not ratios:
        return []

    title = f"Drift on {report.day}, as a multiple of each feature's limit"
    caption = (
        "Drift statistic of each feature divided by its limit; beyond 1 the feature has drifted."
    )
    return [Image(png(bars(ratios, title, "statistic / limit", limit=most)), caption, 640)]


def performance_images(rows: pl.DataFrame, report: Report) -> list[Image]:
    """The calibration of the champion's matured predictions."""
    from assets.reporting.plots import png
    from assets.tabular.validation.pages.figures import calibration

    y, p = performance.arrays(rows, report.subject)
    if len(y) < 2:
        return []
    caption = f"Calibration of {len(y):,} matured predictions, and where they lie."
    return [Image(png(calibration(y, {"champion": p})), caption, 760)]


def _earlier(report: Report, days: Days, offset: int) -> Report | None:
    day = report.day - timedelta(days=offset)
    return load_report(days.reports, report.pipeline, report.name, day, report.subject)
