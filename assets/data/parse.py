"""Landed files as typed rows, strictly by the declared kinds.

Files hold text. A cell that is not of its column's kind is not guessed at: the row keeps a null and
says why. Judging typed rows belongs to `assets.data.contract`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

from declare.source import DATE, EVENT_TIME, KNOWN_AT, Kind, Source

if TYPE_CHECKING:
    import polars as pl

# Where a row came from, and what could not be read of it. These columns are not stored.
FILE = "_file"
ROW = "_row"
UNREADABLE = "_unreadable"


class Landed(NamedTuple):
    """A verified file: delivery day (None for a source that lands once), name and content."""

    day: date | None
    name: str
    content: bytes


class Parsed(NamedTuple):
    """Parsed rows in order of day, file and row.

    `rows` has typed columns with `date`, file, row number (from 1) and what was unreadable (null:
    nothing). `cells` has the same rows as they were landed.
    """

    rows: pl.DataFrame
    cells: pl.DataFrame


def kinds(source: Source) -> dict[str, Kind]:
    """Kinds of all columns that a file of the source has."""
    return {
        **{name: column.kind for name, column in source.columns.items()},
        EVENT_TIME: "datetime",
        KNOWN_AT: "datetime",
    }


def schema(source: Source) -> dict[str, pl.DataType]:
    """Columns of the stored rows, in order."""
    import polars as pl

    types: Mapping[Kind, pl.DataType] = {
        "string": pl.String(),
        "float": pl.Float64(),
        "integer": pl.Int64(),
        "boolean": pl.Boolean(),
        "datetime": pl.Datetime("us", "UTC"),
    }
    stored = {name: types[kind] for name, kind in kinds(source).items()}
    return {DATE: pl.Date(), **stored} if source.daily else stored


def parse(source: Source, landed: Sequence[Landed]) -> Parsed:
    """Parse files in one pass.

    Raises ValueError for a file that is no table of the source's columns.
    """
    import polars as pl

    expected = kinds(source)
    cells = _all_cells(source, landed)
    rows = cells.with_columns(_typed(name, kind) for name, kind in expected.items())
    unreadable = [
        pl.when(cells[name].is_not_null() & rows[name].is_null()).then(
            pl.format("{}: '{}' is no {}", pl.lit(name), cells[name].str.slice(0, 80), pl.lit(kind))
        )
        for name, kind in expected.items()
    ]
    rows = rows.with_columns(
        pl.concat_str(unreadable, separator="; ", ignore_nulls=True).alias(UNREADABLE)
    )
    rows = rows.with_columns(pl.when(pl.col(UNREADABLE) != "").then(UNREADABLE).alias(UNREADABLE))
    return Parsed(rows.select(*(schema(source)), FILE, ROW, UNREADABLE), cells)


def _all_cells(source: Source, landed: Sequence[Landed]) -> pl.DataFrame:
    """All cells of all files as text, with the file, the row and the day of each row."""
    import polars as pl

    expected = kinds(source)
    if not landed:
        texts = dict.fromkeys([*expected, FILE], pl.String)
        return pl.DataFrame(schema={**texts, ROW: pl.UInt32, DATE: pl.Date})

    frames = []
    for file in sorted(landed, key=lambda file: (file.day or date.min, file.name)):
        cells = _cells(source, file).select(*expected).with_row_index(ROW, offset=1)
        name, day = pl.lit(file.name).alias(FILE), pl.lit(file.day, dtype=pl.Date).alias(DATE)
        frames.append(cells.with_columns(name, day))
    return pl.concat(frames)


def _cells(source: Source, file: Landed) -> pl.DataFrame:
    """All cells of a file as text; an empty cell is null."""
    import polars as pl
    from polars.exceptions import PolarsError

    where = f"source {source.name!r}: file {file.name!r}" + (f" of {file.day}" if file.day else "")
    try:
        if file.name.endswith(".parquet"):
            frame = _as_text(pl.read_parquet(io.BytesIO(file.content)))
        else:
            frame = pl.read_csv(file.content, infer_schema=False)
    except PolarsError as error:
        raise ValueError(
            f"{where} is no readable table ({str(error).splitlines()[0]}); "
            "correct the file and deliver it again"
        ) from error

    expected = set(kinds(source))
    for name in sorted(expected - set(frame.columns)):
        raise ValueError(
            f"{where} lacks column {name!r}; it has {', '.join(frame.columns)}. "
            "Deliver the declared columns, or change the declaration"
        )
    for name in sorted(set(frame.columns) - expected):
        raise ValueError(
            f"{where} has column {name!r}, which the source does not declare; "
            "declare it, or leave it out of the file"
        )
    return frame.with_columns(pl.all().replace("", None))


def _as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """A Parquet table as the text that a CSV file would hold: one set of rules reads both."""
    import polars as pl

    def text(name: str, kind: pl.DataType) -> pl.Expr:
        column = pl.col(name)
        if isinstance(kind, pl.Datetime):
            return (
                column.dt.convert_time_zone("UTC").dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")
                if kind.time_zone
                else column.dt.strftime("%Y-%m-%dT%H:%M:%S%.f")
            )
        return column.cast(pl.String)

    return frame.select(text(name, kind) for name, kind in frame.schema.items())


def _typed(name: str, kind: Kind) -> pl.Expr:
    """A text column as its kind; null for what is not of the kind."""
    import polars as pl

    column = pl.col(name)
    match kind:
        case "string":
            return column
        case "integer":
            return column.cast(pl.Int64, strict=False)
        case "float":
            number = column.cast(pl.Float64, strict=False)
            return pl.when(number.is_finite()).then(number).alias(name)
        case "boolean":
            return column.replace_strict(
                {"true": True, "false": False}, default=None, return_dtype=pl.Boolean
            )
        case "datetime":
            # ISO 8601 with its offset from UTC; a moment without one is no moment.
            return column.str.to_datetime(
                "%Y-%m-%dT%H:%M:%S%.f%#z", time_unit="us", time_zone="UTC", strict=False
            )
