"""The command line: exit codes, one-line errors, JSON and decisions."""

from __future__ import annotations

import json
import runpy
import socket
import sqlite3
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from typer.testing import CliRunner

from cli.main import app, main
from cli.platform.home import initialise
from cli.platform.installation import disk, packages, port
from resources.keys import Keys
from resources.lake import Lake
from resources.ledger import Ledger
from resources.settings import settings
from sensors import instance
from sensors.requests import REQUEST
from tests.support.entries import confirmed, released
from tests.support.ports import free_ports

BUNDLE = "ab" * 32


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def invoke(*words: str) -> Any:
    ended = CliRunner().invoke(app, list(words), env={"COLUMNS": "300", "NO_COLOR": "1"})
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended


def test_every_command_has_json_and_exit_codes_are_documented() -> None:
    ended = run("--help")
    assert ended.returncode == 0
    assert "Exit codes" in ended.stdout
    for name in (
        "init",
        "up",
        "replay",
        "demo",
        "status",
        "predict",
        "served",
        "doctor",
        "retry",
        "approve",
        "reject",
        "rollback",
        "experiment",
        "retrain",
    ):
        assert name in ended.stdout
        result = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert result.exit_code == 0
        assert "--json" in result.stdout


def test_a_wrong_day_is_one_line_and_exit_code_2() -> None:
    ended = run("replay", "--from", "yesterday")
    assert ended.returncode == 2
    assert ended.stderr == "evergreen: --from 'yesterday' is no day; write it as 2013-04-01\n"
    assert ended.stdout == ""


def test_an_altered_ledger_is_one_line_and_exit_code_5(home: Path) -> None:
    ledger = Ledger(path=str(settings().ledger_path), signer=Keys(path=str(settings().keys_path)))
    ledger.append("flight_delays", "traffic", bundle=BUNDLE, day=date(2013, 4, 1), actor="endpoint")
    with sqlite3.connect(settings().ledger_path) as altered:
        altered.execute("PRAGMA writable_schema = ON")
        for (trigger,) in altered.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            altered.execute(f"DROP TRIGGER {trigger}")
        table = next(
            name
            for (name,) in altered.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if "entr" in name
        )
        altered.execute(f"UPDATE {table} SET day = '2013-05-01'")
    result = invoke("served", "--json")
    assert result.exit_code == 5
    assert json.loads(result.stderr)["code"] == 5
    assert "Traceback" not in result.stderr


def test_errors_are_json_on_request() -> None:
    result = invoke("served", "--at", "2026-01-01T00:00:00", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stderr)["code"] == 2


def test_status_of_an_uninitialised_home_says_what_to_do() -> None:
    result = invoke("status")
    assert result.exit_code == 5
    assert "is not initialised" in result.stderr


def test_predict_says_when_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_ENDPOINT_ADMIN_PORT", str(free_ports(1)[0]))
    settings.cache_clear()
    result = invoke("predict", "{}")
    assert result.exit_code == 4
    assert "does not answer" in result.stderr
    assert invoke("predict", "{").exit_code == 2


def test_served_is_read_from_the_verified_ledger(home: Path) -> None:
    ledger = Ledger(path=str(home / "ledger" / "ledger.db"), signer=Keys(path=str(home / "keys")))
    assert invoke("served").exit_code == 5
    released(ledger, "flight_delays", BUNDLE, date(2013, 4, 1))
    confirmed(ledger, "flight_delays")
    result = invoke("served", "--json")
    found = json.loads(result.stdout)
    assert found["bundle"] == BUNDLE
    assert found["because"]["kind"] == "release"
    assert found["arms"] == [{"arm": "champion", "bundle": BUNDLE, "share": 1.0}]
    assert found["ledger"] == {"entries": 2, "verified": True}
    assert invoke("served", "--at", "2013-01-01T00:00:00+00:00").exit_code == 5


def test_a_rollback_with_nothing_before_is_refused(home: Path) -> None:
    result = invoke("rollback", "--as", "ann@example.org", "--reason", "worse than before")
    assert result.exit_code == 5
    assert "nothing" in result.stderr
    result = invoke("approve", "ffff", "--as", "ann@example.org", "--reason", "looks right")
    assert result.exit_code == 2
    assert "no bundle is named 'ffff'" in result.stderr


def test_a_port_in_use_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        problem = port("127.0.0.1", number, "endpoint", "EVERGREEN_ENDPOINT_PORT").problem
    assert (
        problem
        == f"port {number} on 127.0.0.1 is in use; free it, or move the endpoint with EVERGREEN_ENDPOINT_PORT=<port>"
    )
    assert port("127.0.0.1", number, "endpoint", "EVERGREEN_ENDPOINT_PORT").problem is None


def test_up_starts_nothing_on_an_unfit_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("EVERGREEN_DAGSTER_PORT", str(taken.getsockname()[1]))
        ended = run("up")
    assert ended.returncode == 3
    assert "move the Dagster UI with EVERGREEN_DAGSTER_PORT=" in ended.stderr
    assert not (home / "initialised.json").exists()


