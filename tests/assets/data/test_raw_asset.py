"""Raw data as assets: partitions, ranges in one pass, checks, metadata.

A run that fails leaves no trace in the lake.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest

from assets.data.assets import build
from assets.data.raw import reader
from assets.names import days, keys_to_days, local_moment, quarantine_table, raw_table
from pipelines.flight_delays import pipeline as flight_delays
from resources.lake import Lake
from resources.landing import Landing
from resources.reports import Reports
from tests.support import tiny as support
from tests.support.tiny import DAY, FIRST, tiny

START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
LAST = FIRST + 9 * DAY


class Platform:
    """Resources in a folder of the test's own, and runs over them."""

    def __init__(self, place: Path) -> None:
        self.landing, self.lake = Landing(uri=str(place / "landing")), Lake(uri=str(place / "lake"))
        self.reports = Reports(uri=str(place / "reports"), url="http://reports")
        self.place, self.instance = place, dg.DagsterInstance.ephemeral()

    def run(
        self, *sources: str, first: date | None = None, last: date | None = None
    ) -> dg.ExecuteInProcessResult:
        chosen = [asset for asset in build(tiny) if asset.key.path[-1] in sources]
        single = first is not None and last in (None, first)
        return dg.materialize(
            chosen,
            resources={"landing": self.landing, "lake": self.lake, "reports": self.reports},
            instance=self.instance,
            partition_key=str(first) if single else None,
            tags={START: str(first), END: str(last)} if first is not None and not single else {},
            raise_on_error=False,
        )

    def events(
        self, result: dg.ExecuteInProcessResult, source: str
    ) -> list[dg.AssetMaterialization]:
        return list(result.asset_materializations_for_node(f"tiny__raw__{source}"))


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    platform = Platform(tmp_path)
    support.land(platform.landing, FIRST, LAST)
    return platform


def test_partitions_are_local_days_from_start_to_end() -> None:
    keys = days(flight_delays).get_partition_keys()
    assert (keys[0], keys[-1], len(keys)) == ("2013-01-01", "2013-12-31", 365)
    assert days(flight_delays).timezone == "America/New_York"
    assert keys_to_days(["2013-03-02", "2013-03-01"]) == [date(2013, 3, 1), date(2013, 3, 2)]
    assert (
        local_moment(date(2013, 3, 10), "America/New_York", timedelta(hours=4)).isoformat()
        == "2013-03-10T08:00:00+00:00"
    )
    assert (
        local_moment(date(2013, 3, 9), "America/New_York", timedelta(hours=4)).isoformat()
        == "2013-03-09T09:00:00+00:00"
    )


def test_every_source_is_an_asset_with_its_checks() -> None:
    assets = {asset.key.to_user_string(): asset for asset in build(flight_delays)}
    assert set(assets) == {
        f"flight_delays/raw/{name}"
        for name in ("schedule", "weather", "outcomes", "aircraft", "airports")
    }
    for name, asset in assets.items():
        daily = flight_delays.source(name.rsplit("/", 1)[-1]).daily
        assert (asset.partitions_def is not None) is daily
        assert asset.group_names_by_key[asset.key] == "data"
        checks = {check.name: check.blocking for check in asset.check_specs}
        assert checks == (
            {"contract": True, "volume": False, "lateness": False} if daily else {"contract": True}
        )


def test_a_range_is_one_pass_and_equal_to_its_days_one_by_one(
    platform: Platform, tmp_path: Path
) -> None:
    result = platform.run("jobs", "heat", "results", first=FIRST, last=LAST)
    assert result.success
    for source in ("jobs", "heat", "results"):
        assert platform.lake.version(raw_table("tiny", source)) == 0
        assert platform.lake.days(raw_table("tiny", source)) == [
            FIRST + index * DAY for index in range(10)
        ]
    ranged = {
        event.partition: event.metadata["content_digest"].value
        for event in platform.events(result, "results")
    }
    assert len(ranged) == 10
    other = Platform(tmp_path / "other")
    support.land(other.landing, FIRST, LAST)
    for index in (0, 3, 9):
        (event,) = other.events(other.run("results", first=FIRST + index * DAY), "results")
        assert event.metadata["content_digest"].value == ranged[event.partition]
        assert event.tags["dagster/data_version"] == ranged[event.partition]


def test_rerunning_with_equal_inputs_gives_equal_versions_and_rows(platform: Platform) -> None:
    first = platform.events(platform.run("jobs", first=FIRST, last=LAST), "jobs")
    rows = platform.lake.read(raw_table("tiny", "jobs")).sort("job_id")
    again = platform.events(platform.run("jobs", first=FIRST, last=LAST), "jobs")
    assert [event.tags["dagster/data_version"] for event in first] == [
        event.tags["dagster/data_version"] for event in again
    ]
    assert platform.lake.read(raw_table("tiny", "jobs")).sort("job_id").equals(rows)


def test_metadata_says_what_was_stored(platform: Platform) -> None:
    (event,) = platform.events(platform.run("results", first=FIRST + DAY), "results")
    metadata = {name: value.value for name, value in event.metadata.items()}
    assert metadata["dagster/row_count"] == 40
    assert metadata["dagster/uri"] == platform.lake.place("tiny/raw/results")
    assert [column.name for column in metadata["dagster/column_schema"].columns] == [
        "date",
        "job_id",
        "failed",
        "minutes",
        "event_time",
        "known_at",
    ]
    assert len(metadata["content_digest"]) == 64
    assert (
        metadata["rows_quarantined"],
        metadata["rows_late"],
        metadata["longest_delay_days"],
    ) == (0, 0, 0)
    assert "| 2024-01-02 | 40 | 40 | 0 | 0 | 1 |" in metadata["result"]
    link = str(metadata["report"])
    folder = platform.place / "reports" / link.removeprefix("http://reports/")
    assert "every cell reads as its declared kind" in (folder / "index.html").read_text()
    assert metadata["data_docs"] == f"{link}data_docs.html"
    assert "Successful Expectations" in (folder / "data_docs.html").read_text()


