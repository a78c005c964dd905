"""The Dagster instance: made once, its policies, and runs that nobody works on."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from dagster._core.instance.config import PoolGranularity

from cli.platform.home import initialise
from resources.settings import settings
from sensors import instance as platform

INFRA = Path(__file__).resolve().parents[2] / "infra"


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    platform.create(settings())
    with platform.opened(settings(), compute_logs=False) as opened:
        yield opened


def test_policies_of_the_local_instance(instance: dg.DagsterInstance) -> None:
    assert instance.telemetry_enabled is False
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 2
    assert instance.run_retries_retry_on_asset_or_op_failure is False
    assert instance.run_monitoring_enabled
    assert 0 < instance.run_monitoring_max_runtime_seconds <= 3600
    assert type(instance.run_coordinator).__name__ == "QueuedRunCoordinator"
    pools = instance.get_concurrency_config().pool_config
    assert (pools.pool_granularity, pools.default_pool_limit) == (PoolGranularity.RUN, 1)


def test_the_operators_own_configuration_is_kept(home: Path) -> None:
    own = (
        (INFRA / "dagster.yaml")
        .read_text()
        .replace("max_concurrent_runs: 2", "max_concurrent_runs: 7")
    )
    (home / "dagster" / "dagster.yaml").write_text(own)
    platform.create(settings())
    assert (home / "dagster" / "dagster.yaml").read_text() == own


def test_processes_that_initialise_at_once_make_one_home(home: Path) -> None:
    shutil.rmtree(home)
    command = [sys.executable, "-m", "cli.main", "init", "--json"]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=200) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], answers
    assert sorted('"initialised": true' in out for out, _ in answers) == [False, False, True]
    assert oct((home / "keys" / "platform.key").stat().st_mode & 0o777) == "0o600"
    assert initialise(settings()) is False


@dg.asset(check_specs=[dg.AssetCheckSpec("small_enough", asset="measured")])
def measured() -> dg.MaterializeResult:
    failed = dg.AssetCheckResult(
        passed=False,
        check_name="small_enough",
        severity=dg.AssetCheckSeverity.WARN,
        description="3 is above 2",
        metadata={"limit": 2},
    )
    return dg.MaterializeResult(metadata={"number": 3}, check_results=[failed])


def test_a_run_that_nobody_works_on_fails(instance: dg.DagsterInstance) -> None:
    job = dg.define_asset_job("nightly", selection="*")
    definitions = dg.Definitions(assets=[measured], jobs=[job])
    run = instance.create_run_for_job(
        definitions.resolve_job_def("nightly"), status=DagsterRunStatus.STARTED
    )
    waiting = instance.create_run_for_job(
        definitions.resolve_job_def("nightly"), status=DagsterRunStatus.NOT_STARTED
    )
    assert platform.fail_abandoned(instance) == [run.run_id]
    statuses = [
        found.status for found in map(instance.get_run_by_id, (run.run_id, waiting.run_id)) if found
    ]
    assert statuses == [DagsterRunStatus.FAILURE, DagsterRunStatus.NOT_STARTED]
    assert platform.fail_abandoned(instance) == []
