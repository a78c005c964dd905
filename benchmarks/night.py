"""One night of `flight_delays`, all daily assets, a month and a year after the start.

    python -m benchmarks.night [--late 360] [--nights 5]

A night: a day has landed, and the arrivals sensor requests its ingest and the monitoring of the day
before. Both runs execute in this process against a real instance on disk, and are timed with the
sensor. A champion serves at a real endpoint, which was asked that day's requests before. What a
night may start beyond that (a retrain, a rollout) is no daily asset and is not executed.

Both ends are measured on one platform. Between them the files of the year land, and the sensor's
own requests bring it up to date: ingest and monitoring of one range of days each. At each end a
small champion is trained on the days before it and released. Nights go unmeasured until the window
that performance looks back over is full. No requests are sent between the ends: the prediction log
of the year has days without predictions.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import dagster as dg

from assets.names import DAY, ENDPOINT, asset_key
from benchmarks.figures import Figure, conclude
from benchmarks.lifecycle import execute, timed, warm_up
from benchmarks.serving.shipped import bundle_of
from cli.demo.driver import Driver, Ran
from cli.demo.replay import Platform as View
from cli.demo.requests import send
from pipelines.flight_delays import pipeline
from pipelines.flight_delays.feed import Feed
from sensors import jobs
from tests.support.entries import released
from tests.support.platform import Platform, platform

NIGHT_LIMIT_S, FLAT_LIMIT = 2.0, 1.2
EARLY, LATE, NIGHTS = 30, 360, 5
"""Days of history before the measured nights, and how many nights are measured after them."""

WINDOW = 7
"""The last days of history are nights like the measured ones: performance looks back over seven."""

FOLLOWED_S = 60.0
"""How long the endpoint may take to use a day's aggregates."""


@dataclass
class Nights:
    """A platform with nothing but its arrivals sensor, and the runs since it was last asked."""

    running: Platform
    feed: Feed
    ran: list[Ran] = field(default_factory=list)

    def __post_init__(self) -> None:
        definitions = self.running.definitions
        name = f"{pipeline.name}_arrivals"
        arrivals = [sensor for sensor in definitions.sensors or () if sensor.name == name]
        assert len(arrivals) == 1
        nightly = dg.Definitions(
            assets=definitions.assets,
            jobs=definitions.jobs,
            sensors=arrivals,
            resources=definitions.resources,
            executor=definitions.executor,
        )
        self._driver = Driver(nightly, self.running.instance, observe=self.ran.append)

    def catch_up(self, first: date, last: date) -> None:
        """Land these days at once; the sensor has its way."""
        for offset in range((last - first).days + 1):
            self.feed.land(first + DAY * offset)
        self._driver.settle()
        self._expect_success()

    def champion(self, day: date) -> None:
        """Train a small model on what is there, and serve it from `day` on."""
        running = self.running
        candidate, files = bundle_of(running.lake, running.artifacts, running.keys)
        bundle = running.artifacts.put("bundles", files)
        released(running.ledger, pipeline.name, bundle, day, candidate)
        execute(running, jobs.release(pipeline), [asset_key(pipeline.name, ENDPOINT)], {})

    def ask(self, day: date) -> None:
        """Send the requests of a day once the endpoint uses that day's aggregates."""
        settings = self.running.settings
        assert View(settings, pipeline.name).wait_for(day, FOLLOWED_S, time.sleep)
        sent = send(settings.endpoint_url, pipeline.name, self.feed.requests(day))
        assert sent.failed == 0, sent.errors

    def night(self, day: date) -> tuple[float, float]:
        """Seconds of the night in which `day` has landed, and how many of them no step was at work.

        The second is Dagster's: the sensor's tick, plans, and the events around the steps.
        """
        self.feed.land(day)
        self.ran.clear()
        wall = timed(self._driver.tick)
        self._expect_success()
        assert len(self.ran) == 2, [run.tags for run in self.ran]

        steps = sum(_step_seconds(self.running.instance, run.run_id) for run in self.ran)
        self.ask(day)
        return wall, wall - steps

    def _expect_success(self) -> None:
        failed = [run.failure for run in self.ran if not run.success]
        assert not failed, failed


def main() -> int:
    """Measure both ends, and judge them."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--late", type=int, default=LATE, help="day of the year")
    options.add_argument("--nights", type=int, default=NIGHTS, help="measured at each end")
    chosen = options.parse_args()
    warm_up()
    with (
        tempfile.TemporaryDirectory() as folder,
        platform(Path(folder) / "home", [pipeline]) as running,
    ):
        nights = Nights(running, Feed(running.settings.landing_uri))
        early = end_of(nights, Feed.first, EARLY, chosen.nights)
        begun = Feed.first + DAY * (EARLY + chosen.nights)
        late = end_of(nights, begun, chosen.late, chosen.nights)

    return conclude(
        [
            Figure(f"one night, day {EARLY + 1}", early, NIGHT_LIMIT_S, "s"),
            Figure(f"one night, day {chosen.late + chosen.nights}", late, NIGHT_LIMIT_S, "s"),
            Figure("one night, late / early in the year", late / early, FLAT_LIMIT, "x"),
        ]
    )


def end_of(nights: Nights, first: date, history: int, count: int) -> float:
    """Median seconds of a night, with days from `first` to day `history` of the year before it."""
    newest = Feed.first + DAY * (history - 1)
    begin = time.perf_counter()
    if first == Feed.first:
        nights.feed.land_once()
    backfilled = newest - DAY * WINDOW
    nights.catch_up(first, backfilled)
    ingested = time.perf_counter()

    nights.champion(backfilled)
    for offset in range(WINDOW):
        nights.night(backfilled + DAY * (offset + 1))
    ended = time.perf_counter()
    print(
        f"set-up to day {history}: {ended - begin:.0f} s"
        f" (history {ingested - begin:.0f} s,"
        f" champion and {WINDOW} nights {ended - ingested:.0f} s)",
        flush=True,
    )

    measured = [nights.night(newest + DAY * (1 + offset)) for offset in range(count)]
    show(history + 1, measured)
    return statistics.median(wall for wall, _ in measured)


def show(day: int, measured: Sequence[tuple[float, float]]) -> None:
    """A line on the nights of one end."""
    wall = statistics.median(wall for wall, _ in measured)
    around = statistics.median(around for _, around in measured)
    each = ", ".join(f"{wall:.2f}" for wall, _ in measured)
    print(
        f"one night from day {day} on: {wall:.2f} s (nights: {each});"
        f" {around:.2f} s of it around the steps: sensor, plans, events",
        flush=True,
    )


def _step_seconds(instance: dg.DagsterInstance, run_id: str) -> float:
    """Seconds between start and end of the steps of a run."""
    return sum(
        (step.end_time or 0.0) - (step.start_time or 0.0)
        for step in instance.get_run_step_stats(run_id)
        if step.start_time and step.end_time
    )


if __name__ == "__main__":
    sys.exit(main())
