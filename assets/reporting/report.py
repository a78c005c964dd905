"""Reports as values: what an examination measured, which rules it applied, how it is stored.

What a report looks like to people belongs in `page`, `plots` and `tables`; where its bytes lie
belongs in `resources.reports`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from resources.reports import Reports


class Record(BaseModel):
    """A frozen part of a report; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Measure(Record):
    """One number with its sample size, and an interval where it is an estimate.

    `group` names a slice, a feature or an arm.
    """

    name: str
    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    group: str | None = None


class Verdict(Record):
    """One rule applied. `passed` is None where the rule could not be judged; `reason` says why."""

    rule: str
    passed: bool | None
    value: float | None
    limit: float | None
    n: int
    reason: str


class Report(Record):
    """The result of one examination.

    `subject` is the digest of what was examined (a candidate or a bundle); `day` is the data day
    that the report speaks of.
    """

    pipeline: str
    name: str
    subject: str
    day: date
    measures: tuple[Measure, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True unless a rule failed. A rule that could not be judged says so in its verdict."""
        return all(verdict.passed is not False for verdict in self.verdicts)

    @property
    def digest(self) -> str:
        """SHA-256 of the report's JSON."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def measure(self, name: str, group: str | None = None) -> Measure | None:
        """The first measure of that name and group, None where there is none."""
        return next((m for m in self.measures if m.name == name and m.group == group), None)


def save_report(reports: Reports, report: Report, pages: Mapping[str, bytes] | None = None) -> str:
    """Store a report with its pages (file name to content) and return the link of its folder."""
    document = report.model_dump_json(indent=1).encode()
    return reports.save(report.pipeline, report.name, report.day, report.subject, document, pages)


def load_report(
    reports: Reports, pipeline: str, name: str, day: date, subject: str
) -> Report | None:
    """A stored report, None where there is none.

    Raises ValueError for one that does not parse or that speaks of something else.
    """
    document = reports.load(pipeline, name, day, subject)
    if document is None:
        return None

    report = Report.model_validate_json(document)
    wanted = (pipeline, name, day, subject)
    if (report.pipeline, report.name, report.day, report.subject) != wanted:
        raise ValueError(
            f"the report stored for {pipeline}/{name} {day} {subject} speaks of "
            f"{report.pipeline}/{report.name} {report.day} {report.subject}; "
            "delete it and materialize the asset again"
        )
    return report
