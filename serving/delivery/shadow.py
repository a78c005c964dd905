"""Trials: bundles scored beside the answers, in a thread of their own, after the answer has gone
out.

What waits is bounded: a bundle that cannot keep up, or that fails at every row, has rows dropped,
which are counted, and delays nobody. Trials are logged in a folder of their own, so that the
prediction log holds answers and nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from bundle.records.record import NO_PROBABILITY, Record, Trial
from bundle.records.writer import Writer
from serving.contract.contract import Row
from serving.delivery.arms import Failure, is_probability, microseconds
from serving.delivery.view import Arm, View
from serving.options import Options

logger = logging.getLogger("serving")

WAITING_ROWS = 1_000
"""Rows that may wait to be scored or noted."""

TIMED_EVERY = 8
"""Every so many rows the champion is timed on the same row in the same thread, for comparison."""

FLUSH_SECONDS = 1.0


class _Job(NamedTuple):
    """A row to be scored by the shadows, or where there is a failure, to be noted."""

    view: View
    row: Row
    record: Record
    failure: Failure | None


class Trials:
    """The trials of one pipeline. Whoever answers calls `offer` and `failed`, from any thread, and
    never waits."""

    def __init__(self, folder: Path, options: Options) -> None:
        self._counts: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()
        self._folder, self._options = folder, options
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return len(self._jobs)

    @property
    def room(self) -> int:
        """Rows that may be offered now."""
        return max(WAITING_ROWS - self.waiting, 0)

    def offer(
        self, view: View, rows: Sequence[Row], records: Sequence[Record], missed: int = 0
    ) -> None:
        """Have the shadows of a view score the rows that its champion answered.

        Rows without room are dropped; `missed` are rows that were left out for want of it.
        """
        champion = view.arms[0].bundle.digest
        jobs = [
            _Job(view, row, record, None)
            for row, record in zip(rows, records, strict=True)
            if record.bundle == champion
        ]
        dropped = self._add(jobs) + missed
        self._counts["dropped"] += dropped * len(view.shadows)

    def failed(
        self,
        view: View,
        rows: Sequence[Row],
        records: Sequence[Record],
        failures: Sequence[Failure],
        missed: int = 0,
    ) -> None:
        """Note rows that an arm should have answered and could not, as far as there is room.

        `missed` are rows that were left out for want of it.
        """
        jobs = [
            _Job(view, rows[failure.place], records[failure.place], failure) for failure in failures
        ]
        self._counts["dropped"] += self._add(jobs) + missed

    def counted(self) -> list[tuple[str, int]]:
        """Rows since the last call by what became of them: scored, failed, dropped."""
        now = Counter(self._counts)
        new = now - self._counted
        self._counted = now
        return list(new.items())

    def close(self) -> None:
        """Log what still waits, then stop."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _add(self, jobs: list[_Job]) -> int:
        """Queue jobs as far as there is room; the number that are dropped."""
        room = self.room
        self._jobs.extend(jobs[:room])
        self._start()
        return len(jobs[room:])

    def _start(self) -> None:
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="trials", daemon=True)
                    self._thread.start()
        self._wake.set()

    def _writer(self) -> Writer:
        options = self._options
        return Writer(
            self._folder,
            segment_bytes=options.segment_bytes,
            segment_seconds=options.segment_seconds,
            reserve_bytes=options.reserve_bytes,
        )

    def _run(self) -> None:
        log: Writer | None = None
        rows = 0
        while self._jobs or not self._stopping:
            if not self._jobs:
                self._wake.wait(FLUSH_SECONDS)
                self._wake.clear()
                continue

            job = self._jobs.popleft()
            try:
                log = log or self._writer()
                self._log(log, job, rows)
            except OSError as error:
                # Trials are evidence, not answers: a full disk costs them alone.
                pipeline = job.view.manifest.pipeline
                logger.error("%s: a trial could not be logged: %s", pipeline, error)
                self._counts["dropped"] += 1
            rows += 1
            # Give the interpreter back after each row: whoever answers waits for one row at most.
            time.sleep(0)

        if log is not None:
            log.close()

    def _log(self, log: Writer, job: _Job, number: int) -> None:
        """Score or note one row, the `number`-th of this thread. Raises OSError."""
        if job.failure is None:
            log.append(_scores(job.view, job.row, job.record, number))
            self._counts["scored"] += len(job.view.shadows)
            return

        failure = job.failure
        log.append([_trial(failure.arm, job.record, None, failure.microseconds, None, failure.why)])
        self._counts["failed"] += 1


def _scores(view: View, row: Row, record: Record, number: int) -> list[Trial]:
    """The trials of a row.

    Whoever computes it second finds it in the processor's caches, so the champion goes first and
    last by turns.
    """
    timed = number % TIMED_EVERY == 0
    first = timed and number % (2 * TIMED_EVERY) == 0
    champion_us = _champion_time(view, row) if first else None
    trials = [_score(arm, view, row, record, champion_us) for arm in view.shadows]

    if timed and not first:
        champion_us = _champion_time(view, row)
        trials = [msgspec.structs.replace(trial, champion_us=champion_us) for trial in trials]
    return trials


def _score(arm: Arm, view: View, row: Row, record: Record, champion_us: int | None) -> Trial:
    start = time.perf_counter()
    try:
        output = arm.bundle.predict_rows([row], view.online)[1][0]
    except Exception as error:  # noqa: BLE001  what a shadow does wrong is noted as its failure
        took = microseconds(start)
        view.failures.note(arm.name, arm.bundle.digest, 1, error)
        return _trial(arm, record, None, took, champion_us, type(error).__name__)

    took = microseconds(start)
    if not is_probability(output):
        return _trial(arm, record, None, took, champion_us, NO_PROBABILITY)
    return _trial(arm, record, output, took, champion_us, None)


def _champion_time(view: View, row: Row) -> int:
    start = time.perf_counter()
    view.arms[0].bundle.predict_rows([row], view.online)
    return microseconds(start)


def _trial(
    arm: Arm,
    record: Record,
    output: float | None,
    took: int,
    champion_us: int | None,
    failure: str | None,
) -> Trial:
    return Trial(
        day=record.day,
        id=record.id,
        at=datetime.now(UTC),
        event_time=record.event_time,
        pipeline=record.pipeline,
        bundle=arm.bundle.digest,
        arm=arm.name,
        entity=record.entity,
        output=output,
        latency_us=took,
        champion=record.bundle,
        champion_output=record.output,
        champion_us=champion_us,
        failure=failure,
    )
