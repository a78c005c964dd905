"""Feature programs: mistakes fail where they are declared, stored programs and requests are read strictly."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import polars as pl
import pytest

from assets.tabular.features.declared_program import program
from assets.tabular.features.lineage import column_lineage, delivery_days
from bundle.features.expression import (
    Expression,
    category,
    col,
    days,
    if_else,
    join,
    lit,
    mean,
    rate,
)
from bundle.features.online import AggregateTable, LatestRows, LatestTable, Refresh, Snapshot
from bundle.features.program import FeatureProgram, RequestColumn
from bundle.features.row import compile_row
from declare.label import Label
from declare.tabular import Tabular
from tests.support.orders import orders

NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
REQUEST = {
    "event_time": RequestColumn("datetime"),
    "x": RequestColumn("float", True),
    "n": RequestColumn("integer", True),
    "s": RequestColumn("string", True),
    "b": RequestColumn("boolean", True),
}
NOTHING = Snapshot.empty("p", date(2024, 3, 5), NOON)


def of(*trees: Expression, zone: str = "UTC") -> FeatureProgram:
    return FeatureProgram(
        "p",
        zone,
        "id",
        3600,
        0,
        REQUEST,
        tuple(tree.named(f"f{index}") for index, tree in enumerate(trees)),
    )


def one(tree: Expression, **request: Any) -> float:
    return compile_row(of(tree))(request, NOTHING)[0]


def declared(**changes: Any) -> Tabular:
    return Tabular(**{**{name: getattr(orders, name) for name in Tabular.model_fields}, **changes})


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        (col("s") + 1, "f0.*needs numbers, but col\\('s'\\) is text"),
        (col("event_time") * 2, "is a datetime"),
        (col("x") & col("b"), "needs conditions .*col\\('x'\\) is a number"),
        (col("s") > 3, "two values of one type"),
        (if_else(col("x"), 1, 2), "needs a condition"),
        (if_else(col("b"), 1, "a"), "3 is a number|two values of one type"),
        (col("x").hour(), "needs a datetime"),
        (col("s").fill_null(0), "two values of one type"),
        (col("s"), "wrap it as category"),
        (col("event_time"), "take a part of it"),
        (col("z"), "column 'z' is unknown"),
        (category("s").expression == "a", "a category is a feature of its own"),
        (category("n").expression, "needs text"),
    ],
)
def test_expressions_that_mix_types_are_refused(tree: Expression, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        of(tree).check()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"features": [(col("shop") + 1).named("odd")]}, "feature 'odd'.*'shop'.*is text"),
        ({"features": [(join("weather").sky * 2).named("odd")]}, "feature 'odd'.*is text"),
        ({"features": [rate("minutes", over=days(3))]}, "no share: it needs a condition"),
        ({"features": [mean("order_id", over=days(3)).named("odd")]}, "needs a number, not text"),
        (
            {"features": [join("riders", on="zone").years]},
            "compares its 'rider' \\(a text\\) with the request's 'zone' \\(a number\\)",
        ),
        ({"features": [mean("minutes", by="km", over=days(3))]}, "grouped by 'km', a float"),
        ({"label": Label("late", col("minutes") + 1, source="results")}, "is no condition"),
        (
            {"label": Label("late", col("minutes") > "long", source="results")},
            "label 'late'.*two values of one type",
        ),
    ],
)
def test_a_declaration_with_such_a_feature_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        program(declared(**changes))


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**64])
def test_literals_that_no_program_can_store_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"cannot stand in a feature|does not fit 64 bits"):
        lit(value)


def test_numbers() -> None:
    assert one(col("x") / 49, x=49.0) == 1.0
    assert one(col("x") // 100 * 60 + col("x") % 100, x=515) == 315.0
    assert one(col("x") % -3, x=7) == -2.0
    assert math.isnan(one(col("x") / col("n"), x=1.0, n=0))
    assert math.isnan(one(col("x").log(), x=0.0))
    assert math.isnan(one(col("x") * 1e300, x=1e300))
    assert one((col("x") / 0).is_null(), x=1.0) == 1.0
    assert one(col("x").fill_null(5), x=math.nan) == 5.0
    assert one(col("n") + 0, n=2**53 + 1) == 2.0**53
    assert math.isnan(one(col("n") + 0, n=10**400))
    assert one(col("b") + 1, b=True) == 2.0
    assert one(col("x").clip(0, 1), x=7) == 1.0
    assert math.isnan(one(col("x"), x=3.5e38))


def test_logic_of_three_values() -> None:
    null = col("b")
    assert one(null & False) == 0.0
    assert one(null | True) == 1.0
    assert math.isnan(one(null & True))
    assert math.isnan(one(null | False))
    assert math.isnan(one(~null))
    assert one(if_else(null, 1, 2)) == 2.0


@pytest.mark.parametrize(
    ("moment", "hour", "weekday"),
    [
        ("2013-03-10T06:59:00Z", 1.0, 7.0),
        ("2013-03-10T07:00:00Z", 3.0, 7.0),
        ("2013-03-10T03:00:00-04:00", 3.0, 7.0),
        ("2013-11-03T05:30:00+00:00", 1.0, 7.0),
        ("2013-11-03T06:30:00", 1.0, 7.0),
        ("2013-11-04T04:59:59Z", 23.0, 7.0),
    ],
)
def test_parts_of_dates_are_local(moment: str, hour: float, weekday: float) -> None:
    function = compile_row(
        of(col("event_time").hour(), col("event_time").weekday(), zone="America/New_York")
    )
    assert function({"event_time": moment}, NOTHING) == [hour, weekday]


@pytest.mark.parametrize(
    ("request_", "error", "told"),
    [
        ({"x": "1"}, TypeError, "'x' holds '1'"),
        ({"event_time": "yesterday"}, ValueError, "no ISO 8601 datetime"),
        ({"event_time": 1}, TypeError, "must be a datetime"),
        ({"b": 1}, TypeError, "must be true or false"),
        ({"s": 5}, TypeError, "must be text"),
    ],
)
def test_a_request_of_the_wrong_kind_is_refused_by_name(
    request_: dict[str, Any], error: type[Exception], told: str
) -> None:
    function = compile_row(of(col("x"), col("b"), col("event_time").hour(), col("s").is_null()))
    with pytest.raises(error, match=told):
        function(request_, NOTHING)


def test_programs_survive_storage_and_are_named_by_content() -> None:
    made = program(orders)
    again = FeatureProgram.decode(made.encode())
    assert again.encode() == made.encode()
    assert again.digest == made.digest
    assert program(declared(lead=timedelta(hours=3))).digest != made.digest
    assert json.loads(made.encode())["pipeline"] == "orders"


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("features"),
        lambda document: document.update(extra=1),
        lambda document: document.update(version=99),
        lambda document: document["features"][0]["expression"].update(name="unknown"),
        lambda document: document["lookups"].clear(),
        lambda document: document["lookups"][0]["values"].pop(),
        lambda document: document["features"][0].update(
            expression={"node": "operation", "operator": "exec", "operands": []}
        ),
    ],
)
def test_what_is_no_complete_program_is_refused(change: Any) -> None:
    document = json.loads(program(orders).encode())
    change(document)
    with pytest.raises(ValueError, match=r"."):
        FeatureProgram.decode(json.dumps(document).encode())


def test_deep_nesting_is_refused_not_a_crash() -> None:
    deep = b'{"node":"category","operand":' * 100_000
    with pytest.raises(ValueError, match="not a feature program"):
        FeatureProgram.decode(b'{"pipeline":"p","features":[{"name":"a","expression":' + deep)


def test_vocabularies_keep_the_most_frequent_texts_in_canonical_order() -> None:
    made = FeatureProgram("p", "UTC", "id", 0, 0, REQUEST, (category("s"),))
    texts = ["b", "a", None, "b", "é"] + [f"w{index:03d}" for index in range(300)]
    frame = pl.DataFrame({"s": texts})
    fitted = made.fit(frame)
    assert fitted.vocabularies == made.fit(frame.reverse()).vocabularies
    words = fitted.vocabularies["s"]
    assert len(words) == 255
    assert list(words) == sorted(words)
    assert "b" in words
    codes = fitted.matrix(pl.DataFrame({"s": ["b", "unseen", None]}))[:, 0]
    assert codes[0] == words.index("b") + 1
    assert codes[1] == 0
    assert math.isnan(codes[2])
    with pytest.raises(ValueError, match="no vocabularies yet"):
        made.matrix(frame)
    with pytest.raises(ValueError, match="no vocabularies yet"):
        compile_row(made)


def snapshot() -> Snapshot:
    """Weather of the bakery at 6, 9 and 11, refreshes at 4 today and yesterday."""
    made = program(orders)
    tables: dict[str, LatestTable | AggregateTable] = {}
    for lookup in made.lookups:
        if lookup.kind == "aggregate":
            values = tuple(float(index) for index in range(len(lookup.values)))
            key = {"shop": "bakery", "rider": "ann", "zone": 3}
            rows = ((tuple(key[name] for name in lookup.keys), values),)
            refreshes = tuple(
                Refresh(NOON - timedelta(hours=8 + back), rows if not back else ())
                for back in (24, 0)
            )
            tables[lookup.table] = AggregateTable(lookup.keys, lookup.values, refreshes)
    known = tuple(NOON - timedelta(hours=hours) for hours in (6, 3, 1))
    tables["weather by shop"] = LatestTable(
        ("shop",), ("rain",), ((("bakery",), LatestRows(known, ((6.0,), (9.0,), (11.0,)))),)
    )
    return Snapshot("orders", date(2024, 3, 5), NOON - timedelta(hours=8), tables)


def test_lookups_find_what_was_known_at_the_prediction() -> None:
    online = Snapshot.decode(snapshot().encode())

    def find(at, within=None, key="bakery"):
        return online.lookup("weather by shop", (key,), at, within)

    assert find(NOON) == {"rain": 11.0}
    assert find(NOON - timedelta(hours=1)) == {"rain": 11.0}
    assert find(NOON - timedelta(hours=1, microseconds=1)) == {"rain": 9.0}
    assert find(NOON - timedelta(hours=7)) is None
    assert find(NOON + timedelta(hours=2), 3 * 3600) == {"rain": 11.0}
    assert find(NOON + timedelta(hours=2, microseconds=1), 3 * 3600) is None
    assert find(NOON, key="elsewhere") is None
    assert online.lookup("no such table", ("bakery",), NOON) is None


def test_a_request_without_its_event_time_is_refused_where_lookups_need_it() -> None:
    fitted = msgspec.structs.replace(
        program(orders), vocabularies={"shop": ("bakery",), "rider": ("ann",)}
    )
    function = compile_row(fitted)
    assert set(function.inputs) == {"event_time", "shop", "rider", "zone", "km"}
    with pytest.raises(ValueError, match="no 'event_time'"):
        function({"shop": "bakery"}, snapshot())
    assert "riders by rider: years" in function.missing(snapshot())
    row = dict(
        zip(
            function.names,
            function({"shop": "bakery", "event_time": "2024-03-05T14:00:00Z"}, snapshot()),
            strict=True,
        )
    )
    assert row["rain"] == 11.0
    assert row["late_count_by_rider_3d"] == 0.0
    assert math.isnan(row["years"] if "years" in row else row["riders_years"])


def test_one_row_is_fast() -> None:
    """A loose bound that holds on a busy machine; `benchmarks/features.py` measures."""
    fitted = msgspec.structs.replace(
        program(orders), vocabularies={"shop": ("bakery",), "rider": ("ann",)}
    )
    function, online = compile_row(fitted), snapshot()
    request = {
        "shop": "bakery",
        "rider": "ann",
        "zone": 3,
        "km": 2.5,
        "event_time": "2024-03-05T14:00:00Z",
    }
    fastest = math.inf
    for _ in range(20):
        begin = time.process_time()
        for _ in range(200):
            function(request, online)
        fastest = min(fastest, (time.process_time() - begin) / 200)
    assert fastest < 100e-6


def test_lineage_names_sources_and_the_days_that_they_reach_back() -> None:
    lineage = column_lineage(orders)
    assert lineage["rain"] == [("weather", "rain"), ("weather", "shop"), ("orders", "shop")]
    assert ("results", "minutes") in lineage["late_rate_by_shop_7d"] or (
        "orders",
        "shop",
    ) in lineage["late_rate_by_shop_7d"]
    assert delivery_days(orders)["riders"] is None
    assert delivery_days(orders)["results"] >= 14
    assert delivery_days(orders)["orders"] >= 14
