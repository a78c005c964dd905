"""The Dagster instances of production: their storage, launchers and logs."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.ref import InstanceRef
from dagster._serdes import class_from_code_pointer
from dagster._serdes.config_class import ConfigurableClassData

from sensors import event_log
from tests.support.ports import free_ports

INFRA = Path(__file__).resolve().parents[2] / "infra"


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
