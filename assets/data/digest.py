"""Digests of contents: equal rows give equal digests, however they are ordered or stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from declare.source import DATE

if TYPE_CHECKING:
    import polars as pl


def content_digest(frame: pl.DataFrame) -> str:
    """SHA-256 of a frame's rows, whatever their order and that of the columns.

    Canonical form: columns by name, rows sorted by all of them, moments as microseconds, one line
    of CSV a row. Text is quoted, so that null differs from the empty string. Floats are written in
    the shortest form that reads back equal.
    """

    # Asked once: a frame makes its schema anew each time.
    schema = frame.schema
    names = sorted(schema)
    plain = frame.select(_plain(name, schema[name]) for name in names)
    header = ",".join(f"{name}:{schema[name].base_type().__name__}" for name in names)
    rows = ""
    if names:
        ordered = plain.sort(names, nulls_last=True)
        rows = ordered.write_csv(include_header=False, quote_style="non_numeric")
    return hashlib.sha256(f"{header}\n{rows}".encode()).hexdigest()


def _plain(name: str, kind: pl.DataType) -> pl.Expr:
    """A column with its moments and days as whole numbers."""
    import polars as pl

    column = pl.col(name)
    if isinstance(kind, pl.Datetime):
        return column.dt.cast_time_unit("us").to_physical()
    return column.to_physical() if kind.is_temporal() else column


def digests_by_day(frame: pl.DataFrame, days: Sequence[date]) -> dict[date, str]:
    """Digest of each day's rows (column `date`); days without rows have one too."""
    parts = frame.partition_by(DATE, as_dict=True)
    none = frame.clear()
    return {day: content_digest(parts.get((day,), none)) for day in days}


def combined_digest(digests: Sequence[str]) -> str:
    """Digest of several contents; that of a single one is its own."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
