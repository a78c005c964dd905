"""Counts and latencies of one server process, for `/metrics` and for the service samples."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import psutil

from bundle.service_log import BOUNDS, Sample, Traffic, bucket, percentile
from serving.refusal import shown


class Counts:
    """Requests of one pipeline. Only the event loop writes it."""

    __slots__ = ("latency", "latency_max", "latency_sum", "rows", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.latency = [0] * len(BOUNDS)
        self.latency_max = self.latency_sum = 0.0
        self.rows = 0

    def answered(self, status: int, seconds: float, rows: int) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 200:
            self.rows += rows
            self.latency[bucket(seconds)] += 1
            self.latency_sum += seconds
            if seconds > self.latency_max:
                self.latency_max = seconds

    def histogram(self) -> dict[str, int]:
        return {str(index): count for index, count in enumerate(self.latency) if count}


class Metrics:
    """All counts of this process since its start; `sample` gives what was added since the sample before."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.started = time.time()
        self.pipelines: dict[str, Counts] = {"": Counts()}
        self._process = psutil.Process()
        self._before: dict[str, tuple[dict[int, int], list[int], int]] = {}
        self._clock, self._cpu = time.monotonic(), time.process_time()

    def of(self, pipeline: str) -> Counts:
        counts = self.pipelines.get(pipeline)
        if counts is None:
            counts = self.pipelines[pipeline] = Counts()
        return counts

    def memory(self) -> int:
        """Resident bytes."""
        return int(self._process.memory_info().rss)

    def sample(self, about: dict[str, tuple[str | None, int, str | None]], log_error: str | None) -> Sample:
        """The sample since the last one; `about` gives bundle, serial and snapshot day of each pipeline."""
        now, cpu = time.monotonic(), time.process_time()
        seconds = max(now - self._clock, 1e-6)
        traffic = {}
        for name, counts in self.pipelines.items():
            statuses, latency, rows = self._before.get(name, ({}, [0] * len(BOUNDS), 0))
            traffic[name] = Traffic(
                {
                    str(status): count - statuses.get(status, 0)
                    for status, count in counts.statuses.items()
                    if count > statuses.get(status, 0)
                },
                counts.rows - rows,
                {str(i): count - before for i, (count, before) in enumerate(zip(counts.latency, latency, strict=True)) if count > before},
                counts.latency_max,
                *about.get(name, (None, 0, None)),
            )
            self._before[name] = (dict(counts.statuses), list(counts.latency), counts.rows)
            counts.latency_max = 0.0
        sample = Sample(
            datetime.now(UTC), seconds, self.worker, self._process.pid, (cpu - self._cpu) / seconds, self.memory(), traffic, log_error
        )  # fmt: skip
        self._clock, self._cpu = now, cpu
        return sample

    def prometheus(self, about: dict[str, tuple[str | None, int, str | None]], in_flight: int) -> str:
        """Text exposition format 0.0.4."""
        lines = []

        def family(name: str, kind: str, text: str, values: list[tuple[str, float]]) -> None:
            lines.extend([f"# HELP evergreen_{name} {text}", f"# TYPE evergreen_{name} {kind}"])
            lines.extend(f"evergreen_{name}{{{labels}}} {value:.10g}" for labels, value in values)

        worker = f'worker="{self.worker}"'
        named = [(f'pipeline="{shown(name) if name else ""}",{worker}', name, counts) for name, counts in self.pipelines.items()]
        family(
            "requests_total",
            "counter",
            "Answered requests by status.",
            [(f'{labels},status="{status}"', count) for labels, _, counts in named for status, count in sorted(counts.statuses.items())],
        )
        family("predictions_total", "counter", "Rows predicted and logged.", [(labels, counts.rows) for labels, _, counts in named])
        quantiles = [
            (f'{labels},quantile="{share}"', found) for labels, _, counts in named for share in (0.5, 0.9, 0.99)
            if (found := percentile(counts.histogram(), share)) is not None
        ]  # fmt: skip
        family(
            "latency_seconds",
            "summary",
            "Time from a request's arrival to its answer, successes alone; quantiles at most 15 % too high.",
            quantiles,
        )
        lines.extend(
            f"evergreen_latency_seconds_{what}{{{labels}}} {value:.10g}"
            for labels, _, counts in named
            for what, value in (("sum", counts.latency_sum), ("count", sum(counts.latency)))
        )
        family("serving_info", "gauge", "Champion bundle, serial of the desired state and day of the online snapshot.", [
            (f'pipeline="{name}",{worker},bundle="{bundle or ""}",serial="{serial}",online_as_of="{day or ""}"', 1) for name, (bundle, serial, day) in about.items()
        ])  # fmt: skip
        family("requests_in_flight", "gauge", "Requests being answered.", [(worker, in_flight)])
        family("cpu_seconds_total", "counter", "CPU time used.", [(worker, time.process_time())])
        family("resident_memory_bytes", "gauge", "Resident memory.", [(worker, self.memory())])
        family("start_time_seconds", "gauge", "Start of the process, Unix time.", [(worker, self.started)])
        return "\n".join(lines) + "\n"
