"""The paths of the HTTP server: who may take each, and how bodies become requests and back.

`serving.service`, below, decides what is answered. `serving.http` decides how bytes travel.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

import msgspec

from serving.callers.calls import Call
from serving.callers.hosts import HostCheck
from serving.contract.refusal import MethodRefusal, Refusal, unlogged
from serving.contract.strict import is_batch
from serving.delivery.explain import ROW_LIMIT as EXPLAINED_ROWS
from serving.delivery.following.state import Served
from serving.http import headers, pages
from serving.http.answers import CLOSE, Answer, Pair
from serving.http.headers import BINARY, JSON, STRICT_TRANSPORT, typed
from serving.http.heading import Heading, read_heading
from serving.http.request import BodyTooLargeError, GoneError, Request
from serving.protocols import arrow, inference, models, openapi
from serving.protocols.inference import HEADER_LENGTH
from serving.protocols.plain import Prediction
from serving.service import Service, check_version, off_loop

logger = logging.getLogger("serving")

ARROW = typed(arrow.KIND)
METRICS = typed(b"text/plain; version=0.0.4; charset=utf-8")
JSON_BODY, ARROW_BODY = frozenset({b"application/json"}), frozenset({arrow.KIND})
# Triton's clients send no content type, others one of these.
TENSORS_BODY = frozenset(
    {b"application/json", b"application/octet-stream", b"application/vnd.inference-header+json"}
)

# Whoever asks only whether the server lives or is ready needs no key.
OPEN = frozenset({"/healthz", "/readyz"})
ROUTES = frozenset({*OPEN, "/v2", "/v2/health/live", "/v2/health/ready"})
REPOSITORY = "/v2/repository/index"
ADMIN_ROUTES = frozenset({"/metrics", "/openapi.json", *pages.PATHS})

_json = msgspec.json.Encoder().encode


class Routes:
    """One port's application. The `admin` port also has metrics, pages and whole descriptions."""

    def __init__(self, service: Service, *, admin: bool) -> None:
        options = service.options
        self._service, self._admin = service, admin
        self._hosts = HostCheck(options.host, options.hosts)
        self._always: tuple[Pair, ...] = (STRICT_TRANSPORT,) if options.certificate else ()
        self._pages = pages.load() if admin else {}

    def __call__(self, request: Request) -> Coroutine[Any, Any, Answer]:
        return self._respond(request)

    async def _respond(self, request: Request) -> Answer:
        service = self._service
        path, method = request.path, request.method
        call = Call(request.begun)
        status = 500
        try:
            answer = await self._answer(request, call)
            status = answer.status
        except Refusal as refusal:
            answer = self._refused(refusal)
            status = answer.status
        except GoneError:
            status = 499
            raise
        except OSError as error:
            logger.error("%s: the prediction log cannot be written: %s", call.pipeline, error)
            service.metrics.add("shed_total", ("log",))
            answer = self._refused(unlogged())
            status = answer.status
        except Exception:
            # A fault of ours. The reason goes to the log, not to the client.
            logger.exception("%s %s failed", method, call.pipeline or "request")
            answer = self._refused(Refusal(500, "server", "The server failed; its log says why."))
        finally:
            seconds = time.monotonic() - call.start
            service.metrics.of(call.pipeline).answered(status, seconds, call.arm)
            if service.traces is not None and path not in OPEN:
                service.traces.answered(call, method, path, status)

        extra = (*self._always, CLOSE) if service.draining else self._always
        return answer._replace(headers=answer.headers.and_(*extra)) if extra else answer

    def _refused(self, refusal: Refusal) -> Answer:
        # Only the admin port asks a browser's user for a key: its pages are for people.
        return headers.refused(refusal, browser=self._admin)

    # -- requests ------------------------------------------------------------------------------

    async def _answer(self, request: Request, call: Call) -> Answer:
        """The answer of the route that a request asks. Raises Refusal."""
        path = request.path
        heading = read_heading(request.headers)
        self._hosts.check(heading.host)
        call.traceparent = heading.traceparent
        if path not in OPEN:
            self._service.admit(
                call, heading.authorization, heading.seconds, counted=not self._admin
            )

        if path.startswith("/predict/"):
            return await self._predict(path[9:], request, heading, call)
        if path.startswith("/v2/models/"):
            return await self._model(path[11:], request, heading, call)
        if path.startswith("/explain/"):
            return await self._explain(path[9:], request, heading, call)
        if path.startswith("/models/"):
            served = self._served(path[8:], request, "GET", call, "metadata")
            return _encoded(self._service.describe(served, example=self._admin))
        if path == REPOSITORY:
            return await self._index(request, heading, call)
        return self._plain(path, request.method, call)

    def _served(self, name: str, request: Request, method: str, call: Call, scope: str) -> Served:
        """The pipeline, for a caller who may use it by this method. Raises Refusal."""
        served = self._service.served(name, call, scope)
        if request.method != method:
            raise MethodRefusal(method)
        return served

    def _accept(self, heading: Heading, kinds: frozenset[bytes] = JSON_BODY) -> None:
        """Raises Refusal for a body of another kind, or of more bytes than are taken."""
        kind, limit = heading.kind, self._service.options.body_limit
        if kind not in kinds and kind.split(b";")[0].strip().lower() not in kinds:
            names = sorted(found.decode() for found in kinds if found)
            raise Refusal(415, "content_type", f"The body must be {' or '.join(names)}.")
        if heading.length is not None and heading.length > limit:
            raise _too_large(limit)

    async def _body(self, request: Request) -> bytes:
        """The whole body. Raises Refusal for one that is too large, and GoneError."""
        limit = self._service.options.body_limit
        content = request.content
        if content is not None and len(content) <= limit:
            return content
        try:
            return await request.read(limit)
        except BodyTooLargeError:
            raise _too_large(limit) from None

    # -- predictions ---------------------------------------------------------------------------

    async def _predict(self, name: str, request: Request, heading: Heading, call: Call) -> Answer:
        service = self._service
        served = self._served(name, request, "POST", call, "predict")
        if heading.kind == arrow.KIND:
            return await self._predict_arrow(served, request, heading, call)
        self._accept(heading)
        body = await self._body(request)
        view = service.view(served)

        if is_batch(body):
            asked = await off_loop(len(body), view.contract.decode_many, body)
            answers = await service.predict(served, view, asked, call)
            return Answer(200, JSON, await off_loop(len(body), answers.json))

        record = await service.predict_row(served, view, view.contract.decode_one(body), call)
        return _encoded(Prediction.of(record))

    async def _predict_arrow(
        self, served: Served, request: Request, heading: Heading, call: Call
    ) -> Answer:
        self._accept(heading, ARROW_BODY)
        body = await self._body(request)
        view = self._service.view(served)
        columns = await asyncio.to_thread(arrow.decode, view.contract, body)
        answers = await self._service.predict(served, view, columns, call)
        return Answer(200, ARROW, await asyncio.to_thread(arrow.encode, answers))

    async def _explain(self, name: str, request: Request, heading: Heading, call: Call) -> Answer:
        served = self._served(name, request, "POST", call, "explain")
        self._accept(heading)
        body = await self._body(request)
        view = self._service.view(served)
        rows, batch = await off_loop(len(body), view.contract.decode, body, EXPLAINED_ROWS)
        explanations = await self._service.explain(view, rows, call)
        return _encoded({"explanations": explanations} if batch else explanations[0])

    async def _infer(
        self, served: Served, version: str | None, request: Request, heading: Heading, call: Call
    ) -> Answer:
        service = self._service
        named = request.headers
        # A web page from elsewhere can send a body without a kind too, never without its origin.
        self._accept(heading, TENSORS_BODY if b"origin" in named else TENSORS_BODY | {b""})
        body = await self._body(request)
        view = service.view(served)
        check_version(view, version)

        size = len(body)
        asked = await off_loop(
            size, inference.decode, view.contract, body, named.get(HEADER_LENGTH)
        )
        call.limit(asked.seconds)
        answers = await service.predict(served, view, asked.columns, call)
        content, header_size = await off_loop(size, inference.encode, served.name, answers, asked)
        if header_size is None:
            return Answer(200, JSON, content)
        return Answer(200, BINARY.and_((HEADER_LENGTH, b"%d" % header_size)), content)

    # -- models --------------------------------------------------------------------------------

    async def _model(self, path: str, request: Request, heading: Heading, call: Call) -> Answer:
        """`/v2/models/<name>[/versions/<digest>][/<what>]`."""
        name, *rest = path.split("/")
        version = None
        if len(rest) >= 2 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        if len(rest) > 1:
            rest = ["unknown"]
        what = rest[0] if rest else ""
        if rest == ["infer"]:
            served = self._served(name, request, "POST", call, "predict")
            return await self._infer(served, version, request, heading, call)
        served = self._served(name, request, "GET", call, "metadata")
        return _encoded(self._about_model(name, served, version, what))

    def _about_model(self, name: str, served: Served, version: str | None, what: str) -> Any:
        """What is asked of a model, to be encoded. Raises Refusal."""
        service = self._service
        if what == "actual" and version is None:
            return served.reported()
        if what not in ("", "ready", "golden"):
            raise _unknown_route()
        if what == "ready":
            if not service.model_ready(served, version):
                raise Refusal(503, "ready", "This model is not ready.")
            return {"name": name, "ready": True}
        view = service.view(served)
        check_version(view, version)
        if what == "golden":
            return {"bundles": service.golden(served)}
        return models.metadata(view)

    async def _index(self, request: Request, heading: Heading, call: Call) -> Answer:
        """The repository index of the Open Inference Protocol."""
        call.caller.permit("metadata")
        if request.method != "POST":
            raise MethodRefusal("POST")
        self._accept(heading, TENSORS_BODY | {b""})
        ready = models.only_ready(await self._body(request))
        return _encoded(models.index(self._service, call.caller, ready=ready))

    # -- plain routes --------------------------------------------------------------------------

    def _plain(self, path: str, method: str, call: Call) -> Answer:
        service = self._service
        if path not in ROUTES and not (self._admin and path in ADMIN_ROUTES):
            raise _unknown_route()
        if path not in OPEN:
            call.caller.permit("metrics" if path == "/metrics" else "metadata")
        if method not in ("GET", "HEAD"):
            raise MethodRefusal("GET")
        if path in self._pages:
            return self._pages[path]
        match path:
            case "/healthz" | "/v2/health/live":
                return _encoded({"live": True})
            case "/readyz" | "/v2/health/ready":
                return _encoded(self._ready(path))
            case "/v2":
                about = {"models": service.visible(call.caller)}
                return _encoded(models.server() | about)
            case "/openapi.json":
                return _encoded(self._openapi(call))
        return Answer(200, METRICS, service.prometheus().encode())

    def _openapi(self, call: Call) -> dict[str, Any]:
        """The description of the pipelines that a caller may ask and that are served."""
        service = self._service
        views = {name: service.pipelines[name].view for name in service.visible(call.caller)}
        manifests = {name: view.manifest for name, view in views.items() if view is not None}
        return openapi.document(manifests, service.options)

    def _ready(self, path: str) -> dict[str, Any]:
        """Raises Refusal unless the service is ready.

        Only callers with a key see names of pipelines, where there are keys.
        """
        service = self._service
        named = path not in OPEN or not service.access.required
        if not service.ready:
            waiting = service.waiting()
            which = ", ".join(waiting) if waiting and named else "a pipeline"
            why = "The server is stopping." if service.draining else f"Not served yet: {which}."
            raise Refusal(503, "ready", why)
        return {"ready": True} | ({"pipelines": sorted(service.pipelines)} if named else {})


def _encoded(content: Any) -> Answer:
    """Content as an answer of JSON."""
    return Answer(200, JSON, _json(content))


def _too_large(limit: int) -> Refusal:
    return Refusal(
        413,
        "body_size",
        f"The body has more than {limit} bytes, the most for one request; send several.",
    )


def _unknown_route() -> Refusal:
    return Refusal(404, "route", "There is no such route; /docs on the admin port lists them.")
