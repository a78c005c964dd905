"""What one worker counts about requests and outputs, and the service samples made of it.

A count costs two accesses to an array in shared memory (`regions`). `exposition` turns the numbers
of all workers into the text of `/metrics`; `families` names what is exported.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import psutil

from bundle.records.service import BOUNDS, Sample, Traffic, bucket
from serving import memory
from serving.watch import exposition
from serving.watch.exposition import Value as Value
from serving.watch.families import OUTPUT_BOUNDS
from serving.watch.regions import HISTOGRAM, REGION, Labels, Region

FEW_OUTPUTS = 32
"""Below this number of outputs, a bisection for each costs less than a call of NumPy."""

SEVERAL = "several"
"""The arm of a request whose rows were answered by more than one."""

Standing = tuple[str | None, int, str | None]
"""What is served of a pipeline: champion's digest, serial, day of the online features."""


class Counts:
    """Requests of one pipeline in one worker's region; the empty name counts those that named none.

    Only the event loop writes it.
    """

    __slots__ = ("_arms", "_cells", "_pipeline", "_region", "_statuses", "latency_max")

    def __init__(self, region: Region, pipeline: str) -> None:
        self._region, self._cells, self._pipeline = region, region.cells, pipeline
        self._statuses: dict[int, int] = {}
        self._arms: dict[str, tuple[int, int, int]] = {}
        self.latency_max = 0.0

    def answered(self, status: int, seconds: float, arm: str = "") -> None:
        """One answered request; `arm` predicted it (`SEVERAL` where more than one did)."""
        place = self._statuses.get(status)
        if place is None:
            labels = (self._pipeline, str(status))
            place = self._statuses[status] = self._region.cell("requests_total", labels)

        cells = self._cells
        cells[place] += 1

        if status == 200:
            latency = (self._arms.get(arm) or self._arm(arm))[0]
            cells[latency + bucket(seconds)] += 1
            cells[latency + len(BOUNDS)] += seconds
            if seconds > self.latency_max:
                self.latency_max = seconds

    def predicted(self, arm: str, outputs: Sequence[float]) -> None:
        """Rows that an arm predicted; outputs lie within [0, 1]."""
        _, histogram, rows = self._arms.get(arm) or self._arm(arm)
        cells = self._cells
        cells[rows] += len(outputs)

        if len(outputs) < FEW_OUTPUTS:
            for output in outputs:
                cells[histogram + bisect_left(OUTPUT_BOUNDS, output)] += 1
        else:
            steps = np.searchsorted(OUTPUT_BOUNDS, outputs)
            counts = np.bincount(steps, minlength=len(OUTPUT_BOUNDS))
            for step, count in enumerate(counts.tolist()):
                cells[histogram + step] += count

        cells[histogram + len(OUTPUT_BOUNDS)] += sum(outputs)

    def _arm(self, arm: str) -> tuple[int, int, int]:
        """First cells of an arm's latencies, outputs and rows."""
        labels = (self._pipeline, arm)
        latency = self._region.cell("request_seconds", labels, HISTOGRAM)

        if arm in ("", SEVERAL):  # no arm predicted these alone
            cells = (latency, 0, 0)
        else:
            outputs = self._region.cell("prediction", labels, len(OUTPUT_BOUNDS) + 1)
            cells = (latency, outputs, self._region.cell("predictions_total", labels))

        self._arms[arm] = cells
        return cells


class Totals(NamedTuple):
    """Of one pipeline since its worker's place was first taken; `latency` are counts by bucket."""

    statuses: dict[str, float]
    latency: list[float]
    rows: float

    @staticmethod
    def none() -> Totals:
        return Totals({}, [0.0] * len(BOUNDS), 0.0)


