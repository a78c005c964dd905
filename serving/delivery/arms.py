"""Arms: which bundle answers which row where several share the traffic, and what a failing one
costs.

A challenger that raises, or whose output is no probability, is a failure of its own: the champion
answers its rows.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bundle.records.record import NO_PROBABILITY
from serving.contract.contract import Columns, Row
from serving.delivery.view import Arm, View

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


class Part(NamedTuple):
    """What one arm answers of a request of columns: model rows and probabilities.

    The rows are those at `places`; None stands for all.
    """

    arm: Arm
    places: NDArray[np.int64] | None
    columns: Columns
    matrix: NDArray[np.float32]
    outputs: NDArray[np.float64]

    def of(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of values of all rows those of this part."""
        return values if self.places is None else values[self.places]


def divided(view: View, rows: list[Row]) -> tuple[list[Answer], list[Failure]]:
    """Answers in the order of the rows, each by the arm that its key falls to.

    Raises what the champion raises.
    """
    chosen = [view.desired.arm(str(row[view.key])) for row in rows]
    answers: dict[int, Answer] = {}
    failures: list[Failure] = []
    for index, arm in enumerate(view.arms[1:], start=1):
        places = [place for place, each in enumerate(chosen) if each == index]
        answered, failed = _tried(arm, view, rows, places)
        answers.update(answered)
        failures += failed

    rest = [place for place in range(len(rows)) if place not in answers]
    answers.update(_answered(view.arms[0], view, rows, rest))
    return [answers[place] for place in range(len(rows))], failures


def divided_columns(view: View, columns: Columns, count: int) -> tuple[list[Part], list[Failure]]:
    """`divided` for `count` rows as columns.

    Raises what the champion raises, and ArithmeticError for outputs that are no probability.
    """
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


def is_probability(output: float) -> bool:
    return 0.0 <= output <= 1.0


def microseconds(start: float) -> int:
    """Microseconds since a `time.perf_counter`."""
    return int((time.perf_counter() - start) * 1e6)


def _answered(arm: Arm, view: View, rows: list[Row], places: list[int]) -> dict[int, Answer]:
    """What an arm answers for the rows at some places. Raises what its bundle raises."""
    values, outputs = arm.bundle.predict_rows([rows[place] for place in places], view.online)
    return {
        place: Answer(arm, value, output)
        for place, value, output in zip(places, values, outputs, strict=True)
    }


def _tried(
    arm: Arm, view: View, rows: list[Row], places: list[int]
) -> tuple[dict[int, Answer], list[Failure]]:
    """`_answered` for an arm on trial: answers, and failures where there is none."""
    if not places:
        return {}, []

    start = time.perf_counter()
    try:
        answers = _answered(arm, view, rows, places)
    except Exception as error:  # noqa: BLE001  its callers get an answer whatever it does
        return {}, _failures(arm, view, places, error, start)

    took = microseconds(start) // len(places)
    sound = {place: answer for place, answer in answers.items() if is_probability(answer.output)}
    failures = [Failure(place, arm, NO_PROBABILITY, took) for place in places if place not in sound]
    return sound, failures


def _champions(arm: Arm, view: View, columns: Columns, places: NDArray[np.int64] | None) -> Part:
    mine = columns if places is None else _taken(columns, places)
    matrix, outputs = arm.bundle.predict_columns(mine, view.online)
    if not _are_probabilities(outputs).all():
        raise ArithmeticError(f"bundle {arm.bundle.digest} predicted what is no probability")

    return Part(arm, places, mine, matrix, outputs)


def _tried_columns(
    arm: Arm, view: View, columns: Columns, places: NDArray[np.int64]
) -> tuple[Part | None, list[Failure]]:
    """What an arm on trial makes of the rows at some places, None where it answers none of them."""
    if not len(places):
        return None, []

    start = time.perf_counter()
    mine = _taken(columns, places)
    try:
        matrix, outputs = arm.bundle.predict_columns(mine, view.online)
    except Exception as error:  # noqa: BLE001  its callers get an answer whatever it does
        return None, _failures(arm, view, places.tolist(), error, start)

    took = microseconds(start) // len(places)
    sound = _are_probabilities(outputs)
    failures = [Failure(place, arm, NO_PROBABILITY, took) for place in places[~sound].tolist()]
    if not sound.any():
        return None, failures

    if failures:
        kept = np.flatnonzero(sound)
        mine = _taken(mine, kept)
        places, matrix, outputs = places[kept], matrix[kept], outputs[kept]
    return Part(arm, places, mine, matrix, outputs), failures


def _failures(
    arm: Arm, view: View, places: list[int], error: Exception, start: float
) -> list[Failure]:
    """An arm's failure at some places, noted for the log."""
    took = microseconds(start) // len(places)
    view.failures.note(arm.name, arm.bundle.digest, len(places), error)
    return [Failure(place, arm, type(error).__name__, took) for place in places]


def _taken(columns: Columns, places: NDArray[np.int64]) -> Columns:
    return {name: column.taken(places) for name, column in columns.items()}


def _are_probabilities(outputs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """NaN compares false with everything."""
    sound: NDArray[np.bool_] = (outputs >= 0.0) & (outputs <= 1.0)
    return sound
