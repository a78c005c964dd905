"""Versions of rows: which one was known when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from assets.tabular.features.moments import of_local_day, stamped
from declare.source import DATE, EVENT_TIME, KNOWN_AT
from declare.tabular import Tabular

if TYPE_CHECKING:
    import polars as pl

# Raw rows of a source by day of delivery: read(source, first, last), both ends included, None for
# open.
Reader = Callable[[str, "date | None", "date | None"], "pl.LazyFrame"]

# A row is delivered no earlier than this before the day of its event: a schedule lands the day
# before. One day of reserve.
EARLY = timedelta(days=2)

PREDICTED_AT = "_predicted_at"


def duplicated(rows: pl.DataFrame, keys: Sequence[str]) -> pl.Series:
    """Which rows share their keys with another row.

    Hashes first: comparing texts takes several times as long, and only rows that share a hash can
    share their keys.
    """
    import polars as pl

    suspects = rows.select(keys).hash_rows().is_duplicated()
    if not suspects.any():
        return suspects
    exact = (
        rows.filter(suspects)
        .select(
            pl.struct(keys).is_duplicated() if len(keys) > 1 else pl.col(keys[0]).is_duplicated()
        )
        .to_series()
    )
    return suspects.clone().scatter(suspects.arg_true(), exact)


def newest_known(rows: pl.DataFrame, keys: Sequence[str], *, index: str = "") -> pl.DataFrame:
    """One row per key.

    The one known last; of rows known at the same moment the later event, then the greater values,
    so that the order in which rows come decides nothing (nor does a column `index` that numbers
    them).
    """
    import polars as pl

    several = duplicated(rows, keys)
    if not several.any():
        return rows
    rest = [
        name for name in sorted(rows.columns) if name not in {*keys, KNOWN_AT, EVENT_TIME, index}
    ]
    order = [name for name in (KNOWN_AT, EVENT_TIME) if name in rows.columns]
    newest = (
        rows.filter(several)
        .sort([*order, *rest], nulls_last=False)
        .unique(list(keys), keep="last", maintain_order=True)
    )
    return pl.concat([rows.filter(~several), newest])


def request_rows(
    pipeline: Tabular, read: Reader, first: date, last: date, columns: Sequence[str]
) -> pl.DataFrame:
    """Requests of events on local days `first` to `last`, each as its prediction knew it.

    Columns: entity, EVENT_TIME, KNOWN_AT, PREDICTED_AT and `columns`. A row known only after that
    moment is no request, nor is one that was replaced before it (an event moved to another day,
    say). An entity has one row a day.
    """
    import polars as pl

    names = dict.fromkeys([pipeline.entity, EVENT_TIME, KNOWN_AT, *columns])
    day = of_local_day(pipeline, pl.col(EVENT_TIME))
    rows = (
        stamped(pipeline, read(pipeline.request, first - EARLY, last))
        .select(*names)
        .with_columns((pl.col(EVENT_TIME) - pipeline.lead).alias(PREDICTED_AT))
        .collect()
    )
    several = duplicated(rows, [pipeline.entity])
    if several.any():
        rows = pl.concat(
            [rows.filter(~several), _unreplaced(rows.filter(several), pipeline.entity)]
        )
    sent = rows.filter((pl.col(KNOWN_AT) <= pl.col(PREDICTED_AT)) & day.is_between(first, last))
    return (
        newest_known(sent.with_columns(day.alias("_day")), [pipeline.entity, "_day"]).drop("_day")
        if several.any()
        else sent
    )


def late_requests(pipeline: Tabular, read: Reader, first: date, last: date) -> dict[date, int]:
    """How many requests came too late to be predicted, by the day of their first delivery.

    Days `first` to `last` that have some. They have no feature row. A late correction of an event
    that was announced in time is none of them.
    """
    import polars as pl

    delivered, day, event = "_delivered", "_day", [pipeline.entity, "_day"]

    def requests(since: date) -> pl.LazyFrame:
        rows = read(pipeline.request, since, last).select(
            pipeline.entity, EVENT_TIME, KNOWN_AT, DATE, pl.col(DATE).alias(delivered)
        )
        return stamped(pipeline, rows).with_columns(
            of_local_day(pipeline, pl.col(EVENT_TIME)).alias(day),
            late=pl.col(KNOWN_AT) > pl.col(EVENT_TIME) - pipeline.lead,
        )

    suspects = requests(first).filter("late").select(event).unique().collect()
    if suspects.is_empty():
        return {}
    earliest: date = suspects.get_column(day).min()  # type: ignore[assignment]  # it is not empty
    versions = requests(min(first, earliest - EARLY)).join(suspects.lazy(), on=event, how="semi")
    missed = (
        versions.group_by(event)
        .agg(pl.col("late").all(), pl.col(delivered).min())
        .filter("late", pl.col(delivered) >= first)
    )
    return dict(missed.group_by(delivered).len().collect().iter_rows())


def _unreplaced(rows: pl.DataFrame, entity: str) -> pl.DataFrame:
    """Versions that were still the newest when predicted."""
    import polars as pl

    versions = newest_known(rows, [entity, KNOWN_AT]).sort(entity, KNOWN_AT)
    successor = pl.col(KNOWN_AT).shift(-1).over(entity)
    return versions.filter(successor.is_null() | (successor > pl.col(PREDICTED_AT)))