class Metrics:
    """What this worker counts, and the sum over all workers.

    `descriptor` comes from `Metrics.create(workers)`; `place` is this worker's region.
    """

    def __init__(self, worker: str, descriptor: int, place: int = 0) -> None:
        self.worker = worker
        self.place = place

        view = memory.mapped(descriptor)
        starts = range(0, len(view), REGION)
        self._regions = [Region(view[start : start + REGION]) for start in starts]
        self.region = self._regions[place]

        # Every region makes these series first, so each has them in the same cells.
        self._in_flight = self.region.cell("requests_in_flight")
        self._sync_failing = self.region.cell("log_sync_failing")
        self.region.cells[self._in_flight] = self.region.cells[self._sync_failing] = 0

        self._process = psutil.Process()
        self._pipelines: dict[str, Counts] = {}
        self._before = {name: self._totals(name) for name in ("", *self._named())}
        self._clock, self._cpu = time.monotonic(), time.process_time()
        self.region.set("start_time_seconds", (str(place),), time.time())
        self.measure()

    @staticmethod
    def create(workers: int) -> int:
        """Descriptor of the memory that the workers of a server share."""
        return memory.create("metrics", workers * REGION)

    def of(self, pipeline: str) -> Counts:
        counts = self._pipelines.get(pipeline)
        if counts is None:
            counts = self._pipelines[pipeline] = Counts(self.region, pipeline)
        return counts

    def add(self, family: str, labels: Labels = (), amount: float = 1.0) -> None:
        """Count something rare. What happens at every request keeps its cell instead."""
        self.region.cells[self.region.cell(family, labels)] += amount

    def in_flight(self, own: int) -> float:
        """Unanswered requests of all workers; `own` are this worker's."""
        self.region.cells[self._in_flight] = own
        if len(self._regions) == 1:
            return own

        return sum(region.cells[self._in_flight] for region in self._regions)

    def measure(self, log_failing: bool = False) -> None:
        """Take down what the process uses."""
        worker = (str(self.place),)
        self.region.set("cpu_seconds_total", worker, time.process_time())
        self.region.set("resident_memory_bytes", worker, self._process.memory_info().rss)
        self.region.cells[self._sync_failing] = log_failing

    def sample(self, about: Mapping[str, Standing], log_error: str | None) -> Sample:
        """This worker since the sample before; `about` says what is served of each pipeline."""
        now, cpu = time.monotonic(), time.process_time()
        seconds = max(now - self._clock, 1e-6)

        traffic = {
            name: self._traffic(name, about.get(name, (None, 0, None)))
            for name in ("", *self._named())
        }
        sample = Sample(
            at=datetime.now(UTC),
            seconds=seconds,
            worker=self.worker,
            pid=self._process.pid,
            cpu=(cpu - self._cpu) / seconds,
            memory=int(self._process.memory_info().rss),
            pipelines=traffic,
            log_error=log_error,
        )

        self._clock, self._cpu = now, cpu
        return sample

    def prometheus(self, known: Iterable[Value]) -> str:
        """Text exposition of all workers together; `known` are the gauges that nobody counts."""
        return exposition.text(self._regions, known)

    def _traffic(self, pipeline: str, standing: Standing) -> Traffic:
        """Requests of a pipeline since the last call."""
        totals = self._totals(pipeline)
        before = self._before.get(pipeline, Totals.none())
        self._before[pipeline] = totals

        counts = self.of(pipeline)
        latency_max, counts.latency_max = counts.latency_max, 0.0

        statuses = {
            status: int(count - before.statuses.get(status, 0))
            for status, count in totals.statuses.items()
        }
        latency = {
            str(place): int(count - earlier)
            for place, (count, earlier) in enumerate(
                zip(totals.latency, before.latency, strict=True)
            )
        }
        return Traffic(
            {status: count for status, count in statuses.items() if count > 0},
            int(totals.rows - before.rows),
            {place: count for place, count in latency.items() if count > 0},
            latency_max,
            *standing,
        )

    def _named(self) -> list[str]:
        """Pipelines that were asked, by name."""
        pipelines = {
            labels[0] for family, labels in self.region.series if family == "requests_total"
        }
        return sorted(pipelines - {""})

    def _totals(self, pipeline: str) -> Totals:
        totals = Totals.none()
        latency, rows = totals.latency, 0.0

        for labels, cells in self.region.values("request_seconds").items():
            if labels[0] == pipeline:
                latency = [a + b for a, b in zip(latency, cells, strict=False)]

        for labels, cells in self.region.values("requests_total").items():
            if labels[0] == pipeline:
                totals.statuses[labels[1]] = cells[0]

        for labels, cells in self.region.values("predictions_total").items():
            if labels[0] == pipeline:
                rows += cells[0]

        return Totals(totals.statuses, latency, rows)
