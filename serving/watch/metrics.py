"""Counts, latencies and outputs of the server, for `/metrics` and for the service samples.

They lie in memory that all workers share, each worker in a region of its own that only it writes: a scrape adds them up whichever
worker answers it, and one that takes a dead worker's place goes on counting where that one stood. A count costs two accesses to an
array. `FAMILIES` is everything that is exported, by the names that dashboards and alerts use.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
import psutil

from bundle.records.service import BOUNDS, Sample, Traffic, bucket
from serving.watch import memory


class Family(NamedTuple):
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {
    "requests_total": Family("counter", "Answered requests by status.", ("pipeline", "status")),
    "request_seconds": Family(
        "histogram",
        "Time from a request's arrival to its answer, successes alone, by the arm that answered.",
        ("pipeline", "arm"),
    ),
    "predictions_total": Family("counter", "Rows predicted and logged.", ("pipeline", "arm")),
    "prediction": Family(
        "histogram", "What was predicted: the outputs' distribution.", ("pipeline", "arm")
    ),
    "out_of_distribution_total": Family(
        "counter",
        "Rows with a feature outside the range of the training set, by feature.",
        ("pipeline", "feature"),
    ),
    "unauthorized_total": Family(
        "counter", "Requests refused because of their key or token, by reason.", ("reason",)
    ),
    "rate_limited_total": Family(
        "counter", "Requests refused because their key asked too often.", ("key",)
    ),
    "shed_total": Family(
        "counter",
        "Requests refused: too many at once, too late to be of use, or not to be logged (full disk).",
        ("reason",),
    ),
    "requests_in_flight": Family(
        "gauge", "Requests that have arrived and are not answered yet, queued ones included."
    ),
    "bundle_info": Family(
        "gauge",
        "Bundle behind each arm; the value is its share of the traffic.",
        ("pipeline", "arm", "bundle"),
    ),
    "serves_desired": Family(
        "gauge",
        "1 where every worker serves the newest desired state, 0 where one does not.",
        ("pipeline",),
    ),
    "trials_total": Family(
        "counter",
        "Rows computed by bundles on trial: scored beside the answer, failed, or dropped for want of time.",
        ("pipeline", "outcome"),
    ),
    "serving_info": Family(
        "gauge",
        "1 where a verified bundle is served; day of the online features.",
        ("pipeline", "online_as_of"),
    ),
    "desired_serial": Family("gauge", "Serial of the desired state that is served.", ("pipeline",)),
    "online_features_age_seconds": Family(
        "gauge", "Time since the online features were published.", ("pipeline",)
    ),
    "api_key_expires_seconds": Family(
        "gauge",
        "Time until a key expires: +Inf for one that never does, negative once it has.",
        ("key", "owner"),
    ),
    "log_sync_failing": Family(
        "gauge", "1 while the prediction log cannot be flushed to the disk."
    ),
    "cpu_seconds_total": Family("counter", "CPU time used by a worker.", ("worker",)),
    "resident_memory_bytes": Family("gauge", "Resident memory of a worker.", ("worker",)),
    "start_time_seconds": Family("gauge", "Start of a worker, Unix time.", ("worker",)),
}
"""Without their prefix `evergreen_`."""

OUTPUT_BOUNDS: tuple[float, ...] = tuple(round(step / 10, 1) for step in range(1, 11))
# The service log's bounds are 15 % apart, finer than a dashboard needs; every third is shown.
_SHOWN_BOUNDS = tuple(range(2, len(BOUNDS), 3))

CELLS = 1 << 14
"""Numbers of a region: about a hundred histograms and thousands of counts."""
NAMES = 1 << 17
"""Bytes for their names, after an 8-byte length."""
REGION = CELLS * 8 + 8 + NAMES
_HISTOGRAM = len(BOUNDS) + 1
# The first cells take what there is no room for, instead of something else's.
_SPARE = _HISTOGRAM

Labels = tuple[str, ...]
Series = tuple[str, Labels]
Value = tuple[str, Labels, float]
"""A gauge that is known when it is asked for: family, labels, value."""


class Region:
    """One worker's numbers, by family and labels; series are made on first use. Only its worker writes it."""

    def __init__(self, view: memoryview) -> None:
        self.cells = view[: CELLS * 8].cast("d")
        self._length = view[CELLS * 8 : CELLS * 8 + 8].cast("Q")
        self._names = view[CELLS * 8 + 8 :]
        self.series: dict[Series, range] = {}
        self._read, self._used = 0, _SPARE
        self.follow()

    def follow(self) -> None:
        """Take note of the series that were made since."""
        written = self._length[0]
        for line in bytes(self._names[self._read : written]).decode().splitlines():
            count, family, *labels = line.split("\t")
            self.series[family, tuple(labels)] = range(self._used, self._used + int(count))
            self._used += int(count)
        self._read = written

    def cell(self, family: str, labels: Labels = (), count: int = 1) -> int:
        """Index of the first of a series' `count` cells. Labels hold no tabs or line ends."""
        found = self.series.get((family, labels))
        if found is not None:
            return found.start
        line = "\t".join([str(count), family, *labels]).encode() + b"\n"
        end = self._read + len(line)
        if self._used + count > CELLS or end > NAMES:
            return 0
        self._names[self._read : end] = line
        # The length is written last: readers see a name whole or not at all.
        self._length[0] = end
        self.follow()
        return self.series[family, labels].start

    def values(self, family: str) -> dict[Labels, list[float]]:
        return {
            labels: list(self.cells[cells.start : cells.stop])
            for (name, labels), cells in self.series.items()
            if name == family
        }

    def set(self, family: str, labels: Labels, value: float) -> None:
        self.cells[self.cell(family, labels)] = value


