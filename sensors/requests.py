"""Run requests that are made once, and again only when the run died: `run_key`s carry an attempt
number.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

ENDED = (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
UNFINISHED = [status for status in DagsterRunStatus if status not in ENDED]

# Tags of every run that a sensor or schedule requests.
REQUEST = "evergreen/request"
ATTEMPT = "evergreen/attempt"
CAUSE = "evergreen/cause"
REQUESTED_BY = "evergreen/requested_by"
AS_OF = "evergreen/as_of"
RUN_KEY = "dagster/run_key"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"

RECENT = 50
"""Newest unfinished and failed runs of a job that are looked at: far more than are under way at
once.
"""

RETRY_SECONDS = 120.0
"""How long after a run died its retry by Dagster's daemon is waited for: it looks every five
seconds, once it has started.
"""


def run_request(
    instance: dg.DagsterInstance,
    job: str,
    request: str,
    *,
    attempts: int = 3,
    tags: Mapping[str, str] | None = None,
    run_config: Mapping[str, Any] | None = None,
    selection: Sequence[dg.AssetKey] | None = None,
) -> dg.RunRequest | dg.SkipReason:
    """A request for a run of `job`, unless a run for the same `request` is under way, has
    succeeded, or was tried `attempts` times already. Dagster honours a run key once, even when the
    worker is killed; the attempt number in the key makes another try possible.
    """
    records = instance.get_run_records(filters=RunsFilter(tags={REQUEST: request}))
    runs = [record.dagster_run for record in records]
    if any(not run.is_finished for run in runs) or any(map(_about_to_be_retried, records)):
        return dg.SkipReason(f"{request} is under way")
    if any(run.is_success for run in runs):
        return dg.SkipReason(f"{request} is done")
    # Dagster's own retries of a run that died carry its tags; they belong to the same try.
    tried = sum(run.parent_run_id is None for run in runs)
    if tried >= attempts:
        return dg.SkipReason(
            f"{request} failed {tried} times; mend the cause and launch {job} by hand"
        )
    attempt = str(tried + 1)
    return dg.RunRequest(
        run_key=f"{request}:{attempt}",
        job_name=job,
        run_config=dict(run_config or {}),
        tags={**(tags or {}), REQUEST: request, ATTEMPT: attempt},
        asset_selection=list(selection) if selection is not None else None,
    )


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
