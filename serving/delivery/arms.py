"""Arms: who answers which row where several bundles share the traffic, and what is done where one of them fails."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from serving.contract.contract import Columns, Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from serving.delivery.view import Arm, View

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
    results = zip(
        *champion.bundle.predict_rows([rows[place] for place in rest], view.online), strict=True
    )
    found.update(
        {place: Answer(champion, *result) for place, result in zip(rest, results, strict=True)}
    )
    return [found[place] for place in range(len(rows))], failures


def tried(
    arm: Arm, view: View, rows: list[Row], places: list[int]
) -> tuple[dict[int, Answer], list[Failure]]:
    """What an arm makes of the rows at some places: answers, and failures where there is none."""
    if not places:
        return {}, []
    start = time.perf_counter()
    try:
        results = list(
            zip(
                *arm.bundle.predict_rows([rows[place] for place in places], view.online),
                strict=True,
            )
        )
    except Exception as error:
        # Whatever a bundle on trial does wrong, its callers still get an answer.
        logger.exception("%s: arm %s failed", view.manifest.pipeline, arm.name)
        took = microseconds(start) // len(places)
        return {}, [Failure(place, arm, type(error).__name__, took) for place in places]
    took = microseconds(start) // len(places)
    answers = {
        place: Answer(arm, *result)
        for place, result in zip(places, results, strict=True)
        if is_probability(result[1])
    }
    return answers, [
        Failure(place, arm, "no probability", took) for place in places if place not in answers
    ]


class Part(NamedTuple):
    """What one arm answers of a request of columns: the rows at `places` (None: all), with their model rows and probabilities."""

    arm: Arm
    places: NDArray[np.int64] | None
    columns: Columns
    matrix: NDArray[np.float32]
    outputs: NDArray[np.float64]

    def of(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of values of all rows those of this part."""
        return values if self.places is None else values[self.places]


def divided_columns(view: View, columns: Columns, count: int) -> tuple[list[Part], list[Failure]]:
    """`divided` for `count` rows as columns. Raises what the champion raises, and ArithmeticError for outputs that are no probability."""
    champion = view.arms[0]
    if len(view.arms) == 1:
        return [_champions(champion, view, columns, None)], []
    chosen = np.array([view.desired.arm(str(key)) for key in columns[view.key].plain()])
    parts: list[Part] = []
    failures: list[Failure] = []
    for index, arm in enumerate(view.arms[1:], start=1):
        part, failed = _tried_columns(arm, view, columns, np.flatnonzero(chosen == index))
        parts += [] if part is None else [part]
        failures += failed
    rest = np.ones(count, dtype=np.bool_)
    for part in parts:
        rest[part.places] = False
    if rest.any():
        parts.append(_champions(champion, view, columns, np.flatnonzero(rest)))
    return parts, failures


def _champions(arm: Arm, view: View, columns: Columns, places: NDArray[np.int64] | None) -> Part:
    mine = (
        columns
        if places is None
        else {name: column.taken(places) for name, column in columns.items()}
    )
    matrix, outputs = arm.bundle.predict_columns(mine, view.online)
    if not _are_probabilities(outputs).all():
        raise ArithmeticError(f"bundle {arm.bundle.digest} predicted what is no probability")
    return Part(arm, places, mine, matrix, outputs)


def _tried_columns(
    arm: Arm, view: View, columns: Columns, places: NDArray[np.int64]
) -> tuple[Part | None, list[Failure]]:
    """What an arm makes of the rows at some places (None where it answers none of them), and its failures."""
    if not len(places):
        return None, []
    start = time.perf_counter()
    mine = {name: column.taken(places) for name, column in columns.items()}
    try:
        matrix, outputs = arm.bundle.predict_columns(mine, view.online)
    except Exception as error:
        # Whatever a bundle on trial does wrong, its callers still get an answer.
        logger.exception("%s: arm %s failed", view.manifest.pipeline, arm.name)
        took = microseconds(start) // len(places)
        return None, [Failure(place, arm, type(error).__name__, took) for place in places.tolist()]
    took = microseconds(start) // len(places)
    sound = _are_probabilities(outputs)
    failures = [Failure(place, arm, "no probability", took) for place in places[~sound].tolist()]
    if not sound.any():
        return None, failures
    if failures:
        kept = np.flatnonzero(sound)
        mine = {name: column.taken(kept) for name, column in mine.items()}
        places, matrix, outputs = places[kept], matrix[kept], outputs[kept]
    return Part(arm, places, mine, matrix, outputs), failures


def _are_probabilities(outputs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """NaN compares false with everything."""
    found: NDArray[np.bool_] = (outputs >= 0.0) & (outputs <= 1.0)
    return found


def is_probability(output: float) -> bool:
    return 0.0 <= output <= 1.0


def microseconds(start: float) -> int:
    """Microseconds since a `time.perf_counter`."""
    return int((time.perf_counter() - start) * 1e6)
