"""The feature program that ships: a batch and its rows one by one see the same features."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assets.data.parse import Landed, parse
from assets.tabular.features.declared_program import program
from assets.tabular.features.point_in_time import features
from assets.tabular.features.snapshot import snapshot
from assets.tabular.features.versions import Reader
from bundle.features.columns import column
from bundle.features.numpy import compile_columns
from bundle.features.online import Snapshot
from bundle.features.program import FeatureProgram
from bundle.features.row import compile_row
from pipelines.flight_delays import pipeline
from pipelines.flight_delays.feed import Feed

DAY = timedelta(days=1)
LANDED = 10
Frames = dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """Ten days of flights, landed by the feed and parsed as the platform parses them."""
    place = tmp_path_factory.mktemp("flights")
    feed = Feed(str(place))
    feed.land_once()
    for offset in range(LANDED):
        feed.land(feed.first + offset * DAY)

    return {source.name: parsed(place, source.name) for source in pipeline.sources}


def parsed(place: Path, name: str) -> pl.DataFrame:
    landed = [
        Landed(
            None if file.parent.name == "once" else date.fromisoformat(file.parent.name),
            file.name,
            file.read_bytes(),
        )
        for file in sorted(place.rglob(f"{name}/*/*.csv"))
    ]
    rows = parse(pipeline.source(name), landed).rows
    return rows.drop(column for column in rows.columns if column.startswith("_"))


def reading(frames: Frames) -> Reader:
    def read(source: str, first: date | None, last: date | None) -> pl.LazyFrame:
        rows = frames[source].lazy()
        if first is not None:
            rows = rows.filter(pl.col("date") >= first)
        return rows if last is None else rows.filter(pl.col("date") <= last)

    return read


@pytest.fixture(scope="module")
def fitted(flights: Frames) -> FeatureProgram:
    days = [Feed.first + offset * DAY for offset in range(3, LANDED - 1)]
    return program(pipeline).fit(features(pipeline, days, reading(flights)))


@pytest.fixture(scope="module")
def online(flights: Frames) -> Snapshot:
    return snapshot(pipeline, Feed.first + (LANDED - 2) * DAY, reading(flights))


@pytest.fixture(scope="module")
def requests(flights: Frames, fitted: FeatureProgram) -> list[dict[str, Any]]:
    """What an application would ask on the snapshot's day and the day after it."""
    asked = flights["schedule"].filter(pl.col("date") >= Feed.first + (LANDED - 2) * DAY)
    return asked.select(list(fitted.request)).to_dicts()


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 1_000])
def test_a_batch_has_the_features_of_its_rows(
    fitted: FeatureProgram, online: Snapshot, requests: list[dict[str, Any]], rows: int
) -> None:
    asked = requests[-rows:]
    assert len(asked) == rows
    columns = {
        name: column(found.kind, [row[name] for row in asked])
        for name, found in fitted.request.items()
    }

    together = compile_columns(fitted)(columns, online)
    alone = compile_row(fitted)

    one_by_one = np.array([alone(row, online) for row in asked], dtype=np.float32)
    missing = np.isnan(one_by_one)
    assert np.array_equal(missing, np.isnan(together))
    assert np.array_equal(one_by_one[~missing], together[~missing])


def test_the_snapshot_holds_what_the_program_looks_up(
    fitted: FeatureProgram, online: Snapshot, requests: list[dict[str, Any]]
) -> None:
    """Else the comparison above would compare nulls alone."""
    assert compile_row(fitted).missing(online) == ()
    assert any(not lookup.keys for lookup in fitted.lookups)
    alone = compile_row(fitted)

    rows = np.array([alone(row, online) for row in requests[-1_000:]])

    known = dict(zip(fitted.names, (~np.isnan(rows)).mean(axis=0), strict=True))
    assert {name for name, share in known.items() if share == 0} == set()
    assert known["late_rate_1d"] == 1
