"""Real requests to a running endpoint, as applications send them: one entity a request, several connections at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

CONNECTIONS = 8
TIMEOUT = 10.0
EXAMPLES = 3


@dataclass(frozen=True)
class Sent:
    """What became of some requests: `failed` counts every one that was not answered with status 200; `errors` shows a few."""

    requests: int
    failed: int
    seconds: float
    errors: tuple[str, ...] = ()


def send(url: str, pipeline: str, rows: Sequence[Mapping[str, object]], connections: int = CONNECTIONS) -> Sent:
    """Send each row as a request of its own to `<url>/predict/<pipeline>`. Nothing is sent twice: a failure counts."""
    place = urlsplit(url)
    assert place.hostname is not None
    bodies = iter([json.dumps(row, default=str).encode() for row in rows])
    lock, errors, failed = threading.Lock(), list[str](), list[int]()

    def work() -> None:
        connection = HTTPConnection(place.hostname or "", place.port, timeout=TIMEOUT)
        for body in _shared(bodies, lock):
            problem = _ask(connection, f"/predict/{pipeline}", body)
            if problem is not None:
                connection.close()
                with lock:
                    failed.append(1)
                    if len(errors) < EXAMPLES:
                        errors.append(problem)
        connection.close()

    began = time.monotonic()
    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(connections, len(rows)))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return Sent(len(rows), len(failed), time.monotonic() - began, tuple(errors))


def _ask(connection: HTTPConnection, path: str, body: bytes) -> str | None:
    """None when the answer is a prediction, else what went wrong."""
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return None if answer.status == 200 else f"{answer.status}: {content[:200].decode(errors='replace')}"


def _shared(bodies: Iterator[bytes], lock: threading.Lock) -> Iterator[bytes]:
    while True:
        with lock:
            body = next(bodies, None)
        if body is None:
            return
        yield body
