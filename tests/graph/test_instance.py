"""The Dagster instance: made once, its policies, its events as plain facts, runs that nobody works on, and production's storage."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster import DagsterRunStatus
from dagster._config import validate_config
from dagster._core.instance.config import PoolGranularity
from dagster._core.instance.ref import InstanceRef
from dagster._serdes import class_from_code_pointer
from dagster._serdes.config_class import ConfigurableClassData

from cli.demo.driver import Driver
from cli.platform.home import initialise
from resources.settings import settings
from sensors import event_log, instance as platform
from tests.support.ports import free_ports

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


@dg.asset
def broken() -> None:
    raise ValueError("no such file")


def test_events_are_read_once_in_order(instance: dg.DagsterInstance) -> None:
    dg.materialize([measured], instance=instance)
    reader = event_log.Reader(instance)
    assert reader.read() == [], "what happened before the reader was made is not its concern"

    run = dg.materialize([measured], instance=instance)
    dg.materialize([broken], instance=instance, raise_on_error=False)
    events = reader.read()
    assert [event.kind for event in events] == ["materialization", "check", "run_failure"]
    assert events[0].metadata["number"] == 3
    assert (events[1].asset, events[1].name, events[1].passed, events[1].severity) == (
        ("measured",),
        "small_enough",
        False,
        "warn",
    )
    assert events[1].text == "3 is above 2"
    assert "broken" in events[2].text
    assert reader.read() == []
    assert event_log.events_of_run(instance, run.run_id) == events[:2]


def test_events_of_a_run_at_work_are_read_as_they_come(instance: dg.DagsterInstance) -> None:
    reader = event_log.Reader(instance)
    seen: list[list[str]] = []

    @dg.asset
    def first() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"number": 1})

    @dg.asset(deps=[first])
    def second() -> None:
        seen.append([event.asset[0] for event in reader.read()])

    dg.materialize([first, second], instance=instance)
    seen.append([event.asset[0] for event in reader.read()])
    assert seen == [["first"], ["second"]]


def test_what_a_person_reports_in_the_ui_is_read_too(instance: dg.DagsterInstance) -> None:
    reader = event_log.Reader(instance)
    instance.report_runless_asset_event(dg.AssetMaterialization("measured", partition="2013-01-01"))
    assert [(event.asset, event.partition) for event in reader.read()] == [
        (("measured",), "2013-01-01")
    ]
    assert reader.read() == []


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


# -- the driver --------------------------------------------------------------------------------------------------------------

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


# -- production --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A PostgreSQL cluster of the test's own, on a free port of the loopback interface."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    binaries = found[-1].parent
    place = Path(tempfile.mkdtemp(prefix="evergreen-postgres-"))
    user: list[str] = []
    if os.getuid() == 0:
        os.chown(place, pwd.getpwnam("postgres").pw_uid, -1)
        user = ["runuser", "-u", "postgres", "--"]
    password = place / "password"
    password.write_text("secret")
    password.chmod(0o644)
    subprocess.run(
        [*user, binaries / "initdb", "-D", place / "data", "-U", "evergreen", "--pwfile", password, "-A", "scram-sha-256"],
        check=True, capture_output=True, cwd="/",
    )  # fmt: skip
    number = free_ports(1)[0]
    server = subprocess.Popen(
        [*user, binaries / "postgres", "-D", place / "data", "-p", str(number), "-h", "127.0.0.1", "-k", place, "-F"],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    variables = {
        "HOST": "127.0.0.1",
        "PORT": str(number),
        "DB": "postgres",
        "USER": "evergreen",
        "PASSWORD": "secret",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"EVERGREEN_POSTGRES_{name}", value)
    try:
        end = time.monotonic() + 60
        while subprocess.run(
            [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(number)], check=False
        ).returncode:
            assert time.monotonic() < end, "PostgreSQL did not come up within 60 s"
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(place)


@pytest.fixture
def production(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {
        "EVERGREEN_LOGS_BUCKET": "logs",
        "EVERGREEN_LOGS_PREFIX": "dagster",
        "EVERGREEN_JOB_NAMESPACE": "ml",
        "EVERGREEN_JOB_IMAGE": "evergreen:1",
        "EVERGREEN_SERVICE_ACCOUNT": "evergreen",
        "EVERGREEN_TASK_DEFINITION": "evergreen",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    shutil.copyfile(INFRA / "dagster.production.yaml", home / "dagster" / "dagster.yaml")
    return home / "dagster"


def test_production_stores_runs_and_events_in_postgres(postgres: None, production: Path) -> None:
    here = {"run_launcher": {"module": "dagster", "class": "DefaultRunLauncher", "config": {}}}
    with dg.DagsterInstance.from_ref(
        InstanceRef.from_dir(str(production), overrides=here)
    ) as instance:
        assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
        assert type(instance.compute_log_manager).__name__ == "S3ComputeLogManager"
        assert instance.telemetry_enabled is False
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
        here_only = {
            "compute_logs": {
                "module": "dagster._core.storage.noop_compute_log_manager",
                "class": "NoOpComputeLogManager",
                "config": {},
            }
        }
        with dg.DagsterInstance.from_ref(
            InstanceRef.from_dir(str(production), overrides={**here, **here_only})
        ) as silent:
            reader = event_log.Reader(instance)
            assert dg.materialize([measured], instance=silent).success
        assert [event.kind for event in reader.read()] == ["materialization", "check"]
        assert instance.get_runs_count() == 1


@pytest.mark.parametrize("name", ["dagster.production.yaml", "dagster.ecs.yaml"])
def test_launchers_of_production_are_configured_as_their_classes_want(
    name: str, production: Path
) -> None:
    configured = yaml.safe_load((INFRA / name).read_text())["run_launcher"]
    launcher = class_from_code_pointer(configured["module"], configured["class"])
    checked = validate_config(launcher.config_type(), configured["config"])
    assert checked.success, checked.errors


def test_the_s3_log_manager_is_made_from_the_environment(production: Path) -> None:
    configured = yaml.safe_load((production / "dagster.yaml").read_text())["compute_logs"]
    data = ConfigurableClassData(
        configured["module"], configured["class"], yaml.safe_dump(configured["config"])
    )
    assert (
        data.rehydrate(dg._core.storage.compute_log_manager.ComputeLogManager)._s3_bucket == "logs"
    )
