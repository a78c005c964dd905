"""Reports: the stored results of validations and monitors, with numbers, verdicts and plots."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import date

import dagster as dg
from pydantic import BaseModel, ConfigDict

from resources import files


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measure(Record):
    """One number with its sample size, and an interval where it is an estimate. `group` names a slice, feature or arm."""

    name: str
    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    group: str | None = None


class Verdict(Record):
    """One rule applied: `passed` is None where the rule could not be judged (too few rows, say), with the reason."""

    rule: str
    passed: bool | None
    value: float | None
    limit: float | None
    n: int
    reason: str


class Report(Record):
    """`subject` is the digest of what was examined (a candidate or bundle); `day` the data day it speaks of."""

    pipeline: str
    name: str
    subject: str
    day: date
    measures: tuple[Measure, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True unless a rule failed; what could not be judged is said in its verdict."""
        return all(verdict.passed is not False for verdict in self.verdicts)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def measure(self, name: str, group: str | None = None) -> Measure | None:
        return next((m for m in self.measures if m.name == name and m.group == group), None)


class Reports(dg.ConfigurableResource):
    """Store of reports at `uri`, shown to people at `url`: `<pipeline>/<name>/<day>-<subject>/report.json` and its pages."""

    uri: str
    url: str

    def folder(self, pipeline: str, name: str, day: date, subject: str) -> str:
        return f"{pipeline}/{name}/{day.isoformat()}-{subject[:16]}"

    def save(self, report: Report, pages: Mapping[str, bytes] | None = None) -> str:
        """Store a report with its pages (file name to content: HTML, PNG) and return the link of its folder. The report
        itself is written last: a report that can be read is complete."""
        folder = self.folder(report.pipeline, report.name, report.day, report.subject)
        for name, content in (pages or {}).items():
            files.write_atomically(f"{self.uri}/{folder}/{name}", content)
        files.write_atomically(
            f"{self.uri}/{folder}/report.json", report.model_dump_json(indent=1).encode()
        )
        return f"{self.url}/{folder}/"

    def load(self, pipeline: str, name: str, day: date, subject: str) -> Report | None:
        """A stored report, None where there is none. Raises ValueError for one that does not parse or speaks of something else."""
        place = f"{self.uri}/{self.folder(pipeline, name, day, subject)}/report.json"
        try:
            report = Report.model_validate_json(files.read(place))
        except FileNotFoundError:
            return None
        if (report.pipeline, report.name, report.day, report.subject) != (
            pipeline,
            name,
            day,
            subject,
        ):
            raise ValueError(
                f"{place} speaks of {report.pipeline}/{report.name} {report.day} {report.subject}, not of what its place says"
            )
        return report
