"""Predicting and logging: few rows one by one, many as columns, each by the arm of its key.

Many rows are logged as batches and answered without an object for each. Both ways give the same
answers and the same records.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np

from bundle.features.moments import local_days
from bundle.features.program import EVENT_TIME
from bundle.records.batches import Batch, day_text
from bundle.records.record import Record
from serving.callers.calls import Call
from serving.contract.contract import Columns, Row, rows_of
from serving.delivery.answers import Answers, Numbering, new_prefix
from serving.delivery.arms import Failure, Part, divided, divided_columns, is_probability

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from serving.delivery.following.state import Served
    from serving.delivery.view import View


def predict_rows(
    served: Served, view: View, rows: list[Row], calls: Iterable[Call], ids: Numbering
) -> list[Record]:
    """Records of few rows, each of which belongs to a call; when this returns, they are in the log.

    Raises ArithmeticError for an output that is no probability, and OSError where the log cannot be
    written.
    """
    failures: list[Failure] = []
    if len(view.arms) == 1:
        champion = view.arms[0]
        results = zip(
            itertools.repeat(champion),
            *champion.bundle.predict_rows(rows, view.online),
            strict=False,
        )
    else:
        answers, failures = divided(view, rows)
        results = iter(answers)  # type: ignore[assignment]

    entity, day_of, as_of = view.manifest.entity, view.day, view.online_as_of
    pipeline, prefix, numbers = served.name, ids.prefix, ids.numbers
    now, moment = datetime.now(UTC), time.monotonic()

    records = []
    for row, (arm, values, output), call in zip(rows, results, calls, strict=False):
        bundle = arm.bundle
        if not is_probability(output):
            raise ArithmeticError(
                f"bundle {bundle.digest} predicted {output}, which is no probability"
            )
        event_time: datetime = row[EVENT_TIME]
        request, used = bundle.logged(row, values) if bundle.withholds else (row, values)
        records.append(
            Record(
                day=day_of(event_time),
                id=f"{prefix}{next(numbers):012x}",
                at=now,
                event_time=event_time,
                pipeline=pipeline,
                bundle=bundle.digest,
                arm=arm.name,
                caller=call.caller.account,
                entity=row[entity],
                request=request,
                row=used,
                output=output,
                online_as_of=as_of,
                latency_us=int((moment - call.start) * 1e6),
                ood=bundle.outside(values),
            )
        )

    served.log.append(records)
    if view.shadows:
        served.trials.offer(view, rows, records)
    if failures:
        served.trials.failed(view, rows, records, failures)
    return records


def predict_columns(served: Served, view: View, columns: Columns, call: Call) -> Answers:
    """Answers of many rows; when this returns, they are in the log.

    Raises ArithmeticError for an output that is no probability, and OSError where the log cannot be
    written.
    """
    count = len(columns[EVENT_TIME])
    parts, failures = divided_columns(view, columns, count)
    now = datetime.now(UTC)
    latency_us = int((time.monotonic() - call.start) * 1e6)
    prefix, taken = new_prefix(), np.arange(1, count + 1)
    days = local_days(columns[EVENT_TIME].array, ZoneInfo(view.manifest.timezone))
    batches = [
        Batch(
            prefix=prefix,
            numbers=part.of(taken),
            at=now,
            pipeline=served.name,
            bundle=part.arm.bundle.digest,
            arm=part.arm.name,
            caller=call.caller.account,
            entity=view.manifest.entity,
            event_time=EVENT_TIME,
            days=part.of(days),
            columns=part.columns,
            request=part.arm.bundle.logged_columns(columns),
            matrix=part.matrix,
            withheld=part.arm.bundle.withheld,
            same=part.arm.bundle.same,
            outputs=part.outputs,
            online_as_of=view.online_as_of,
            latency_us=latency_us,
            ood=part.arm.bundle.outside_of_many(part.matrix),
        )
        for part in parts
    ]

    served.log.append_batches(batches)
    answers = _answers(parts, batches, prefix, taken, view)
    if view.shadows or failures:
        _try_out(
            served, view, columns, answers, days, now, call.caller.account, latency_us, failures
        )
    return answers


def _answers(
    parts: Sequence[Part],
    batches: Sequence[Batch],
    prefix: str,
    numbers: NDArray[np.int64],
    view: View,
) -> Answers:
    """The answers of all arms in the order of the request."""
    count = len(numbers)
    ood: list[tuple[str, ...]] = [()] * count
    if len(parts) == 1 and parts[0].places is None:
        [(part, batch)] = zip(parts, batches, strict=True)
        for place, features in batch.ood.items():
            ood[place] = features
        return Answers(
            prefix,
            numbers,
            part.outputs.tolist(),
            [batch.bundle] * count,
            [batch.arm] * count,
            ood,
            view.online_as_of,
        )
    outputs, bundles, arms = [0.0] * count, [""] * count, [""] * count
    for part, batch in zip(parts, batches, strict=True):
        assert part.places is not None
        places = part.places.tolist()
        for place, output in zip(places, part.outputs.tolist(), strict=True):
            outputs[place], bundles[place], arms[place] = output, batch.bundle, batch.arm
        for place, features in batch.ood.items():
            ood[places[place]] = features
    return Answers(prefix, numbers, outputs, bundles, arms, ood, view.online_as_of)


def _try_out(
    served: Served,
    view: View,
    columns: Columns,
    answers: Answers,
    days: NDArray[np.int64],
    now: datetime,
    caller: str,
    latency_us: int,
    failures: Sequence[Failure],
) -> None:
    """Have the shadows score the champion's rows, and note what arms could not answer.

    Only rows for which there is room become rows and records.
    """

    def recorded(places: list[int]) -> tuple[list[Row], list[Record]]:
        chosen = np.array(places, dtype=np.int64)
        rows = rows_of({name: column.taken(chosen) for name, column in columns.items()})
        records = [
            Record(
                day=day_text(int(days[place])),
                id=answers.ids[place],
                at=now,
                event_time=row[EVENT_TIME],
                pipeline=served.name,
                bundle=answers.bundles[place],
                arm=answers.arms[place],
                caller=caller,
                entity=row[view.manifest.entity],
                request={},
                row=(),
                output=answers.outputs[place],
                online_as_of=view.online_as_of,
                latency_us=latency_us,
                ood=answers.ood[place],
            )
            for place, row in zip(places, rows, strict=True)
        ]
        return rows, records

    trials = served.trials
    if view.shadows:
        champion = view.version
        scored = [place for place, bundle in enumerate(answers.bundles) if bundle == champion]
        room = trials.room
        if scored:
            trials.offer(view, *recorded(scored[:room]), missed=len(scored[room:]))

    if failures:
        room = trials.room
        noted = [failure._replace(place=place) for place, failure in enumerate(failures[:room])]
        rows, records = recorded([failure.place for failure in failures[:room]])
        trials.failed(view, rows, records, noted, missed=len(failures[room:]))
