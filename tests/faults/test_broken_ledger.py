"""One altered row stops every move and is said loudly; the endpoint serves on, and `up` starts."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from assets.endpoint.alarm import look
from assets.endpoint.reconcile import reconcile
from assets.traffic import decisions
from bundle.desired import alarm_in
from cli.main import app
from cli.platform.processes import sweep
from resources.artifacts import Artifacts
from resources.endpoint import LocalEndpoint
from resources.keys import Keys
from resources.ledger import Ledger, LedgerError
from resources.settings import Settings, settings
from tests.support import endpoint as toy
from tests.support.entries import released
from tests.support.ports import free_ports

UP = """
from cli.platform import up
from resources.settings import settings

every, probes = up.programs, up.services
up.programs = lambda local, feed: [each for each in every(local, feed) if each.name == "endpoint"]
up.services = lambda local: {"endpoint": probes(local)["endpoint"]}
up.preflight = lambda *_: []
up.up(settings(), None)
"""
"""`evergreen up` with the endpoint as its only program. All else is real: home, databases,
supervisor, follower."""

BROKEN = "THE LEDGER IS BROKEN: ledger entry 1 was altered"


class Up:
    """A running `evergreen up`, read line by line."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", UP],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def says(self, pattern: str) -> str:
        """The next line that matches; fails when the platform ends before it says so."""
        assert self.process.stdout is not None
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            if re.search(pattern, line):
                return line
        raise AssertionError(f"{pattern!r} was never said:\n{''.join(seen)}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        assert self.process.stdout is not None
        self.process.stdout.read()
        return self.process.wait()


@pytest.fixture
def local(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    port, admin_port = free_ports(2)
    monkeypatch.setenv("EVERGREEN_ENDPOINT_PORT", str(port))
    monkeypatch.setenv("EVERGREEN_ENDPOINT_ADMIN_PORT", str(admin_port))
    settings.cache_clear()
    yield settings()
    sweep(home)


def alter(local: Settings, actor: str) -> None:
    """Write another actor into the first entry, as somebody with access to the disk may."""
    with sqlite3.connect(local.ledger_path) as connection:
        connection.execute("DROP TRIGGER IF EXISTS no_update")
        connection.execute("UPDATE entries SET actor = ? WHERE serial = 1", (actor,))


def predict(local: Settings) -> str:
    """The bundle that answers."""
    url = f"{local.endpoint_admin_url}/predict/{toy.NAME}"
    answer = httpx.post(url, json=toy.request(0), headers=toy.headers())
    assert answer.status_code == 200, answer.text
    return str(answer.json()["bundle"])


def metric(local: Settings, name: str) -> str:
    text = httpx.get(f"{local.endpoint_admin_url}/metrics").text
    return next(line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} "))


@pytest.mark.timeout(240)
def test_an_altered_row_stops_moves_alone(local: Settings) -> None:
    keys = Keys(path=str(local.keys_path))
    ledger = Ledger(path=str(local.ledger_path), signer=keys)
    artifacts = Artifacts(uri=local.artifacts_uri)
    endpoint = LocalEndpoint(
        path=str(local.endpoint_path),
        url=local.endpoint_url,
        admin_url=local.endpoint_admin_url,
        key_file=str(local.endpoint_key_path),
    )
    public = keys.public_path  # makes the pair
    private = keys.private_path.read_bytes()
    toy.Place(local.endpoint_path, private, public).publish()
    first, second = (artifacts.put("bundles", toy.files(private, seed=seed)) for seed in (1, 2))

    up = Up()
    up.says("Ctrl-C stops the platform")
    for bundle in (first, second):
        released(ledger, toy.NAME, bundle, toy.DAY)
        served = reconcile(toy.NAME, ledger, endpoint, artifacts, keys)
        assert served is not None
        assert served.bundle == bundle
    up.says(f"the endpoint serves bundle {second[:12]}")
    entries = ledger.verify()

    # It is said, and what to do; nothing moves, and the endpoint serves on.
    alter(local, "mallory")
    up.says(BROKEN)
    assert "until the ledger is restored" in up.says("Nothing is approved")
    with pytest.raises(LedgerError):
        decisions.rollback(ledger, toy.NAME, "ada@example.org", "on a broken ledger")
    with pytest.raises(LedgerError):
        reconcile(toy.NAME, ledger, endpoint, artifacts, keys)
    assert predict(local) == second
    assert up.process.poll() is None
    asked = CliRunner().invoke(app, ["status"], env={"COLUMNS": "300"})
    assert asked.exit_code == 5
    assert re.search(r"endpoint\s+http\S+\s+answers", asked.stdout)
    assert "ledger entry 1 was altered" in asked.stderr
    assert look(ledger, endpoint).news, "what the sensor does on its next tick"
    assert metric(local, "evergreen_platform_alarm") == "1.0"
    assert up.stop() == 0

    # The platform starts, the endpoint included, and says so again.
    up = Up()
    up.says("Ctrl-C stops the platform")
    up.says(BROKEN)
    assert predict(local) == second
    assert alarm_in(local.endpoint_path) is not None

    # Restored, it goes on from there. Nothing was written meanwhile.
    alter(local, "policy")
    up.says("the ledger is sound again")
    assert ledger.verify() == entries
    assert look(ledger, endpoint) == (None, True)
    assert metric(local, "evergreen_platform_alarm") == "0.0"
    decisions.rollback(ledger, toy.NAME, "ada@example.org", "back to the first one")
    up.says(f"rolled back to bundle {first[:12]}")
    assert up.stop() == 0
