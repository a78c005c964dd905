"""The notifier tells by every channel, tries again, and never raises."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from resources import notifier
from resources.notifier import Notifier


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "PAUSE_SECONDS", 0.0)


@contextmanager
def webhook(statuses: list[int]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A web server that answers with the given statuses, in turn, and keeps what it got."""
    got: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(statuses[min(len(got), len(statuses)) - 1])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/secret-token", got
        server.shutdown()


@contextmanager
def mail_server() -> Iterator[tuple[str, list[str]]]:
    """As much of SMTP as it takes to be sent one message."""
    got: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline():
                word = line[:4].upper()
                if word == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    body = b""
                    while (text := self.rfile.readline()) != b".\r\n":
                        body += text
                    got.append(body.decode())
                self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", got
        server.shutdown()


def test_without_settings_the_log_is_told() -> None:
    assert Notifier().notify("Run failed", "run 1") == {"log": "sent"}


def test_a_webhook_is_told_and_tried_again() -> None:
    with webhook([503, 200]) as (url, got):
        assert Notifier(webhook=url).notify("Run failed", "run 1") == {
            "log": "sent",
            "webhook": "sent",
        }
    assert got == [{"title": "Run failed", "text": "Run failed\nrun 1"}] * 2


def test_a_webhook_that_fails_is_said_without_its_secret() -> None:
    with webhook([500]) as (url, got):
        outcome = Notifier(webhook=url, attempts=2).notify("Run failed", "run 1")
    assert len(got) == 2
    assert "500" in outcome["webhook"]
    assert "2 tries" in outcome["webhook"]
    assert "secret-token" not in outcome["webhook"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x", "not an address", "http://[", "ftp://example"]
)
def test_an_unreachable_or_wrong_address_raises_nothing(url: str) -> None:
    assert (
        Notifier(webhook=url, attempts=1, timeout_seconds=0.5).notify("t", "x")["webhook"] != "sent"
    )


def test_mail_is_sent_with_a_subject_of_one_line() -> None:
    with mail_server() as (address, got):
        outcome = Notifier(smtp=address, recipients=["ops@example.org"]).notify(
            "Checks\nfailed", "drift_share"
        )
    assert outcome == {"log": "sent", "e-mail": "sent"}
    assert "Subject: Checks failed" in got[0]
    assert "To: ops@example.org" in got[0]
    assert "drift_share" in got[0]


def test_a_mail_server_that_is_away_raises_nothing() -> None:
    outcome = Notifier(
        smtp="127.0.0.1:1", recipients=["ops@example.org"], attempts=1, timeout_seconds=0.5
    ).notify("t", "x")
    assert "ConnectionRefusedError" in outcome["e-mail"]
