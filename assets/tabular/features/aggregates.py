"""Rolling aggregates, point in time.

Facts become small cells once, and cells are summed for each daily refresh. A cell holds the facts
of one group of keys and one event day that are visible to the same refreshes: version v of a fact
is seen from the first refresh after it was known until the one before its successor was known. So a
correction moves a fact from one cell to another and rewrites nothing.

Sums are exact (`cell_parts`), and equal whatever the order and grouping of rows: a day computed
alone gives the bytes that the whole year gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain
from typing import TYPE_CHECKING

from assets.names import DAY
from assets.tabular.features.ahead import ahead
from assets.tabular.features.cell_parts import (
    merge,
    part_names,
    parts,
    result,
    value_name,
    windowed,
)
from assets.tabular.features.declared_program import fact_columns
from assets.tabular.features.moments import first_refreshes, of_local_day, refresh, stamped
from assets.tabular.features.versions import EARLY, Reader, duplicated, newest_known, request_rows
from bundle.features.expression import Column, Node, Rolling, walk
from bundle.features.polars import compile_values
from bundle.features.program import FeatureProgram, Lookup
from declare.source import EVENT_TIME, KNOWN_AT
from declare.tabular import Tabular

if TYPE_CHECKING:
    import polars as pl

# Columns of cells beside their keys: event day, first refresh that sees them, first that does not.
EVENT_DAY, SEEN_FROM, SEEN_UNTIL = "_event_day", "_seen_from", "_seen_until"
# When the newest fact of a cell, or of a window of cells, was known.
NEWEST = "_newest"
REFRESH = "_refresh"
# Rows of facts that are held in memory at once.
CHUNK_ROWS = 5_000_000


@dataclass(frozen=True)
class Facts:
    """What is aggregated of one source:

    `values` (name -> tree) with the functions that each needs, grouped by `keys`.
    """

    source: str
    aggregates: tuple[Rolling, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(sorted(set().union(*(node.by for node in self.aggregates))))

    @property
    def values(self) -> dict[str, Node]:
        return {value_name(node): node.value for node in self.aggregates}

    @property
    def window(self) -> int:
        """Days of the longest window."""
        return max(node.days for node in self.aggregates)

    def functions(self, value: str) -> set[str]:
        return {node.function for node in self.aggregates if value_name(node) == value}


def facts(program: FeatureProgram) -> tuple[Facts, ...]:
    """The facts that a program aggregates, by source."""
    sources = dict.fromkeys(node.source for node in program.aggregates)
    return tuple(
        Facts(source, tuple(node for node in program.aggregates if node.source == source))
        for source in sources
    )


def cells(pipeline: Tabular, what: Facts, read: Reader, first: date, last: date) -> pl.DataFrame:
    """Cells of all facts that the refreshes of `first` to `last` see, in chunks of event days."""
    import polars as pl

    earliest, latest = first - what.window * DAY, last - DAY
    chunks = _chunks(pipeline, what, read, earliest, latest)
    return pl.concat(ahead(lambda chunk: _chunk_cells(pipeline, what, read, *chunk, last), chunks))


def aggregates(
    what: Facts, lookup: Lookup, found: pl.DataFrame, first: date, last: date
) -> pl.DataFrame:
    """Values of a lookup at the refreshes of days `first` to `last`.

    Columns: the lookup's keys, REFRESH (Date), NEWEST (when the newest fact in the lookup's longest
    window was known) and one Float64 column per value. Groups without facts have no row.
    """
    import polars as pl

    nodes = [node for node in what.aggregates if node.by == lookup.keys]
    window = max(node.days for node in nodes)
    visible = found.lazy().filter(
        pl.col(EVENT_DAY).is_between(first - window * DAY, last - DAY),
        *(pl.col(key).is_not_null() for key in lookup.keys),
    )
    small = visible.group_by(*lookup.keys, EVENT_DAY, SEEN_FROM, SEEN_UNTIL).agg(
        pl.col(NEWEST).max(), *_merged(what)
    )
    low = pl.max_horizontal(SEEN_FROM, pl.col(EVENT_DAY) + DAY, pl.lit(first))
    high = pl.min_horizontal(
        pl.col(SEEN_UNTIL) - DAY, pl.col(EVENT_DAY) + window * DAY, pl.lit(last)
    )
    at = (
        small.with_columns(_low=low, _high=high)
        .filter(pl.col("_low") <= pl.col("_high"))
        .with_columns(pl.date_ranges("_low", "_high").alias(REFRESH))
        .explode(REFRESH)
        .with_columns(_age=(pl.col(REFRESH) - pl.col(EVENT_DAY)).dt.total_days())
    )
    windows = dict.fromkeys((value_name(node), node.days) for node in nodes)
    recent = (windowed(value, days, what.functions(value)) for value, days in windows)
    summed = at.group_by(*lookup.keys, REFRESH).agg(
        pl.col(NEWEST).max(), *chain.from_iterable(recent)
    )
    values = (result(node) for node in nodes)
    return summed.select(*lookup.keys, REFRESH, NEWEST, *values).collect()


def _chunks(
    pipeline: Tabular, what: Facts, read: Reader, first: date, last: date
) -> Iterator[tuple[date, date]]:
    """Stretches of event days whose deliveries fit in memory."""
    import polars as pl

    days = (last - first).days + 1
    size = days
    if days > 2 * what.window and pipeline.source(what.source).daily:
        rows = (
            read(what.source, first - EARLY, last + what.window * DAY)
            .select(pl.len())
            .collect()
            .item()
        )
        # Each chunk reads the deliveries of a window more than its own days.
        fitting = CHUNK_ROWS * days // max(rows, 1) - what.window
        size = min(days, max(what.window, fitting))

    for offset in range(0, days, size):
        begin = first + offset * DAY
        yield begin, min(begin + (size - 1) * DAY, last)


def _chunk_cells(
    pipeline: Tabular, what: Facts, read: Reader, first: date, last: date, newest: date
) -> pl.DataFrame:
    """Cells of the facts of days `first` to `last`, as refreshes up to day `newest` see them."""
    import polars as pl

    source = pipeline.source(what.source)
    needed = _needed_columns(what)
    # After `window` days a fact is in no window any more: later versions of it change nothing.
    until = min(last + what.window * DAY, newest)
    versions = _seen_versions(
        pipeline, what, _known_facts(pipeline, what, read, needed, first, until), first, last
    )

    borrowed = sorted(needed - {*source.columns, EVENT_TIME})
    if borrowed:
        versions = _with_request(pipeline, read, versions.collect(), first, last, borrowed).lazy()

    values = compile_values(what.values, fact_columns(pipeline, what.source), pipeline.timezone)
    kept = chain.from_iterable(parts(value, what.functions(value)) for value in what.values)
    return (
        versions.select(*what.keys, EVENT_DAY, SEEN_FROM, SEEN_UNTIL, KNOWN_AT, *values)
        .group_by(*what.keys, EVENT_DAY, SEEN_FROM, SEEN_UNTIL)
        .agg(pl.col(KNOWN_AT).max().alias(NEWEST), *kept)
        .collect()
    )


def _needed_columns(what: Facts) -> set[str]:
    """Names of the columns that the keys and the values of facts read."""
    nodes = chain.from_iterable(walk(tree) for tree in what.values.values())
    return {node.name for node in nodes if isinstance(node, Column)} | set(what.keys)


def _known_facts(
    pipeline: Tabular, what: Facts, read: Reader, needed: set[str], first: date, until: date
) -> pl.DataFrame:
    """All versions of the facts from day `first` on that are known at the refresh of `until`."""
    import polars as pl

    source = pipeline.source(what.source)
    rows = (
        read(what.source, first - EARLY, until) if source.daily else read(what.source, None, None)
    )
    # The entity leads to the request's columns, whether or not the source is keyed by it.
    wanted = needed | {pipeline.entity}
    own = [name for name in source.columns if name in wanted]
    columns = dict.fromkeys([*source.keys, *own, EVENT_TIME, KNOWN_AT])
    selected = stamped(pipeline, rows).select(*columns)
    return selected.filter(pl.col(KNOWN_AT) <= refresh(pipeline, until)).collect()


def _seen_versions(
    pipeline: Tabular, what: Facts, known: pl.DataFrame, first: date, last: date
) -> pl.LazyFrame:
    """Facts of event days `first` to `last` with the refreshes that see each version of them."""
    import polars as pl

    succeeded = _with_successors(known, pipeline.source(what.source).keys)
    seen_until = first_refreshes(pipeline, succeeded.get_column("_successor")).fill_null(date.max)
    # Equal cells for all that is seen from the first day on and to the end: fewer cells, the same
    # sums.
    earliest = pl.max_horizontal(SEEN_FROM, pl.col(EVENT_DAY) + DAY)
    latest = pl.min_horizontal(SEEN_UNTIL, pl.col(EVENT_DAY) + (what.window + 1) * DAY)
    return (
        succeeded.lazy()
        .with_columns(
            of_local_day(pipeline, pl.col(EVENT_TIME)).alias(EVENT_DAY),
            first_refreshes(pipeline, _usable_from(pipeline, what, succeeded)).alias(SEEN_FROM),
            seen_until.alias(SEEN_UNTIL),
        )
        .filter(pl.col(EVENT_DAY).is_between(first, last))
        .with_columns(earliest.alias(SEEN_FROM), latest.alias(SEEN_UNTIL))
        .filter(pl.col(SEEN_FROM) < pl.col(SEEN_UNTIL))
        .drop("_successor")
    )


def _usable_from(pipeline: Tabular, what: Facts, rows: pl.DataFrame) -> pl.Series:
    """When each fact may first be used: once it is known and, where it tells labels, mature."""
    import polars as pl

    known = rows.get_column(KNOWN_AT)
    if what.source != pipeline.label.source:
        return known
    mature = rows.get_column(EVENT_TIME) + pipeline.label.matures_after
    return pl.select(pl.max_horizontal(known, mature)).to_series()


def _with_request(
    pipeline: Tabular,
    read: Reader,
    rows: pl.DataFrame,
    first: date,
    last: date,
    columns: Sequence[str],
) -> pl.DataFrame:
    """Facts with columns of the request that they belong to, as it was when predicted.

    By entity, on the fact's event day or the day before (what departs in the evening arrives the
    next day). Null where there is none.
    """
    import polars as pl

    entity = pipeline.entity
    requests = request_rows(pipeline, read, first - DAY, last, columns).select(
        pl.col(entity).hash().alias("_hash"),
        *dict.fromkeys([entity, *columns]),
        pl.col(KNOWN_AT).alias("_sent"),
        of_local_day(pipeline, pl.col(EVENT_TIME)).alias("_request_day"),
    )
    belongs = (pl.col(EVENT_DAY) - pl.col("_request_day")).dt.total_days().is_between(0, 1)
    if not requests.get_column("_hash").is_duplicated().any():
        # Joining by hash takes half the time of joining by text, and is exact: no two requests
        # share a hash, so a fact whose text differs from that of its match has no request at all.
        found = rows.with_columns(pl.col(entity).hash().alias("_hash")).join(
            requests, on="_hash", how="left", suffix="_sent"
        )
        stray = found.select(
            ~(belongs & (pl.col(entity) == pl.col(f"{entity}_sent"))).fill_null(True)
        ).to_series()
        if stray.any():
            found = found.with_columns(
                pl.when(~stray).then(pl.col(name)).alias(name) for name in columns
            )
        return found
    requests = requests.drop("_hash")
    numbered = rows.with_row_index("_row")
    pairs = (
        numbered.join(requests, on=pipeline.entity)
        .filter(belongs)
        .sort("_sent", "_request_day")
        .unique("_row", keep="last", maintain_order=True)
    )
    return numbered.join(pairs.select("_row", *columns), on="_row", how="left").drop("_row")


def _with_successors(known: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Rows with `_successor`: when the next version of the same fact was known. Null: never.

    Of versions known at the same moment one is left.
    """
    import polars as pl

    successors = pl.Series("_successor", [None], dtype=pl.Datetime("us", "UTC")).new_from_index(
        0, known.height
    )
    several = duplicated(known, keys)
    if not several.any():
        return known.with_columns(successors)
    # Few facts have several versions: those are sorted, all others stay where they are.
    versions = known.with_row_index("_row").filter(several)
    kept = newest_known(versions, [*keys, KNOWN_AT], index="_row").sort(*keys, KNOWN_AT)
    found = kept.select("_row", pl.col(KNOWN_AT).shift(-1).over(keys).alias("_successor"))
    completed = known.with_columns(successors.scatter(found["_row"], found["_successor"]))
    if kept.height == versions.height:
        return completed
    dropped = versions.select("_row").join(kept.select("_row"), on="_row", how="anti")["_row"]
    return completed.filter(
        pl.Series([True]).new_from_index(0, known.height).scatter(dropped, False)
    )


def _merged(what: Facts) -> Iterator[pl.Expr]:
    """Cells added up."""
    import polars as pl

    for value in what.values:
        for part in part_names(what.functions(value)):
            yield merge(part, pl.col(f"{value}.{part}"))
