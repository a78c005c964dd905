"""Features and labels as they could be known at their moment.

Partition D of the features holds the requests whose event falls on local day D, each predicted
`lead` before its event from what was known then. What arrives later changes no row: a partition
reads deliveries up to D alone, a version of a row counts from its `known_at` on, and nothing is
known before the day of its delivery. A day computed alone equals the same day computed with a year,
bit by bit, in whatever order rows lie in the lake.

`read(source, first, last)` gives raw rows by day of delivery (`assets.data.raw.reader`). A day
reads the deliveries of its longest window and of its joins' horizons, so it costs the same however
long the history is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING

from assets.data.raw import RawRows
from assets.names import DAY
from assets.tabular.features.aggregates import NEWEST, REFRESH, Facts, aggregates, cells, facts
from assets.tabular.features.ahead import ahead
from assets.tabular.features.declared_program import columns, program
from assets.tabular.features.moments import (  # fmt: skip
    local_day,
    newest_refresh,
    newest_refreshes,
    of_local_day,
    refresh,
    stamped,
    start,
)
from assets.tabular.features.versions import EARLY, PREDICTED_AT, Reader, newest_known, request_rows
from bundle.features.expression import Column, as_node
from bundle.features.polars import compile_batch, compile_values
from bundle.features.program import FeatureProgram, Lookup
from declare.source import DATE, EVENT_TIME, KNOWN_AT
from declare.tabular import Tabular

if TYPE_CHECKING:
    import polars as pl

INPUTS_KNOWN_AT = "inputs_known_at"
# Cells that this process computed last for a single day, by pipeline and source, with what they
# were computed from.
_newest_cells: dict[tuple[str, str], tuple[Tabular, object, pl.DataFrame]] = {}
# Rows of requests that are computed at once.
BLOCK_ROWS = 300_000


def features(pipeline: Tabular, days: Sequence[date], read: Reader) -> pl.DataFrame:
    """The feature table of some days.

    Columns: entity, `event_time`, `known_at` (when the prediction is made), `inputs_known_at` (when
    the newest input was known: the request, a joined row, or a fact inside a window), the request's
    columns, the features (Float64, null for missing; String for categories; a feature replaces the
    request column of its name) and `date`. Rows are ordered by event time and entity.
    """
    import polars as pl

    return pl.concat([block for _, block in feature_blocks(pipeline, days, read)])


def feature_blocks(
    pipeline: Tabular, days: Sequence[date], read: Reader, rows: int = BLOCK_ROWS
) -> Iterator[tuple[tuple[date, ...], pl.DataFrame]]:
    """The feature table in blocks of days of about `rows` rows, in order.

    Memory does not grow with the number of days. Facts are aggregated to cells once for all days.
    Raises ValueError for no days.
    """
    if not days:
        raise ValueError(
            f"features of {pipeline.name!r}: no days were asked for; name at least one"
        )
    made = program(pipeline)
    for first, last in _runs(days):
        summed = summed_cells(pipeline, made, read, first, last)

        def block(
            of: tuple[date, date], summed: dict[str, tuple[Facts, pl.DataFrame]] = summed
        ) -> tuple[tuple[date, ...], pl.DataFrame]:
            named = tuple(of[0] + offset * DAY for offset in range((of[1] - of[0]).days + 1))
            return named, _block(pipeline, made, read, summed, *of)

        yield from ahead(block, _blocks(pipeline, read, first, last, rows))


def labels(pipeline: Tabular, read: Reader, first: date, last: date, as_of: date) -> pl.DataFrame:
    """Mature labels of events on local days `first` to `last`, as known at the refresh of `as_of`.

    A label is mature once `matures_after` has passed since its event. Columns: entity,
    `event_time`, `known_at` and the label (Int8; null where the condition is null: unlabelled), one
    row per entity in its newest version known then, ordered by event time and entity.
    """
    import polars as pl

    label, source = pipeline.label, pipeline.source(pipeline.label.source)
    moment = refresh(pipeline, as_of)
    value = compile_values(
        {label.name: as_node(label.condition)}, columns(pipeline, source.name), pipeline.timezone
    )
    # Versions are told apart by all columns, not only by the label, so that ties end the same way
    # everywhere.
    known = (
        stamped(pipeline, read(source.name, first - EARLY, local_day(pipeline, moment)))
        .select(*source.columns, EVENT_TIME, KNOWN_AT)
        .filter(pl.col(KNOWN_AT) <= moment)
        .collect()
    )
    return (
        newest_known(known, [pipeline.entity])
        .lazy()
        .filter(
            of_local_day(pipeline, pl.col(EVENT_TIME)).is_between(first, last),
            pl.col(EVENT_TIME) + label.matures_after <= moment,
        )
        .select(
            pipeline.entity,
            EVENT_TIME,
            KNOWN_AT,
            *(expression.cast(pl.Int8) for expression in value),
        )
        .sort(EVENT_TIME, pipeline.entity)
        .collect()
    )


def _runs(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    """Stretches of consecutive days, in order."""
    ordered = sorted(set(days))
    begin = ordered[0]
    for current, following in zip(ordered, [*ordered[1:], None], strict=True):
        if following is None or following - current > DAY:
            yield begin, current
            if following is not None:
                begin = following


def newest_refreshes_of(pipeline: Tabular, first: date, last: date) -> tuple[date, date]:
    """First and last day whose refresh is the newest for events on days `first` to `last`."""
    return (
        newest_refresh(pipeline, start(pipeline, first) - pipeline.lead),
        newest_refresh(pipeline, start(pipeline, last + DAY) - timedelta(microseconds=1)),
    )


def summed_cells(
    pipeline: Tabular, made: FeatureProgram, read: Reader, first: date, last: date
) -> dict[str, tuple[Facts, pl.DataFrame]]:
    """The facts of each source, and the cells that events on days `first` to `last` need."""
    refreshes = newest_refreshes_of(pipeline, first, last)
    if first < last or not isinstance(read, RawRows):
        return {
            what.source: (what, cells(pipeline, what, read, *refreshes)) for what in facts(made)
        }
    # The features of a day and its snapshot sum the same facts, one after the other.
    return {
        what.source: (what, _cells_of_a_day(pipeline, what, read, *refreshes))
        for what in facts(made)
    }


def _cells_of_a_day(
    pipeline: Tabular, what: Facts, read: RawRows, first: date, last: date
) -> pl.DataFrame:
    # Their states are asked first: rows that come meanwhile are kept under a state that is never
    # asked for again.
    of = (read.state(what.source), read.state(pipeline.request), first, last)
    kept = _newest_cells.get((pipeline.name, what.source))
    # The same declaration, not an equal one: comparing expressions makes an expression.
    if kept is None or kept[0] is not pipeline or kept[1] != of:
        kept = _newest_cells[pipeline.name, what.source] = (
            pipeline,
            of,
            cells(pipeline, what, read, first, last),
        )
    return kept[2]


def _blocks(
    pipeline: Tabular, read: Reader, first: date, last: date, rows: int
) -> Iterator[tuple[date, date]]:
    import polars as pl

    days = (last - first).days + 1
    size = days
    if days > 1:
        found = read(pipeline.request, first - EARLY, last).select(pl.len()).collect().item()
        size = min(days, max(1, rows * days // max(found, 1)))

    for offset in range(0, days, size):
        begin = first + offset * DAY
        yield begin, min(begin + (size - 1) * DAY, last)


def _block(
    pipeline: Tabular,
    made: FeatureProgram,
    read: Reader,
    summed: dict[str, tuple[Facts, pl.DataFrame]],
    first: date,
    last: date,
) -> pl.DataFrame:
    """The feature table of days `first` to `last`."""
    import polars as pl

    request = list(pipeline.request_columns)
    wide = request_rows(pipeline, read, first, last, request).sort(PREDICTED_AT, pipeline.entity)
    wide = wide.with_columns(
        newest_refreshes(pipeline, wide.get_column(PREDICTED_AT)).alias(REFRESH)
    )
    refreshes = newest_refreshes_of(pipeline, first, last)
    inputs = [pl.col(KNOWN_AT)]
    for index, lookup in enumerate(made.lookups):
        if lookup.kind == "latest":
            known = f"_known_{index}"
            wide = _joined(
                wide,
                lookup,
                latest_rows(
                    pipeline, [lookup], read, *_known_between(pipeline, lookup, first, last)
                ),
                known,
            )
            inputs.append(pl.col(known))
        else:
            what, found = summed[lookup.source]
            newest = f"_newest_{index}"
            values = aggregates(what, lookup, found, *refreshes).rename(
                {NEWEST: newest, **{value: lookup.wide(value) for value in lookup.values}}
            )
            wide = wide.join(values, on=[*lookup.keys, REFRESH], how="left", maintain_order="left")
            inputs.append(pl.col(newest))
    computed = compile_batch(made)
    kept = [name for name in request if name not in {*made.names, pipeline.entity}]
    # Not lazily: to optimise that many expressions takes longer than to compute them, for a day
    # forty times as long.
    return wide.select(
        pipeline.entity,
        EVENT_TIME,
        pl.col(PREDICTED_AT).alias(KNOWN_AT),
        pl.max_horizontal(inputs).alias(INPUTS_KNOWN_AT),
        *kept,
        *computed,
        of_local_day(pipeline, pl.col(EVENT_TIME)).alias(DATE),
    )


def _known_between(
    pipeline: Tabular, lookup: Lookup, first: date, last: date
) -> tuple[datetime, datetime]:
    """When rows were known that a lookup may find for events on days `first` to `last`."""
    earliest = start(pipeline, first) - pipeline.lead
    return earliest - timedelta(seconds=lookup.within or 0), start(
        pipeline, last + DAY
    ) - timedelta(microseconds=1)


def latest_rows(
    pipeline: Tabular,
    lookups: Sequence[Lookup],
    read: Reader,
    earliest: datetime,
    latest: datetime,
) -> pl.DataFrame:
    """Rows of a source for lookups of one table.

    Its key columns, KNOWN_AT and the values (numbers Float64, finite or null), one row per key and
    moment, in order of KNOWN_AT. Rows with a null key are left out: null equals nothing.
    """
    import polars as pl

    source, keys = pipeline.source(lookups[0].source), lookups[0].columns
    if source.daily:
        first, last = local_day(pipeline, earliest) - EARLY, local_day(pipeline, latest)
        rows = read(source.name, first, last)
    else:
        rows = read(source.name, None, None)
    expressions = compile_values(
        {f"={name}": Column(name) for name in value_names(lookups)},
        columns(pipeline, source.name),
        pipeline.timezone,
    )
    known = (
        stamped(pipeline, rows)
        .select(*source.columns, EVENT_TIME, KNOWN_AT)
        .filter(pl.col(KNOWN_AT) <= latest, *(pl.col(key).is_not_null() for key in keys))
        .collect()
    )
    return (
        newest_known(known, [*keys, KNOWN_AT])
        .select(*keys, KNOWN_AT, *expressions)
        .sort(KNOWN_AT, *keys)
    )


def value_names(lookups: Sequence[Lookup]) -> list[str]:
    """Names of the values that lookups of one table read, each once."""
    return list(dict.fromkeys(chain.from_iterable(lookup.values for lookup in lookups)))


def _joined(wide: pl.DataFrame, lookup: Lookup, rows: pl.DataFrame, known: str) -> pl.DataFrame:
    """The wide frame (ordered by PREDICTED_AT) with the newest row known then; `known` is when."""
    right = rows.select(
        **{f"_key_{index}": column for index, column in enumerate(lookup.columns)},
        **{known: KNOWN_AT},
        **{lookup.wide(value): f"={value}" for value in lookup.values},
    )
    by = [f"_key_{index}" for index in range(len(lookup.columns))]
    return wide.join_asof(
        right,
        left_on=PREDICTED_AT,
        right_on=known,
        by_left=list(lookup.keys),
        by_right=by,
        strategy="backward",
        tolerance=None if lookup.within is None else timedelta(seconds=lookup.within),
        coalesce=False,
        check_sortedness=False,
    ).drop(by, strict=False)
