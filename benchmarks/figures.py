"""A measured figure beside its limit, the table of such figures, and the exit code that follows.

Benchmarks measure and hand their figures to `conclude`. Nothing here measures anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "EVERGREEN_BENCH_FIGURES"
"""Environment variable: the file to which `conclude` also writes the figures, for `make bench`."""


@dataclass(frozen=True)
class Figure:
    """`value` is kept at `limit` or better: at most the limit, or at least it.

    `value` is None where this machine cannot tell it; `unjudged` then says why.
    """

    name: str
    value: float | None
    limit: float
    unit: str = ""
    at_least: bool = False
    unjudged: str = ""

    @property
    def kept(self) -> bool | None:
        """None where the figure is not judged."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def verdict(self) -> str:
        if self.kept is None:
            return f"not judged: {self.unjudged}"
        return "kept" if self.kept else "NOT KEPT"


def conclude(figures: Sequence[Figure]) -> int:
    """Print the table; 1 where a limit is not kept, else 0."""
    print()
    for line in table(figures):
        print(line, flush=True)

    place = os.environ.get(FILE)
    if place:
        Path(place).write_text(json.dumps([asdict(figure) for figure in figures]))
    return 1 if any(figure.kept is False for figure in figures) else 0


def read(path: Path) -> list[Figure] | None:
    """The figures that a benchmark wrote; None where it ended before it could."""
    if not path.exists():
        return None
    return [Figure(**each) for each in json.loads(path.read_text())]


def table(figures: Sequence[Figure]) -> Iterator[str]:
    """One line a figure: figure, value, limit, kept or not."""
    width = max([len(figure.name) for figure in figures] + [len("figure")])
    yield f"{'figure':{width}}  {'value':>12}  {'limit':>14}  kept or not"
    for figure in figures:
        value = "–" if figure.value is None else _number(figure.value, figure.unit)
        limit = f"{'≥' if figure.at_least else '≤'} {_number(figure.limit, figure.unit)}"
        yield f"{figure.name:{width}}  {value:>12}  {limit:>14}  {figure.verdict}"


def _number(value: float, unit: str) -> str:
    """Four digits or more: a figure close to its limit shows on which side it is."""
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{digits} {unit}".rstrip()
