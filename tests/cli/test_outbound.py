"""No telemetry and no outbound connection from any part: the whole platform runs under a guard in every process.

The guard (`tests/support/outbound_guard.c`) is preloaded, so that it sees connections of Python and of native libraries alike.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.platform.health import get, services
from cli.platform.processes import ports, sweep
from resources.settings import settings
from tests.support.ports import free_ports

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
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.parametrize(
    ("dialling", "seen"),
    [
        ("socket.create_connection(('192.0.2.1', 80), timeout=1)", "connect 192.0.2.1"),
        ("socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))", "connect 2001:db8::1"),
        (
            "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
            "sendto 192.0.2.1",
        ),
        (
            "socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('192.0.2.1', 53))",
            "sendmsg 192.0.2.1",
        ),
        ("socket.getaddrinfo('telemetry.example', 443)", "lookup telemetry.example"),
        ("socket.gethostbyname('telemetry.example')", "lookup telemetry.example"),
    ],
)
def test_the_guard_sees_what_dials_out(log: Path, dialling: str, seen: str) -> None:
    ended = python(f"import socket; {dialling}")
    assert ended.returncode == 1, ended.stderr
    assert log.read_text().startswith(f"{seen} by ")


# The tiny pipeline's whole life, and at its end a call to somebody outside: the guard was there all the time.
LIFECYCLE = """
import os, socket, sys
from pathlib import Path
from tests.support.platform import platform
from tests.support.tiny import DAY, FIRST, land, requests, tiny
home, last = Path(sys.argv[1]), FIRST + 69 * DAY
with platform(home, [tiny]) as running:
    land(running.landing, FIRST, last)
    ran = running.driver.settle()
    for day in (last + DAY, last + 2 * DAY):
        land(running.landing, day, day, drift_from=last + DAY)
        assert {answer.status_code for answer in running.post("tiny", requests(day, drift_from=last + DAY))} == {200}
        ran += running.driver.settle()
    assert [run.failure for run in ran if not run.success] == []
    assert {run.job for run in ran} >= {"tiny_nightly", "tiny_retrain"}
    assert running.ledger.released("tiny") in running.endpoint.actual("tiny").bundles
    assert running.tracking.client().get_model_version_by_alias("tiny", "champion")
    for page in ("evidently.html", "data_docs.html"):
        assert list((home / "reports").rglob(page)), f"{page} was not drawn"
used = {name.partition(".")[0] for name in sys.modules}
unused = {"dagster", "deltalake", "evidently", "great_expectations", "mlflow", "optuna", "pandas", "polars", "sklearn", "xgboost"} - used
assert not unused, f"never used: {unused}"
sys.stderr.write(f"lived as {os.getpid()} ")
socket.create_connection(("192.0.2.1", 80), timeout=1)
"""


def test_a_whole_lifecycle_dials_nobody(home: Path, log: Path) -> None:
    """Ingest with its Data Docs, features, tuning, training and MLflow, validation, release, endpoint and a monitored day with
    Evidently's report: everything that the libraries do on their own is done once."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIFECYCLE, str(home)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert "lived as " in ended.stderr, ended.stderr[-3000:]
    lived = ended.stderr.rpartition("lived as ")[2].split()[0]
    assert log.read_text() == f"connect 192.0.2.1 by {lived}\n", (
        "somebody else was called, or the guard was off"
    )


def test_the_running_platform_dials_nobody_and_stops_in_time(
    home: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All services of `evergreen up`, asked for their pages, and stopped by Ctrl-C."""
    for _, setting in ports(settings()).values():
        monkeypatch.setenv(setting, str(free_ports(1)[0]))
    settings.cache_clear()
    output = open(home.parent / "up.log", "w")  # noqa: SIM115  the process writes to it
    platform = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "up", "--no-feed"],
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    try:
        waiting = {name: probe for name, (_, probe) in services(settings()).items()}
        end = time.monotonic() + 240
        while waiting:
            assert platform.poll() is None, (home.parent / "up.log").read_text()
            assert time.monotonic() < end, {name: probe() for name, probe in waiting.items()}
            waiting = {name: probe for name, probe in waiting.items() if probe() is not None}
            time.sleep(0.5)
        for place in (
            f"http://127.0.0.1:{settings().dagster_port}/locations",
            settings().mlflow_url,
            settings().reports_url,
        ):
            assert get(place, timeout=30)
        platform.send_signal(signal.SIGINT)
        platform.wait(60)
        assert platform.returncode == 0
    finally:
        platform.kill()
        platform.wait()
        left = sweep(home)
        output.close()
    assert left == []
    assert log.read_text() == ""


def test_every_child_is_told_to_be_quiet() -> None:
    from cli.platform.environment import variables
    from resources.settings import QUIET

    given = variables(settings())
    assert given["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert given["MLFLOW_MODEL_CATALOG_URI"] == ""
    assert given["GX_ANALYTICS_ENABLED"] == "false"
    assert given["DO_NOT_TRACK"] == "1"
    assert all(os.environ[name] == value for name, value in QUIET.items())
