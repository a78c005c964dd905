"""Failures of bundles on trial in the server's log: the first with its traceback, then one line a
period.

A challenger that fails does so at every request. A traceback for each would fill the disk and tell
nothing new.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

logger = logging.getLogger("serving")

PERIOD_SECONDS = 60.0


@dataclass
class _Bundle:
    """What a bundle did wrong since `told`, a moment of the monotonic clock."""

    told: float
    rows: int = 0
    last: str = ""


class FailureLog:
    """The failures of one pipeline's bundles; any thread may note one."""

    def __init__(self, pipeline: str, period_seconds: float = PERIOD_SECONDS) -> None:
        self._pipeline, self._period = pipeline, period_seconds
        self._lock = threading.Lock()
        self._bundles: dict[str, _Bundle] = {}

    def note(self, arm: str, bundle: str, rows: int, error: Exception) -> None:
        """A bundle could not predict so many rows. Its first failure is logged at once."""
        with self._lock:
            known = self._bundles.get(bundle)
            if known is None:
                self._bundles[bundle] = _Bundle(time.monotonic())
            else:
                known.rows += rows
                known.last = f"{type(error).__name__}: {error}"

        if known is None:
            logger.error(
                "%s: %s %s failed; more of its failures are counted, one line in %g s",
                self._pipeline,
                arm,
                bundle,
                self._period,
                exc_info=error,
            )

    def tell(self) -> None:
        """Log what has been noted since the last line, where a period is over."""
        now = time.monotonic()
        with self._lock:
            due = [
                (bundle, known.rows, known.last, now - known.told)
                for bundle, known in self._bundles.items()
                if known.rows and now - known.told >= self._period
            ]
            for bundle, *_ in due:
                self._bundles[bundle] = _Bundle(now)

        for bundle, rows, last, seconds in due:
            logger.error(
                "%s: bundle %s failed for %d rows in %.0f s, the last time with %s",
                self._pipeline,
                bundle,
                rows,
                seconds,
                last[:300],
            )
