"""Rows that broke their contract: kept as landed, with the reason and where they came from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from assets.data.parse import FILE, ROW, Parsed
from declare.source import DATE, Source

if TYPE_CHECKING:
    import polars as pl


def quarantined(source: Source, parsed: Parsed, reasons: dict[int, str]) -> pl.DataFrame:
    """Broken rows with the columns `date` (daily sources), `file`, `row`, `reason` and `record`.

    `row` counts from 1 without the header. `record` holds the landed cells as JSON, null for empty
    ones.
    """
    import polars as pl

    positions = list(reasons)
    cells = parsed.cells[positions]
    records = [
        json.dumps(record, ensure_ascii=False)
        for record in cells.drop(FILE, ROW, DATE).iter_rows(named=True)
    ]
    frame = cells.select(
        DATE,
        pl.col(FILE).alias("file"),
        pl.col(ROW).cast(pl.Int64).alias("row"),
        pl.Series("reason", list(reasons.values()), dtype=pl.String),
        pl.Series("record", records, dtype=pl.String),
    )
    return frame if source.daily else frame.drop(DATE)


def accepted(parsed: Parsed, reasons: dict[int, str]) -> pl.DataFrame:
    """The rows that keep the contract, with the columns that are stored."""
    import polars as pl

    keep = pl.Series([True] * parsed.rows.height, dtype=pl.Boolean)
    if reasons:
        keep[list(reasons)] = False
    return parsed.rows.filter(keep).select(pl.exclude(r"^_.*$"))
