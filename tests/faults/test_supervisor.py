"""`evergreen up` as a whole: it restarts what dies, stops everything, grandchildren too, and leaves nothing behind when killed.

The programs here are small stand-ins, so that each test takes seconds; the supervisor, the sweep and the signals are real.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cli.platform import reports_server
from cli.platform.environment import HOME_MARK
from cli.platform.processes import (
    Program,
    endpoint_command,
    ports,
    programs,
    supervisor_configuration,
    sweep,
)
from resources.settings import settings

# A child that shrugs off SIGTERM and has a grandchild in a session of its own, beyond any process group.
STUBBORN = """
import os, signal, subprocess, sys, time
if len(sys.argv) > 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, __file__], start_new_session=True)
open(os.path.join(os.environ["EVERGREEN_HOME"], f"alive-{os.getpid()}"), "w").close()
time.sleep(600)
"""

# `evergreen up` with stand-ins for its programs, services and databases.
UP = """
import sys
from cli.platform import up
from cli.platform.processes import Program
from resources.settings import settings
stubborn = sys.argv[1]
up.programs = lambda settings, feed: [
    Program("stubborn", "stubborn", (sys.executable, stubborn, "parent")), Program("plain", "plain", (sys.executable, stubborn))]
up.preflight = lambda *_: []
up.initialise = lambda settings: settings.dagster_home.mkdir(parents=True, exist_ok=True)
up._cure = lambda *_: None
up.services = lambda settings: {}
up._follow = lambda settings, screen, stop: [None for _ in iter(lambda: stop.wait(0.2), True)]
up.up(settings(), None)
"""


@pytest.fixture
def start(home: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    (home / "stubborn.py").write_text(STUBBORN)
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", UP, str(home / "stubborn.py")]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
    sweep(home)


def marked(home: Path) -> dict[int, list[str]]:
    """Processes that carry the home's mark, the supervisor's own included: id to command line."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone by now
            if process.environ().get(HOME_MARK) == str(home):
                found[process.pid] = process.cmdline()
    return found


def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"{what} took more than {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - began


def stand_ins(home: Path) -> dict[int, list[str]]:
    return {
        pid: command for pid, command in marked(home).items() if "stubborn.py" in " ".join(command)
    }


def parents(home: Path) -> set[int]:
    return {pid for pid, command in stand_ins(home).items() if command[-1] == "parent"}


@pytest.mark.parametrize("signalled", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_everything_within_ten_seconds(
    signalled: signal.Signals, home: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    platform = start()
    until(lambda: len(list(home.glob("alive-*"))) == 3, 60, "starting")
    platform.send_signal(signalled)
    assert until(lambda: platform.poll() is not None, 10, "stopping") < 10
    assert platform.returncode == 0
    assert marked(home) == {}


def test_what_dies_is_started_again(home: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    start()
    until(lambda: len(list(home.glob("alive-*"))) == 3, 60, "starting")
    (parent,) = parents(home)
    os.kill(parent, signal.SIGKILL)
    until(lambda: bool(parents(home) - {parent}), 30, "restarting")


def test_a_second_platform_on_the_same_home_is_refused(
    home: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    start()
    until(lambda: len(list(home.glob("alive-*"))) == 3, 60, "starting")
    second = start()
    assert "already runs on" in second.communicate(timeout=60)[0]
    assert second.returncode == 1


@pytest.mark.parametrize("victim", ["up", "supervisor"])
def test_what_a_killed_platform_left_is_swept_by_the_next(
    victim: str, home: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    first = start()
    until(lambda: len(list(home.glob("alive-*"))) == 3, 60, "starting")
    old = set(stand_ins(home))
    supervisor = int((home / "run" / "supervisor.pid").read_text())
    os.kill(first.pid if victim == "up" else supervisor, signal.SIGKILL)
    first.wait(20)
    second = start()
    until(lambda: len(set(stand_ins(home)) - old) == 3, 60, "starting again")
    until(lambda: not set(stand_ins(home)) & old, 10, "sweeping")
    second.send_signal(signal.SIGINT)
    until(lambda: second.poll() is not None, 10, "stopping")
    assert marked(home) == {}


def test_the_sweep_spares_other_homes(home: Path, tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, HOME_MARK: str(tmp_path / "other")},
    )
    ours = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, HOME_MARK: str(home)},
    )
    try:
        assert sweep(home) == [ours.pid]
        assert other.poll() is None
    finally:
        for process in (other, ours):
            process.kill()
            process.wait()


def test_programs_share_one_code_server_and_listen_on_loopback(home: Path) -> None:
    found = {program.name: program for program in programs(settings(), ["--speed", "3"])}
    assert list(found) == ["code", "webserver", "daemon", "endpoint", "reports", "mlflow", "feed"]
    for name in ("webserver", "daemon"):
        assert str(home / "dagster" / "workspace.yaml") in found[name].command
    for name in ("code", "webserver", "endpoint", "mlflow"):
        assert "127.0.0.1" in found[name].command
    # The reports' server reads where to listen from the same settings.
    assert settings().host == "127.0.0.1"
    anywhere = settings().model_copy(update={"reports_port": 0})
    with reports_server.server(anywhere) as bound:
        assert bound.server_address[0] == "127.0.0.1"
    assert found["feed"].command[-2:] == ("--speed", "3")
    assert found["endpoint"].command == endpoint_command(settings())
    more = settings().model_copy(
        update={"endpoint_options": "--workers 2 --jwt-audience 'the shop'"}
    )
    assert endpoint_command(more)[-4:] == ("--workers", "2", "--jwt-audience", "the shop")
    assert len({number for number, _ in ports(settings()).values()}) == 6


def test_the_supervisor_is_configured_for_odd_names() -> None:
    written = supervisor_configuration(
        Path("/tmp/my home %d"), [Program("one", "one", ("/bin/my python", "-c", "50%"))]
    )
    assert 'command="/bin/my python" -c 50%%' in written
    assert "logfile=/tmp/my home %%d/logs/supervisor.log" in written
