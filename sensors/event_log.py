"""What the platform reads of Dagster's runs and events, as plain facts.

Only the instance's public methods are used, so every storage of Dagster's will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import dagster as dg
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter

from sensors.failures import reason
from sensors.instance import AT_WORK
from sensors.requests import ENDED

Kind = Literal["materialization", "check", "run_failure"]

KINDS: Mapping[DagsterEventType, Kind] = {
    DagsterEventType.ASSET_MATERIALIZATION: "materialization",
    DagsterEventType.ASSET_CHECK_EVALUATION: "check",
    DagsterEventType.RUN_FAILURE: "run_failure",
}

NO_RUN = ""
"""Dagster's run id of events that belong to no run, such as one reported by hand in the UI."""


@dataclass(frozen=True)
class Event:
    """One thing that happened in the lifecycle.

    `asset` is the key's parts and `metadata` its values. `name` is a check's name or a failed
    run's job, `text` what either says (of a run: what its failed step raised); `passed` and
    `severity` (warn, error) speak of a check.
    """

    kind: Kind
    moment: datetime
    run_id: str
    asset: tuple[str, ...] = ()
    partition: str | None = None
    name: str = ""
    passed: bool | None = None
    severity: str = ""
    text: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """A run under way or in the queue: steps finished, and steps in all."""

    run_id: str
    job: str
    status: str
    finished: int
    steps: int
    tags: Mapping[str, str]


class Reader:
    """Reads what happens from the moment it is made, each event once.

    Dagster numbers events across runs in some storages and within a run in others. So the reader
    follows each run by itself: it asks for the runs that have changed, and reads on in these and
    in those that are at work.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._since = self._changed_until = datetime.now(UTC)
        self._positions: dict[str, str] = {}

    def read(self) -> list[Event]:
        """What happened since the last call, oldest first."""
        events: list[Event] = []
        for run_id in self._runs():
            position = self._positions.get(run_id)
            found = self._instance.get_records_for_run(run_id, position, set(KINDS))
            self._positions[run_id] = found.cursor
            events += [_event(self._instance, record) for record in found.records]
        recent = [event for event in events if event.moment >= self._since]
        return sorted(recent, key=lambda event: event.moment)

    def _runs(self) -> list[str]:
        """Runs that may have new events: those at work, and those that changed since last time."""
        at_work = self._instance.get_run_ids(RunsFilter(statuses=AT_WORK))
        changed = self._instance.get_run_records(
            RunsFilter(updated_after=self._changed_until),
            order_by="update_timestamp",
            ascending=True,
        )
        if changed:
            self._changed_until = changed[-1].update_timestamp

        ids = [NO_RUN, *at_work, *(record.dagster_run.run_id for record in changed)]
        return list(dict.fromkeys(ids))


def events_of_run(instance: dg.DagsterInstance, run_id: str) -> list[Event]:
    """What happened in a run, oldest first."""
    found = instance.get_records_for_run(run_id, of_type=set(KINDS))
    return [_event(instance, record) for record in found.records]


def _event(instance: dg.DagsterInstance, record: dg.EventLogRecord) -> Event:
    entry = record.event_log_entry
    happened = entry.get_dagster_event()
    moment, run = datetime.fromtimestamp(entry.timestamp, UTC), entry.run_id
    kind = KINDS[happened.event_type]
    if kind == "materialization":
        made = happened.step_materialization_data.materialization
        return Event(
            kind,
            moment,
            run,
            asset=tuple(made.asset_key.path),
            partition=made.partition,
            metadata=_values(made.metadata),
        )
    if kind == "check":
        check = happened.asset_check_evaluation_data
        return Event(
            kind,
            moment,
            run,
            asset=tuple(check.asset_key.path),
            name=check.check_name,
            passed=check.passed,
            severity=check.severity.value.lower(),
            text=check.description or "",
            metadata=_values(check.metadata),
        )
    text = reason(instance, run) or happened.message or entry.user_message
    return Event(kind, moment, run, name=entry.job_name or "", text=text)


def _values(metadata: Mapping[str, dg.MetadataValue]) -> dict[str, object]:
    return {name: value.value for name, value in metadata.items()}


def works(instance: dg.DagsterInstance) -> list[Work]:
    """Runs that are queued or under way, oldest first."""
    statuses = [*AT_WORK, DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED]
    runs = instance.get_runs(filters=RunsFilter(statuses=statuses), limit=50)
    return [_work(instance, run) for run in reversed(runs)]


def _work(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Work:
    steps = finished = 0
    if run.execution_plan_snapshot_id:
        plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
        steps = len(plan.step_keys_to_execute)
    if run.status in AT_WORK:
        finished = instance.get_run_stats(run.run_id).steps_succeeded
    return Work(run.run_id, run.job_name, run.status.value, finished, steps, run.tags)


def finished_runs(instance: dg.DagsterInstance, limit: int) -> list[dict[str, object]]:
    """The newest runs that ended, newest first: id, job, status, end, and why one failed."""
    records = instance.get_run_records(filters=RunsFilter(statuses=list(ENDED)), limit=limit)
    return [_ended(instance, record) for record in records]


def _ended(instance: dg.DagsterInstance, record: dg.RunRecord) -> dict[str, object]:
    run, end = record.dagster_run, record.end_time
    failed = run.status == DagsterRunStatus.FAILURE
    return {
        "run": run.run_id,
        "job": run.job_name,
        "status": run.status.value.lower(),
        "ended": datetime.fromtimestamp(end, UTC).isoformat() if end else None,
        "reason": reason(instance, run.run_id) if failed else None,
    }


def newest_partition(instance: dg.DagsterInstance, asset: tuple[str, ...]) -> str | None:
    """The newest materialized partition of a daily asset, None where there is none."""
    days = instance.get_materialized_partitions(dg.AssetKey(list(asset)))
    return max(days, default=None)
