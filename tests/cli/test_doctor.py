"""`evergreen doctor`: each thing that may be wrong is found and named, and the exit code says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from bundle.desired import Actual, ArmState
from cli.main import app
from cli.platform.home import initialise
from resources.keys import Keys
from resources.lake import Lake
from resources.ledger import Ledger
from resources.settings import settings
from tests.support.entries import confirmed, released

DAY = date(2013, 1, 1)
OLD, NEW = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that is fit, with a home that holds nothing yet."""
    monkeypatch.setattr("cli.platform.installation.FREE_MIB", 0)
    initialise(settings())
    yield
    settings.cache_clear()


def doctor() -> tuple[int, dict[str, Any]]:
    """Exit code, and each check by name."""
    ended = CliRunner().invoke(app, ["doctor", "--json"])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    document = json.loads(ended.stdout)
    assert document["fit"] == (ended.exit_code == 0)
    return ended.exit_code, {each["name"]: each for each in document["checks"]}


def test_a_stopped_platform_that_is_whole_is_fit() -> None:
    code, checks = doctor()
    assert code == 0
    assert "the platform is stopped" in checks["services"]["found"]
    assert checks["definitions"]["found"].endswith("assets")


def test_a_table_that_lost_a_file_is_named() -> None:
    lake = Lake(uri=settings().lake_uri)
    lake.write("toy/features", pl.DataFrame({"date": [DAY], "number": [1]}), [DAY])
    assert doctor()[1]["lake"]["problem"] is None

    (file,) = Path(lake.place("toy/features")).glob("date=*/*.parquet")
    file.unlink()
    code, checks = doctor()
    assert code == 3
    assert "table toy/features lacks 1 of its files" in checks["lake"]["problem"]
    assert file.name in checks["lake"]["problem"]


def test_landed_files_that_cannot_be_read_are_named(home: Path) -> None:
    place = home / "landing" / "flight_delays" / "schedule" / "2013-01-01"
    place.mkdir(parents=True)
    (place / "a.csv").write_text("id\n")
    (place / "b.csv").write_text("id\n")
    (place / "b.csv.sha256").write_text("no checksum\n")
    code, checks = doctor()
    assert code == 3
    problem = checks["landing of flight_delays"]["problem"]
    assert "schedule/b.csv: its sidecar b.csv.sha256 does not read" in problem
    assert "1 file waits for its checksum" in problem


def test_a_key_that_others_can_read_is_named() -> None:
    (settings().keys_path / "platform.key").chmod(0o644)
    code, checks = doctor()
    assert code == 3
    assert "can be read by others" in checks["key"]["problem"]
    # Nothing can be verified with it; the other checks are told all the same.
    assert "platform.key has mode 0644" in checks["ledger"]["problem"]
    assert checks["lake"]["problem"] is None


def test_an_endpoint_that_differs_from_the_ledger_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = Ledger(path=str(settings().ledger_path), signer=Keys(path=str(settings().keys_path)))
    serial = released(ledger, "flight_delays", NEW, DAY).serial
    confirmed(ledger, "flight_delays")

    def answers(bundle: str) -> None:
        actual = Actual(
            pipeline="flight_delays",
            ready=True,
            serial=serial,
            arms=(ArmState("champion", bundle, 1.0),),
        )
        monkeypatch.setattr("resources.endpoint.LocalEndpoint.actual", lambda *_: actual)

    answers(OLD)
    code, checks = doctor()
    assert code == 3
    assert (
        checks["endpoint of flight_delays"]["problem"]
        == f"serial {serial} is served with other arms than desired"
    )

    answers(NEW)
    code, checks = doctor()
    assert code == 0
    assert checks["endpoint of flight_delays"]["found"] == "compared with the ledger"


def test_one_silent_service_beside_others_is_exit_code_4(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "endpoint": ("http://127.0.0.1:1", lambda: None),
        "Dagster daemon": ("", lambda: "no heartbeat of sensor"),
    }
    monkeypatch.setattr("cli.doctor.services", lambda _: answers)
    code, checks = doctor()
    assert code == 4
    assert checks["Dagster daemon"]["problem"] == "no heartbeat of sensor"
    assert checks["endpoint"]["problem"] is None
