"""No telemetry and no outbound connection from any part: the whole platform runs under a guard in every process.

The guard (`tests/support/outbound_guard.c`) is preloaded, so that it sees connections of Python and of native libraries alike.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.health import get, services
from cli.processes import ports, sweep
from resources.settings import settings

SOURCE = Path(__file__).resolve().parents[1] / "support" / "outbound_guard.c"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The guard's log; processes started from now on are guarded."""
    library = tmp_path / "guard.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    place = tmp_path / "outbound.log"
    place.touch()
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("OUTBOUND_LOG", str(place))
    return place


def python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=280, check=False)


def test_the_guard_sees_what_dials_out(log: Path) -> None:
    ended = python("import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)")
    assert "ConnectionRefusedError" in ended.stderr
    ended = python("import socket; socket.getaddrinfo('telemetry.example', 443)")
    assert "gaierror" in ended.stderr
    told = log.read_text()
    assert "connect 192.0.2.1" in told
    assert "lookup telemetry.example" in told


def test_the_libraries_dial_nobody(log: Path) -> None:
    """The libraries known to call home when they are first used, each used once."""
    ended = python(
        """
import pandas, polars, numpy, xgboost, sklearn.linear_model, optuna, deltalake, great_expectations as gx, dagster as dg
from cli.home import initialise
from resources.settings import settings
from resources.tracking import Tracking
from resources import environment
environment.apply(settings())
initialise(settings())
client = Tracking(uri=settings().mlflow_uri, url=settings().mlflow_url).client()
run = client.create_run(client.create_experiment("outbound"))
client.log_metric(run.info.run_id, "loss", 0.5)
context = gx.get_context(mode="ephemeral")
frame = pandas.DataFrame({"x": numpy.arange(200.0)})
batch = context.data_sources.add_pandas("one").add_dataframe_asset("two").add_batch_definition_whole_dataframe("three")
assert batch.get_batch({"dataframe": frame}).validate(gx.expectations.ExpectColumnValuesToNotBeNull(column="x")).success
from evidently import Report
from evidently.presets import DataDriftPreset
Report([DataDriftPreset()]).run(frame, frame)
deltalake.write_deltalake(str(settings().home / "table"), polars.DataFrame({"x": [1]}).to_arrow())
assert polars.scan_delta(str(settings().home / "table")).collect().height == 1
@dg.asset
def one(): ...
with dg.DagsterInstance.from_config(str(settings().dagster_home)) as instance:
    assert dg.materialize([one], instance=instance).success
"""
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert log.read_text() == ""


def test_the_running_platform_dials_nobody_and_stops_in_time(home: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All services of `evergreen up`, asked for their pages, and stopped by Ctrl-C."""
    for _, setting in ports(settings()).values():
        monkeypatch.setenv(setting, str(free_port()))
    settings.cache_clear()
    output = open(home.parent / "up.log", "w")  # noqa: SIM115  the process writes to it
    platform = subprocess.Popen([sys.executable, "-m", "cli.main", "up", "--no-feed"], stdout=output, stderr=subprocess.STDOUT)
    try:
        waiting = {name: probe for name, (_, probe) in services(settings()).items()}
        end = time.monotonic() + 240
        while waiting:
            assert platform.poll() is None, (home.parent / "up.log").read_text()
            assert time.monotonic() < end, {name: probe() for name, probe in waiting.items()}
            waiting = {name: probe for name, probe in waiting.items() if probe() is not None}
            time.sleep(0.5)
        for place in (f"http://127.0.0.1:{settings().dagster_port}/locations", settings().mlflow_url, settings().reports_url):
            assert get(place, timeout=30)
        began = time.monotonic()
        platform.send_signal(signal.SIGINT)
        platform.wait(15)
        assert time.monotonic() - began < 10
        assert platform.returncode == 0
    finally:
        platform.kill()
        platform.wait()
        left = sweep(home)
        output.close()
    assert left == []
    assert log.read_text() == ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_every_child_is_told_to_be_quiet() -> None:
    from resources.environment import QUIET, variables

    given = variables(settings())
    assert given["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert given["MLFLOW_MODEL_CATALOG_URI"] == ""
    assert given["GX_ANALYTICS_ENABLED"] == "false"
    assert given["DO_NOT_TRACK"] == "1"
    assert all(os.environ[name] == value for name, value in QUIET.items())