def test_once_sources_are_unpartitioned(platform: Platform) -> None:
    result = platform.run("machines")
    (event,) = platform.events(result, "machines")
    assert event.partition is None
    assert event.metadata["dagster/row_count"].value == 4
    stored = reader(platform.lake, "tiny")("machines", None, None).collect()
    assert stored.columns == ["machine", "age", "event_time", "known_at"]
    assert stored.height == 4


def dirty(platform: Platform, day: date, broken: int) -> None:
    """Deliver a day's jobs again with some loads that are no numbers."""
    place = Path(platform.landing.place("tiny", "jobs", day)) / f"jobs-{day + DAY}.csv"
    header, *lines = place.read_text().splitlines()
    spoilt = [
        ",".join([*line.split(",")[:2], "heavy", *line.split(",")[3:]]) for line in lines[:broken]
    ]
    platform.landing.put(
        "tiny",
        "jobs",
        day,
        place.name,
        ("\n".join([header, *spoilt, *lines[broken:]]) + "\n").encode(),
    )


def test_broken_rows_are_set_aside_and_counted(platform: Platform) -> None:
    day = FIRST + 2 * DAY
    dirty(platform, day, 2)
    result = platform.run("jobs", first=FIRST, last=LAST)
    assert result.success
    aside = platform.lake.read(quarantine_table("tiny", "jobs"))
    assert aside.select("date", "file", "row", "reason").rows() == [
        (day, f"jobs-{day + DAY}.csv", row, "load: 'heavy' is no float") for row in (1, 2)
    ]
    event = next(event for event in platform.events(result, "jobs") if event.partition == str(day))
    assert (
        event.metadata["rows_quarantined"].value,
        event.metadata["dagster/row_count"].value,
    ) == (2, 38)
    assert platform.lake.scan(raw_table("tiny", "jobs"), day, day).collect().height == 38
    contract = next(
        check for check in result.get_asset_check_evaluations() if check.check_name == "contract"
    )
    assert contract.passed
    assert contract.metadata["quarantined"].value == 2
    assert "data_docs" in contract.metadata


def test_a_refused_batch_fails_the_run_and_leaves_the_lake_as_it_was(platform: Platform) -> None:
    day = FIRST + 2 * DAY
    platform.run("jobs", first=FIRST, last=LAST)
    before, version = (
        platform.lake.read(raw_table("tiny", "jobs")).sort("job_id"),
        platform.lake.version(raw_table("tiny", "jobs")),
    )
    dirty(platform, day, 3)
    result = platform.run("jobs", first=FIRST, last=LAST)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    message = str(failure.step_failure_data.error)
    assert (
        "source 'jobs': the batch of 2024-01-03 is refused whole, nothing was written: "
        "3 of 40 rows (7.5%)" in message
    )
    assert platform.events(result, "jobs") == []
    (check,) = [
        check for check in result.get_asset_check_evaluations() if check.check_name == "contract"
    ]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert platform.lake.version(raw_table("tiny", "jobs")) == version
    assert platform.lake.read(raw_table("tiny", "jobs")).sort("job_id").equals(before)


def test_a_day_that_has_not_landed_fails_with_the_way_out(platform: Platform) -> None:
    result = platform.run("heat", first=LAST, last=LAST + 2 * DAY)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert (
        "source 'heat': 2 of 3 days have not landed, the first is 2024-01-11"
        in failure.step_failure_data.error.to_string()
    )
    assert not platform.lake.exists(raw_table("tiny", "heat"))


def test_a_corrupt_file_fails_its_run(platform: Platform) -> None:
    place = Path(platform.landing.place("tiny", "heat", FIRST)) / f"heat-{FIRST}.csv"
    place.write_bytes(place.read_bytes()[:-9])
    result = platform.run("heat", first=FIRST)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "half-written or corrupt" in failure.step_failure_data.error.to_string()
    assert not platform.lake.exists(raw_table("tiny", "heat"))


def test_late_deliveries_warn_and_pass(platform: Platform) -> None:
    """Half of a day's results come a day late: stored like all others, and said."""
    day = FIRST + 4 * DAY
    place = Path(platform.landing.place("tiny", "results", day)) / f"results-{day - DAY}.csv"
    header, *lines = place.read_text().splitlines()
    moved = [line.replace(f"{day}T02", f"{day + DAY}T02") for line in lines[:20]]
    platform.landing.put(
        "tiny", "results", day, place.name, ("\n".join([header, *lines[20:]]) + "\n").encode()
    )
    platform.landing.put(
        "tiny", "results", day + DAY, "updates.csv", ("\n".join([header, *moved]) + "\n").encode()
    )
    result = platform.run("results", first=FIRST, last=LAST)
    assert result.success
    (check,) = [
        check for check in result.get_asset_check_evaluations() if check.check_name == "lateness"
    ]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "2024-01-06: 20 of 60 late, up to 1 days" in str(check.description)
