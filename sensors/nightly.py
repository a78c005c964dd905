"""The nightly schedule and the arrival sensor: both request the days that are due."""

import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import date
from typing import NamedTuple

import dagster as dg

from assets.lifecycles import kind_of
from assets.names import FEATURES, RETRAINING_DECISION, asset_key
from assets.traffic.entries import Release, entries
from declare.pipeline import Pipeline
from resources.landing import Landing
from resources.ledger import Ledger
from sensors import jobs
from sensors.due import Due, due
from sensors.requests import AS_OF, CAUSE, RANGE_END, RANGE_START, overlapping, run_request


def build(pipeline: Pipeline) -> tuple[dg.ScheduleDefinition, dg.SensorDefinition]:
    """The schedule and the sensor that bring a pipeline up to what has been delivered."""

    @dg.schedule(
        name=f"{pipeline.name}_nightly_schedule",
        job_name=jobs.nightly(pipeline),
        cron_schedule=pipeline.nightly,
        execution_timezone=pipeline.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=(
            "Each night: what was delivered and not yet processed, however many days that is."
        ),
    )
    def nightly(
        context: dg.ScheduleEvaluationContext, landing: Landing, ledger: Ledger
    ) -> list[dg.RunRequest] | dg.SkipReason:
        asked = next_requests(
            context.instance, pipeline, deliveries(pipeline, landing), ledger, cause="nightly"
        )
        return asked.requests or asked.skipped

    @dg.sensor(
        name=f"{pipeline.name}_arrivals",
        job_name=jobs.nightly(pipeline),
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "When files land: the same work as the nightly schedule, and again for days whose "
            "files changed."
        ),
    )
    def arrivals(
        context: dg.SensorEvaluationContext, landing: Landing, ledger: Ledger
    ) -> dg.SensorResult:
        delivered = deliveries(pipeline, landing)
        now = {day: _digest(delivered, day) for days in delivered.values() for day in days}
        before = {
            date.fromisoformat(day): digest
            for day, digest in json.loads(context.cursor or "{}").items()
        }
        processed = materialized(context.instance, asset_key(pipeline.name, FEATURES))
        changed = {day for day in processed if day in before and before[day] != now.get(day)}
        asked = next_requests(
            context.instance, pipeline, delivered, ledger, cause="arrival", redelivered=changed
        )
        # A change counts as dealt with once a run for it has been requested; until then the old
        # digest is remembered.
        seen = now if asked.ingests else {**now, **{day: before[day] for day in changed}}
        if asked.requests:
            return dg.SensorResult(run_requests=asked.requests, cursor=_cursor(seen))
        return dg.SensorResult(skip_reason=asked.skipped, cursor=_cursor(seen))

    return nightly, arrivals


Deliveries = dict[str, dict[date, tuple[str, ...]]]


def deliveries(pipeline: Pipeline, landing: Landing) -> Deliveries:
    """Digests of the files of each daily source by day of delivery."""
    return {
        source.name: {
            day: tuple(file.digest for file in delivered)
            for day, delivered in landing.deliveries(pipeline.name, source.name).items()
        }
        for source in pipeline.sources
        if source.daily
    }


class Asked(NamedTuple):
    """Requests for what is due, and why there are none.

    `ingests` tells whether one of them ingests.
    """

    requests: list[dg.RunRequest]
    skipped: dg.SkipReason
    ingests: bool


def next_requests(
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    delivered: Deliveries,
    ledger: Ledger,
    *,
    cause: str,
    redelivered: Collection[date] = (),
) -> Asked:
    """The requests for the next days that are due, at most one of each stage.

    They may run at once: a finished day is monitored from what was known by its end, and what a
    newer delivery brings changes nothing of it.
    """
    stages = due(
        delivered,
        materialized(instance, asset_key(pipeline.name, FEATURES)),
        materialized(instance, asset_key(pipeline.name, RETRAINING_DECISION)),
        served_since(pipeline, ledger),
        pipeline.start,
        redelivered,
        reach=kind_of(pipeline).reach,
    )
    made = {
        work.stage: _request(
            instance,
            pipeline,
            delivered,
            work,
            "redelivery" if redelivered and work.stage == "ingest" else cause,
        )
        for work in stages
    }
    requests = [request for request in made.values() if isinstance(request, dg.RunRequest)]
    reasons = [
        str(request.skip_message) for request in made.values() if isinstance(request, dg.SkipReason)
    ]
    skipped = dg.SkipReason("; ".join(reasons) or "everything delivered is processed")
    return Asked(requests, skipped, isinstance(made.get("ingest"), dg.RunRequest))


def _request(
    instance: dg.DagsterInstance, pipeline: Pipeline, delivered: Deliveries, work: Due, cause: str
) -> dg.RunRequest | dg.SkipReason:
    if (
        doing := overlapping(
            instance,
            jobs.nightly(pipeline),
            f"{pipeline.name}:{work.stage}:",
            work.first,
            work.last,
        )
    ) is not None:
        return dg.SkipReason(f"{doing} is under way")
    selection = jobs.keys(pipeline, "monitored" if work.stage == "monitor" else "ingested")
    if work.stage == "ingest":
        landed_once = jobs.keys(pipeline, "landed_once")
        selection += [
            key for key in landed_once if instance.get_latest_materialization_event(key) is None
        ]
    return run_request(
        instance,
        jobs.nightly(pipeline),
        f"{pipeline.name}:{work.stage}:{work.first}:{work.last}:{_content(delivered, work)}",
        tags={
            RANGE_START: work.first.isoformat(),
            RANGE_END: work.last.isoformat(),
            CAUSE: cause,
            AS_OF: work.last.isoformat(),
        },
        selection=selection,
    )


def materialized(instance: dg.DagsterInstance, key: dg.AssetKey) -> set[date]:
    """Days of a daily asset that have been materialized."""
    return {date.fromisoformat(day) for day in instance.get_materialized_partitions(key)}


def served_since(pipeline: Pipeline, ledger: Ledger) -> date | None:
    """The data day of the pipeline's first release, None before it."""
    releases = (e.day for e in entries(ledger, pipeline.name) if isinstance(e, Release))
    return next(releases, None)


def _cursor(digests: Mapping[date, str]) -> str:
    return json.dumps({day.isoformat(): digest for day, digest in sorted(digests.items())})


def _digest(delivered: Deliveries, day: date) -> str:
    files = sorted((source, *days.get(day, ())) for source, days in delivered.items())
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def _content(delivered: Deliveries, work: Due) -> str:
    days = sorted(
        {day for days in delivered.values() for day in days if work.first <= day <= work.last}
    )
    return hashlib.sha256("".join(_digest(delivered, day) for day in days).encode()).hexdigest()[
        :16
    ]
