"""What is kept of answered predictions, and for how long."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from pydantic import field_validator

from declare.base import DeclarationError, Declared
from declare.source import EVENT_TIME, Source, unknown_column

SHORTEST = timedelta(days=1)


class LogPolicy(Declared):
    """What is kept of answered predictions in the endpoint's log. The lake takes it up day by day.

    `omit` names request columns that are never written, neither to the log nor to the lake. Nor are
    the features that read them, whose values would tell them: monitors do not compare these
    features. `retention` is how long a prediction stays in the log after its event, in data time.
    What the lake does not hold yet stays, whatever its age.
    """

    omit: tuple[str, ...] = ()
    retention: timedelta = timedelta(days=183)

    @field_validator("retention")
    @classmethod
    def _lasts_a_day(cls, retention: timedelta) -> timedelta:
        if retention < SHORTEST:
            raise ValueError(f"log.retention={retention} is shorter than a day; give a day or more")
        return retention


def check_omitted(
    log: LogPolicy, request: Source, columns: Collection[str], entity: str, groups: Collection[str]
) -> None:
    """Refuse to omit what the platform needs, or what a request does not have.

    `columns` are those that an application sends, `groups` those by which fairness is monitored.
    """
    for column in log.omit:
        if column in (entity, EVENT_TIME):
            raise DeclarationError(
                "log.omit",
                column,
                f"log.omit names {column!r}, by which predictions find their labels and their day; "
                "leave it in the log, and send pseudonyms as entities where that matters",
            )
        if column not in columns:
            raise DeclarationError("log.omit", column, unknown_column("log.omit", column, request))

    for group in groups:
        if group in log.omit:
            raise DeclarationError(
                "log.omit",
                group,
                f"log.omit names {group!r}, by which fairness is monitored live; "
                "leave it in the log, or declare no fairness of it",
            )
