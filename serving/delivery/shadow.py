"""Trials: bundles scored beside the answers, in a thread of their own, after the answer has gone out.

What is waiting is bounded: a bundle that cannot keep up misses rows, which are counted, and delays nobody. Trials are logged
in a folder of their own, so that the prediction log holds answers and nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bundle.records.log import Record, Trial, Writer
from serving.contract.contract import Row
from serving.delivery.arms import Failure, is_probability, microseconds
from serving.options import Options

if TYPE_CHECKING:
    from serving.delivery.view import Arm, View

logger = logging.getLogger("serving")

WAITING_ROWS = 1_000
TIMED_EVERY = 8
"""Every so many rows the champion is timed on the same row, in the same thread: the candidate is compared with that."""

Job = tuple["View", Row, Record, Failure | None]


class Trials:
    """The trials of one pipeline. `offer` and `failed` are called by whoever answers, from any thread; they never wait."""

    def __init__(self, folder: Path, options: Options) -> None:
        self._counts: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._folder, self._options = folder, options
        self._jobs: deque[Job] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    @property
    def room(self) -> int:
        """Rows that may be offered now."""
        return max(WAITING_ROWS - len(self._jobs), 0)

    def offer(
        self, view: View, rows: Sequence[Row], records: Sequence[Record], missed: int = 0
    ) -> None:
        """Have the shadows of a view score the rows that its champion answered; what there is no room for is dropped, as are those
        that were `missed` out for want of it."""
        champion = view.arms[0].bundle.digest
        room = self.room
        mine = [
            (view, row, record, None)
            for row, record in zip(rows, records, strict=True)
            if record.bundle == champion
        ]
        self._jobs.extend(mine[:room])
        self._counts["dropped"] += (len(mine[room:]) + missed) * len(view.shadows)
        self._start()

    def failed(
        self,
        view: View,
        rows: Sequence[Row],
        records: Sequence[Record],
        failures: Sequence[Failure],
    ) -> None:
        """Note rows that an arm should have answered and could not; these are never dropped."""
        self._jobs.extend(
            (view, rows[failure.place], records[failure.place], failure) for failure in failures
        )
        self._start()

    def counted(self) -> list[tuple[str, int]]:
        """Rows since the last call by what became of them: scored, failed, dropped."""
        now = Counter(self._counts)
        new = now - self._told
        self._told = now
        return list(new.items())

    def close(self) -> None:
        """Log what is still waiting, then stop."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

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
                self._wake.wait(1.0)
                self._wake.clear()
                continue
            view, row, record, failure = self._jobs.popleft()
            try:
                log = log or self._writer()
                if failure is None:
                    log.append(_scores(view, row, record, rows))
                    self._counts["scored"] += len(view.shadows)
                else:
                    log.append(
                        [
                            _trial(
                                failure.arm,
                                view,
                                row,
                                record,
                                None,
                                failure.microseconds,
                                None,
                                failure.why,
                            )
                        ]
                    )
                    self._counts["failed"] += 1
            except OSError as error:
                # Trials are evidence, not answers: a full disk costs them alone.
                logger.error("%s: a trial could not be logged: %s", view.manifest.pipeline, error)
                self._counts["dropped"] += 1
            rows += 1
            # Give the interpreter back after each row: whoever answers waits for one row at most.
            time.sleep(0)
        if log is not None:
            log.close()


def _scores(view: View, row: Row, record: Record, number: int) -> list[Trial]:
    """The trials of a row. Whoever computes it second finds it in the processor's caches, so the champion goes first and last by turns."""
    timed = number % TIMED_EVERY == 0
    first = timed and number % (2 * TIMED_EVERY) == 0
    champion_us = _champion_time(view, row) if first else None
    found = [_score(arm, view, row, record, champion_us) for arm in view.shadows]
    if timed and not first:
        champion_us = _champion_time(view, row)
        found = [msgspec.structs.replace(trial, champion_us=champion_us) for trial in found]
    return found


def _score(arm: Arm, view: View, row: Row, record: Record, champion_us: int | None) -> Trial:
    start = time.perf_counter()
    try:
        output = arm.bundle.predict_rows([row], view.online)[1][0]
    except Exception as error:
        logger.exception("%s: shadow %s failed", view.manifest.pipeline, arm.bundle.digest)
        return _trial(
            arm, view, row, record, None, microseconds(start), champion_us, type(error).__name__
        )
    took = microseconds(start)
    if not is_probability(output):
        return _trial(arm, view, row, record, None, took, champion_us, "no probability")
    return _trial(arm, view, row, record, output, took, champion_us, None)


def _champion_time(view: View, row: Row) -> int:
    start = time.perf_counter()
    view.arms[0].bundle.predict_rows([row], view.online)
    return microseconds(start)


def _trial(
    arm: Arm,
    view: View,
    row: Row,
    record: Record,
    output: float | None,
    took: int,
    champion_us: int | None,
    failure: str | None,
) -> Trial:
    return Trial(
        day=record.day, id=record.id, at=datetime.now(UTC), event_time=record.event_time, pipeline=record.pipeline,
        bundle=arm.bundle.digest, arm=arm.name, entity=record.entity, output=output, latency_us=took,
        champion=record.bundle, champion_output=record.output, champion_us=champion_us, failure=failure,
    )  # fmt: skip
