"""Why runs failed: by an error of a step, or because the run died. Read from the event log.

Which requests are then tried again is decided in `requests`.
"""

from typing import NamedTuple

import dagster as dg
from dagster import DagsterEventType

INTERRUPTED = "INTERRUPT"
"""Dagster's word for a step that was ended from outside: its worker was told to stop."""


class StepError(NamedTuple):
    """A step that failed by an exception or a blocking check, and what it says, in one line."""

    step: str
    text: str

    @property
    def line(self) -> str:
        return f"{self.step}: {self.text}"


def step_errors(instance: dg.DagsterInstance, run_id: str) -> list[StepError]:
    """The steps that failed by themselves in a run, in order.

    None for a run that died: its worker was killed or stopped, or never started.
    """
    of_type = {DagsterEventType.STEP_FAILURE}
    records = instance.get_records_for_run(run_id, of_type=of_type).records
    events = [record.event_log_entry.get_dagster_event() for record in records]
    return [
        StepError(event.step_key or "", _first_line(event))
        for event in events
        if event.step_failure_data.error_source.value != INTERRUPTED
    ]


def reason(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """The first step error of a run as a line, None where no step failed by itself."""
    errors = step_errors(instance, run_id)
    return errors[0].line if errors else None


def _first_line(event: dg.DagsterEvent) -> str:
    """The first line of what the step's own code raised, below what Dagster wraps around it."""
    error = event.step_failure_data.error
    if error is None:
        return event.message or "no reason is recorded"
    while error.cause is not None:
        error = error.cause
    lines = error.message.strip().splitlines()
    return lines[0] if lines else error.cls_name or "no reason is recorded"
