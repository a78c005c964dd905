"""The feature assets: stored by day, checked inside, published for the endpoint."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.data.raw import reader
from assets.tabular.features import aggregates, assets as stage
from assets.tabular.features.bounds import Figures, from_the_future
from assets.tabular.features.moments import refresh
from assets.tabular.features.point_in_time import features
from assets.tabular.features.snapshot import snapshot
from resources.keys import Keys
from resources.lake import Lake
from resources.online_store import OnlineStore
from tests.support.orders import FIRST, LAST, frames, orders

DAY = timedelta(days=1)
KEY = dg.AssetKey(["orders", "features"])


@pytest.fixture
def resources(tmp_path: Path) -> dict[str, Any]:
    lake = Lake(uri=str(tmp_path / "lake"))
    for name, frame in frames(rows=12).items():
        if name == "riders":
            lake.overwrite(f"orders/raw/{name}", frame)
        else:
            lake.write(f"orders/raw/{name}", frame, frame["date"].unique().sort().to_list())
    keys = Keys(path=str(tmp_path / "keys"))
    return {"lake": lake, "online": OnlineStore(path=str(tmp_path / "endpoint"), signer=keys)}


def run(resources: dict[str, Any], first: date, last: date) -> dg.ExecuteInProcessResult:
    tags = {
        "dagster/asset_partition_range_start": str(first),
        "dagster/asset_partition_range_end": str(last),
    }
    return dg.materialize(
        stage.build(orders), resources=resources, selection=[KEY], tags=tags, raise_on_error=False
    )


def reading(lake: Lake) -> Any:
    return lambda source, first, last: lake.scan(f"orders/raw/{source}", first, last)


def test_a_range_is_stored_checked_and_described(resources: dict[str, Any]) -> None:
    lake: Lake = resources["lake"]
    result = run(resources, FIRST, LAST)
    assert result.success
    checks = {
        evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()
    }
    assert checks["no_future"].passed
    assert checks["no_future"].blocking
    assert set(checks) == {"no_future", "feature_bounds"}
    events = [event.materialization for event in result.get_asset_materialization_events()]
    assert len(events) == (LAST - FIRST).days + 1
    assert {"dagster/row_count", "content_digest", "dagster/column_lineage", "features"} <= set(
        events[5].metadata
    )
    stored = lake.read("orders/features").sort("event_time", "order_id")
    days = [FIRST + offset * DAY for offset in range(len(events))]
    assert lake.days("orders/features") == days
    assert stored.select(sorted(stored.columns)).equals(
        (computed := features(orders, days, reading(lake))).select(sorted(computed.columns))
    )
    again = run(resources, FIRST, LAST)
    assert [
        event.materialization.metadata["content_digest"]
        for event in again.get_asset_materialization_events()
    ] == [event.metadata["content_digest"] for event in events]


def test_requests_that_came_too_late_are_counted_where_they_came(resources: dict[str, Any]) -> None:
    """Known only after the moment of their prediction they have no row; nobody should have to find that out."""
    lake: Lake = resources["lake"]
    day = FIRST + 10 * DAY
    raw = lake.read("orders/raw/orders")
    once = raw.filter(pl.col("order_id").is_unique() & (pl.col("date") == day - DAY)).sort(
        "order_id"
    )
    missed, corrected = once.head(2), once.slice(2, 1)

    def again(rows: pl.DataFrame) -> pl.DataFrame:
        """Delivered with the next day, known hours after the prediction."""
        return rows.with_columns(
            known_at=pl.col("event_time") + timedelta(hours=20), date=pl.lit(day + DAY)
        )

    kept = raw.filter(~pl.col("order_id").is_in(missed["order_id"].implode()))
    lake.write(
        "orders/raw/orders",
        pl.concat([kept, again(missed), again(corrected)]),
        lake.days("orders/raw/orders"),
    )
    result = run(resources, day - DAY, day + 2 * DAY)
    metadata = [
        event.materialization.metadata for event in result.get_asset_materialization_events()
    ]
    assert [of["late_requests"].value for of in metadata] == [0, 0, 2, 0]
    stored = lake.read("orders/features").get_column("order_id")
    assert not stored.is_in(missed["order_id"].implode()).any()
    assert stored.is_in(corrected["order_id"].implode()).any()
    # A day is told the same whatever is computed with it.
    alone = (
        run(resources, day + DAY, day + DAY)
        .get_asset_materialization_events()[0]
        .materialization.metadata
    )
    assert alone["late_requests"].value == 2


def test_the_snapshot_is_of_the_newest_day_and_publishing_again_changes_nothing(
    resources: dict[str, Any],
) -> None:
    assert run(resources, LAST - DAY, LAST).success
    online: OnlineStore = resources["online"]
    results = [
        dg.materialize(
            stage.build(orders),
            resources=resources,
            selection=[dg.AssetKey(["orders", "online_features"])],
        )
        for _ in range(2)
    ]
    found = online.newest("orders")
    assert found is not None
    assert found.as_of == LAST
    assert found.digest == snapshot(orders, LAST, reading(resources["lake"])).digest
    metadata = results[1].get_asset_materialization_events()[0].materialization.metadata
    assert metadata["as_of"].value == str(LAST)
    assert metadata["digest"].value == found.digest
    assert online.newest("elsewhere") is None


def test_what_was_summed_for_a_day_is_summed_anew_once_its_facts_changed(
    resources: dict[str, Any],
) -> None:
    lake: Lake = resources["lake"]
    assert run(resources, LAST, LAST).success
    before = snapshot(orders, LAST, reader(lake, "orders"))
    assert before.digest == snapshot(orders, LAST, reading(lake)).digest
    day = LAST - 3 * DAY
    delivered = lake.scan("orders/raw/results", day, day).collect()
    lake.write("orders/raw/results", delivered.head(delivered.height // 2), [day])
    after = snapshot(orders, LAST, reader(lake, "orders"))
    assert after.digest == snapshot(orders, LAST, reading(lake)).digest
    assert after.digest != before.digest


def test_a_row_from_the_future_is_never_written(
    resources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A mistake that lets aggregates see facts two refreshes before they are known.
    honest = aggregates.first_refreshes
    monkeypatch.setattr(
        "assets.tabular.features.aggregates.first_refreshes",
        lambda pipeline, known: honest(pipeline, known) - 2 * DAY,
    )
    monkeypatch.setattr(
        "assets.tabular.features.aggregates.refresh",
        lambda pipeline, day: refresh(pipeline, day + 2 * DAY),
    )
    result = run(resources, LAST - 4 * DAY, LAST - 4 * DAY)
    assert not result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("no_future", False)
    assert not resources["lake"].exists("orders/features")


def test_online_features_without_features_say_what_to_do(resources: dict[str, Any]) -> None:
    result = dg.materialize(
        stage.build(orders),
        resources=resources,
        selection=[dg.AssetKey(["orders", "online_features"])],
        raise_on_error=False,
    )
    assert not result.success
    assert "materialize it first" in str(result.all_events)


def test_bounds_tell_what_is_odd() -> None:
    days = [date(2024, 1, 1) + offset * DAY for offset in range(30)]
    table = pl.DataFrame(
        {
            "date": days, "known_at": days, "inputs_known_at": [*days[:-1], days[-1] + DAY],
            "good": [float(index) for index in range(30)], "same": [1.0] * 30, "empty": [None] * 29 + [1.0], "young": [None] * 30, "odd": [float("inf")] + [1.0, 2.0] * 14 + [3.0],
        },
        schema_overrides={"young": pl.Float64},
    )  # fmt: skip
    figures = Figures(("good", "same", "empty", "young", "odd"))
    figures.add(days[:15], table.head(15), dict.fromkeys(days[:15], "x"))
    figures.add(days[15:], table.tail(15), dict.fromkeys(days[15:], "x"))
    faults = figures.faults(young=["young"])
    assert [fault.split(":")[0] for fault in faults] == ["same", "empty", "odd"]
    assert "| good | 0.0% | 0 | 29 |" in figures.markdown()
    assert from_the_future(table) == 1
    assert Figures(("good",)).faults() == ["no row at all"]
