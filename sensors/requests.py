"""Run requests that are made once, and again only when the run died: `run_key`s carry an attempt number."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster import RunsFilter

# Tags of every run that a sensor or schedule requests.
REQUEST = "evergreen/request"
ATTEMPT = "evergreen/attempt"
CAUSE = "evergreen/cause"
REQUESTED_BY = "evergreen/requested_by"
AS_OF = "evergreen/as_of"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


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
    """A request for a run of `job`, unless a run for the same `request` is under way, has succeeded, or was tried
    `attempts` times already. Dagster honours a run key once, even when the worker is killed; the attempt number in the key
    makes another try possible."""
    runs = instance.get_runs(filters=RunsFilter(tags={REQUEST: request}))
    if any(not run.is_finished for run in runs):
        return dg.SkipReason(f"{request} is under way")
    if any(run.is_success for run in runs):
        return dg.SkipReason(f"{request} is done")
    # Dagster's own retries of a run that died carry its tags; they belong to the same try.
    tried = sum(run.parent_run_id is None for run in runs)
    if tried >= attempts:
        return dg.SkipReason(f"{request} failed {tried} times; mend the cause and launch {job} by hand")
    attempt = str(tried + 1)
    return dg.RunRequest(
        run_key=f"{request}:{attempt}",
        job_name=job,
        run_config=dict(run_config or {}),
        tags={**(tags or {}), REQUEST: request, ATTEMPT: attempt},
        asset_selection=list(selection) if selection is not None else None,
    )
