"""The endpoint as an application of `serving.http.http1`: routes, answers, and the path of a prediction."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from bundle.manifest import EVENT_TIME, BundleError
from bundle.records.log import Record, Writer
from serving.callers.access import Access
from serving.callers.calls import Call, Heading
from serving.callers.limits import RateLimits
from serving.contract.contract import MANY_ROWS, Columns, Row, is_batch, rows_of
from serving.contract.refusal import Refusal
from serving.delivery.describe import describe
from serving.delivery.explain import explain
from serving.delivery.predicting import Answers, Numbering, predict_columns, predict_rows
from serving.delivery.state import Served, View, unlogged
from serving.delivery.turns import Turns
from serving.http.http1 import Answer, BodyTooLargeError, GoneError, Head, Headers, Request
from serving.options import Options
from serving.protocols import arrow, inference_protocol, openapi, tensors
from serving.protocols.inference_protocol import HEADER_LENGTH
from serving.watch.metrics import Metrics, Value

if TYPE_CHECKING:
    from serving.watch.traces import Traces

logger = logging.getLogger("serving")

T = TypeVar("T")

# Tuples, which the server encodes once.
SECURITY: Headers = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
JSON: Headers = ((b"content-type", b"application/json"), *SECURITY)
ARROW: Headers = ((b"content-type", arrow.KIND), *SECURITY)
BINARY: Headers = ((b"content-type", b"application/octet-stream"), *SECURITY)
JSON_BODY, ARROW_BODY = frozenset({b"application/json"}), frozenset({arrow.KIND})
# Triton's clients send no content type, others one of these.
TENSORS_BODY = frozenset(
    {b"application/json", b"application/octet-stream", b"application/vnd.inference-header+json"}
)
PAGE_POLICY = b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
FILES = {
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript"),
    "/docs.css": ("docs.css", "text/css"),
}
# Batches from this size on are computed beside the event loop, so that single rows need not wait for them: this many take 2 ms.
LARGE_BATCH = 256
# Bodies from this size on are parsed beside it for the same reason.
LARGE_BODY = 64 << 10
# Whoever asks only whether the server lives or is ready needs no key.
OPEN = frozenset({"/healthz", "/readyz"})
TIMEOUT_HEADER = b"x-request-timeout-ms"

_json = msgspec.json.Encoder().encode


class App:
    """One worker's application. `pipelines` is filled by the watcher; `draining` makes it say that it is not ready.

    As an ASGI application it is what callers reach; `admin` is the same with metrics, pages and descriptions, for the loopback
    port. `queued` tells how many requests have begun to be answered by this worker and wait for something.
    """

    def __init__(
        self, options: Options, metrics: Metrics, access: Access, limits: RateLimits
    ) -> None:
        self.options = options
        self.metrics = metrics
        self.access = access
        self.limits = limits
        self.pipelines: dict[str, Served] = {}
        self.draining = False
        self.queued: Callable[[], int] = lambda: 0
        self.traces: Traces | None = None
        self._ids = Numbering()
        self._turns = Turns(metrics, self._ids)
        self._checked_hosts: set[bytes] = set()
        # Explanations are slow: with a thread of their own they hold up neither each other's predictions nor the watcher.
        self._explainer = ThreadPoolExecutor(1, "explanations")
        self._transport = (
            [(b"strict-transport-security", b"max-age=31536000")] if options.certificate else []
        )
        self._pages = {
            path: ((Path(__file__).parent / name).read_bytes(), kind)
            for path, (name, kind) in FILES.items()
        }

    def __call__(self, request: Request) -> Coroutine[Any, Any, Answer]:
        return self._respond(request, False)

    def admin(self, request: Request) -> Coroutine[Any, Any, Answer]:
        return self._respond(request, True)

    async def _respond(self, request: Request, admin: bool) -> Answer:
        call = Call(request.begun)
        head = request.head
        path, method = head.path, head.method
        status, headers = 200, JSON
        try:
            heading: Heading = head.memo or self._heading(head)
            call.traceparent = heading.traceparent
            if path not in OPEN:
                self.admit(call, heading, counted=not admin)
            if path.startswith("/predict/"):
                served = self.served(path[9:], method, "POST", call, "predict")
                if heading.kind == arrow.KIND:
                    self._accept(heading, ARROW_BODY)
                    content, headers = (
                        await self._predict_arrow(served, await self._body(request), call),
                        ARROW,
                    )
                else:
                    self._accept(heading)
                    # Nearly always it is there already, with the length that was accepted.
                    body = request.content if heading.length else None
                    content = await self._predict(
                        served, await self._body(request) if body is None else body, call
                    )
            elif path.startswith("/v2/models/"):
                content, headers = await self._model_route(path[11:], request, heading, call)
            elif path.startswith("/explain/"):
                served = self.served(path[9:], method, "POST", call, "explain")
                self._accept(heading)
                content = await self._explain(served, await self._body(request), call)
            elif path.startswith("/models/"):
                content = _json(
                    describe(
                        self.view(self.served(path[8:], method, "GET", call, "metadata")), admin
                    )
                )
            else:
                content, headers = self._plain_route(path, method, call, admin)
        except Refusal as refusal:
            status, headers, content = self._refused(refusal, admin)
        except GoneError:
            status = 499
            raise
        except OSError as error:
            logger.error("%s: the prediction log cannot be written: %s", call.pipeline, error)
            self.metrics.add("shed_total", ("log",))
            status, headers, content = self._refused(unlogged(), admin)
        except Exception:
            # A fault of ours. The reason goes to the log, not to the client.
            logger.exception("%s %s failed", method, call.pipeline or "request")
            status, headers, content = self._refused(
                Refusal(500, "server", "The server failed; its log says why."), admin
            )
        finally:
            self.metrics.of(call.pipeline).answered(status, time.monotonic() - call.start, call.arm)
            if self.traces is not None and path not in OPEN:
                self.traces.answered(call, method, path, status)
        if self._transport:
            headers = (*headers, *self._transport)
        if self.draining:
            headers = (*headers, (b"connection", b"close"))
        return Answer(status, headers, content)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _heading(self, head: Head) -> Heading:
        """Take down what the headers say. Raises Refusal for hosts that this server does not answer for."""
        found = Heading()
        host = b""
        for name, value in head.headers:
            if name == b"content-length":
                found.length = int(value)
            elif name == b"content-type":
                found.kind = value
            elif name == b"host":
                host = value
            elif name == b"authorization":
                found.authorization = value
            elif name == b"traceparent":
                found.traceparent = value
            elif name == TIMEOUT_HEADER:
                found.seconds = _seconds(value)
            elif name == b"content-encoding" and value != b"identity":
                raise Refusal(415, "content_encoding", "Bodies must not be compressed.")
        if host not in self._checked_hosts:
            self._check_host(host)
        head.memo = found
        return found

    def admit(self, call: Call, heading: Heading, *, counted: bool = True) -> None:
        """Let a request in, before its body is read: a known caller, not too often, not too many at once (where it counts among
        them). Raises Refusal."""
        try:
            caller = call.caller = self.access.caller_of(heading)
        except Refusal as refusal:
            self.metrics.add("unauthorized_total", (refusal.rule,))
            raise
        if caller.per_second is not None:
            wait = self.limits.take(caller.account, caller.per_second, caller.burst)
            if wait > 0:
                self.metrics.add("rate_limited_total", (caller.label,))
                raise Refusal(
                    429,
                    "rate",
                    "This key asks too often; wait as long as Retry-After says.",
                    wait=wait,
                )
        if (
            self.metrics.in_flight(self.queued() + len(self._turns.waiting) + counted)
            > self.options.concurrency
        ):
            self.metrics.add("shed_total", ("concurrency",))
            raise Refusal(
                503,
                "concurrency",
                "Too many requests are being answered at once; try again.",
                wait=1.0,
            )
        limit, asked = self.options.answer_seconds, heading.seconds
        call.end = call.start + (limit if asked is None else min(asked, limit))

    def _check_host(self, host: bytes) -> None:
        """A web page from elsewhere that resolves its own name to this address must not reach a server on loopback."""
        if self.options.host in LOOPBACK:
            try:
                name = urlsplit(f"//{host.decode('ascii')}").hostname
            except ValueError:
                name = None
            if name not in LOOPBACK and name not in self.options.hosts:
                raise Refusal(
                    421,
                    "host",
                    "This server answers for local names only; start it with --allow-host to add one.",
                )
        if len(self._checked_hosts) < 100:
            self._checked_hosts.add(host)

    def served(self, name: str, method: str, allowed: str, call: Call, scope: str) -> Served:
        """The pipeline, for a caller who may. Raises Refusal."""
        call.caller.permit(scope, name)
        served = self.pipelines.get(name)
        if served is None:
            raise Refusal(404, "pipeline", "There is no such pipeline here; GET /v2 lists them.")
        if method != allowed:
            raise Refusal(405, "method", f"This route takes {allowed}.")
        if scope != "metadata":
            call.pipeline = name
        return served

    def _accept(self, heading: Heading, kinds: frozenset[bytes] = JSON_BODY) -> None:
        """Raises Refusal for a body of another kind, or of more bytes than are taken."""
        kind, length = heading.kind, heading.length
        if kind not in kinds and kind.split(b";")[0].strip().lower() not in kinds:
            raise Refusal(
                415,
                "content_type",
                f"The body must be {' or '.join(sorted(found.decode() for found in kinds if found))}.",
            )
        if length is not None and length > self.options.body_limit:
            raise _too_large(self.options.body_limit)

    async def _body(self, request: Request) -> bytes:
        try:
            return await request.read(self.options.body_limit)
        except BodyTooLargeError:
            raise _too_large(self.options.body_limit) from None

    def _refused(self, refusal: Refusal, admin: bool) -> tuple[int, Headers, bytes]:
        headers = JSON
        if refusal.status == 401:
            # Only the loopback port makes a browser ask its user for a key: its pages are for people.
            headers = (
                *JSON,
                (
                    b"www-authenticate",
                    b'Basic realm="evergreen", Bearer' if admin else b'Bearer realm="evergreen"',
                ),
            )
        elif refusal.status == 405:
            headers = (
                *JSON,
                (b"allow", refusal.error.removeprefix("This route takes ").rstrip(".").encode()),
            )
        elif refusal.status in (429, 503):
            headers = (*JSON, (b"retry-after", b"%d" % max(1, math.ceil(refusal.wait))))
        elif refusal.status in (413, 408):
            # The rest of the body is not read, so the connection cannot be used again.
            headers = (*JSON, (b"connection", b"close"))
        return (
            refusal.status,
            headers,
            _json({"error": refusal.error, "field": refusal.field, "rule": refusal.rule}),
        )

    # -- predictions ---------------------------------------------------------------------------------------------------

    async def _predict(self, served: Served, body: bytes, call: Call) -> bytes:
        view = self.view(served)
        if is_batch(body):
            asked = await off_loop(len(body), view.contract.decode_many, body)
            answers = await self.answer(served, view, asked, call)
            return await off_loop(len(body), answers.json)
        turn = self._turns.ask(served, view, view.contract.decode_one(body), call)
        await turn
        record = turn.result()
        if served.log.commits_each:
            await _flushed(served.log)
        self._count_one(served, record, call)
        return _json(
            {
                "id": record.id,
                "prediction": record.output,
                "bundle": record.bundle,
                "arm": record.arm,
                "online_as_of": record.online_as_of,
                "ood": record.ood,
            }
        )

    async def _predict_arrow(self, served: Served, body: bytes, call: Call) -> bytes:
        view = self.view(served)
        columns = await asyncio.to_thread(arrow.decode, view.contract, body)
        answers = await self.answer(served, view, columns, call)
        return await asyncio.to_thread(arrow.encode, answers)

    async def _explain(self, served: Served, body: bytes, call: Call) -> bytes:
        view = self.view(served)
        rows, batch = view.contract.decode(body)

        def explained() -> list[dict[str, Any]]:
            call.in_time()
            return explain(view, rows)

        explanations = await asyncio.get_running_loop().run_in_executor(self._explainer, explained)
        return _json({"explanations": explanations} if batch else explanations[0])

    async def _infer(
        self, served: Served, body: bytes, header: bytes | None, call: Call, version: str | None
    ) -> tuple[bytes, Headers]:
        view = self.view(served)
        check_version(view, version)
        asked = await off_loop(len(body), inference_protocol.decode, view.contract, body, header)
        answers = await self.answer(served, view, asked.columns, call)
        content, size = await off_loop(
            len(body), inference_protocol.encode, served.name, answers, asked
        )
        return content, JSON if size is None else (*BINARY, (HEADER_LENGTH, b"%d" % size))

    def view(self, served: Served) -> View:
        view = served.view
        if view is None:
            raise Refusal(503, "ready", "No verified bundle of this pipeline is being served yet.")
        return view

    async def answer(
        self, served: Served, view: View, asked: list[Row] | Columns, call: Call
    ) -> Answers:
        """Predict and log; when this returns, every prediction is in the log. Raises OSError where it cannot be."""
        count = len(asked) if isinstance(asked, list) else len(asked[EVENT_TIME])

        def computed() -> Answers:
            call.in_time()
            if not isinstance(asked, list) and count >= MANY_ROWS:
                return predict_columns(served, view, asked, call.start)
            rows = asked if isinstance(asked, list) else rows_of(asked)
            return Answers.of(predict_rows(served, view, rows, itertools.repeat(call), self._ids))

        try:
            served.check_room()
            answers = computed() if count < LARGE_BATCH else await asyncio.to_thread(computed)
        except Refusal as refusal:
            self.metrics.add("shed_total", (refusal.rule,))
            raise
        if served.log.commits_each:
            await _flushed(served.log)
        self._count(served, answers, call)
        return answers

    def _count_one(self, served: Served, record: Record, call: Call) -> None:
        call.rows, call.arm = 1, record.arm
        self.metrics.of(served.name).predicted(record.arm, (record.output,))
        for feature in record.ood:
            self.metrics.add("out_of_distribution_total", (served.name, feature))

    def _count(self, served: Served, answers: Answers, call: Call) -> None:
        call.rows = len(answers)
        counts = self.metrics.of(served.name)
        arms = set(answers.arms)
        call.arm = answers.arms[0] if len(arms) == 1 else "several"
        for arm in arms:
            counts.predicted(
                arm,
                answers.outputs
                if len(arms) == 1
                else [
                    output
                    for output, of in zip(answers.outputs, answers.arms, strict=True)
                    if of == arm
                ],
            )
        for feature, rows in Counter(itertools.chain.from_iterable(answers.ood)).items():
            self.metrics.add("out_of_distribution_total", (served.name, feature), rows)

    # -- routes --------------------------------------------------------------------------------------------------------

    def model_ready(self, served: Served, version: str | None) -> bool:
        """Whether a pipeline, or this bundle of it, is being served."""
        view = served.view
        return (
            view is not None
            and not self.draining
            and version in (None, *(arm.bundle.digest for arm in view.arms))
        )

    async def _model_route(
        self, path: str, request: Request, heading: Heading, call: Call
    ) -> tuple[bytes, Headers]:
        """`/v2/models/<name>[/versions/<digest>][/<what>]`: the answer with its headers."""
        name, *rest = path.split("/")
        version = None
        if len(rest) >= 2 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        what = rest[0] if len(rest) == 1 else "" if not rest else None
        if what == "infer":
            served = self.served(name, request.head.method, "POST", call, "predict")
            named = dict(request.head.headers)
            # A web page from elsewhere can send a body without a kind, too, but not without saying where it is from.
            self._accept(heading, TENSORS_BODY if b"origin" in named else TENSORS_BODY | {b""})
            return await self._infer(
                served, await self._body(request), named.get(HEADER_LENGTH), call, version
            )
        return self._model(
            name, version, what, self.served(name, request.head.method, "GET", call, "metadata")
        ), JSON

    def _model(self, name: str, version: str | None, what: str | None, served: Served) -> bytes:
        if what == "actual" and version is None:
            return _json(served.reported())
        if what not in ("", "ready", "golden"):
            raise _unknown_route()
        view = served.view
        if what == "ready":
            if not self.model_ready(served, version):
                raise Refusal(503, "ready", "This model is not ready.")
            return _json({"name": name, "ready": True})
        view = self.view(served)
        if version is not None and version not in [arm.bundle.digest for arm in view.arms]:
            raise Refusal(404, "version", "This version is not being served.")
        if what == "golden":
            return self._golden(view)
        return _json(tensors.metadata(view.manifest, [arm.bundle.digest for arm in view.arms]))

    def _golden(self, view: View) -> bytes:
        results = []
        for arm in (*view.arms, *view.shadows):
            try:
                result = arm.bundle.check_golden()
            except BundleError as error:
                logger.error("golden rows: %s", error)
                raise Refusal(
                    503,
                    "golden",
                    f"The golden rows of bundle {arm.bundle.digest} are not predicted as expected.",
                ) from None
            results.append(
                {
                    "bundle": arm.bundle.digest,
                    "rows": result.rows,
                    "difference": result.difference,
                    "row_ms": result.row_ms,
                }
            )
        return _json({"bundles": results})

    def _plain_route(
        self, path: str, method: str, call: Call, admin: bool
    ) -> tuple[bytes, Headers]:
        if path not in ROUTES and not (admin and path in ADMIN_ROUTES):
            raise _unknown_route()
        if path not in OPEN:
            call.caller.permit("metrics" if path == "/metrics" else "metadata")
        if method not in ("GET", "HEAD"):
            raise Refusal(405, "method", "This route takes GET.")
        if path in self._pages:
            content, kind = self._pages[path]
            policy = (
                (name, PAGE_POLICY if name == b"content-security-policy" else value)
                for name, value in SECURITY
            )
            return content, ((b"content-type", kind.encode()), *policy)
        match path:
            case "/healthz" | "/v2/health/live":
                return _json({"live": True}), JSON
            case "/readyz" | "/v2/health/ready":
                return self._ready(path), JSON
            case "/v2":
                return _json(
                    {
                        "name": "evergreen",
                        "version": openapi.VERSION,
                        "extensions": openapi.EXTENSIONS,
                        "models": self._visible(call),
                    }
                ), JSON
            case "/openapi.json":
                views = {
                    name: served.view
                    for name in self._visible(call)
                    if (served := self.pipelines[name]).view is not None
                }
                return _json(
                    openapi.document(
                        {name: view.manifest for name, view in views.items() if view}, self.options
                    )
                ), JSON
        self.metrics.in_flight(self.queued())
        self.metrics.measure(self.log_error() is not None)
        self.count_trials()
        text = self.metrics.prometheus(list(self.gauges()))
        return text.encode(), (
            (b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),
            *SECURITY,
        )

    def _visible(self, call: Call) -> list[str]:
        """Names of the pipelines that a caller may ask."""
        return sorted(
            name
            for name in self.pipelines
            if not call.caller.pipelines or name in call.caller.pipelines
        )

    @property
    def ready(self) -> bool:
        """At least one pipeline is known, all known ones are served, and the server is not about to stop."""
        return (
            bool(self.pipelines)
            and not self.draining
            and all(served.view for served in self.pipelines.values())
        )

    def _ready(self, path: str) -> bytes:
        """Ready: at least one pipeline is known, all known ones are served, and the server is not about to stop. Names of pipelines
        are for those with a key, where there are keys."""
        named = path not in OPEN or not self.access.required
        waiting = sorted(name for name, served in self.pipelines.items() if served.view is None)
        if self.draining or waiting or not self.pipelines:
            which = ", ".join(waiting) if waiting and named else "a pipeline"
            raise Refusal(
                503,
                "ready",
                "The server is stopping." if self.draining else f"Not served yet: {which}.",
            )
        return _json({"ready": True} | ({"pipelines": sorted(self.pipelines)} if named else {}))

    def about(self) -> dict[str, tuple[str | None, int, str | None]]:
        """Champion, serial and snapshot day of each pipeline."""
        views = {name: served.view for name, served in self.pipelines.items()}
        return {
            name: (None, 0, None)
            if view is None
            else (view.arms[0].bundle.digest, view.desired.serial, view.online_as_of)
            for name, view in views.items()
        }

    def count_trials(self) -> None:
        """Take over what the trials' own threads have counted since the last time."""
        for name, served in self.pipelines.items():
            for outcome, count in served.trials.counted():
                self.metrics.add("trials_total", (name, outcome), count)

    def gauges(self) -> Iterator[Value]:
        """What is served, how old the online features are, and which keys expire when, as metrics."""
        now = time.time()
        for name, served in list(self.pipelines.items()):
            view = served.view
            yield (
                "serving_info",
                (name, view.online_as_of or "" if view else ""),
                float(view is not None),
            )
            actual = served.reported()
            yield (
                "serves_desired",
                (name,),
                float(
                    actual.ready and actual.error is None and actual.serial == actual.desired_serial
                ),
            )
            if served.online_published is not None:
                yield "online_features_age_seconds", (name,), now - served.online_published
            if view is not None:
                yield "desired_serial", (name,), view.desired.serial
                for arm in view.arms:
                    yield "bundle_info", (name, arm.name, arm.bundle.digest), arm.share
        for key in self.access.stored:
            if key.revoked is None:
                yield (
                    "api_key_expires_seconds",
                    (key.id, key.owner),
                    key.expires.timestamp() - now if key.expires else math.inf,
                )

    def log_error(self) -> str | None:
        """What is wrong with flushing the prediction logs, if anything."""
        return next(
            (served.log.sync_error for served in self.pipelines.values() if served.log.sync_error),
            None,
        )


