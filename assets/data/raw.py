"""Raw rows: where they lie in the lake and how others read them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import polars as pl

Reader = Callable[[str, "date | None", "date | None"], "pl.LazyFrame"]


class Scans(Protocol):
    """What a reader needs of the lake."""

    def scan(self, table: str, first: date | None = None, last: date | None = None) -> pl.LazyFrame: ...


def table(pipeline: str, source: str) -> str:
    """Lake table of a source's raw rows."""
    return f"{pipeline}/raw/{source}"


def quarantine_table(pipeline: str, source: str) -> str:
    """Lake table of the rows that broke a source's contract."""
    return f"{pipeline}/quarantine/{source}"


def reader(lake: Scans, pipeline: str) -> Reader:
    """`read(source, first, last)`: lazy raw rows of the delivery days `first` to `last` (both included, None: open).

    Sources that land once have no `date`; give None for both days. Raises FileNotFoundError for a source that is not stored.
    """

    def read(source: str, first: date | None, last: date | None) -> pl.LazyFrame:
        return lake.scan(table(pipeline, source), first, last)

    return read
