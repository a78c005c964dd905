"""The command line: exit codes, one-line errors, JSON, decisions, and the replay's memory."""

from __future__ import annotations

import json
import runpy
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.demo import replay as replaying
from cli.demo.facts import Facts, document, problems
from cli.demo.quality import compare
from cli.demo.requests import send
from cli.main import app, main
from cli.platform.installation import disk, packages, port
from resources.keys import Keys
from resources.ledger import Ledger
from resources.settings import Settings, settings
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
    return CliRunner().invoke(app, list(words))


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


# -- replay ----------------------------------------------------------------------------------------------------------------


class RecordedFeed:
    first, last = date(2013, 1, 1), date(2013, 1, 10)

    def __init__(self) -> None:
        self.landed: list[date] = []
        self.once = 0

    def land(self, day: date) -> list[str]:
        self.landed.append(day)
        return []

    def land_once(self) -> list[str]:
        self.once += 1
        return []

    def requests(self, day: date) -> list[dict[str, Any]]:
        return [{"flight_id": f"{day}-{number}"} for number in range(3)]


class Endpoint(BaseHTTPRequestHandler):
    """An endpoint that serves from the start, with the newest aggregates; it refuses flights named in `refused`."""

    seen: list[str] = []  # noqa: RUF012  shared on purpose: the handler is made anew for each request
    refused: tuple[str, ...] = ()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200, {"ready": True, "snapshot_as_of": "2013-12-31"})

    def do_POST(self) -> None:
        flight = json.loads(self.rfile.read(int(self.headers["content-length"])))["flight_id"]
        Endpoint.seen.append(flight)
        self.answer(422 if flight in Endpoint.refused else 200, {"prediction": 0.5})

    def answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    Endpoint.seen, Endpoint.refused = [], ()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("EVERGREEN_ENDPOINT_PORT", "EVERGREEN_ENDPOINT_ADMIN_PORT"):
        monkeypatch.setenv(name, str(server.server_address[1]))
    settings.cache_clear()
    yield settings()
    server.shutdown()
    server.server_close()


