"""The shared memory in which workers count: one region a worker, series of cells by name.

A scrape adds the regions up, whichever worker answers it. A worker that takes a dead worker's place
goes on counting where that one stood.
"""

from __future__ import annotations

from bundle.records.service import BOUNDS

CELLS = 1 << 14
"""Numbers of a region: enough for about a hundred histograms and thousands of counts."""

NAMES = 1 << 17
"""Bytes for the names of the series, after an 8-byte length."""

REGION = CELLS * 8 + 8 + NAMES
HISTOGRAM = len(BOUNDS) + 1
"""Cells of a latency histogram: its buckets and their sum."""
# The first cells belong to no series. What finds no room is counted there, not into another series.
_SPARE = HISTOGRAM

Labels = tuple[str, ...]
Series = tuple[str, Labels]


class Region:
    """One worker's numbers by family and labels. Only that worker writes them.

    A series gets its cells on first use.
    """

    def __init__(self, view: memoryview) -> None:
        self.cells = view[: CELLS * 8].cast("d")
        self._length = view[CELLS * 8 : CELLS * 8 + 8].cast("Q")
        self._names = view[CELLS * 8 + 8 :]
        self.series: dict[Series, range] = {}
        self._read, self._used = 0, _SPARE
        self.follow()

    def follow(self) -> None:
        """Learn the series that were added since the last call."""
        written = self._length[0]
        for line in bytes(self._names[self._read : written]).decode().splitlines():
            count, family, *labels = line.split("\t")
            self.series[family, tuple(labels)] = range(self._used, self._used + int(count))
            self._used += int(count)
        self._read = written

    def cell(self, family: str, labels: Labels = (), count: int = 1) -> int:
        """Index of the first of the `count` cells of a series. Labels hold no tabs or line ends."""
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
