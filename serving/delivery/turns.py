"""Single rows: those that arrive in one turn of the event loop are predicted and logged together.

No request waits for another: a turn holds what was there when it began. Together they need one
write of the log, and the processor runs the same code for all of them before it goes on to other
code, which halves what each costs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from serving.contract.refusal import Refusal
from serving.delivery.answers import Numbering
from serving.delivery.predicting import predict_rows
from serving.turn import Turn

if TYPE_CHECKING:
    from bundle.records.record import Record
    from serving.callers.calls import Call
    from serving.contract.contract import Row
    from serving.delivery.following.state import Served
    from serving.delivery.view import View
    from serving.watch.metrics import Metrics


class Asked(Turn):
    """One row that is to be predicted and logged in this turn of the loop, and in its end its
    record or what went wrong."""

    __slots__ = ("call", "error", "record", "row", "served", "view")

    def __init__(self, served: Served, view: View, row: Row, call: Call) -> None:
        self.served, self.view, self.row, self.call = served, view, row, call
        self.record: Record | None = None
        self.error: Exception | None = None

    def result(self) -> Record:
        """Raises what went wrong."""
        if self.record is None:
            raise self.error or RuntimeError("a turn ended without an answer")
        return self.record


class Turns:
    """`waiting` are the rows of the turn to come."""

    def __init__(self, metrics: Metrics, ids: Numbering) -> None:
        self.waiting: list[Asked] = []
        self._metrics, self._ids = metrics, ids

    def ask(self, served: Served, view: View, row: Row, call: Call) -> Asked:
        """A row's turn, to be awaited; its `result` is there afterwards."""
        waiting = self.waiting
        if not waiting:
            asyncio.get_running_loop().call_soon(self._take)
        asked = Asked(served, view, row, call)
        waiting.append(asked)
        return asked

    def _take(self) -> None:
        """Answer all that was asked in this turn, and let each request go on."""
        asked, self.waiting = self.waiting, []
        groups: dict[int, list[Asked]] = {}
        for each in asked:
            try:
                each.served.check_room()
                each.call.in_time()
            except Refusal as refusal:
                self._metrics.add("shed_total", (refusal.rule,))
                each.error = refusal
            else:
                groups.setdefault(id(each.view), []).append(each)
        for group in groups.values():
            self._answer(group)
        for each in asked:
            each.then()

    def _answer(self, group: list[Asked]) -> None:
        served, view = group[0].served, group[0].view
        try:
            records = predict_rows(
                served, view, [each.row for each in group], [each.call for each in group], self._ids
            )
        except Exception as error:  # noqa: BLE001  its request raises it again
            if len(group) == 1:
                group[0].error = error
                return
            # Whatever is wrong with one of them must not be the others' failure.
            for each in group:
                self._answer([each])
        else:
            for each, record in zip(group, records, strict=True):
                each.record = record
