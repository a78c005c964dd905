"""Samples of the endpoint's own health, by wall time: what the service monitor reads.

Each worker appends one JSON line every few seconds to `<folder>/<wall day>-<worker>.jsonl`. Counts
are those since its sample before, so samples of several workers and moments add up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec

# Upper bounds of the latency buckets in seconds: 20 µs to about 90 s, each 15 % above the one
# before, so that a percentile read from them is at most 15 % too high.
BOUNDS: tuple[float, ...] = tuple(2e-5 * 1.15**step for step in range(111))


RETENTION = timedelta(days=183)


class Traffic(msgspec.Struct, frozen=True):
    """Requests of one pipeline: by status, rows predicted, and how many took how long.

    `latency` (bucket index -> count) holds successes alone, `latency_max` is in seconds.
    """

    statuses: dict[str, int]
    rows: int
    latency: dict[str, int]
    latency_max: float
    bundle: str | None = None
    serial: int = 0
    online_as_of: str | None = None

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())

    def errors(self, kind: str) -> int:
        """Number of answers of a kind: "4" for 4xx, "5" for 5xx."""
        return sum(count for status, count in self.statuses.items() if status.startswith(kind))


class Sample(msgspec.Struct, frozen=True):
    """One worker over `seconds` up to `at` (UTC).

    `cpu` is a share of one core, `memory` the resident bytes. Requests that named no pipeline are
    counted under the empty name.
    """

    at: datetime
    seconds: float
    worker: str
    pid: int
    cpu: float
    memory: int
    pipelines: dict[str, Traffic]
    log_error: str | None = None


def bucket(seconds: float) -> int:
    """Index of the bucket of a latency."""
    return min(bisect_left(BOUNDS, seconds), len(BOUNDS) - 1)


def percentile(latency: Mapping[str, int], share: float) -> float | None:
    """The latency in seconds that `share` of the requests did not exceed.

    It is the upper bound of its bucket; None without requests.
    """
    total = sum(latency.values())
    seen = 0
    for index, count in sorted((int(index), count) for index, count in latency.items()):
        seen += count
        if seen >= share * total:
            return BOUNDS[index]
    return None


def combined(samples: Iterable[Sample], pipeline: str) -> Traffic:
    """All traffic of one pipeline in some samples.

    Statuses and buckets add up; bundle, serial and day are the newest.
    """
    statuses: Counter[str] = Counter()
    latency: Counter[str] = Counter()
    rows, slowest = 0, 0.0
    newest: Traffic | None = None
    for sample in sorted(samples, key=lambda sample: sample.at):
        traffic = sample.pipelines.get(pipeline)
        if traffic is not None:
            statuses.update(traffic.statuses)
            latency.update(traffic.latency)
            rows, slowest, newest = rows + traffic.rows, max(slowest, traffic.latency_max), traffic
    about = (newest.bundle, newest.serial, newest.online_as_of) if newest else (None, 0, None)
    return Traffic(dict(statuses), rows, dict(latency), slowest, *about)


def append(folder: Path, sample: Sample) -> None:
    """Add a sample to its worker's file of the day. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{sample.at.date().isoformat()}-{sample.worker}.jsonl", "ab") as file:
        file.write(msgspec.json.encode(sample) + b"\n")


def prune(folder: Path, now: datetime, retention: timedelta = RETENTION) -> int:
    """Remove the files of wall days more than `retention` before `now`; returns their number."""
    oldest = _utc_day(now - retention)
    old = (
        [path for path in folder.glob("*.jsonl") if path.name[:10] < oldest]
        if folder.is_dir()
        else []
    )
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def read(folder: Path | str, first: datetime, last: datetime) -> list[Sample]:
    """Samples with first < at <= last (moments with an offset), in order of time.

    Lines that a kill cut off are left out.
    """
    samples = []
    for path in sorted(Path(folder).glob("*.jsonl")) if Path(folder).is_dir() else []:
        if not _utc_day(first) <= path.name[:10] <= _utc_day(last):
            continue
        for line in path.read_bytes().splitlines():
            try:
                sample = msgspec.json.decode(line, type=Sample)
            except msgspec.DecodeError:
                continue
            if first < sample.at <= last:
                samples.append(sample)
    return sorted(samples, key=lambda sample: sample.at)


def _utc_day(moment: datetime) -> str:
    day: date = moment.astimezone(UTC).date()
    return day.isoformat()