ROUTES = frozenset({*OPEN, "/v2", "/v2/health/live", "/v2/health/ready"})
ADMIN_ROUTES = frozenset({"/metrics", "/openapi.json", *FILES})


def check_version(view: View, version: str | None) -> None:
    """Raises Refusal where a prediction is asked of a bundle other than the champion."""
    if version is not None and version != view.arms[0].bundle.digest:
        raise Refusal(
            404,
            "version",
            "This version is not the champion; leave the version out, or ask for the champion.",
        )


async def off_loop(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Work on a body of `size` bytes: in a thread where it is large."""
    return work(*arguments) if size < LARGE_BODY else await asyncio.to_thread(work, *arguments)


async def _flushed(log: Writer) -> None:
    """Wait until what was logged is on the disk, together with all who wait for the same. Raises OSError."""
    loop = asyncio.get_running_loop()
    flushed: asyncio.Future[None] = loop.create_future()

    def tell(error: OSError | None) -> None:
        if flushed.done():
            return  # the request was given up
        if error is None:
            flushed.set_result(None)
        else:
            flushed.set_exception(error)

    log.commit(lambda error: _call_in(loop, tell, error))
    await flushed


def _call_in(
    loop: asyncio.AbstractEventLoop, tell: Callable[[OSError | None], None], error: OSError | None
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everybody who waited
        loop.call_soon_threadsafe(tell, error)


def _too_large(limit: int) -> Refusal:
    return Refusal(
        413,
        "body_size",
        f"The body has more than {limit} bytes, the most for one request; send several.",
    )


def _unknown_route() -> Refusal:
    return Refusal(404, "route", "There is no such route; /docs on the admin port lists them.")


def _seconds(value: bytes) -> float:
    """Raises Refusal for a timeout that is no whole number of milliseconds."""
    if not value.isdigit() or len(value) > 9:
        raise Refusal(
            400,
            "timeout",
            "The timeout must be a whole number of milliseconds.",
            TIMEOUT_HEADER.decode(),
        )
    return int(value) / 1000
