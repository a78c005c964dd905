"""grpc.health.v1: whether the server serves, for load balancers and probes.

Those have no key. Where keys are required, a caller without one is told of the server as a whole,
and its message is never received: nobody unknown may make the server hold what they send. A known
caller may name a service: the server (an empty name), the inference service, or a pipeline. Source:
https://github.com/grpc/grpc/blob/master/doc/health-checking.md. `grpc_health` holds the messages;
its servicer keeps states of its own and forgets other watchers when one of them leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from serving.callers.access import Caller
from serving.contract.refusal import Refusal
from serving.protocols.rpc.methods import SERVICE as INFERENCE
from serving.service import Service

SERVICE = "grpc.health.v1.Health"

WATCHERS = 32
"""Watches at the same time in one worker. A watch stays, so unknown callers must not have many."""

Context: TypeAlias = grpc.aio.ServicerContext
Read = Callable[[Context], Awaitable[bytes]]


class Health:
    """`read` receives the message of a call, within its limits. `poll_seconds` is the time between
    two looks at a state that is watched."""

    def __init__(self, service: Service, read: Read, poll_seconds: float) -> None:
        self._service, self._read, self._poll_seconds = service, read, poll_seconds
        self._watchers = 0

    async def check(self, context: Context, authorization: bytes) -> bytes:
        """The state now. Raises Refusal for a service that is not known here."""
        status = self._status(await self._named(context, authorization))
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            raise Refusal(404, "service", "There is no such service here.")

        return bytes(HealthCheckResponse(status=status).SerializeToString())

    async def watch(self, context: Context, authorization: bytes) -> None:
        """Write the state, and again when it has changed, until the client leaves."""
        if self._watchers >= WATCHERS:
            raise Refusal(429, "watches", f"{WATCHERS} clients watch already; check instead.")

        self._watchers += 1
        try:
            name = await self._named(context, authorization)
            last = None
            while True:
                status = self._status(name)
                if status != last:
                    await context.write(HealthCheckResponse(status=status).SerializeToString())
                last = status
                await asyncio.sleep(self._poll_seconds)
        finally:
            self._watchers -= 1

    async def _named(self, context: Context, authorization: bytes) -> str:
        """The service that a known caller asks for; the server as a whole for others."""
        caller = self._known(authorization)
        if caller is None:
            return ""

        content = await self._read(context)
        try:
            name = str(HealthCheckRequest.FromString(content).service)
        except DecodeError:
            raise Refusal(400, "message", "The bytes are no HealthCheckRequest.") from None

        if name not in ("", INFERENCE):
            caller.permit("metadata", name)
        return name

    def _known(self, authorization: bytes) -> Caller | None:
        try:
            return self._service.access.caller_of(authorization)
        except Refusal:
            return None

    def _status(self, name: str) -> int:
        if name in ("", INFERENCE):
            serving = self._service.ready
        elif name in self._service.pipelines:
            serving = self._service.model_ready(self._service.pipelines[name], None)
        else:
            return int(HealthCheckResponse.SERVICE_UNKNOWN)

        return int(HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)
