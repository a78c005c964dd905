"""The endpoint as an ASGI application: routes, answers, and the path of a prediction."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bundle.manifest import EVENT_TIME, BundleError
from bundle.prediction_log import Record
from serving import inference_protocol, openapi
from serving.contract import Row
from serving.metrics import Metrics
from serving.options import Options
from serving.refusal import Refusal
from serving.state import Arm, Served, View

logger = logging.getLogger("serving")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

SECURITY = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
JSON = [(b"content-type", b"application/json"), *SECURITY]
PAGE_POLICY = b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
FILES = {
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript"),
    "/docs.css": ("docs.css", "text/css"),
}
# Batches from this size on are computed beside the event loop, so that single rows need not wait for them.
LARGE_BATCH = 64

_json = msgspec.json.Encoder().encode


class App:
    """One worker's application. `pipelines` is filled by the watcher; `draining` makes it say that it is not ready."""

    def __init__(self, options: Options, metrics: Metrics) -> None:
        self.options = options
        self.metrics = metrics
        self.pipelines: dict[str, Served] = {}
        self.draining = False
        self.in_flight = 0
        self._numbers = itertools.count(1)
        self._prefix = secrets.token_hex(10)
        self._checked_hosts: set[bytes] = set()
        self._pages = {path: ((Path(__file__).parent / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        start = time.perf_counter()
        path: str = scope["path"]
        self.in_flight += 1
        name, rows, status = "", 0, 500
        headers = JSON
        try:
            length, kind = self._headers(scope["headers"])
            if path.startswith("/predict/"):
                served = self._served(path[9:], scope["method"], "POST")
                name = served.name
                body = await self._body(receive, length, kind)
                content, rows = await self._predict(served, body, start)
            elif path.startswith("/v2/models/"):
                name, content, rows = await self._model_route(path[11:], scope["method"], receive, length, kind, start)
            else:
                content, headers = self._plain_route(path, scope)
            status = 200
        except Refusal as refusal:
            status, headers, content = self._refused(refusal)
        except _Gone:
            status = 499  # the client went away before its request was whole; nobody reads the answer
            return
        except OSError as error:
            logger.error("%s: the prediction log cannot be written: %s", name, error)
            status, headers, content = self._refused(
                Refusal(503, "log", "The prediction cannot be logged now, so it is not given; try again later.")
            )
        except Exception:
            # A fault of ours. The reason goes to the log, not to the client.
            logger.exception("%s %s failed", scope["method"], name or "request")
            status, headers, content = self._refused(Refusal(500, "server", "The server failed; its log says why."))
        finally:
            self.in_flight -= 1
            self.metrics.of(name).answered(status, time.perf_counter() - start, rows)
        headers = [*headers, (b"content-length", b"%d" % len(content))]
        if self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    # -- requests ------------------------------------------------------------------------------------------------------

    def _headers(self, headers: list[tuple[bytes, bytes]]) -> tuple[int | None, bytes]:
        """Length and kind of the body. Raises Refusal for hosts that this server does not answer for."""
        length, kind, host = None, b"", b""
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"content-type":
                kind = value
            elif name == b"host":
                host = value
            elif name == b"content-encoding" and value != b"identity":
                raise Refusal(415, "content_encoding", "Bodies must not be compressed.")
        if host not in self._checked_hosts:
            self._check_host(host)
        return length, kind

    def _check_host(self, host: bytes) -> None:
        """A web page from elsewhere that resolves its own name to this address must not reach a server on loopback."""
        if self.options.host in LOOPBACK:
            try:
                name = urlsplit(f"//{host.decode('ascii')}").hostname
            except ValueError:
                name = None
            if name not in LOOPBACK and name not in self.options.hosts:
                raise Refusal(421, "host", "This server answers for local names only; start it with --allow-host to add one.")
        if len(self._checked_hosts) < 100:
            self._checked_hosts.add(host)

    def _served(self, name: str, method: str, allowed: str) -> Served:
        served = self.pipelines.get(name)
        if served is None:
            raise Refusal(404, "pipeline", "There is no such pipeline here; GET /v2 lists them.")
        if method != allowed:
            raise Refusal(405, "method", f"This route takes {allowed}.")
        return served

    async def _body(self, receive: Receive, length: int | None, kind: bytes) -> bytes:
        if kind != b"application/json" and kind.split(b";")[0].strip().lower() != b"application/json":
            raise Refusal(415, "content_type", "The body must be application/json.")
        limit = self.options.body_limit
        if length is not None and length > limit:
            raise _too_large(limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        body: bytes = message["body"]
        if message["more_body"]:
            parts, size = [body], len(body)
            while message["more_body"]:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                parts.append(message["body"])
                size += len(message["body"])
                if size > limit:
                    raise _too_large(limit)
            body = b"".join(parts)
        if len(body) > limit:
            raise _too_large(limit)
        return body

    def _refused(self, refusal: Refusal) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        headers = JSON
        if refusal.status == 405:
            headers = [*JSON, (b"allow", refusal.error.removeprefix("This route takes ").rstrip(".").encode())]
        elif refusal.status == 503:
            headers = [*JSON, (b"retry-after", b"1")]
        elif refusal.status in (413, 408):
            # The rest of the body is not read, so the connection cannot be used again.
            headers = [*JSON, (b"connection", b"close")]
        return refusal.status, headers, _json({"error": refusal.error, "field": refusal.field, "rule": refusal.rule})

    # -- predictions ---------------------------------------------------------------------------------------------------

    async def _predict(self, served: Served, body: bytes, start: float) -> tuple[bytes, int]:
        view = self._view(served)
        rows, batch = view.contract.decode(body)
        records = await self._answer(served, view, rows, start)
        answers = [
            {"id": record.id, "prediction": record.output, "bundle": record.bundle, "arm": record.arm, "online_as_of": record.online_as_of}
            for record in records
        ]
        return _json({"predictions": answers} if batch else answers[0]), len(records)

    async def _infer(self, served: Served, body: bytes, start: float, version: str | None) -> tuple[bytes, int]:
        view = self._view(served)
        if version is not None and version != view.arms[0].bundle.digest:
            raise Refusal(404, "version", "This version is not the champion; leave the version out, or ask for the champion.")
        rows, request_id, wanted = inference_protocol.decode(view.contract, body)
        records = await self._answer(served, view, rows, start)
        ids, outputs = [record.id for record in records], [record.output for record in records]
        return inference_protocol.encode(view.manifest, records[0].bundle, ids, outputs, request_id, wanted), len(records)

    def _view(self, served: Served) -> View:
        view = served.view
        if view is None:
            raise Refusal(503, "ready", "No verified bundle of this pipeline is being served yet.")
        return view

    async def _answer(self, served: Served, view: View, rows: list[Row], start: float) -> list[Record]:
        """Predict and log; when this returns, every prediction is in the log. Raises OSError where it cannot be."""
        if len(rows) < LARGE_BATCH:
            return self._compute(served, view, rows, start)
        return await asyncio.to_thread(self._compute, served, view, rows, start)

    def _compute(self, served: Served, view: View, rows: list[Row], start: float) -> list[Record]:
        entity = view.manifest.entity
        results: list[tuple[Arm, list[float], float]]
        if len(view.arms) == 1:
            arm = view.arms[0]
            results = [(arm, *result) for result in zip(*arm.bundle.predict_rows(rows, view.online), strict=True)]
        else:
            arms = [view.arms[view.desired.arm(str(row[entity]))] for row in rows]
            found: dict[int, tuple[Arm, list[float], float]] = {}
            for arm in view.arms:
                places = [place for place, chosen in enumerate(arms) if chosen is arm]
                for place, *result in zip(places, *arm.bundle.predict_rows([rows[place] for place in places], view.online), strict=True):
                    found[place] = (arm, *result)  # type: ignore[assignment]
            results = [found[place] for place in range(len(rows))]
        now = datetime.now(UTC)
        latency = int((time.perf_counter() - start) * 1e6)
        records = []
        for row, (arm, values, output) in zip(rows, results, strict=True):
            if not 0.0 <= output <= 1.0:
                raise ArithmeticError(f"bundle {arm.bundle.digest} predicted {output}, which is no probability")
            event_time: datetime = row[EVENT_TIME]
            records.append(
                Record(
                    day=event_time.astimezone(view.zone).date().isoformat(), id=f"{self._prefix}{next(self._numbers):012x}", at=now,
                    event_time=event_time, pipeline=served.name, bundle=arm.bundle.digest, arm=arm.name, entity=row[entity], request=row,
                    row=values, output=output, online_as_of=view.online_as_of, latency_us=latency,
                )
            )  # fmt: skip
        served.log.append(records)
        return records

    # -- routes --------------------------------------------------------------------------------------------------------

    async def _model_route(
        self, path: str, method: str, receive: Receive, length: int | None, kind: bytes, start: float
    ) -> tuple[str, bytes, int]:
        """`/v2/models/<name>[/versions/<digest>][/<what>]`: pipeline, answer, rows."""
        name, *rest = path.split("/")
        version = None
        if len(rest) >= 2 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        what = rest[0] if len(rest) == 1 else "" if not rest else None
        if what == "infer":
            served = self._served(name, method, "POST")
            content, rows = await self._infer(served, await self._body(receive, length, kind), start, version)
            return name, content, rows
        served = self._served(name, method, "GET")
        if what == "actual" and version is None:
            return "", _json(served.actual()), 0
        if what not in ("", "ready", "golden"):
            raise _unknown_route()
        view = served.view
        if what == "ready":
            ready = view is not None and not self.draining and version in (None, *(arm.bundle.digest for arm in view.arms))
            if not ready:
                raise Refusal(503, "ready", "This model is not ready.")
            return "", _json({"name": name, "ready": True}), 0
        view = self._view(served)
        if version is not None and version not in [arm.bundle.digest for arm in view.arms]:
            raise Refusal(404, "version", "This version is not being served.")
        if what == "golden":
            return "", self._golden(view), 0
        return "", _json(inference_protocol.metadata(view.manifest, [arm.bundle.digest for arm in view.arms])), 0

    def _golden(self, view: View) -> bytes:
        results = []
        for arm in view.arms:
            try:
                result = arm.bundle.check_golden()
            except BundleError as error:
                logger.error("golden rows: %s", error)
                raise Refusal(503, "golden", f"The golden rows of bundle {arm.bundle.digest} are not predicted as expected.") from None
            results.append({"bundle": arm.bundle.digest, "rows": result.rows, "difference": result.difference, "row_ms": result.row_ms})
        return _json({"bundles": results})

    def _plain_route(self, path: str, scope: Scope) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        if path not in ROUTES:
            raise _unknown_route()
        if scope["method"] not in ("GET", "HEAD"):
            raise Refusal(405, "method", "This route takes GET.")
        if path in self._pages:
            content, kind = self._pages[path]
            policy = [(name, PAGE_POLICY if name == b"content-security-policy" else value) for name, value in SECURITY]
            return content, [(b"content-type", kind.encode()), *policy]
        match path:
            case "/healthz" | "/v2/health/live":
                return _json({"live": True}), JSON
            case "/readyz" | "/v2/health/ready":
                return self._ready(), JSON
            case "/v2":
                return _json({"name": "evergreen", "version": openapi.VERSION, "extensions": [], "models": sorted(self.pipelines)}), JSON
            case "/openapi.json":
                views = {name: served.view for name, served in sorted(self.pipelines.items()) if served.view is not None}
                return _json(openapi.document({name: view.manifest for name, view in views.items()}, self.options)), JSON
        return self._metrics(scope)

    def _ready(self) -> bytes:
        """Ready: at least one pipeline is known, all known ones are served, and the server is not about to stop."""
        waiting = sorted(name for name, served in self.pipelines.items() if served.view is None)
        if self.draining or waiting or not self.pipelines:
            why = "The server is stopping." if self.draining else f"Not served yet: {', '.join(waiting) or 'any pipeline'}."
            raise Refusal(503, "ready", why)
        return _json({"ready": True, "pipelines": sorted(self.pipelines)})

    def _metrics(self, scope: Scope) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        text = self.metrics.prometheus(self.about(), self.in_flight)
        return text.encode(), [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8"), *SECURITY]

    def about(self) -> dict[str, tuple[str | None, int, str | None]]:
        """Champion, serial and snapshot day of each pipeline."""
        views = {name: served.view for name, served in self.pipelines.items()}
        return {
            name: (None, 0, None) if view is None else (view.arms[0].bundle.digest, view.desired.serial, view.online_as_of)
            for name, view in views.items()
        }

    def log_error(self) -> str | None:
        """What is wrong with flushing the prediction logs, if anything."""
        return next((served.log.sync_error for served in self.pipelines.values() if served.log.sync_error), None)


ROUTES = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready", *FILES})


class _Gone(Exception):  # noqa: N818
    """The client closed the connection."""


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "body_size", f"The body has more than {limit} bytes, the most for one request; send several.")


def _unknown_route() -> Refusal:
    return Refusal(404, "route", "There is no such route; /docs lists them.")
