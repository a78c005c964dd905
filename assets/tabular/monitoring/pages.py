"""Monitors for people: Markdown for the Dagster UI and a page for each report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from assets.reporting.page import Image, Link, Section, Table, render
from assets.reporting.report import Measure, Report
from assets.reporting.tables import (
    estimate,
    markdown_table,
    number,
    verdict_table as verdict_table,
    verdict_word,
)
from assets.tabular.monitoring.monitors import (
    DATA_DRIFT,
    EVIDENTLY_PAGE,
    FAIRNESS,
    PERFORMANCE,
    PREDICTION_DRIFT,
    SERVICE,
    SKEW,
)

if TYPE_CHECKING:
    from assets.tabular.monitoring.drift.evidently_page import Page as EvidentlyPage

TITLES = {
    DATA_DRIFT: (
        "Data drift",
        "Do the features of the day's predictions look like those the champion was trained on?",
    ),
    PREDICTION_DRIFT: (
        "Prediction drift",
        "Do the day's answers look like those on the newest rows of the champion's training set?",
    ),
    PERFORMANCE: (
        "Live performance",
        "How good were the champion's predictions whose labels have matured?",
    ),
    SKEW: (
        "Training-serving skew",
        "Did the endpoint compute the features that the lake computes for the same rows?",
    ),
    FAIRNESS: (
        "Live fairness",
        "Are declared groups treated alike, on matured labels?",
    ),
    SERVICE: ("Service", "Did the endpoint answer, how fast, and with what?"),
}


def page(report: Report, images: Sequence[Image] = (), drawn: EvidentlyPage | None = None) -> bytes:
    """The HTML page of a monitor's report: verdicts, notes, plots, and every number with its n.

    `drawn` is Evidently's page of the same day, which is stored beside this one.
    """
    title, lead = TITLES[report.name]
    subject = "nothing was served" if report.subject == "none" else report.subject[:16]
    facts = [
        ("day", report.day.isoformat()),
        ("bundle", subject),
        ("rows", f"{max((m.n for m in report.measures), default=0):,}"),
    ]
    sections = [Section("Plots", images=images)] if images else []
    if drawn is not None:
        sections.append(_evidently(drawn))

    by_group = _by_group(report.measures)
    if by_group is not None:
        sections.append(Section("By group", tables=[by_group]))

    plain = [m for m in report.measures if m.group is None]
    if plain:
        rows = [
            [m.name.replace("_", " "), estimate(m.value, m.low, m.high), f"{m.n:,}"] for m in plain
        ]
        table = Table(["number", "value (95 % interval)", "n"], rows)
        sections.append(Section("Numbers", tables=[table]))
    return render(report, title, lead, facts, sections)


def _evidently(drawn: EvidentlyPage) -> Section:
    drifted = sum(judged.drifted for judged in drawn.features.values())
    text = (
        f"Evidently draws the distribution of each feature and calls {drifted} of "
        f"{len(drawn.features)} drifted, by the statistics and limits of this report."
    )
    if drawn.left_out:
        text += f" It cannot draw features without values: {', '.join(drawn.left_out)}."
    link = Link("Evidently's page of this day", EVIDENTLY_PAGE)
    return Section("Distributions", text, links=[link])


def headline(measures: Sequence[Measure]) -> dict[str, float]:
    """The plain numbers of a report by name: those that the Dagster UI plots over days."""
    return {m.name: m.value for m in measures if m.group is None and m.value is not None}


def day_table(reports: Sequence[Report], most: int = 31) -> str:
    """Verdicts of several days as a Markdown table, newest first, at most `most` days."""
    verdicts = chain.from_iterable(report.verdicts for report in reports)
    rules = list(dict.fromkeys(verdict.rule for verdict in verdicts))
    newest = sorted(reports, key=lambda each: each.day, reverse=True)[:most]
    rows = [
        [report.day.isoformat(), report.subject[:12], *(_cell(report, rule) for rule in rules)]
        for report in newest
    ]
    return markdown_table(["day", "bundle", *rules], rows)


def _cell(report: Report, rule: str) -> str:
    verdict = next((v for v in report.verdicts if v.rule == rule), None)
    if verdict is None:
        return "–"
    return f"{number(verdict.value, 3)} {verdict_word(verdict)} (n={verdict.n:,})"


def _by_group(measures: Sequence[Measure]) -> Table | None:
    """Measures of groups as one row a group; None where there are no groups."""
    grouped = {(m.group, m.name): m for m in measures if m.group is not None}
    if not grouped:
        return None

    names = list(dict.fromkeys(name for _, name in grouped))
    groups = list(dict.fromkeys(group for group, _ in grouped))
    rows = [
        _group_row(str(group), [grouped.get((group, name)) for name in names]) for group in groups
    ]
    return Table(["group", *(name.replace("_", " ") for name in names), "n"], rows)


def _group_row(group: str, measures: Sequence[Measure | None]) -> list[str]:
    cells = [estimate(m.value, m.low, m.high, 3) if m else "–" for m in measures]
    return [group, *cells, f"{max(m.n for m in measures if m):,}"]
