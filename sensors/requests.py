"""Run requests that are made once, and again only when the run died: `run_key`s carry an attempt
number.

A run whose step failed, by an exception or a blocking check, would fail again: it is not tried
again by itself. Neither is one that died too often. Such a request is spent until a person says
`evergreen retry`.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from sensors.failures import reason

ENDED = (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
UNFINISHED = [status for status in DagsterRunStatus if status not in ENDED]

# Tags of every run that a sensor or schedule requests.
REQUEST = "evergreen/request"
ATTEMPT = "evergreen/attempt"
CAUSE = "evergreen/cause"
REQUESTED_BY = "evergreen/requested_by"
AS_OF = "evergreen/as_of"
FORGIVEN = "evergreen/forgiven"
"""Tag of a failed run after `evergreen retry`: it no longer counts as a try of its request."""
RUN_KEY = "dagster/run_key"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"

RECENT = 50
"""Newest unfinished and failed runs of a job that are looked at: far more than are under way at
once.
"""

ATTEMPTS = 3
"""How often a request is made whose runs die."""

RETRY_SECONDS = 120.0
"""How long after a run died its retry by Dagster's daemon is waited for: it looks every five
seconds, once it has started.
"""


def run_request(
    instance: dg.DagsterInstance,
    job: str,
    request: str,
    *,
    attempts: int = ATTEMPTS,
    tags: Mapping[str, str] | None = None,
    run_config: Mapping[str, Any] | None = None,
    selection: Sequence[dg.AssetKey] | None = None,
) -> dg.RunRequest | dg.SkipReason:
    """A request for a run of `job`, unless a run for the same `request` is under way, has
    succeeded, failed by an error of a step, or died `attempts` times already. Dagster honours a run
    key once, even when the worker is killed; the attempt number in the key makes another try
    possible.
    """
    records = instance.get_run_records(filters=RunsFilter(tags={REQUEST: request}))
    runs = [record.dagster_run for record in records]
    if any(not run.is_finished for run in runs) or any(map(_about_to_be_retried, records)):
        return dg.SkipReason(f"{request} is under way")
    if any(run.is_success for run in runs):
        return dg.SkipReason(f"{request} is done")

    why = _spent(instance, request, runs, attempts)
    if why is not None:
        return dg.SkipReason(f"{why}. Mend the cause, then run `evergreen retry`")

    # Dagster's own retries of a run that died carry its tags; they belong to the same try.
    attempt = str(sum(run.parent_run_id is None for run in runs) + 1)
    return dg.RunRequest(
        run_key=f"{request}:{attempt}",
        job_name=job,
        run_config=dict(run_config or {}),
        tags={**(tags or {}), REQUEST: request, ATTEMPT: attempt},
        asset_selection=list(selection) if selection is not None else None,
    )


def _spent(
    instance: dg.DagsterInstance, request: str, runs: Sequence[dg.DagsterRun], attempts: int
) -> str | None:
    """Why a request is not tried again by itself, None where it may be."""
    counted = [run for run in runs if FORGIVEN not in run.tags]
    for run in counted:
        error = reason(instance, run.run_id)
        if error is not None:
            return f"{request} failed ({error})"
    died = sum(run.parent_run_id is None for run in counted)
    return f"{request} died {died} times" if died >= attempts else None


class Spent(NamedTuple):
    """A request that waits for a person: its newest run failed, and none is to follow by itself."""

    request: str
    job: str
    why: str


def spent(instance: dg.DagsterInstance, attempts: int = ATTEMPTS) -> list[Spent]:
    """Requests that are not tried again by themselves, newest first.

    Of the requests of one pipeline and stage only the newest counts: what was asked for since, of a
    newer delivery say, has taken the place of the older ones.
    """
    records = instance.get_run_records(limit=RECENT)
    newest: dict[str, dg.RunRecord] = {}
    for record in records:
        request = record.dagster_run.tags.get(REQUEST)
        if request is not None:
            newest.setdefault(_stage(request), record)
    found = (_spent_by(instance, record, attempts) for record in newest.values())
    return [each for each in found if each is not None]


def forgive(instance: dg.DagsterInstance, request: str) -> int:
    """Let a spent request be tried anew: its failed runs count no longer. Returns how many.

    The sensor that made the request makes it again at its next look, if it is still due.
    """
    wanted = RunsFilter(tags={REQUEST: request}, statuses=[DagsterRunStatus.FAILURE])
    runs = [run for run in instance.get_runs(filters=wanted) if FORGIVEN not in run.tags]
    for run in runs:
        instance.add_run_tags(run.run_id, {FORGIVEN: "true"})
    return len(runs)


def _spent_by(instance: dg.DagsterInstance, record: dg.RunRecord, attempts: int) -> Spent | None:
    run = record.dagster_run
    failed = run.status == DagsterRunStatus.FAILURE
    if not failed or FORGIVEN in run.tags or _about_to_be_retried(record):
        return None
    request = run.tags[REQUEST]
    runs = instance.get_runs(filters=RunsFilter(tags={REQUEST: request}))
    why = _spent(instance, request, runs, attempts)
    return Spent(request, run.job_name, why) if why is not None else None


def _stage(request: str) -> str:
    """Pipeline and stage: the first two parts of a request's name."""
    return ":".join(request.split(":")[:2])


def overlapping(
    instance: dg.DagsterInstance, job: str, kind: str, first: date, last: date
) -> str | None:
    """The request of a run of `job` that is under way and does days from `first` to `last`, of
    requests whose names begin with `kind`.

    Such a run tells what it has done one day after the other: what then still seems to be due is
    its work already.
    """
    for record in instance.get_run_records(
        RunsFilter(job_name=job, statuses=[*UNFINISHED, DagsterRunStatus.FAILURE]),
        limit=RECENT,
    ):
        tags = record.dagster_run.tags
        if record.dagster_run.is_finished and not _about_to_be_retried(record):
            continue
        if (
            tags.get(REQUEST, "").startswith(kind)
            and tags.get(RANGE_START, "~") <= last.isoformat()
            and tags.get(RANGE_END, "") >= first.isoformat()
        ):
            return tags[REQUEST]
    return None


def _about_to_be_retried(record: dg.RunRecord) -> bool:
    """Whether a run died just now and Dagster's own retry of it is still to be made: asked for
    again, its work would be done twice. A retry that never comes, of a daemon that was killed, is
    waited for no longer than RETRY_SECONDS.
    """
    ended = record.end_time or 0.0
    return (
        record.dagster_run.is_complete_and_waiting_to_retry and time.time() - ended < RETRY_SECONDS
    )