class Counts:
    """Requests of one pipeline (the empty name: of none), in one worker's region. Only the event loop writes it."""

    __slots__ = ("_arms", "_cells", "_pipeline", "_region", "_statuses", "latency_max")

    def __init__(self, region: Region, pipeline: str) -> None:
        self._region, self._cells, self._pipeline = region, region.cells, pipeline
        self._statuses: dict[int, int] = {}
        self._arms: dict[str, tuple[int, int, int]] = {}
        self.latency_max = 0.0

    def answered(self, status: int, seconds: float, arm: str = "") -> None:
        """One answered request; `arm` is the one that predicted, "several" for a batch with rows of more than one."""
        place = self._statuses.get(status)
        if place is None:
            place = self._statuses[status] = self._region.cell(
                "requests_total", (self._pipeline, str(status))
            )
        cells = self._cells
        cells[place] += 1
        if status == 200:
            latency = (self._arms.get(arm) or self._arm(arm))[0]
            cells[latency + bucket(seconds)] += 1
            cells[latency + len(BOUNDS)] += seconds
            if seconds > self.latency_max:
                self.latency_max = seconds

    def predicted(self, arm: str, outputs: Sequence[float]) -> None:
        """Rows that an arm predicted, outputs within [0, 1]."""
        _, histogram, rows = self._arms.get(arm) or self._arm(arm)
        cells = self._cells
        cells[rows] += len(outputs)
        if len(outputs) < 32:
            for output in outputs:
                cells[histogram + bisect_left(OUTPUT_BOUNDS, output)] += 1
        else:
            found = np.bincount(
                np.searchsorted(OUTPUT_BOUNDS, outputs), minlength=len(OUTPUT_BOUNDS)
            )
            for step, count in enumerate(found.tolist()):
                cells[histogram + step] += count
        cells[histogram + len(OUTPUT_BOUNDS)] += sum(outputs)

    def _arm(self, arm: str) -> tuple[int, int, int]:
        labels = (self._pipeline, arm)
        latency = self._region.cell("request_seconds", labels, _HISTOGRAM)
        if arm in ("", "several"):  # no arm predicted these alone
            found = (latency, 0, 0)
        else:
            found = (
                latency, self._region.cell("prediction", labels, len(OUTPUT_BOUNDS) + 1), self._region.cell("predictions_total", labels)
            )  # fmt: skip
        self._arms[arm] = found
        return found