def test_a_replay_goes_on_where_it_was_stopped(
    endpoint: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = RecordedFeed()
    monkeypatch.setattr(replaying, "open_feed", lambda settings, options: feed)
    options = replaying.Options(start=date(2013, 1, 4), end=date(2013, 1, 6), follow=True)
    # Killed after landing the fifth, before its requests were sent.
    monkeypatch.setattr(replaying, "send", killed_on("2013-01-05", replaying.send))
    with pytest.raises(KeyboardInterrupt):
        replaying.replay(endpoint, options, lambda line: None)
    assert feed.landed == [date(2013, 1, day) for day in (1, 2, 3, 4, 5)]
    monkeypatch.setattr(replaying, "send", send)
    position = replaying.replay(endpoint, options, lambda line: None)
    assert feed.landed == [date(2013, 1, day) for day in (1, 2, 3, 4, 5, 6)]
    assert feed.once == 1
    assert (position.landed, position.sent, position.requests, position.failed) == (
        date(2013, 1, 6),
        date(2013, 1, 6),
        9,
        0,
    )
    assert sorted(Endpoint.seen) == [
        f"2013-01-0{day}-{number}" for day in (4, 5, 6) for number in range(3)
    ]
    assert replaying.replay(endpoint, options, lambda line: None) == position


def killed_on(day: str, real: Any) -> Any:
    def send_or_die(url: str, pipeline: str, rows: list[dict[str, Any]], **options: Any) -> Any:
        if rows[0]["flight_id"].startswith(day):
            raise KeyboardInterrupt
        return real(url, pipeline, rows, **options)

    return send_or_die


def test_every_request_that_fails_is_counted(endpoint: Settings) -> None:
    Endpoint.refused = ("a-1", "a-3")
    sent = send(
        endpoint.endpoint_url,
        "flight_delays",
        [{"flight_id": f"a-{number}"} for number in range(20)],
    )
    assert (sent.requests, sent.failed) == (20, 2)
    assert sent.errors[0].startswith("422")
    nowhere = send(f"http://127.0.0.1:{free_ports(1)[0]}", "flight_delays", [{"flight_id": "a"}])
    assert nowhere.failed == 1


def test_days_outside_the_feed_are_refused(home: Path) -> None:
    result = invoke("replay", "--from", "2014-04-01")
    assert result.exit_code == 2
    assert "the feed, which holds 2013-01-01 to 2013-12-31" in result.stderr
    assert invoke("replay", "--pipeline", "no_such").exit_code == 2


# -- the demo's figures ------------------------------------------------------------------------------------------------------


def test_quality_is_computed_on_the_same_rows() -> None:
    label = np.array([0.0, 1.0, 1.0, 0.0])
    good, poor = np.array([0.1, 0.9, 0.8, 0.2]), np.array([0.5, 0.5, 0.5, 0.5])
    found = compare(label, good, poor)
    assert found["rows"] == 4
    assert found["live"]["roc_auc"] == 1.0
    assert found["never_retrained"] == {
        "log_loss": pytest.approx(np.log(2), abs=1e-5),
        "roc_auc": 0.5,
    }
    with pytest.raises(ValueError, match="differ"):
        compare(label, good, poor[:3])
    with pytest.raises(ValueError, match="classes"):
        compare(np.ones(4), good, poor)
    with pytest.raises(ValueError, match="never_retrained"):
        compare(label, good, np.array([0.1, np.nan, 0.2, 0.3]))


def served(day: str, bundle: str) -> Any:
    return {"day": day, "bundle": bundle, "arms": [{"bundle": bundle, "share": 1.0}]}


def rollout(bundle: str, steps: int, outcome: str = "") -> Any:
    """The last `steps` steps of a whole rollout."""
    way = [
        ("shadow", 0.0, "2013-04-30"),
        ("canary", 0.1, "2013-05-01"),
        ("canary", 0.5, "2013-05-02"),
        ("full", 1.0, "2013-05-03"),
    ]
    taken = [{"stage": stage, "share": share, "day": day} for stage, share, day in way[-steps:]]
    return {
        "bundle": bundle,
        "steps": taken,
        "outcome": outcome or ("superseded" if steps == 1 else "full"),
        "reason": "",
    }


def facts(**changes: Any) -> Facts:
    quality = compare(np.array([0.0, 1.0]), np.array([0.2, 0.8]), np.array([0.4, 0.6]))
    first = {
        "as_of": "2013-03-31",
        "cause": "first_model",
        "candidate": "c",
        "champion_before": None,
        "released": True,
    }
    second = {**first, "as_of": "2013-04-30", "cause": "calendar", "champion_before": "x"}
    told: dict[str, Any] = {
        "seconds": 1.0, "days": 90, "wanted_days": 90, "requests": 9, "failed_requests": 0, "failed_runs": [], "retrains": [first, second],
        "served": [served("2013-03-31", "x"), served("2013-05-03", "y")], "rollouts": [rollout("x", 1), rollout("y", 4)],
        "answering": "y", "comparison": quality,
        "ledger_entries": 4, "ledger_verified": True,
    }  # fmt: skip
    return {**told, **changes}  # type: ignore[return-value]


def test_the_demo_succeeds_only_when_all_its_claims_came_true() -> None:
    assert problems(facts()) == []
    shown = document(facts())
    assert shown["served"] == [
        {"from": day, "bundle": bundle, "arms": [{"bundle": bundle, "share": 1.0}]}
        for day, bundle in (("2013-03-31", "x"), ("2013-05-03", "y"))
    ]
    assert [each["outcome"] for each in shown["rollouts"]] == ["superseded", "full"]
    assert list(shown) == [
        "seconds",
        "days",
        "requests",
        "failed_requests",
        "retrains",
        "served",
        "rollouts",
        "rows",
        "live",
        "never_retrained",
        "ledger",
    ]
    for changes in (
        {"days": 1}, {"requests": 0}, {"failed_requests": 1}, {"failed_runs": ["x"]}, {"served": []}, {"retrains": []},
        {"retrains": facts()["retrains"][:1]}, {"answering": "x"}, {"comparison": None}, {"ledger_verified": False},
        {"rollouts": [rollout("x", 1), rollout("y", 1, "full")]}, {"rollouts": [rollout("x", 1), rollout("y", 2)]},
        {"rollouts": [rollout("x", 1, "full"), rollout("y", 3, "rolled_back")]},
    ):  # fmt: skip
        assert problems(facts(**changes)), changes


def test_a_short_demo_promises_no_retrain_but_everything_else() -> None:
    first_alone = {
        "days": 21,
        "wanted_days": 21,
        "retrains": facts()["retrains"][:1],
        "rollouts": [rollout("x", 1, "full")],
        "served": [served("2013-03-31", "x")],
        "answering": "x",
    }
    assert problems(facts(**first_alone)) == []
    assert problems(facts(**first_alone, failed_requests=1)) == ["1 of 9 requests failed"]
    assert problems(facts(**{**first_alone, "retrains": []}))
    assert problems(facts(**{**first_alone, "answering": "y"}))
    long = {**first_alone, "days": 60, "wanted_days": 60}
    assert "no retrained model was released" in problems(facts(**long))


def test_a_process_that_the_command_starts_does_not_run_the_command_again() -> None:
    # What `multiprocessing` does with the main module of the process that starts another.
    command = Path(sys.executable).with_name("evergreen")
    assert runpy.run_path(str(command), run_name="__mp_main__")["main"] is main


def test_a_moment_needs_an_offset() -> None:
    result = invoke("served", "--at", "2026-01-01")
    assert result.exit_code == 2
    assert "has no offset from UTC" in result.stderr
