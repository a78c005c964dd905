"""gRPC on a port of its own in the worker's process: the same rules, answers, log and figures as
REST.

Every method takes a stream of messages, although a call has one. gRPC receives the message of a
unary method before it calls anyone, so a caller that nobody knows could have the server hold
megabytes. Here the caller's metadata is judged first; then one message is received, within the time
that REST gives a request to arrive. Messages are parsed here, too: gRPC answers bytes that are no
message as a failure of the server. Refusals become status codes, with `rule` and `field` as
trailing metadata. Source: https://github.com/kserve/open-inference-protocol,
specification/protocol/inference_grpc.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from serving.callers.calls import Call
from serving.contract.refusal import Refusal, unlogged
from serving.http.heading import TIMEOUT_HEADER
from serving.options import Options
from serving.protocols.rpc import health, methods
from serving.protocols.rpc.certificate import Certificate
from serving.protocols.rpc.health import Health
from serving.protocols.rpc.methods import Method, Methods
from serving.service import Service

logger = logging.getLogger("serving")

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

CONNECTION_SECONDS = 600
"""A connection is renewed after this time, so that one that does nothing useful does not stay."""

CONNECTION_STREAMS = 100
"""Calls at the same time on one connection, the number that HTTP/2 recommends as the least
(RFC 9113, section 6.5.2)."""

PING_MS = 30_000
"""Shortest time between two pings of a client that sends nothing else."""

Context: TypeAlias = grpc.aio.ServicerContext
Requests = AsyncIterator[bytes]


class GrpcServer:
    """The gRPC side of one worker. `active` counts the calls that are not answered yet."""

    def __init__(self, service: Service, options: Options) -> None:
        self._service, self._options = service, options
        self._health = Health(service, self._message, options.poll_seconds)
        self.active = 0

        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=options.concurrency + health.WATCHERS,
            options=_channel(options),
        )
        inference = {
            method.name: grpc.stream_unary_rpc_method_handler(self._handler(method))
            for method in Methods(service).table()
        }
        probes = {
            "Check": grpc.stream_unary_rpc_method_handler(self._check),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
        }
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(methods.SERVICE, inference),
                grpc.method_handlers_generic_handler(health.SERVICE, probes),
            )
        )

    async def start(self) -> None:
        """Raises RuntimeError where the port is taken."""
        host = self._options.host
        address = f"{f'[{host}]' if ':' in host else host}:{self._options.grpc_port}"

        if self._options.certificate is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, Certificate(self._options).credentials())

        await self._server.start()

    async def stop(self) -> None:
        """Take no new calls, and answer those begun."""
        await self._server.stop(self._options.drain_seconds)

    # -- calls of the inference service --------------------------------------------------------

    def _handler(self, method: Method) -> Callable[[Requests, Context], Awaitable[bytes]]:
        async def handle(requests: Requests, context: Context) -> bytes:
            call = Call(time.monotonic())
            with self._counted(method, call) as outcome:
                try:
                    answer = await self._answer(method, call, context)
                    outcome.status = 200
                except asyncio.CancelledError:
                    # The client went away, or its time is over. Nobody reads the answer.
                    outcome.status = 499
                    raise
                except Exception as error:  # noqa: BLE001  the call is told
                    refusal = self._refusal(error, method, call)
                    outcome.status = refusal.status
                    await _abort(context, refusal)
            return answer

        return handle

    async def _answer(self, method: Method, call: Call, context: Context) -> bytes:
        """The answer as bytes. Raises Refusal, and OSError where the log cannot be written."""
        authorization, call.traceparent = _metadata(context)
        if not method.open:
            remaining = context.time_remaining()
            seconds = None if remaining is None else max(0.0, remaining)
            # `active` counts the call already.
            self._service.admit(call, authorization, seconds, counted=False)

        request = method.request()
        if method.reads:
            request = _parsed(method, await self._message(context))

        answer = await method.run(request, call)
        return bytes(answer.SerializeToString())

    async def _message(self, context: Context) -> bytes:
        """The message of a call. Raises Refusal where none arrives in time."""
        try:
            content = await asyncio.wait_for(context.read(), self._options.request_seconds)
        except TimeoutError:
            raise Refusal(408, "request_time", "The request did not arrive in time.") from None

        if content is grpc.aio.EOF:
            raise Refusal(400, "message", "The call has no message.")
        return bytes(content)

    @contextlib.contextmanager
    def _counted(self, method: Method, call: Call) -> Iterator[_Outcome]:
        """Count a call while it lasts, and what became of it."""
        outcome = _Outcome()
        self.active += 1
        try:
            yield outcome
        finally:
            self.active -= 1
            took = time.monotonic() - call.start
            self._service.metrics.of(call.pipeline).answered(outcome.status, took, call.arm)
            if self._service.traces is not None and not method.open:
                path = f"/{methods.SERVICE}/{method.name}"
                self._service.traces.answered(call, "POST", path, outcome.status)

    def _refusal(self, error: Exception, method: Method, call: Call) -> Refusal:
        """What a client is told of an error."""
        if isinstance(error, Refusal):
            return error

        if isinstance(error, OSError):
            logger.error("%s: the prediction log cannot be written: %s", call.pipeline, error)
            self._service.metrics.add("shed_total", ("log",))
            return unlogged()

        # A fault of ours. The reason goes to the log, not to the client.
        logger.error("%s %s failed", method.name, call.pipeline or "request", exc_info=error)
        return Refusal(500, "server", "The server failed; its log says why.")

    # -- calls of the health service -----------------------------------------------------------

    async def _check(self, requests: Requests, context: Context) -> bytes:
        try:
            return await self._health.check(context, _metadata(context)[0])
        except Refusal as refusal:
            await _abort(context, refusal)
            raise  # never reached: abort raises

    async def _watch(self, requests: Requests, context: Context) -> None:
        try:
            await self._health.watch(context, _metadata(context)[0])
        except Refusal as refusal:
            await _abort(context, refusal)


class _Outcome:
    """The status, as HTTP has it, of a call that is over."""

    __slots__ = ("status",)

    def __init__(self) -> None:
        self.status = 500


def _channel(options: Options) -> list[tuple[str, int]]:
    """Limits of connections and messages, by gRPC's names for them
    (grpc/impl/channel_arg_names.h)."""
    return [
        # Workers share the port: the kernel deals connections out to them.
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", options.body_limit),
        ("grpc.max_metadata_size", options.header_limit),
        ("grpc.absolute_max_metadata_size", options.header_limit),
        # Uncompressed messages alone: a small one could unpack to a large one.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.max_concurrent_streams", CONNECTION_STREAMS),
        ("grpc.max_allowed_incoming_connections", options.connection_limit),
        ("grpc.server_handshake_timeout_ms", int(options.request_seconds * 1000)),
        ("grpc.max_connection_idle_ms", int(options.idle_seconds * 1000)),
        ("grpc.max_connection_age_ms", CONNECTION_SECONDS * 1000),
        ("grpc.max_connection_age_grace_ms", int(options.request_seconds * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_MS),
    ]


def _metadata(context: Context) -> tuple[bytes, bytes]:
    """Authorization and traceparent of a call, empty where it has none. Raises Refusal."""
    found = {"authorization": b"", "traceparent": b""}
    for key, value in context.invocation_metadata() or ():
        if key in found:
            found[key] = value.encode() if isinstance(value, str) else value
        elif key == TIMEOUT_HEADER.decode():
            raise Refusal(
                400, "timeout", "Over gRPC, a call's own deadline says how long it may take."
            )

    return found["authorization"], found["traceparent"]


def _parsed(method: Method, content: bytes) -> Message:
    try:
        return method.request.FromString(content)
    except DecodeError:
        name = method.request.__name__
        raise Refusal(400, "message", f"The bytes are no {name}.") from None


async def _abort(context: Context, refusal: Refusal) -> None:
    """End a call with a refusal. Raises gRPC's AbortError, always."""
    trailing = [("rule", refusal.rule)]
    if refusal.field is not None:
        # Metadata is ASCII; names of columns need not be.
        trailing.append(("field", refusal.field.encode("ascii", "backslashreplace").decode()))
    if refusal.status in (429, 503):
        trailing.append(("retry-after", str(max(1, round(refusal.wait)))))

    code = CODES.get(refusal.status, grpc.StatusCode.INVALID_ARGUMENT)
    await context.abort(code, refusal.error, tuple(trailing))
