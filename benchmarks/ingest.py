"""Cost of ingesting landed files under contract, against doing without, and of one more day in a growing lake.

    python -m benchmarks.ingest [--days 90] [--json]

In one run, over the same files of the default pipeline: Polars and deltalake alone (inferred types, no contract, no digest), the
platform's functions over the range in one pass, the same functions day by day, and the assets through Dagster. Then one nightly
day, warm, with 30 and with 365 daily commits in the lake. Importing Great Expectations is paid once per process and shown apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from datetime import date, timedelta
from pathlib import Path

import dagster as dg

from assets.data import docs
from assets.data.assets import build
from assets.data.ingest import collect, ingest
from assets.names import day_range, raw_table
from assets.reporting.report import save_report
from pipelines.flight_delays import pipeline
from pipelines.flight_delays.feed import Feed
from resources.lake import Lake
from resources.landing import Landing
from resources.reports import Reports

DAILY = [source for source in pipeline.sources if source.daily]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--days", type=int, default=90)
    options.add_argument(
        "--json", action="store_true", help="print one JSON object instead of lines"
    )
    found = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(
            Path(folder), day_range(Feed.first, Feed.first + timedelta(days=found.days - 1))
        )
    if found.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<58} {value:>10.2f}")


def measure(place: Path, days: list[date]) -> dict[str, float]:
    """All figures: seconds, and ratios where the name says so."""
    landing = Landing(uri=str(place / "landing"))
    feed = Feed(landing.uri)
    load = seconds(lambda: feed.requests(Feed.first))
    land = seconds(lambda: [feed.land(day) for day in days])
    imports = seconds(_import_great_expectations)
    range_of = f"{len(days)} days"
    _plain(landing, days[:2], str(place / "warm"))
    _functions(landing, place / "warm functions", days[:2])
    plain = seconds(lambda: _plain(landing, days, str(place / "plain")))
    one_pass = seconds(lambda: _functions(landing, place / "pass", days))
    # Ten days say what ninety would, one by one.
    few = days[:10]
    day_by_day = (
        seconds(lambda: [_functions(landing, place / "single", [day]) for day in few])
        * len(days)
        / len(few)
    )
    through = seconds(lambda: _dagster(landing, place / "dagster", days))
    return {
        "feed: parse the year once (s)": load,
        f"feed: land {range_of} (s)": land,
        "import Great Expectations (s)": imports,
        f"{range_of}, Polars and deltalake alone, no contract (s)": plain,
        f"{range_of}, one pass under contract (s)": one_pass,
        f"{range_of}, day by day under contract (s, from ten of them)": day_by_day,
        f"{range_of}, one pass through Dagster (s)": through,
        "contract, quarantine and digests cost (ratio to alone)": one_pass / plain,
        "one pass saves (ratio day by day to one pass)": day_by_day / one_pass,
        "Dagster costs (ratio to plain functions)": through / one_pass,
        **_nightly(landing, place / "nightly", days),
    }


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _import_great_expectations() -> None:
    import great_expectations
    import great_expectations.expectations  # noqa: F401


def _plain(landing: Landing, days: list[date], uri: str) -> None:
    import polars as pl
    from deltalake import write_deltalake

    for source in DAILY:
        files = collect(pipeline, source, days, landing)
        frames = [
            pl.read_csv(file.content, infer_schema_length=None).with_columns(date=pl.lit(file.day))
            for file in files
        ]
        table = pl.concat([frame for frame in frames if frame.height], how="vertical_relaxed")
        table = table.with_columns(
            pl.col("event_time", "known_at").str.to_datetime(time_zone="UTC")
        )
        write_deltalake(f"{uri}/{source.name}", table.to_arrow(), partition_by=["date"])


def _functions(landing: Landing, place: Path, days: list[date]) -> None:
    """What the assets do, without Dagster."""
    lake, reports = (
        Lake(uri=str(place / "lake")),
        Reports(uri=str(place / "reports"), url="http://reports"),
    )
    for source in DAILY:
        examined = ingest(pipeline, source, days, landing, lake)
        report = docs.report(pipeline.name, examined, pipeline.start)
        save_report(reports, report, docs.pages(report, examined))


def _dagster(landing: Landing, place: Path, days: list[date]) -> None:
    resources = {
        "landing": landing,
        "lake": Lake(uri=str(place / "lake")),
        "reports": Reports(uri=str(place / "reports"), url="http://reports"),
    }
    daily = [asset for asset in build(pipeline) if pipeline.source(asset.key.path[-1]).daily]
    tags = {
        "dagster/asset_partition_range_start": str(days[0]),
        "dagster/asset_partition_range_end": str(days[-1]),
    }
    with (place.parent / "dagster.log").open("w") as log, redirect_stderr(log):
        result = dg.materialize(
            daily, resources=resources, tags=tags, instance=dg.DagsterInstance.ephemeral()
        )
    assert result.success


def _nightly(landing: Landing, place: Path, days: list[date]) -> dict[str, float]:
    """One day of all daily sources with few and with many commits before it; medians of seven days."""
    import polars as pl

    lake = Lake(uri=str(place))
    for source in DAILY:
        ingest(pipeline, source, days, landing, lake)
    sample = {
        source.name: lake.scan(raw_table(pipeline.name, source.name), days[0], days[0]).collect()
        for source in DAILY
    }

    def commits(until: int) -> None:
        # Only the log has to grow as it would in a year of nights; what the days hold does not matter for it.
        for source in DAILY:
            name = raw_table(pipeline.name, source.name)
            for number in range(lake.version(name), until):
                day = date(2014, 1, 1) + timedelta(days=number)
                lake.write(name, sample[source.name].with_columns(pl.lit(day).alias("date")), [day])

    def night() -> float:
        return statistics.median(
            seconds(
                lambda day=day: [ingest(pipeline, source, [day], landing, lake) for source in DAILY]
            )
            for day in days[1:8]
        )

    commits(30)
    early = night()
    commits(365)
    late = night()
    return {
        "one nightly day of all daily sources, warm, 30 days in (s)": early,
        "one nightly day of all daily sources, warm, 365 days in (s)": late,
        "cost of a day, 365 against 30 days in (ratio)": late / early,
    }


if __name__ == "__main__":
    main()
