"""Desired states that are older, damaged or unusable are refused and told, and what works serves on."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from assets.endpoint.reconcile import difference
from benchmarks.soak import Platform
from bundle.desired import ALARM_FILE, Alarm
from bundle.files import write_atomically
from tests.serving.test_watching import until
from tests.support.endpoint import NAME, Place, Running, request

URL = f"/predict/{NAME}"


def exported(server: Running, name: str) -> float:
    """The one sample of a metric."""
    text = server.admin.get("/metrics").text
    [line] = [line for line in text.splitlines() if re.match(rf"evergreen_{name}[ {{]", line)]
    return float(line.rpartition(" ")[2])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_older_signed_state_put_back_is_not_served_after_a_restart(
    tmp_path: Path, workers: str
) -> None:
    place = Place.new(tmp_path)
    folder = place.root / NAME
    older = place.release(seed=0)
    with place.server("--workers", workers):
        place.wait(older)
    kept = {name: (folder / name).read_bytes() for name in ("desired.json", "served.json")}
    newer = place.release(seed=1)
    with place.server("--workers", workers) as server:
        place.wait_for_serial()
        assert place.wait(newer).bundles == (newer,)
        server.kill()

    for name, content in kept.items():
        write_atomically(folder / name, content)
    with place.server("--workers", workers, ready=False) as server:
        assert place.wait_for_error("serials never go back").ready is False
        assert server.client.post(URL, json=request(1)).status_code == 503
        assert exported(server, "desired_refused") == 1
        # The platform writes what it desires again, and that is served.
        place.desire((newer, 1.0), serial=2)
        assert place.wait(newer).error is None


def test_a_damaged_desired_state_is_told_and_written_again(tmp_path: Path) -> None:
    platform = Platform(tmp_path, bundles=1)
    place = platform.place
    desired = place.root / NAME / "desired.json"
    with place.server(ready=False) as server:
        platform.release(platform.bundles[0])
        platform.reconcile()
        sound = desired.read_bytes()
        assert difference(NAME, platform.ledger, platform.endpoint) is None
        assert exported(server, "desired_refused") == 0

        altered = sound.replace(b'"serial\\":', b'"serial\\": ')
        for damaged in (b"{", sound[:-20], altered):
            write_atomically(desired, damaged)
            actual = place.wait_for_error("desired.json")
            assert actual.bundles == (platform.bundles[0],), "what was verified serves on"
            found = difference(NAME, platform.ledger, platform.endpoint)
            assert found is not None
            assert "desired.json" in found
            assert exported(server, "desired_refused") == 1
            assert f"{NAME}: desired.json: " in server.log.read_text()

            platform.reconcile()
            assert desired.read_bytes() == sound
            assert difference(NAME, platform.ledger, platform.endpoint) is None
            assert exported(server, "desired_refused") == 0


def test_a_refused_bundle_is_named_as_a_fact(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    good = place.release(seed=0)
    with place.server():
        place.wait(good)
        bad = place.install(seed=1)
        (place.root / "bundles" / bad / "golden.json").write_bytes(b"[]")
        place.desire((good, 0.5), (bad, 0.5))
        actual = place.wait_for_error(bad)
        assert actual.refused is not None
        assert (actual.refused.serial, actual.refused.bundle) == (2, bad)
        place.desire((good, 1.0))
        assert place.wait_for_serial().refused is None


def test_an_alarm_of_the_platform_is_logged_and_exported(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    file = place.root / ALARM_FILE
    with place.server() as server:
        assert exported(server, "platform_alarm") == 0
        alarm = Alarm("entry 7 of the ledger was altered", "2024-01-10T00:00:00Z")
        write_atomically(file, msgspec.json.encode(alarm))
        assert exported(server, "platform_alarm") == 1
        until(lambda: alarm.reason in server.log.read_text(), "the alarm in the log")
        assert server.client.post(URL, json=request(1)).status_code == 200
        file.write_bytes(b"{")
        assert exported(server, "platform_alarm") == 1, "an alarm that cannot be read is one"
        file.unlink()
        assert exported(server, "platform_alarm") == 0
