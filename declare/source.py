"""A source: one feed of raw data, the contract of its columns, and when its files land."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bundle.features.program import EVENT_TIME as EVENT_TIME, Kind as Kind
from declare.base import DeclarationError, Declared

Landing = Literal["the day before", "on the day", "the day after", "once"]


class SourceColumn(Declared):
    """One column of a source, and the contract that its values keep.

    `known="after"` marks a column that is filled in only after the event; features may not read it.
    """

    kind: Kind
    nullable: bool = False
    ge: float | None = None
    le: float | None = None
    values: tuple[str, ...] | None = None
    pattern: str | None = None
    known: Literal["before", "after"] = "before"
    description: str = ""


def text(**options: object) -> SourceColumn:
    return SourceColumn(kind="string", **options)  # type: ignore[arg-type]


def number(**options: object) -> SourceColumn:
    return SourceColumn(kind="float", **options)  # type: ignore[arg-type]


def integer(**options: object) -> SourceColumn:
    return SourceColumn(kind="integer", **options)  # type: ignore[arg-type]


def flag(**options: object) -> SourceColumn:
    return SourceColumn(kind="boolean", **options)  # type: ignore[arg-type]


def timestamp(**options: object) -> SourceColumn:
    return SourceColumn(kind="datetime", **options)  # type: ignore[arg-type]


# Columns that every stored row has beside the declared ones.
KNOWN_AT = "known_at"
DATE = "date"  # the partition: day of delivery for raw data, day of the event for features
RESERVED = frozenset({EVENT_TIME, KNOWN_AT, DATE})


class Source(Declared):
    """One feed of raw data.

    Files land in `landing/<pipeline>/<source>/<delivery day>/`, one or more a day, each with a
    `.sha256` sidecar. A partition of `raw/<source>` is a *delivery day*: late rows and corrections
    arrive in later partitions with their own `known_at` and never rewrite what was known. Every
    file has the declared columns, `event_time` and `known_at` (UTC).

    `keys` identify a row (with `known_at`, one version of it). `lands` says how the delivery
    relates to the day of the events in it: the schedule of a day lands the day before. A source
    that lands `once` is not partitioned. `refuses_above` is the share of contract-breaking rows
    above which a batch is refused whole; below it those rows go to quarantine. `volume` bounds the
    rows expected in a day's delivery (a warning, not a contract).
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    columns: dict[str, SourceColumn] = Field(min_length=1)
    keys: tuple[str, ...] = Field(min_length=1)
    lands: Landing = "on the day"
    refuses_above: Annotated[float, Field(ge=0, le=1)] = 0.05
    volume: tuple[int, int] | None = None
    description: str = ""

    def __init__(self, name: str, **fields: object) -> None:
        super().__init__(name=name, **fields)

    @model_validator(mode="after")
    def _holds_together(self) -> Source:
        _check_columns(self)
        for key in self.keys:
            _check_key(self, key)
        _check_volume(self.volume)
        return self

    @property
    def daily(self) -> bool:
        return self.lands != "once"


def unknown_column(where: str, column: str, source: Source) -> str:
    """What to say of a column that a source does not have."""
    return (
        f"{where} names column {column!r}, which source {source.name!r} does not have; "
        f"it has {', '.join(source.columns)}"
    )


def _check_columns(source: Source) -> None:
    for reserved in sorted(RESERVED & set(source.columns)):
        raise DeclarationError(
            f"columns.{reserved}",
            reserved,
            f"every row has column {reserved!r} already; leave it out",
        )


def _check_key(source: Source, key: str) -> None:
    if key not in source.columns and key != EVENT_TIME:
        raise DeclarationError(
            "keys",
            key,
            f"key {key!r} is no column of source {source.name!r}; "
            f"columns are {', '.join(source.columns)}",
        )
    if key in source.columns and source.columns[key].nullable:
        raise DeclarationError(
            f"columns.{key}.nullable",
            True,
            f"{key!r} is a key of source {source.name!r}, and a key is never null; "
            "leave nullable out",
        )


def _check_volume(volume: tuple[int, int] | None) -> None:
    if volume is not None and not 0 <= volume[0] <= volume[1]:
        raise DeclarationError(
            "volume",
            volume,
            f"volume={volume} is no range of rows; give the least and the most rows of a day",
        )
