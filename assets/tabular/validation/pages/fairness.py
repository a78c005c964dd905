"""The page of the fairness report: rates of the positive decision between declared groups."""

from __future__ import annotations

from itertools import chain

from assets.reporting.page import Image, Section, Table
from assets.reporting.tables import estimate
from assets.tabular.validation import gates
from assets.tabular.validation.evidence import Evidence
from assets.tabular.validation.examinations import fairness as examination
from assets.tabular.validation.examinations.fairness import GAPS, RATES, Group
from assets.tabular.validation.examinations.slices import grouping
from assets.tabular.validation.pages import figures
from assets.tabular.validation.pages.examined import (
    Examined,
    columns,
    drawn,
    report_of,
    with_page,
)
from declare.gates import Fairness


def fairness(evidence: Evidence) -> Examined:
    """Rates of the positive decision between declared groups."""
    limits, declared = evidence.pipeline.gates, evidence.pipeline.fairness
    values = columns(evidence, tuple(group.column for group in declared))
    examined = [
        examination.fairness(
            evidence.y,
            evidence.p,
            grouping(values[group.column]),
            evidence.days,
            group.column,
            group.threshold,
            limits.min_slice_rows,
        )
        for group in declared
    ]
    measures = list(chain.from_iterable(examination.measures(each) for each in examined))
    report = report_of(evidence, gates.FAIRNESS, measures, _notes(evidence))

    plots = drawn({f"rates by {each.column}": figures.group_rates(each) for each in examined})
    sections = [
        _section(each, group, plots[f"rates by {each.column}"])
        for each, group in zip(examined, declared, strict=True)
    ]
    facts = [("Groups declared", ", ".join(group.column for group in declared) or "none")]
    lead = "Does the candidate treat the declared groups alike?"
    return with_page(evidence, report, "Fairness", lead, facts, sections, plots)


def _notes(evidence: Evidence) -> list[str]:
    limits = evidence.pipeline.gates
    if not evidence.pipeline.fairness:
        return [
            "NO GROUPS ARE DECLARED: fairness was not examined at all. Declare "
            "fairness=[Fairness(column=..., reason=...)] or say in the model card why not."
        ]
    notes = [
        f"Groups below {limits.min_slice_rows} rows are shown hollow; rates resting on fewer than "
        "a tenth of that many rows enter no gap. Rates have Wilson intervals, gaps bootstrap "
        "intervals that draw whole days."
    ]
    if limits.max_fairness_gap is None:
        notes.append("No limit is declared (max_fairness_gap=None): gaps are shown, not judged.")
    return notes


def _section(examined: examination.Fairness, group: Fairness, plot: bytes) -> Section:
    gaps = [
        [
            gap.replace("_", " "),
            estimate(examined.gaps[k], *examined.intervals[k]),
            f"{examined.n:,}",
            "yes" if gap in group.judged else "shown only",
        ]
        for k, gap in enumerate(GAPS)
    ]
    rates = [figures.TITLES[rate] for rate in RATES]
    groups = [_row(each) for each in sorted(examined.groups, key=lambda each: -each.n)]
    tables = [
        Table(["gap between groups", "greatest difference", "n", "judged"], gaps),
        Table(
            ["group", "n", "positives", *rates, "prediction - outcome", "judged"],
            groups,
        ),
    ]
    text = f"{group.reason} A probability of {group.threshold:g} or more is the positive decision."
    caption = f"Rates by {examined.column} with 95 % intervals, largest groups first."
    return Section(f"Groups of {examined.column}", text, [Image(plot, caption, 900)], tables)


def _row(group: Group) -> list[str]:
    return [
        group.name,
        f"{group.n:,}",
        f"{group.rows[1]:,}",
        *(estimate(group.rates[r], *group.intervals[r], digits=2) for r in range(len(RATES))),
        estimate(group.calibration, *group.calibration_interval, digits=2, sign=True),
        "yes" if group.judged else "too few rows",
    ]
