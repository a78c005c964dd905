"""What cells keep of a value, how cells are merged, and how an aggregate follows from them.

Sums are those of integers (numbers as multiples of 2^-60, squares in two parts), so they are exact,
whatever the order and grouping of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bundle.features.expression import Rolling
from bundle.features.program import aggregate_name

if TYPE_CHECKING:
    import polars as pl

# Larger numbers do not count in means and deviations: their sums would not fit 128 bits.
LARGEST = 2.0**40
UNIT, COARSE, FINE = 2.0**60, 2.0**20, 2.0**60


def value_name(node: Rolling) -> str:
    """Name of what a window aggregates: windows over equal trees share it."""
    return aggregate_name(node).split()[1]


def parts(value: str, functions: set[str]) -> Iterator[pl.Expr]:
    """What cells keep of a value; every part can be merged."""
    import polars as pl

    column = pl.col(value)
    number = _countable(column)
    coarse = (number * number * COARSE).floor()
    made = {
        "n": column.count().cast(pl.Int64),
        "true": column.sum(),
        "numbers": number.count().cast(pl.Int64),
        "sum": (number * UNIT).round().cast(pl.Int128).sum(),
        "squares": coarse.cast(pl.Int128).sum(),
        "fraction": ((number * number * COARSE - coarse) * FINE).round().cast(pl.Int128).sum(),
        "min": column.min().cast(pl.Float64),
        "max": column.max().cast(pl.Float64),
    }
    for name in part_names(functions):
        yield (made[name].cast(pl.Int64) if name == "true" else made[name]).alias(f"{value}.{name}")


def _countable(column: pl.Expr) -> pl.Expr:
    import polars as pl

    number = column.cast(pl.Float64)
    return pl.when(number.abs() <= LARGEST).then(number)


def merge(part: str, column: pl.Expr) -> pl.Expr:
    """The parts of several cells as one: extremes of minima and maxima, sums of all others."""
    if part == "min":
        return column.min()
    if part == "max":
        return column.max()
    return column.sum()


def part_names(functions: set[str]) -> Iterator[str]:
    """Names of the parts that functions need."""
    yield "n"
    if "rate" in functions:
        yield "true"
    if functions & {"mean", "std"}:
        yield from ("numbers", "sum")
    if "std" in functions:
        yield from ("squares", "fraction")
    yield from sorted(functions & {"min", "max"})


def windowed(value: str, days: int, functions: set[str]) -> Iterator[pl.Expr]:
    """Parts of a value over the facts of the last `days` days."""
    import polars as pl

    for part in part_names(functions):
        column = pl.when(pl.col("_age") <= days).then(pl.col(f"{value}.{part}"))
        yield merge(part, column).alias(f"{value}.{part}.{days}")


def result(node: Rolling) -> pl.Expr:
    """The aggregate from its parts.

    Deviation: (sum of squares - n mean^2) / (n - 1), zero below the rounding of the squares.
    """
    import polars as pl

    def part(name: str) -> pl.Expr:
        return pl.col(f"{value_name(node)}.{name}.{node.days}").cast(pl.Float64)

    name = aggregate_name(node)
    if node.function == "count":
        return part("n").alias(name)
    if node.function == "rate":
        return pl.when(part("n") > 0).then(part("true") / part("n")).alias(name)
    if node.function in ("min", "max"):
        return part(node.function).alias(name)
    n, total = part("numbers"), part("sum") / UNIT
    if node.function == "mean":
        return pl.when(n > 0).then(total / n).alias(name)
    squares = part("squares") / COARSE + part("fraction") / (COARSE * FINE)
    spread = squares - total * total / n
    return (
        pl.when(n > 1)
        .then(pl.when(spread > squares * 1e-15).then((spread / (n - 1)).sqrt()).otherwise(0.0))
        .alias(name)
    )
