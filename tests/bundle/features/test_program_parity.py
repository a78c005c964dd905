"""Batch, row and columns compute the same: random programs over random rows, bit by bit."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from hypothesis import HealthCheck, example, given, settings, strategies as st

from bundle.features.columns import column
from bundle.features.expression import (  # fmt: skip
    Category,
    Expression,
    Feature,
    Join,
    Literal,
    Operation,
    Rolling,
    col,
    if_else,
    lit,
)
from bundle.features.numpy import compile_columns
from bundle.features.online import AggregateTable, LatestRows, LatestTable, Refresh, Snapshot
from bundle.features.polars import compile_batch
from bundle.features.program import (
    FeatureProgram,
    Lookup,
    RequestColumn,
    aggregate_name,
    aggregate_table,
    latest_table,
    lookup_name,
)
from bundle.features.row import compile_row

ROLLED = {
    function: Rolling(function, col("delay"), ("s",), 7, "facts")
    for function in ("rate", "count", "mean")
}
# No key: one value for all requests.
EVERYWHERE = Rolling("mean", col("delay"), (), 7, "facts")
JOINED = {name: Join("sky", name, ("s",), 3600) for name in ("temp", "cover", "open", "seen")}
KINDS = {"temp": "float", "cover": "string", "open": "boolean", "seen": "datetime"}
LOOKUPS = (
    Lookup(lookup_name(JOINED["temp"]), latest_table("sky", ("s",)), "latest", "sky", ("s",), ("s",), tuple(KINDS), tuple(KINDS.values()), 3600),
    Lookup(lookup_name(ROLLED["rate"]), aggregate_table("facts", ("s",)), "aggregate", "facts", ("s",), ("s",),
           tuple(aggregate_name(node) for node in ROLLED.values()), ("float",) * 3),
    Lookup(lookup_name(EVERYWHERE), aggregate_table("facts", ()), "aggregate", "facts", (), (), (aggregate_name(EVERYWHERE),), ("float",)),
)  # fmt: skip
REQUEST = {
    "event_time": RequestColumn("datetime"), "f": RequestColumn("float", True), "g": RequestColumn("float", True), "i": RequestColumn("integer", True),
    "b": RequestColumn("boolean", True), "s": RequestColumn("string", True), "t": RequestColumn("datetime", True),
}  # fmt: skip
DTYPES = {
    "f": pl.Float64,
    "g": pl.Float64,
    "i": pl.Int64,
    "b": pl.Boolean,
    "s": pl.String,
    "t": pl.Datetime("us", "UTC"),
    "event_time": pl.Datetime("us", "UTC"),
}
ZONES = ("UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe")

ODD = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.1,
    49.0,
    3.0,
    5e-324,
    1e-300,
    1e16,
    2.0**53 + 2,
    3.4028235e38,
    3.5e38,
    1e200,
    -1e200,
    1.7976931348623157e308,
]
finite = st.one_of(
    st.sampled_from(ODD),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-1000, 1000).map(float),
)
floats = st.one_of(st.none(), finite, st.sampled_from([math.nan, math.inf, -math.inf]))
integers = st.one_of(
    st.none(), st.integers(-5, 5), st.integers(-(2**63), 2**63 - 1), st.just(2**53 + 1)
)
# No lone surrogates: they are no text that JSON or Polars could carry.
words = st.one_of(
    st.sampled_from(
        ["", "a", "b", "B", "é", "e\u0301", "ß", "a\x00", "\U0001f600", "\ufffd", "ﬀ", " a"]
    ),
    st.text(st.characters(codec="utf-8"), max_size=4),
)
texts = st.one_of(st.none(), words)


def between(first: int, last: int) -> st.SearchStrategy[datetime]:
    # Hypothesis takes bounds without a time zone and adds it.
    return st.datetimes(datetime(first, 1, 1), datetime(last, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


moments = between(1895, 2105)
# Around the hours when clocks change.
changes = st.sampled_from(
    [datetime(2013, *at, tzinfo=UTC) for at in ((3, 10, 7), (11, 3, 5), (11, 3, 6), (4, 6, 15))]
)
near = st.builds(lambda at, minutes: at + timedelta(minutes=minutes), changes, st.integers(-90, 90))
datetimes = st.one_of(moments, near)


def operations(
    names: tuple[str, ...], *operands: st.SearchStrategy[Expression]
) -> st.SearchStrategy[Expression]:
    return st.builds(
        lambda name, found: Operation(name, found), st.sampled_from(names), st.tuples(*operands)
    )


null = st.just(Literal(None))


# Depth is bounded by hand: mutually recursive strategies without a bound draw trees of thousands of nodes.
@cache
def numbers(depth: int = 4) -> st.SearchStrategy[Expression]:
    leaves = st.one_of(
        st.sampled_from([col("f"), col("g"), col("i"), JOINED["temp"], *ROLLED.values(), EVERYWHERE]),
        st.one_of(finite, st.integers(-10, 10), st.integers(-(2**63), 2**63 - 1)).map(Literal), null,
    )  # fmt: skip
    if not depth:
        return leaves
    below = numbers(depth - 1)
    return st.one_of(
        leaves,
        operations(("add", "sub", "mul", "truediv", "floordiv", "mod", "fill_null"), below, below),
        operations(("neg", "abs", "log", "log1p", "sqrt", "sin", "cos"), below),
        operations(("clip",), below, below, below),
        operations(("if_else",), booleans(depth - 1), below, below),
        operations(("minute", "hour", "weekday", "day", "month", "day_of_year"), times(depth - 1)),
        booleans(depth - 1),
    )


@cache
def booleans(depth: int) -> st.SearchStrategy[Expression]:
    leaves = st.one_of(
        st.sampled_from([col("b"), JOINED["open"]]), st.booleans().map(Literal), null
    )
    if not depth:
        return leaves
    below, kinds = (
        booleans(depth - 1),
        [kind(depth - 1) for kind in (numbers, strings, times, booleans)],
    )
    return st.one_of(
        leaves,
        *(operations(("eq", "ne", "lt", "le", "gt", "ge"), kind, kind) for kind in kinds),
        operations(("and", "or", "fill_null"), below, below),
        operations(("not",), below),
        *(operations(("is_null",), kind) for kind in kinds),
        operations(("if_else",), below, below, below),
    )


@cache
def strings(depth: int) -> st.SearchStrategy[Expression]:
    leaves = st.one_of(st.sampled_from([col("s"), JOINED["cover"]]), words.map(Literal), null)
    if not depth:
        return leaves
    below = strings(depth - 1)
    return st.one_of(
        leaves,
        operations(("fill_null",), below, below),
        operations(("if_else",), booleans(depth - 1), below, below),
    )


@cache
def times(depth: int) -> st.SearchStrategy[Expression]:
    leaves = st.one_of(st.sampled_from([col("t"), col("event_time"), JOINED["seen"]]), null)
    if not depth:
        return leaves
    below = times(depth - 1)
    return st.one_of(
        leaves,
        operations(("fill_null",), below, below),
        operations(("if_else",), booleans(depth - 1), below, below),
    )


features = st.lists(
    st.one_of(numbers(), numbers(), strings(2).map(Category)), min_size=1, max_size=4
)
rows = st.lists(
    st.fixed_dictionaries({
        "event_time": st.one_of(near, between(1950, 2090)),
        "f": floats, "g": floats, "i": integers, "b": st.one_of(st.none(), st.booleans()), "s": texts, "t": st.one_of(st.none(), datetimes),
    }),
    min_size=1, max_size=6,
)  # fmt: skip
stored = st.fixed_dictionaries(
    {
        "temp": st.one_of(st.none(), finite),
        "cover": texts,
        "open": st.one_of(st.none(), st.booleans()),
        "seen": st.one_of(st.none(), datetimes),
    }
)
found = st.lists(st.tuples(texts, st.integers(-2, 7200), stored), max_size=4)
rolled = st.lists(
    st.tuples(
        words,
        st.one_of(st.none(), st.floats(0, 1)),
        st.integers(0, 99).map(float),
        st.one_of(st.none(), finite),
    ),
    max_size=4,
    unique_by=lambda row: row[0],
)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(features, rows, found, rolled, st.sampled_from(ZONES), st.booleans())
@example(
    [col("f") / 49, col("f") % 49, col("f") // 49],
    [{"event_time": datetime(2013, 1, 1, tzinfo=UTC), "f": 49.0}],
    [],
    [],
    "UTC",
    True,
)
@example(
    [EVERYWHERE],
    [{"event_time": datetime(2013, 1, 1, tzinfo=UTC)}] * 3,
    [],
    [("a", 0.5, 3.0, 7.0)],
    "UTC",
    True,
)
@example(
    [if_else(col("b"), lit(1), lit(2)) + lit(0)],
    [{"event_time": datetime(2013, 1, 1, tzinfo=UTC)}],
    [],
    [],
    "UTC",
    True,
)
@example(
    [if_else(col("b"), lit(None), lit(None)) == lit(None)],
    [{"event_time": datetime(2013, 1, 1, tzinfo=UTC)}] * 2,
    [],
    [],
    "UTC",
    True,
)
@example(
    [lit(False) < (lit(None) == col("f"))],
    [{"event_time": datetime(2013, 1, 1, tzinfo=UTC)}] * 3,
    [],
    [],
    "UTC",
    True,
)
@example(
    [JOINED["seen"].is_null()],
    [{"event_time": datetime(2013, 1, 1, tzinfo=UTC), "s": "a"}],
    [
        (
            "a",
            0,
            {"temp": None, "cover": None, "open": None, "seen": datetime(2100, 1, 1, tzinfo=UTC)},
        )
    ],
    [],
    "UTC",
    True,
)
def test_batch_row_and_columns_give_the_same_matrix(
    trees: list[Expression],
    asked: list[dict[str, Any]],
    sky: list[Any],
    facts: list[Any],
    zone: str,
    all_seen: bool,
) -> None:
    program = FeatureProgram(
        "p", zone, "id", 3600, 0, REQUEST, tuple(Feature(f"x{index}", tree) for index, tree in enumerate(trees)), LOOKUPS,
    )  # fmt: skip
    program.check()
    program = FeatureProgram.decode(program.encode())
    asked = [{name: row.get(name) for name in REQUEST} for row in asked]
    online = snapshot_around(asked[0]["event_time"] - timedelta(hours=1), sky, facts)
    online = Snapshot.decode(online.encode())

    wide = pl.DataFrame(
        [[row[name] for row in asked] for name in REQUEST],
        schema={name: DTYPES[name] for name in REQUEST},
    )
    table = wide.hstack(looked_up(asked, online)).select(compile_batch(program))
    fitted = program.fit(table if all_seen else table.head(1))
    batch = fitted.matrix(table)
    function = compile_row(fitted)
    one_by_one = np.array([function(as_sent(row), online) for row in asked], dtype=np.float32)

    assert batch.dtype == one_by_one.dtype == np.float32
    missing = np.isnan(batch)
    assert np.array_equal(missing, np.isnan(one_by_one))
    assert np.array_equal(batch.view(np.uint32)[~missing], one_by_one.view(np.uint32)[~missing]), (
        batch,
        one_by_one,
    )
    assert np.isfinite(batch[~missing]).all()

    columns = {
        name: column(found.kind, [row[name] for row in asked]) for name, found in REQUEST.items()
    }
    at_once = compile_columns(fitted)(columns, online)
    assert at_once.dtype == np.float32
    assert at_once.flags.c_contiguous
    assert np.array_equal(missing, np.isnan(at_once))
    assert np.array_equal(batch.view(np.uint32)[~missing], at_once.view(np.uint32)[~missing]), (
        batch,
        at_once,
    )


def snapshot_around(moment: datetime, sky: list[Any], facts: list[Any]) -> Snapshot:
    """A snapshot whose rows were known within two hours before a moment (one just after it)."""
    by_key: dict[Any, list[tuple[datetime, tuple[Any, ...]]]] = {}
    for key, age, values in sorted(sky, key=lambda row: -row[1]):
        by_key.setdefault(key, []).append(
            (moment - timedelta(seconds=age), tuple(values[name] for name in KINDS))
        )
    by_key.pop(None, None)
    latest = tuple(
        ((key,), LatestRows(tuple(at for at, _ in rows), tuple(values for _, values in rows)))
        for key, rows in by_key.items()
    )
    refreshes = (
        Refresh(
            moment - timedelta(hours=1), tuple(((key,), tuple(values)) for key, *values in facts)
        ),
    )
    everywhere = tuple(((), (mean,)) for _, _, _, mean in facts[:1])
    tables = {
        LOOKUPS[0].table: LatestTable(("s",), LOOKUPS[0].values, latest),
        LOOKUPS[1].table: AggregateTable(("s",), LOOKUPS[1].values, refreshes),
        LOOKUPS[2].table: AggregateTable(
            (), LOOKUPS[2].values, (Refresh(moment - timedelta(hours=1), everywhere),)
        ),
    }
    return Snapshot("p", date(2013, 1, 1), moment, tables)


def looked_up(asked: list[dict[str, Any]], online: Snapshot) -> pl.DataFrame:
    """The columns of the lookups, found one by one."""
    dtypes = {
        "float": pl.Float64,
        "string": pl.String,
        "boolean": pl.Boolean,
        "datetime": pl.Datetime("us", "UTC"),
    }
    columns = {}
    for lookup in LOOKUPS:
        found = [
            online.lookup(
                lookup.table,
                tuple(row[key] for key in lookup.keys),
                row["event_time"] - timedelta(hours=1),
                lookup.within,
            )
            or {}
            for row in asked
        ]
        for value, kind in zip(lookup.values, lookup.kinds, strict=True):
            columns[lookup.wide(value)] = pl.Series(
                [row.get(value) for row in found], dtype=dtypes[kind]
            )
    return pl.DataFrame(columns)


def as_sent(row: dict[str, Any]) -> dict[str, Any]:
    """A request as JSON brings it: datetimes as text, in any offset."""
    east = datetime(2000, 1, 1, tzinfo=UTC).astimezone().tzinfo
    return {
        name: value.astimezone(east).isoformat() if isinstance(value, datetime) else value
        for name, value in row.items()
        if value is not None
    }
