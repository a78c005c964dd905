"""What every pipeline declares, whatever its kind.

`declare.tabular` adds what a tabular one says.
"""

from __future__ import annotations

from datetime import date
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, model_validator

from declare.base import DeclarationError, Declared, check_unique
from declare.log import LogPolicy
from declare.monitors import Monitors
from declare.release import Experiment, ReleasePolicy
from declare.retraining import RetrainingPolicy
from declare.source import Source

Risk = Literal["minimal", "limited", "high"]

# Folders that an endpoint has beside those of its pipelines. `bundle.desired` says so too, and a
# test holds both equal: declarations import nothing of the bundle but its features.
TAKEN = frozenset({"bundles", "replicas", "service", "workers"})


class Pipeline(Declared):
    """One ML use case with its whole lifecycle.

    `owner` is `team:<name>` or a person's e-mail address. Days run from `start` to `end`, both
    included, in `timezone`. `nightly` is a cron expression in that timezone. `risk` sets how many
    people must approve a release.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    owner: str = Field(pattern=r"^(team:.+|[^@\s]+@[^@\s]+)$")
    purpose: str = Field(min_length=10)
    risk: Risk
    start: date
    end: date | None = None
    timezone: str = "UTC"
    sources: tuple[Source, ...] = Field(min_length=1)
    release: ReleasePolicy = ReleasePolicy()
    experiments: tuple[Experiment, ...] = ()
    log: LogPolicy = LogPolicy()
    monitors: Monitors = Monitors()
    retraining: RetrainingPolicy = RetrainingPolicy()
    nightly: str = "0 5 * * *"

    def source(self, name: str) -> Source:
        """A source by its name. Raises ValueError where there is none of that name."""
        for source in self.sources:
            if source.name == name:
                return source
        names = ", ".join(source.name for source in self.sources)
        raise ValueError(f"{name!r} is no source of pipeline {self.name!r}; sources are {names}")

    @model_validator(mode="after")
    def _is_a_pipeline(self) -> Pipeline:
        _check_name(self.name)
        check_unique("sources", "source", [source.name for source in self.sources])
        check_unique("experiments", "experiment", [each.name for each in self.experiments])
        _check_days(self.start, self.end, self.timezone)
        _check_approvals(self.risk, self.release)
        return self


def _check_name(name: str) -> None:
    if name in TAKEN:
        raise DeclarationError(
            "name",
            name,
            f"{name!r} is a folder of every endpoint; "
            f"names that are taken so are {', '.join(sorted(TAKEN))}",
        )


def _check_days(start: date, end: date | None, timezone: str) -> None:
    if end is not None and end < start:
        raise DeclarationError(
            "end",
            end,
            f"end={end} lies before start={start}; give a later day, or None for no end",
        )
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError):
        raise DeclarationError(
            "timezone",
            timezone,
            f"{timezone!r} is no timezone; give an IANA name such as 'UTC' or 'America/New_York'",
        ) from None


def _check_approvals(risk: Risk, release: ReleasePolicy) -> None:
    if risk == "high" and release.approvals < 1:
        raise DeclarationError(
            "release.approvals",
            release.approvals,
            "release.approvals=0 with risk='high'; "
            "a high-risk pipeline needs at least one human approval",
        )
