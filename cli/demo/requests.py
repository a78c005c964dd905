"""Real requests to a running endpoint, as applications send them.

One entity a request, over several connections at once.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

CONNECTIONS = 4
TIMEOUT = 10.0
EXAMPLES = 3


@dataclass(frozen=True)
class Sent:
    """What became of some requests.

    `failed` counts each that was not answered with status 200; `errors` shows a few of them.
    """

    requests: int
    failed: int
    seconds: float
    errors: tuple[str, ...] = ()


def send(
    url: str,
    pipeline: str,
    rows: Sequence[Mapping[str, object]],
    connections: int = CONNECTIONS,
    *,
    headers: Mapping[str, str] | None = None,
    trusted: Path | None = None,
) -> Sent:
    """Send each row as a request of its own to `<url>/predict/<pipeline>`.

    Nothing is sent twice: a failure counts. `headers` show a key; `trusted` is the certificate that
    an https URL must have, where no authority vouches for it.
    """
    place = urlsplit(url)
    assert place.hostname is not None
    bodies = iter([json.dumps(row, default=str).encode() for row in rows])
    lock, errors, failed = threading.Lock(), list[str](), list[int]()

    def work() -> None:
        connection = _connection(place, trusted)
        for body in _shared(bodies, lock):
            problem = _ask(connection, f"/predict/{pipeline}", body, headers or {})
            if problem is not None:
                connection.close()
                with lock:
                    failed.append(1)
                    if len(errors) < EXAMPLES:
                        errors.append(problem)
        connection.close()

    began = time.monotonic()
    workers = [
        threading.Thread(target=work, daemon=True) for _ in range(min(connections, len(rows)))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return Sent(len(rows), len(failed), time.monotonic() - began, tuple(errors))


class AtOnce(HTTPConnection):
    """Sends head and body of a request together.

    `http.client` writes one after the other, which costs both sides a quarter of their time.
    """

    _held = b""

    def send(self, data: Any) -> None:
        self._held += data

    def getresponse(self) -> HTTPResponse:
        held, self._held = self._held, b""
        super().send(held)
        return super().getresponse()


class SecureAtOnce(AtOnce, HTTPSConnection):
    pass


def _connection(place: SplitResult, trusted: Path | None) -> HTTPConnection:
    if place.scheme == "https":
        return SecureAtOnce(
            place.hostname or "",
            place.port,
            timeout=TIMEOUT,
            context=ssl.create_default_context(cafile=trusted),
        )
    return AtOnce(place.hostname or "", place.port, timeout=TIMEOUT)


def _ask(
    connection: HTTPConnection, path: str, body: bytes, headers: Mapping[str, str]
) -> str | None:
    """None when the answer is a prediction, else what went wrong."""
    try:
        connection.request("POST", path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return (
        None
        if answer.status == 200
        else f"{answer.status}: {content[:200].decode(errors='replace')}"
    )


def _shared(bodies: Iterator[bytes], lock: threading.Lock) -> Iterator[bytes]:
    while True:
        with lock:
            body = next(bodies, None)
        if body is None:
            return
        yield body
