"""The time-ordered split of a training window, by whole local days."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Literal

import msgspec

from assets.names import DAY
from declare.models import Split

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


class Days(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A range of days, both ends included."""

    first: date
    last: date

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last

    def __str__(self) -> str:
        return f"{self.first} to {self.last}"


class Parts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which days train, which tune and calibrate, which test.

    One after the other, without a gap.
    """

    train: Days
    validation: Days
    test: Days

    def __getitem__(self, part: Part) -> Days:
        days: Days = getattr(self, part)
        return days

    def part_of(self, day: date) -> Part | None:
        return next((part for part in PARTS if day in self[part]), None)


def split(days: Sequence[date], options: Split) -> Parts:
    """Split the window from the first to the last of `days` from its end backwards.

    `days` are those that have labelled rows. Raises ValueError where nothing is left to train on.
    """
    needed = options.test_days + options.validation_days + 1
    if not days:
        raise ValueError(
            "no day of the training window has labelled rows; land and materialize more days, or "
            "train as of a later day"
        )
    first, last = min(days), max(days)
    test = Days(last - DAY * (options.test_days - 1), last)
    validation = Days(test.first - DAY * options.validation_days, test.first - DAY)
    train = Days(first, validation.first - DAY)
    if train.last < train.first:
        raise ValueError(
            f"the labelled days {first} to {last} are {(last - first).days + 1}, but the split "
            f"needs at least {needed} "
            f"(test_days={options.test_days}, validation_days={options.validation_days}, and one "
            "to train on); "
            "materialize more days, or declare a shorter split"
        )
    return Parts(train, validation, test)


def folds(days: Sequence[date], number: int = 2, share: float = 0.2) -> list[tuple[Days, Days]]:
    """Time-ordered folds inside a training window.

    Each trains on everything before its validation days, and those move forward by `share` of the
    window. Fewer folds where there are too few days; none below two days.
    """
    ordered = sorted(days)
    step = max(1, int(len(ordered) * share))
    found = []
    for back in range(number, 0, -1):
        start = len(ordered) - back * step
        if start >= 1:
            found.append(
                (
                    Days(ordered[0], ordered[start - 1]),
                    Days(ordered[start], ordered[start + step - 1]),
                )
            )
    return found