class Metrics:
    """What this worker counts, and what all of them counted. `descriptor` is of `Metrics.create(workers)`."""

    def __init__(self, worker: str, descriptor: int, place: int = 0) -> None:
        self.worker = worker
        self.place = place
        view = memory.mapped(descriptor)
        # The first series of every region are the same, so that their cells are too.
        self._regions = [
            Region(view[start : start + REGION]) for start in range(0, len(view), REGION)
        ]
        self.region = self._regions[place]
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
        return memory.create("metrics", workers * REGION)

    def of(self, pipeline: str) -> Counts:
        counts = self._pipelines.get(pipeline)
        if counts is None:
            counts = self._pipelines[pipeline] = Counts(self.region, pipeline)
        return counts

    def add(self, family: str, labels: Labels = (), amount: float = 1.0) -> None:
        """Count something rare; what happens at every request keeps its cell."""
        self.region.cells[self.region.cell(family, labels)] += amount

    def in_flight(self, own: int) -> float:
        """Requests of all workers that have no answer yet; `own` are this worker's."""
        self.region.cells[self._in_flight] = own
        return (
            sum(region.cells[self._in_flight] for region in self._regions)
            if len(self._regions) > 1
            else own
        )

    def measure(self, log_failing: bool = False) -> None:
        """Take down what the process uses."""
        worker = (str(self.place),)
        self.region.set("cpu_seconds_total", worker, time.process_time())
        self.region.set("resident_memory_bytes", worker, self._process.memory_info().rss)
        self.region.cells[self._sync_failing] = log_failing

    def sample(
        self, about: Mapping[str, tuple[str | None, int, str | None]], log_error: str | None
    ) -> Sample:
        """This worker since the sample before; `about` gives bundle, serial and snapshot day of each pipeline."""
        now, cpu = time.monotonic(), time.process_time()
        seconds = max(now - self._clock, 1e-6)
        traffic = {}
        for name in ("", *self._named()):
            totals = self._totals(name)
            before = self._before.get(name, Totals({}, [0.0] * len(BOUNDS), 0.0))
            counts = self.of(name)
            traffic[name] = Traffic(
                {status: int(count - before.statuses.get(status, 0)) for status, count in totals.statuses.items() if count > before.statuses.get(status, 0)},
                int(totals.rows - before.rows),
                {str(place): int(count - earlier) for place, (count, earlier) in enumerate(zip(totals.latency, before.latency, strict=True)) if count > earlier},
                counts.latency_max,
                *about.get(name, (None, 0, None)),
            )  # fmt: skip
            self._before[name] = totals
            counts.latency_max = 0.0
        memory_used = int(self._process.memory_info().rss)
        sample = Sample(
            datetime.now(UTC), seconds, self.worker, self._process.pid, (cpu - self._cpu) / seconds, memory_used, traffic, log_error
        )  # fmt: skip
        self._clock, self._cpu = now, cpu
        return sample

    def prometheus(self, known: Iterable[Value]) -> str:
        """Text exposition format 0.0.4 of all workers together; `known` are the gauges that nobody counts."""
        for region in self._regions:
            region.follow()
        lines = []
        for name, family in FAMILIES.items():
            lines += [
                f"# HELP evergreen_{name} {family.help}",
                f"# TYPE evergreen_{name} {family.kind}",
            ]
            found: dict[Labels, list[float]] = {
                labels: [float(value)] for of, labels, value in known if of == name
            }
            for region in self._regions:
                for labels, values in region.values(name).items():
                    earlier = found.get(labels)
                    found[labels] = (
                        values
                        if earlier is None
                        else [a + b for a, b in zip(earlier, values, strict=True)]
                    )
            for labels, values in sorted(found.items()):
                named = [(label, value) for label, value in zip(family.labels, labels, strict=True)]
                if family.kind == "histogram":
                    lines += _histogram(name, named, values)
                else:
                    lines.append(_line(name, named, values[0]))
        return "\n".join(lines) + "\n"

    def _named(self) -> list[str]:
        return sorted(
            {labels[0] for family, labels in self.region.series if family == "requests_total"}
            - {""}
        )

    def _totals(self, pipeline: str) -> Totals:
        values = self.region.values
        latency = [0.0] * len(BOUNDS)
        for labels, found in values("request_seconds").items():
            if labels[0] == pipeline:
                latency = [a + b for a, b in zip(latency, found, strict=False)]
        return Totals(
            {labels[1]: found[0] for labels, found in values("requests_total").items() if labels[0] == pipeline}, latency,
            sum(found[0] for labels, found in values("predictions_total").items() if labels[0] == pipeline),
        )  # fmt: skip


class Totals(NamedTuple):
    """Of one pipeline since its worker's place was first taken."""

    statuses: dict[str, float]
    latency: list[float]
    rows: float


def _histogram(name: str, labels: list[tuple[str, str]], values: list[float]) -> list[str]:
    """Cumulative buckets, sum and count of non-cumulative buckets followed by their sum."""
    *counts, total = values
    bounds, shown = (
        (BOUNDS, _SHOWN_BOUNDS)
        if len(counts) == len(BOUNDS)
        else (OUTPUT_BOUNDS, tuple(range(len(OUTPUT_BOUNDS))))
    )
    cumulative = list(accumulate(counts))
    return [
        *(
            _line(f"{name}_bucket", [*labels, ("le", f"{bounds[place]:.6g}")], cumulative[place])
            for place in shown
        ),
        _line(f"{name}_bucket", [*labels, ("le", "+Inf")], cumulative[-1]),
        _line(f"{name}_sum", labels, total),
        _line(f"{name}_count", labels, cumulative[-1]),
    ]


def _line(name: str, labels: list[tuple[str, str]], value: float) -> str:
    text = ",".join(f'{label}="{_escaped(found)}"' for label, found in labels)
    return f"evergreen_{name}{{{text}}} {value:.17g}" if text else f"evergreen_{name} {value:.17g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
