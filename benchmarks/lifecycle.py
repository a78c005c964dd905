"""What orchestration costs: a lifecycle through Dagster against the same functions in a script.

Ingest of 90 days, features, training, validation and bundle of `flight_delays`.
"""

from __future__ import annotations

import inspect
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg

from assets.names import DAY
from benchmarks.figures import Figure, conclude
from pipelines.flight_delays import pipeline
from pipelines.flight_delays.feed import Feed
from pipelines.lifecycle import lifecycle_assets
from sensors import jobs
from tests.support.platform import Platform, platform

FIRST, LAST = date(2013, 1, 1), date(2013, 3, 31)
RATIO_LIMIT, BACKFILL_LIMIT_S = 1.15, 45.0


def main() -> int:
    """Print and judge the figures; heavy libraries are loaded before anything is timed."""
    warm_up()
    with landed() as running:
        plain = timed(lambda: by_hand(running))
    with landed() as running:
        ingest = timed(lambda: backfill(running))
        until = jobs.keys(pipeline, "retrained")
        train = timed(lambda: execute(running, jobs.retrain(pipeline), until, {}))

    through = ingest + train
    print(f"lifecycle, plain functions    {plain:6.1f} s")
    print(f"lifecycle, through Dagster    {through:6.1f} s   {through / plain:.2f} x")
    print(f"backfill of 90 days           {ingest:6.1f} s")
    return conclude(
        [
            Figure("lifecycle through Dagster / plain script", through / plain, RATIO_LIMIT, "x"),
            Figure("backfill of 90 days", ingest, BACKFILL_LIMIT_S, "s"),
        ]
    )


def backfill(running: Platform) -> None:
    """Ingest every landed day in one run."""
    ranges = {
        "dagster/asset_partition_range_start": FIRST.isoformat(),
        "dagster/asset_partition_range_end": LAST.isoformat(),
    }
    ingested = jobs.keys(pipeline, "landed_once", "ingested")
    execute(running, jobs.nightly(pipeline), ingested, ranges)


def warm_up() -> None:
    """Import what the stages import, so that neither side pays for it."""
    import deltalake
    import evidently
    import great_expectations
    import matplotlib.pyplot
    import mlflow
    import optuna
    import polars
    import sklearn.linear_model
    import treelite
    import xgboost

    del (
        deltalake,
        evidently,
        great_expectations,
        matplotlib,
        mlflow,
        optuna,
        polars,
        sklearn,
        treelite,
        xgboost,
    )


@contextmanager
def landed() -> Iterator[Platform]:
    """A fresh platform with January to March landed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        platform(Path(folder) / "home", [pipeline]) as running,
    ):
        feed = Feed(running.settings.landing_uri, 0.05, 0.01, 0)
        feed.land_once()
        for offset in range((LAST - FIRST).days + 1):
            feed.land(FIRST + DAY * offset)
        yield running


def by_hand(running: Platform) -> None:
    """Every asset's function up to the bundle, in order, without runs, events or an executor."""
    assets = {key: asset for asset in lifecycle_assets(pipeline) for key in asset.keys}
    for key in jobs.keys(pipeline, "landed_once", "ingested", "retrained"):
        call(assets[key], running.resources)


class Script:
    """What an asset's function asks its context for, as a plain script has it."""

    def __init__(self, days: Sequence[date]) -> None:
        self.partition_keys = [day.isoformat() for day in days]
        self.log = logging.getLogger("benchmark")
        self.run_id = "a-plain-script"

    def add_asset_metadata(self, metadata: object, partition_key: str) -> None:
        """Nobody reads it here."""


def call(asset: dg.AssetsDefinition, resources: dict[str, Any]) -> None:
    """Call the function under an asset with what its parameters name."""
    function = asset.op.compute_fn.decorated_fn  # type: ignore[union-attr]
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "context":
            arguments[name] = Script(
                [FIRST + DAY * offset for offset in range((LAST - FIRST).days + 1)]
                if asset.partitions_def
                else []
            )
        elif name == "config":
            arguments[name] = parameter.annotation()
        else:
            arguments[name] = resources[name]
    result = function(**arguments)
    if inspect.isgenerator(result):
        list(result)


def execute(
    running: Platform,
    job: str,
    selection: Sequence[dg.AssetKey],
    tags: dict[str, str],
    config: dict[str, Any] | None = None,
) -> None:
    """Execute the selected assets of a job in this process."""
    done = running.definitions.resolve_job_def(job).execute_in_process(
        instance=running.instance,
        asset_selection=list(selection),
        tags=tags,
        run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}, **(config or {})},
    )
    assert done.success


def timed(work: Any) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
