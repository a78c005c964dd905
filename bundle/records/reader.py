"""Reading a log back: predictions and trials of some days, however their segments lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import msgspec

from bundle.records.batches import unpacked
from bundle.records.record import Stored, Trial
from bundle.records.segments import (
    ALL_DAYS,
    Damage,
    Entry,
    count_days,
    entries,
    index_of,
    of_days,
    segments,
)

_decode = msgspec.json.Decoder(Stored).decode
_decode_trial = msgspec.json.Decoder(Trial).decode


class Reading(msgspec.Struct, frozen=True):
    """Records of the days asked for, in the order in which they were written, and what is damaged.

    `segments` is the number of segments that were opened.
    """

    records: list[Stored]
    damage: list[Damage]
    segments: int


def read(folder: Path | str, first: date, last: date | None = None) -> Reading:
    """Predictions whose event day lies in [first, last] (`last` None: that one day).

    Closed segments without such a day are not opened. A folder that does not exist holds no
    predictions. Torn ends are normal after a kill; `damage` lists them, and lines that were
    altered.
    """
    readings = [
        _of_segment(path, days) for path, days in of_days(Path(folder), first, last or first)
    ]
    records: list[Stored] = []
    damage: list[Damage] = []
    for reading in readings:
        records += reading.records
        damage += reading.damage
    return Reading(records, damage, len(readings))


def read_trials(
    folders: Sequence[Path | str], first: date, last: date | None = None
) -> list[Trial]:
    """Trials whose event day lies in [first, last], in the order in which they were written.

    They are evidence and not answers: damaged lines are left out.
    """
    trials: list[Trial] = []
    for folder in folders:
        for path, days in of_days(Path(folder), first, last or first):
            lines = [entry for entry in entries(path, days) if isinstance(entry, bytes)]
            trials += map(_decode_trial, lines)
    return trials


def days(folder: Path | str) -> dict[date, int]:
    """Number of predictions by event day."""
    counts: Counter[str] = Counter()
    for path in segments(Path(folder)):
        index = index_of(path)
        counts.update(index.days if index is not None else count_days(path))
    return {date.fromisoformat(day): count for day, count in sorted(counts.items())}


def contents(path: Path) -> Reading:
    """All predictions of one segment."""
    return _of_segment(path, ALL_DAYS)


def _of_segment(path: Path, days: tuple[str, str]) -> Reading:
    reading = Reading([], [], 1)
    for entry in entries(path, days):
        if isinstance(entry, Damage):
            reading.damage.append(entry)
        else:
            reading.records.extend(_records(entry, days))
    return reading


def _records(entry: Entry, days: tuple[str, str]) -> Iterator[Stored]:
    if isinstance(entry, bytes):
        yield _decode(entry)
        return
    yield from (record for record in unpacked(*entry) if days[0] <= record.day <= days[1])
