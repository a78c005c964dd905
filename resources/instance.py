"""The Dagster instance of this platform: made once, read as plain facts, cured of what a killed process left behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import dagster as dg
from dagster import (
    DagsterEventType,
    DagsterRunStatus,
    EventRecordsFilter,
    RunsFilter,
    RunStatusChangeRecordsFilter,
)

from resources.settings import Settings

CONFIGURATION = Path(__file__).resolve().parent.parent / "infra" / "dagster.yaml"
UNFINISHED = (
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)
EVENTS_A_READ = 500

Kind = Literal["materialization", "check", "run_failure"]


EVENT_TYPES: tuple[tuple[Kind, DagsterEventType], ...] = (
    ("materialization", DagsterEventType.ASSET_MATERIALIZATION),
    ("check", DagsterEventType.ASSET_CHECK_EVALUATION),
)


@dataclass(frozen=True)
class Event:
    """One thing that happened in the lifecycle. `asset` is the key's parts; `metadata` holds the numbers and texts of it;
    `passed` speaks of a check. `name` is a check's name or a failed run's job, `text` what either says."""

    kind: Kind
    serial: int
    moment: datetime
    run_id: str
    asset: tuple[str, ...] = ()
    partition: str | None = None
    name: str = ""
    passed: bool | None = None
    text: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """A run under way: steps finished and steps in all."""

    run_id: str
    job: str
    status: str
    finished: int
    steps: int
    tags: Mapping[str, str]


def create(settings: Settings) -> None:
    """Make DAGSTER_HOME: its configuration, unless the operator's own lies there, and its databases with their tables.

    Call under a lock: two processes that open fresh SQLite databases at once race for the tables.
    """
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    configuration = settings.dagster_home / "dagster.yaml"
    if not configuration.exists():
        shutil.copyfile(CONFIGURATION, configuration)
    with opened(settings) as instance:
        instance.get_runs_count()
        instance.event_log_storage.get_maximum_record_id()
        instance.all_instigator_state()


@contextmanager
def opened(settings: Settings, *, compute_logs: bool = True) -> Iterator[dg.DagsterInstance]:
    """The instance, for the length of a `with`. Without `compute_logs` a run's output stays on this process's own."""
    if compute_logs:
        with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
            yield instance
        return
    from dagster._core.instance.ref import InstanceRef

    silent = {
        "compute_logs": {
            "module": "dagster._core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
            "config": {},
        }
    }
    with dg.DagsterInstance.from_ref(
        InstanceRef.from_dir(str(settings.dagster_home), overrides=silent)
    ) as instance:
        yield instance


def fail_abandoned(instance: dg.DagsterInstance) -> list[str]:
    """Fail every run that says it is under way, and return their ids. Call only when no worker can be alive.

    A machine that lost its power leaves such runs started for ever, holding their pool. Failed, the retry daemon starts
    them again.
    """
    abandoned = instance.get_runs(filters=RunsFilter(statuses=list(UNFINISHED)))
    for run in abandoned:
        instance.report_run_failed(
            run,
            message="The run's worker is gone: the platform was stopped or killed while it worked.",
        )
    return [run.run_id for run in abandoned]


def newest_serial(instance: dg.DagsterInstance) -> int:
    return instance.event_log_storage.get_maximum_record_id() or 0


def events(instance: dg.DagsterInstance, after: Mapping[Kind, int]) -> list[Event]:
    """What happened after the given serial of each kind, oldest first, at most 500 of a kind."""
    found = [
        _event(kind, record)
        for kind, event_type in EVENT_TYPES
        for record in _indexed(instance, event_type, after.get(kind, 0), EVENTS_A_READ)
    ]
    failures = instance.fetch_run_status_changes(
        RunStatusChangeRecordsFilter(
            DagsterEventType.RUN_FAILURE, after_storage_id=after.get("run_failure", 0)
        ),
        EVENTS_A_READ,
        ascending=True,
    )
    found.extend(_event("run_failure", record) for record in failures.records)
    return sorted(found, key=lambda event: event.moment)


def check_evaluations(
    instance: dg.DagsterInstance, after: int, limit: int
) -> Sequence[dg.EventLogRecord]:
    """Evaluations of asset checks with a serial above `after`, oldest first."""
    return _indexed(instance, DagsterEventType.ASSET_CHECK_EVALUATION, after, limit)


def _indexed(
    instance: dg.DagsterInstance, event_type: DagsterEventType, after: int, limit: int
) -> Sequence[dg.EventLogRecord]:
    """Events of assets and checks of all runs.

    The SQLite storage keeps both in one index, but its own `get_event_records` refuses a serial for checks; that of its
    parent class, which Postgres uses too, reads the index.
    """
    # Imported here: it loads SQLAlchemy, which importing the definitions does not need.
    from dagster._core.storage.event_log import SqlEventLogStorage

    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise TypeError(
            f"event log storage {type(storage).__name__} is not SQL; configure SQLite or Postgres in dagster.yaml"
        )
    return SqlEventLogStorage.get_event_records(
        storage, EventRecordsFilter(event_type, after_cursor=after), limit=limit, ascending=True
    )


def _event(kind: Kind, record: dg.EventLogRecord) -> Event:
    entry = record.event_log_entry
    event = Event(
        kind, record.storage_id, datetime.fromtimestamp(entry.timestamp, UTC), entry.run_id
    )
    happened = entry.dagster_event
    if kind == "materialization" and (made := entry.asset_materialization) is not None:
        return replace(
            event,
            asset=tuple(made.asset_key.path),
            partition=made.partition,
            metadata=_plain(made.metadata),
        )
    if kind == "check" and happened is not None:
        check = happened.asset_check_evaluation_data
        asset, text = tuple(check.asset_key.path), check.description or ""
        return replace(
            event,
            asset=asset,
            name=check.check_name,
            passed=check.passed,
            text=text,
            metadata=_plain(check.metadata),
        )
    reason = happened.message if happened is not None else None
    return replace(event, name=entry.job_name or "", text=reason or entry.user_message)


def _plain(metadata: Mapping[str, dg.MetadataValue]) -> dict[str, object]:
    return {name: value.value for name, value in metadata.items()}


def works(instance: dg.DagsterInstance) -> list[Work]:
    """Runs that are queued or under way, oldest first."""
    statuses = [*UNFINISHED, DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED]
    found = []
    for run in reversed(instance.get_runs(filters=RunsFilter(statuses=statuses), limit=50)):
        steps = 0
        if run.execution_plan_snapshot_id:
            steps = len(
                instance.get_execution_plan_snapshot(
                    run.execution_plan_snapshot_id
                ).step_keys_to_execute
            )
        done = instance.get_run_stats(run.run_id).steps_succeeded if run.status in UNFINISHED else 0
        found.append(Work(run.run_id, run.job_name, run.status.value, done, steps, run.tags))
    return found


def finished_runs(instance: dg.DagsterInstance, limit: int) -> list[dict[str, object]]:
    """The newest runs that ended, newest first: id, job, status, end."""
    ended = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
    return [
        {
            "run": record.dagster_run.run_id,
            "job": record.dagster_run.job_name,
            "status": record.dagster_run.status.value.lower(),
            "ended": datetime.fromtimestamp(record.end_time, UTC).isoformat()
            if record.end_time
            else None,
        }
        for record in instance.get_run_records(filters=RunsFilter(statuses=ended), limit=limit)
    ]


def newest_partition(instance: dg.DagsterInstance, asset: tuple[str, ...]) -> str | None:
    """The newest partition of a daily asset that is materialized, None where none is."""
    days = instance.get_materialized_partitions(dg.AssetKey(list(asset)))
    return max(days, default=None)
