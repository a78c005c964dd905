"""What the pages of all validation reports share: a report with its page and its plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.reporting import page as pages
from assets.reporting.page import Section
from assets.reporting.plots import png
from assets.reporting.report import Measure, Report
from assets.tabular.validation import gates
from assets.tabular.validation.evidence import Evidence

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Sharp enough on a page, small enough for the Dagster UI: laying a figure out twice costs more.
_DPI = 100


@dataclass(frozen=True)
class Examined:
    """A report with its page and plots (title to PNG)."""

    report: Report
    pages: dict[str, bytes]
    plots: dict[str, bytes]


def columns(evidence: Evidence, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Columns of the test rows by name."""
    return {name: evidence.frame.get_column(name).to_numpy() for name in names}


def report_of(
    evidence: Evidence, name: str, measures: Sequence[Measure], notes: Sequence[str]
) -> Report:
    """The report of a candidate, with the verdict of every gate over it."""
    return Report(
        pipeline=evidence.pipeline.name,
        name=name,
        subject=evidence.candidate,
        day=evidence.day,
        measures=tuple(measures),
        verdicts=gates.verdicts(evidence.pipeline, name, measures),
        notes=tuple(notes),
    )


def with_page(
    evidence: Evidence,
    report: Report,
    title: str,
    lead: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    plots: Mapping[str, bytes],
) -> Examined:
    """A report with its page, which begins with facts about the candidate and its test rows."""
    common = [
        ("Candidate", evidence.candidate[:12]),
        ("Test days", evidence.period),
        ("Test rows", f"{evidence.n:,}"),
    ]
    page = pages.render(report, title, lead, [*common, *facts], sections)
    return Examined(report, {pages.PAGE: page}, dict(plots))


def drawn(drawings: Mapping[str, Figure]) -> dict[str, bytes]:
    """Figures as PNGs, by title."""
    return {name: png(figure, dpi=_DPI) for name, figure in drawings.items()}
