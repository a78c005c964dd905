"""Figures of a feature table: nulls, constants, numbers that are none, inputs from the future."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from assets.tabular.features.point_in_time import INPUTS_KNOWN_AT
from declare.source import DATE, KNOWN_AT

if TYPE_CHECKING:
    import polars as pl

# A feature that is missing in more rows than this hardly tells a model anything.
NULL_SHARE = 0.5
# One value on a single day is natural (the weekday, a global rate); over this many days it is a
# fault.
CONSTANT_DAYS = 28


@dataclass(frozen=True)
class Bounds:
    """One feature over all rows.

    How many are null or not finite, and its least and greatest value (text for categories).
    """

    name: str
    nulls: int = 0
    non_finite: int = 0
    low: float | str | None = None
    high: float | str | None = None

    def joined(self, other: Bounds) -> Bounds:
        lows = [bound for bound in (self.low, other.low) if bound is not None]
        highs = [bound for bound in (self.high, other.high) if bound is not None]
        return Bounds(
            self.name,
            self.nulls + other.nulls,
            self.non_finite + other.non_finite,
            min(lows) if lows else None,
            max(highs) if highs else None,
        )


@dataclass
class Figures:
    """Figures of the partitions of one run, gathered block by block."""

    names: tuple[str, ...]
    rows: dict[date, int] = field(default_factory=dict)
    digests: dict[date, str] = field(default_factory=dict)
    features: dict[str, Bounds] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.rows.values())

    def add(self, days: Sequence[date], block: pl.DataFrame, digests: dict[date, str]) -> None:
        counted = dict(block.group_by(DATE).len().iter_rows())
        self.rows |= {day: counted.get(day, 0) for day in days}
        self.digests |= digests
        for found in measured(block, self.names):
            before = self.features.get(found.name)
            self.features[found.name] = before.joined(found) if before else found

    def faults(self, young: Iterable[str] = ()) -> list[str]:
        """What is odd, in words.

        Features in `young` have no full history yet: their nulls are natural.
        """
        spared, found = set(young), []
        if not self.total:
            return ["no row at all"]
        for bounds in self.features.values():
            share = bounds.nulls / self.total
            if bounds.non_finite:
                found.append(f"{bounds.name}: {bounds.non_finite} values are not finite")
            if share > NULL_SHARE and bounds.name not in spared:
                found.append(
                    f"{bounds.name}: null in {share:.0%} of {self.total:,} rows (limit "
                    f"{NULL_SHARE:.0%})"
                )
            elif (
                bounds.low == bounds.high and bounds.nulls == 0 and len(self.rows) >= CONSTANT_DAYS
            ):
                found.append(f"{bounds.name}: always {bounds.low} over {len(self.rows)} days")
        return found

    def markdown(self) -> str:
        """The features as a table."""
        lines = ["| feature | null | least | greatest |", "|---|---|---|---|"]
        lines += [
            f"| {bounds.name} | {bounds.nulls / max(self.total, 1):.1%} | {_shown(bounds.low)} | "
            f"{_shown(bounds.high)} |"
            for bounds in self.features.values()
        ]
        return "\n".join(lines)


def measured(block: pl.DataFrame, names: Sequence[str]) -> list[Bounds]:
    """Bounds of each feature in a frame."""
    import polars as pl

    expressions = []
    for name in names:
        column = pl.col(name)
        finite = column.is_finite() if block.schema[name].is_float() else column.is_not_null()
        expressions += [
            column.null_count().alias(f"{name}\nnulls"),
            (~finite).sum().alias(f"{name}\nodd"),
            column.filter(finite).min().alias(f"{name}\nlow"),
            column.filter(finite).max().alias(f"{name}\nhigh"),
        ]
    row = block.select(expressions).row(0, named=True)
    return [
        Bounds(
            name,
            row[f"{name}\nnulls"],
            row[f"{name}\nodd"] if block.schema[name].is_float() else 0,
            row[f"{name}\nlow"],
            row[f"{name}\nhigh"],
        )
        for name in names
    ]


def from_the_future(block: pl.DataFrame) -> int:
    """Number of rows with an input that was known only after their prediction."""
    import polars as pl

    return int(block.select((pl.col(INPUTS_KNOWN_AT) > pl.col(KNOWN_AT)).sum()).item())


def _shown(value: float | str | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else value
