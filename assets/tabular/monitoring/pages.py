"""Monitors for people: Markdown for the Dagster UI and a page for each report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from assets.reporting.page import Image, Section, Table, render
from assets.reporting.report import Measure, Report, Verdict
from assets.reporting.tables import estimate, markdown_table, number
from assets.tabular.monitoring.monitors import (
    DATA_DRIFT,
    FAIRNESS,
    PERFORMANCE,
    PREDICTION_DRIFT,
    SERVICE,
    SKEW,
)

if TYPE_CHECKING:
    from assets.tabular.monitoring.evidently_report import Rendered

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


def page(report: Report, images: Sequence[Image] = ()) -> bytes:
    """The HTML page of a monitor's report: verdicts, notes, plots, and every number with its n."""
    title, lead = TITLES[report.name]
    subject = "nothing was served" if report.subject == "none" else report.subject[:16]
    facts = [
        ("day", report.day.isoformat()),
        ("bundle", subject),
        ("rows", f"{max((m.n for m in report.measures), default=0):,}"),
    ]
    sections = [Section("Plots", images=images)] if images else []
    by_group = _wide(report.measures)
    if by_group is not None:
        sections.append(Section("By group", tables=[by_group]))
    plain = [m for m in report.measures if m.group is None]
    if plain:
        rows = [
            [m.name.replace("_", " "), estimate(m.value, m.low, m.high), f"{m.n:,}"] for m in plain
        ]
        sections.append(
            Section("Numbers", tables=[Table(["number", "value (95 % interval)", "n"], rows)])
        )
    return render(report, title, lead, facts, sections)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Verdicts as a Markdown table: rule, number, limit, n and reason."""
    rows = [
        [v.rule, _word(v), number(v.value), number(v.limit), f"{v.n:,}", v.reason] for v in verdicts
    ]
    return markdown_table(["rule", "verdict", "number", "limit", "n", "reason"], rows)


def headline(measures: Sequence[Measure]) -> dict[str, float]:
    """The plain numbers of a report by name: those that the Dagster UI plots over days."""
    return {m.name: m.value for m in measures if m.group is None and m.value is not None}


def day_table(reports: Sequence[Report], shown: int = 31) -> str:
    """Verdicts of several days as a Markdown table, newest first, at most `shown` days."""
    rules = list(dict.fromkeys(v.rule for report in reports for v in report.verdicts))
    rows = []
    for report in sorted(reports, key=lambda each: each.day, reverse=True)[:shown]:
        found = {v.rule: v for v in report.verdicts}
        cells = [
            f"{number(found[r].value, 3)} {_word(found[r])} (n={found[r].n:,})"
            if r in found
            else "–"
            for r in rules
        ]
        rows.append([report.day.isoformat(), report.subject[:12], *cells])
    return markdown_table(["day", "bundle", *rules], rows)


def _word(verdict: Verdict) -> str:
    return {True: "passed", False: "**failed**", None: "not judged"}[verdict.passed]


def _wide(measures: Sequence[Measure]) -> Table | None:
    """Measures of groups as one row a group."""
    grouped = [m for m in measures if m.group is not None]
    if not grouped:
        return None
    names = list(dict.fromkeys(m.name for m in grouped))
    groups = list(dict.fromkeys(str(m.group) for m in grouped))
    found = {(m.group, m.name): m for m in grouped}
    rows = []
    for group in groups:
        cells = [found.get((group, name)) for name in names]
        ns = {m.n for m in cells if m}
        rows.append(
            [
                group,
                *(estimate(m.value, m.low, m.high, 3) if m else "–" for m in cells),
                f"{max(ns):,}",
            ]
        )
    return Table(["group", *(name.replace("_", " ") for name in names), "n"], rows)


def evidently_table(rendered: Rendered) -> str:
    """Evidently's statistic of each feature as a Markdown table, greatest first."""
    rows = [
        [name, value]
        for name, value in sorted(rendered.statistics.items(), key=lambda item: -item[1])
    ]
    return f"{rendered.rows:,} rows against {rendered.reference_rows:,}\n\n" + markdown_table(
        ["feature", "statistic"], rows
    )
