"""Landed files that nothing reads, because their checksum is missing: told while the platform runs.

A feed lands a file first and its checksum a moment later. So only a file that still waits at the
second look is told, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from resources.landing import Landing

PAUSE = 30.0
"""Seconds between two looks: each lists every day of the landing folder."""


def unannounced_line(pipeline: str, places: list[str]) -> str:
    """What a person reads of landed files that nothing reads before their checksum is there."""
    count = len(places)
    what = (
        "1 file waits for its checksum" if count == 1 else f"{count} files wait for their checksum"
    )
    return (
        f"{pipeline}: {what} (<name>.sha256, holding '<sha256>  <name>', beside it): "
        f"{places[0]}{', …' if count > 1 else ''}"
    )


class UnannouncedFiles:
    """Looks for files without a checksum."""

    def __init__(
        self,
        landing: Landing,
        pipelines: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._landing = landing
        self._pipelines = pipelines
        self._clock = clock
        self._next = clock()
        self._seen: dict[str, set[str]] = {}
        self._told: dict[str, set[str]] = {}

    def lines(self) -> list[str]:
        """A line for each pipeline with files that waited at two looks and were not told yet."""
        if self._clock() < self._next:
            return []
        self._next = self._clock() + PAUSE

        lines = []
        for name in self._pipelines:
            found = set(self._landing.unannounced(name))
            waiting = found & self._seen.get(name, set())
            if waiting - self._told.get(name, set()):
                lines.append(unannounced_line(name, sorted(waiting)))
            self._seen[name], self._told[name] = found, waiting
        return lines