def test_missing_packages_and_full_disks_are_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no-such-package not installed" in str(packages(("no-such-package",)).problem)
    monkeypatch.setattr("cli.platform.installation.FREE_MIB", 10**12)
    assert "make room" in str(disk(home / "not" / "there").problem)


def test_a_process_that_the_command_starts_does_not_run_the_command_again() -> None:
    # What `multiprocessing` does with the main module of the process that starts another.
    command = Path(sys.executable).with_name("evergreen")
    assert runpy.run_path(str(command), run_name="__mp_main__")["main"] is main


def test_a_moment_needs_an_offset_and_what_is_suggested_is_accepted(home: Path) -> None:
    for text in ("2026-01-01", "2026-01-01T12:30"):
        result = invoke("served", "--at", text)
        assert result.exit_code == 2
        assert "has no offset from UTC" in result.stderr
        suggested = result.stderr.strip().rsplit(" ", 1)[-1]
        # Refused for another reason: nothing ever served.
        assert invoke("served", "--at", suggested).exit_code == 5


def test_the_lake_is_tidied_by_hand(home: Path) -> None:
    lake = Lake(uri=settings().lake_uri)
    assert "holds no table yet" in invoke("lake", "tidy").stdout
    for number in (1, 2):
        frame = pl.DataFrame({"date": [date(2013, 1, 1)], "number": [number]})
        lake.write("toy/features", frame, [date(2013, 1, 1)])
    assert invoke("lake", "tidy").stdout == "toy/features: compacted; 0 unread files deleted\n"
    done = json.loads(invoke("lake", "tidy", "--keep-hours", "0", "--json").stdout)
    assert done == {"tables": [{"table": "toy/features", "removed": 1}]}
    assert lake.read("toy/features")["number"].to_list() == [2]
    assert invoke("lake", "tidy", "--keep-hours", "-1").exit_code == 2


def test_a_request_file_that_is_not_there_is_one_line(home: Path) -> None:
    result = invoke("predict", f"@{home}/missing.json")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"evergreen: the request file {home}/missing.json cannot be read: "
    )
    assert result.stderr.count("\n") == 1


def test_commands_mean_the_only_pipeline_that_serves(home: Path) -> None:
    ledger = Ledger(path=str(home / "ledger" / "ledger.db"), signer=Keys(path=str(home / "keys")))
    released(ledger, "workshop", BUNDLE, date(2013, 4, 1))
    confirmed(ledger, "workshop")
    # None serves: the declared one is meant, and it never served.
    assert "pipeline 'flight_delays' served" in invoke("served").stderr

    for name in ("workshop", "other"):
        place = home / "endpoint" / name
        place.mkdir(parents=True)
        (place / "desired.json").write_text("{}")
        if name == "workshop":
            assert json.loads(invoke("served", "--json").stdout)["pipeline"] == "workshop"
    result = invoke("served")
    assert result.exit_code == 2
    assert "2 pipelines serve (other, workshop); say which with --pipeline" in result.stderr


def test_status_shows_what_published_nothing_and_what_does_not_answer(home: Path) -> None:
    initialise(settings())
    place = home / "landing" / "flight_delays" / "flights" / "2013-01-01"
    place.mkdir(parents=True)
    for name in ("a.csv", "b.csv", "c.csv", "c.csv.sha256"):
        (place / name).write_text("x")

    result = invoke("status")
    assert result.exit_code == 4
    assert "flight_delays" in result.stdout
    assert "flight_delays: 2 files wait for their checksum" in result.stdout
    assert str(place / "a.csv") in result.stdout

    result = invoke("status", "--json")
    assert result.exit_code == 4
    document = json.loads(result.stdout)
    assert document["pipelines"]["flight_delays"]["released"] is None
    assert [Path(each).name for each in document["pipelines"]["flight_delays"]["unannounced"]] == [
        "a.csv",
        "b.csv",
    ]
    assert document["services"]["endpoint"]["problem"]


def test_a_stuck_request_is_shown_with_its_reason_and_retried(home: Path) -> None:
    @dg.op
    def breaks() -> None:
        raise ValueError("no column 'wind'")

    @dg.job
    def nightly() -> None:
        breaks()

    initialise(settings())
    assert invoke("retry").exit_code == 5
    request = "flight_delays:ingest:2013-01-01"
    with instance.opened(settings()) as opened:
        nightly.execute_in_process(instance=opened, tags={REQUEST: request}, raise_on_error=False)
    shown = invoke("status").stdout
    assert "failed: breaks: ValueError: no column 'wind'" in shown
    assert f"STUCK: {request} failed (breaks: ValueError: no column 'wind')." in shown

    assert invoke("retry", "--pipeline", "other").exit_code == 5
    result = invoke("retry")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{request} is asked for again (nightly)")
    assert json.loads(invoke("status", "--json").stdout)["spent"] == []
    assert invoke("retry").exit_code == 5
