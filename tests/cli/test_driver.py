"""The driver: a daemon for one process."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from cli.demo.driver import Driver
from resources.settings import settings
from sensors import event_log, instance as platform

INFRA = Path(__file__).resolve().parents[2] / "infra"


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    platform.create(settings())
    with platform.opened(settings(), compute_logs=False) as opened:
        yield opened


@dg.asset
def broken() -> None:
    raise ValueError("no such file")


days = dg.DailyPartitionsDefinition("2013-01-01", end_date="2014-01-01")
processed: list[list[str]] = []


@dg.asset(partitions_def=days, backfill_policy=dg.BackfillPolicy.single_run())
def daily(context: dg.AssetExecutionContext) -> None:
    processed.append(list(context.partition_keys))


@dg.asset
def untouched() -> None: ...


@dg.sensor(job_name="all_of_it")
def arrivals(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    done = int(context.cursor or 0)
    if done == 2:
        return dg.SensorResult(skip_reason="all done", cursor="2")
    tags = {
        "dagster/asset_partition_range_start": "2013-01-01",
        "dagster/asset_partition_range_end": f"2013-01-0{done + 1}",
    }
    request = dg.RunRequest(
        run_key=f"request:{done}", tags=tags, asset_selection=[dg.AssetKey("daily")]
    )
    return dg.SensorResult(run_requests=[request, request], cursor=str(done + 1))


def test_the_driver_runs_what_sensors_request_once(instance: dg.DagsterInstance) -> None:
    processed.clear()
    job = dg.define_asset_job("all_of_it", selection=[daily])
    definitions = dg.Definitions(
        assets=[daily, untouched], jobs=[job], sensors=[arrivals], executor=dg.in_process_executor
    )
    seen: list[str] = []
    ran = Driver(definitions, instance, observe=lambda run: seen.append(run.run_id)).settle()
    assert processed == [["2013-01-01"], ["2013-01-01", "2013-01-02"]]
    assert [run.run_id for run in ran] == seen
    assert all(run.success and run.sensor == "arrivals" for run in ran)
    # A new driver has lost the cursors; the run keys still hold.
    assert Driver(definitions, instance).settle() == []
    assert event_log.newest_partition(instance, ("daily",)) == "2013-01-02"


def test_the_driver_tells_why_a_run_failed(instance: dg.DagsterInstance) -> None:
    @dg.sensor(job_name="breaking")
    def once(context: dg.SensorEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(run_key="once")

    definitions = dg.Definitions(
        assets=[broken], jobs=[dg.define_asset_job("breaking", selection=[broken])], sensors=[once]
    )
    (ran,) = Driver(definitions, instance).settle()
    assert (ran.success, ran.failure) == (False, "ValueError: no such file")
