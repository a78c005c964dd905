"""A broken ledger is told at once, once, and asked about once; and nothing moves on its word."""

from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from bundle.desired import alarm_in
from resources.artifacts import Artifacts
from resources.endpoint import LocalEndpoint
from resources.keys import Keys
from resources.ledger import Ledger
from resources.notifier import Notifier
from sensors import alerts, decisions
from tests.support.entries import released
from tests.support.tiny import tiny

DAY = date(2013, 4, 1)


class World:
    """A ledger with one release, an endpoint that is not there, and what people were told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        keys = Keys(path=str(folder / "keys"))
        self.ledger = Ledger(path=str(folder / "ledger.db"), signer=keys)
        self.endpoint = LocalEndpoint(path=str(folder / "endpoint"), url="http://127.0.0.1:1")
        self.artifacts = Artifacts(uri=str(folder / "artifacts"))
        self.told: list[tuple[str, str]] = []
        self.instance = dg.DagsterInstance.ephemeral()
        self._cursors: dict[str, str | None] = {}
        monkeypatch.setattr(
            Notifier, "notify", lambda _, title, text: self.told.append((title, text))
        )
        released(self.ledger, tiny.name, "a" * 64, DAY)

    def alter(self, actor: str) -> None:
        with sqlite3.connect(self.ledger.path) as connection:
            connection.execute("DROP TRIGGER IF EXISTS no_update")
            connection.execute("UPDATE entries SET actor = ?", (actor,))

    def tick(self, name: str) -> dg.SensorResult:
        """Evaluate a sensor once, as the daemon does, with the cursor of its last tick."""
        sensors = [*alerts.build(), *decisions.build(tiny)]
        sensor = next(each for each in sensors if each.name == name)
        resources = {
            "ledger": self.ledger,
            "endpoint": self.endpoint,
            "notifier": Notifier(),
            "artifacts": self.artifacts,
        }
        wanted = {each: resources[each] for each in sensor.required_resource_keys}
        with dg.build_sensor_context(
            self.instance, cursor=self._cursors.get(name), resources=wanted
        ) as context:
            tick = sensor.evaluate_tick(context)
        self._cursors[name] = tick.cursor
        return tick


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_people_and_the_endpoint_are_told_once_and_again_when_it_is_sound(world: World) -> None:
    root = Path(world.endpoint.path)
    world.tick("ledger_alarm")
    assert (world.told, alarm_in(root)) == ([], None)

    world.alter("mallory")
    for _ in range(3):
        world.tick("ledger_alarm")
    ((title, text),) = world.told
    assert title == "The ledger is broken"
    assert "ledger entry 1 was altered" in text
    assert "Nothing is approved, released or moved until the ledger is restored" in text
    alarm = alarm_in(root)
    assert alarm is not None
    assert "ledger entry 1 was altered" in alarm.reason

    world.alter("policy")
    for _ in range(2):
        world.tick("ledger_alarm")
    assert [title for title, _ in world.told[1:]] == ["The ledger is sound again"]
    assert alarm_in(root) is None


def test_a_ledger_that_is_gone_or_no_database_is_told_too(world: World) -> None:
    place = Path(world.ledger.path)
    content = place.read_bytes()
    for damaged in (b"no database" * 1_000, None):
        place.write_bytes(damaged) if damaged else place.unlink()
        world.tick("ledger_alarm")
    place.write_bytes(content)
    assert [title for title, _ in world.told] == ["The ledger is broken"] * 2


def test_the_endpoints_check_fails_in_one_run_and_no_sensor_moves_anything(world: World) -> None:
    world.alter("mallory")
    asked = [len(world.tick(f"{tiny.name}_reconciler").run_requests or []) for _ in range(5)]
    assert asked == [1, 0, 0, 0, 0]
    approvals = world.tick(f"{tiny.name}_approvals")
    assert not approvals.run_requests
    assert "was altered" in str(approvals.skip_message)
