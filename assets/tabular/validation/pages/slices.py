"""The page of the slices report: where the candidate does worse than overall."""

from __future__ import annotations

from collections.abc import Sequence

from assets.reporting.page import Image, Section, Table
from assets.reporting.tables import estimate, number
from assets.tabular.tasks.metrics import ROW_WISE
from assets.tabular.validation import bootstrap, gates
from assets.tabular.validation.evidence import Evidence
from assets.tabular.validation.examinations import slices as examination
from assets.tabular.validation.examinations.slices import Slice
from assets.tabular.validation.pages import figures
from assets.tabular.validation.pages.examined import (
    Examined,
    columns,
    drawn,
    report_of,
    with_page,
)


def slices(evidence: Evidence) -> Examined:
    """The primary metric in every declared slice."""
    pipeline, limits = evidence.pipeline, evidence.pipeline.gates
    primary = limits.primary
    examined = examination.slices(
        evidence.y, evidence.p, columns(evidence, pipeline.slices), evidence.days, primary
    )
    overall = bootstrap.compare(evidence.y, {"all": evidence.p}, resamples=0).value("all", primary)
    measures = [
        examination.measure(primary, overall, evidence.n),
        *examination.measures(examined, primary),
    ]
    report = report_of(evidence, gates.SLICES, measures, _notes(evidence))

    plots = drawn(
        {
            f"slices of {column}": figures.forest(
                examined, column, overall, primary, limits.max_slice_gap, limits.min_slice_rows
            )
            for column in pipeline.slices
        }
    )
    sections = [
        _section(
            column,
            [each for each in examined if each.column == column],
            plots[f"slices of {column}"],
            primary,
            limits.min_slice_rows,
        )
        for column in pipeline.slices
    ]
    facts = [
        ("Slices", f"{len(examined)} of {len(pipeline.slices)} columns"),
        (figures.TITLES[primary], number(overall)),
    ]
    lead = "Is there a part of the data where the candidate does much worse?"
    return with_page(evidence, report, "Slices", lead, facts, sections, plots)


def _notes(evidence: Evidence) -> list[str]:
    limits = evidence.pipeline.gates
    notes = [f"Slices below {limits.min_slice_rows} rows are shown hollow and not judged."]
    if not evidence.pipeline.slices:
        notes = [
            "No slices are declared: nothing below the overall figures was examined. "
            "Declare slices=[...] in the pipeline."
        ]
    if limits.primary in ROW_WISE:
        notes.append(
            "A slice can be worse because it is harder, not because the model is worse there: "
            "compare base rate and mean prediction."
        )
    return notes


def _section(
    column: str, slices: Sequence[Slice], plot: bytes, primary: str, min_rows: int
) -> Section:
    ordered = sorted(slices, key=lambda each: (each.n < min_rows, -each.gap))
    header = [
        "slice",
        "n",
        "base rate",
        "mean prediction",
        figures.TITLES[primary],
        "worse than overall by",
        "judged",
    ]
    caption = f"How much worse than overall each slice of {column} is; dashed is the limit."
    table = Table(header, [_row(each, min_rows) for each in ordered])
    return Section(
        f"Slices of {column}", f"{len(ordered)} slices.", [Image(plot, caption, 760)], [table]
    )


def _row(each: Slice, min_rows: int) -> list[str]:
    return [
        each.value,
        f"{each.n:,}",
        number(each.base_rate),
        number(each.predicted),
        estimate(each.metric, *each.interval),
        estimate(each.gap, *each.gap_interval, sign=True),
        "yes" if each.n >= min_rows else "too few rows",
    ]
