"""`evergreen replay`: what it lands and sends, and that it goes on where it stood."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.demo import replay as replaying
from cli.demo.requests import send
from cli.main import app
from resources.settings import Settings, settings
from tests.support.ports import free_ports


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
    result = CliRunner().invoke(app, ["replay", "--from", "2014-04-01"])
    assert result.exit_code == 2
    assert "the feed, which holds 2013-01-01 to 2013-12-31" in result.stderr
    assert CliRunner().invoke(app, ["replay", "--pipeline", "no_such"]).exit_code == 2
