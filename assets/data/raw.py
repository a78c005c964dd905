"""Raw rows: how other stages read them. Names of their tables stand in `assets.names`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Protocol

from assets.names import raw_table

if TYPE_CHECKING:
    import polars as pl

Reader = Callable[[str, "date | None", "date | None"], "pl.LazyFrame"]


class Scans(Protocol):
    """What a reader needs of the lake."""

    def scan(
        self, table: str, first: date | None = None, last: date | None = None
    ) -> pl.LazyFrame: ...

    def place(self, table: str) -> str: ...

    def version(self, table: str) -> int: ...


@dataclass(frozen=True)
class RawRows:
    """Raw rows of a pipeline.

    `rows(source, first, last)` gives lazy rows of the delivery days `first` to `last` (both
    included, None: open). Sources that land once have no `date`; give None for both days. Raises
    FileNotFoundError for a source that is not stored.
    """

    lake: Scans
    pipeline: str

    def __call__(self, source: str, first: date | None, last: date | None) -> pl.LazyFrame:
        return self.lake.scan(raw_table(self.pipeline, source), first, last)

    def state(self, source: str) -> tuple[str, int]:
        """What tells the stored rows of a source from others: their place and table version."""
        place = raw_table(self.pipeline, source)
        return self.lake.place(place), self.lake.version(place)


def reader(lake: Scans, pipeline: str) -> RawRows:
    """Raw rows of a pipeline in a lake."""
    return RawRows(lake, pipeline)
