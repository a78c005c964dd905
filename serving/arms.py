"""Arms: who answers which row where several bundles share the traffic, and what is done where one of them fails."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from serving.contract import Row

if TYPE_CHECKING:
    from serving.state import Arm, View

logger = logging.getLogger("serving")


class Answer(NamedTuple):
    """What one row is answered: by which arm, from which model row, with which probability."""

    arm: Arm
    values: list[float]
    output: float


class Failure(NamedTuple):
    """An arm that gave no probability for the row at `place`; the champion answered instead."""

    place: int
    arm: Arm
    why: str
    microseconds: int


def divided(view: View, rows: list[Row]) -> tuple[list[Answer], list[Failure]]:
    """Answers in the order of the rows, each by the arm that its key falls to. A challenger that raises, or whose output is no
    probability, is a failure of its own: the champion answers its rows. Raises what the champion raises."""
    chosen = [view.desired.arm(str(row[view.key])) for row in rows]
    found: dict[int, Answer] = {}
    failures: list[Failure] = []
    for index, arm in enumerate(view.arms[1:], start=1):
        places = [place for place, each in enumerate(chosen) if each == index]
        answered, failed = tried(arm, view, rows, places)
        found.update(answered)
        failures += failed
    champion = view.arms[0]
    rest = [place for place in range(len(rows)) if place not in found]
    results = zip(*champion.bundle.predict_rows([rows[place] for place in rest], view.online), strict=True)
    found.update({place: Answer(champion, *result) for place, result in zip(rest, results, strict=True)})
    return [found[place] for place in range(len(rows))], failures


def tried(arm: Arm, view: View, rows: list[Row], places: list[int]) -> tuple[dict[int, Answer], list[Failure]]:
    """What an arm makes of the rows at some places: answers, and failures where there is none."""
    if not places:
        return {}, []
    start = time.perf_counter()
    try:
        results = list(zip(*arm.bundle.predict_rows([rows[place] for place in places], view.online), strict=True))
    except Exception as error:
        # Whatever a bundle on trial does wrong, its callers still get an answer.
        logger.exception("%s: arm %s failed", view.manifest.pipeline, arm.name)
        took = microseconds(start) // len(places)
        return {}, [Failure(place, arm, type(error).__name__, took) for place in places]
    took = microseconds(start) // len(places)
    answers = {place: Answer(arm, *result) for place, result in zip(places, results, strict=True) if is_probability(result[1])}
    return answers, [Failure(place, arm, "no probability", took) for place in places if place not in answers]


def is_probability(output: float) -> bool:
    return 0.0 <= output <= 1.0


def microseconds(start: float) -> int:
    """Microseconds since a `time.perf_counter`."""
    return int((time.perf_counter() - start) * 1e6)
