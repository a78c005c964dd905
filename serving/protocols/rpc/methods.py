"""The methods of the Open Inference Protocol's service: messages in, messages out, over the
service.

A method whose request says nothing is answered before its message arrives (`reads` is false), and
one that says nothing of the models needs no caller (`open`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
from google.protobuf.message import Message

from serving.callers.calls import Call
from serving.protocols import models, open_inference_pb2 as pb, parameters
from serving.protocols.rpc import messages
from serving.service import Service, check_version, off_loop

SERVICE = "inference.GRPCInferenceService"

Run = Callable[[Any, Call], Awaitable[Message]]


class Method(NamedTuple):
    """A method: its request's type, what answers it, and what it asks of a caller."""

    name: str
    request: type[Message]
    run: Run
    reads: bool = True
    open: bool = False


class Methods:
    """The methods over one worker's service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def table(self) -> list[Method]:
        return [
            Method("ServerLive", pb.ServerLiveRequest, self._live, reads=False, open=True),
            Method("ServerReady", pb.ServerReadyRequest, self._ready, reads=False, open=True),
            Method("ServerMetadata", pb.ServerMetadataRequest, self._server, reads=False),
            Method("ModelReady", pb.ModelReadyRequest, self._model_ready),
            Method("ModelMetadata", pb.ModelMetadataRequest, self._model),
            Method("ModelInfer", pb.ModelInferRequest, self._infer),
            Method("RepositoryIndex", pb.RepositoryIndexRequest, self._index),
        ]

    async def _live(self, request: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, request: pb.ServerReadyRequest, call: Call) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._service.ready)

    async def _server(
        self, request: pb.ServerMetadataRequest, call: Call
    ) -> pb.ServerMetadataResponse:
        call.caller.permit("metadata")
        return pb.ServerMetadataResponse(**models.server())

    async def _model_ready(
        self, request: pb.ModelReadyRequest, call: Call
    ) -> pb.ModelReadyResponse:
        served = self._service.served(request.name, call, "metadata")
        return pb.ModelReadyResponse(
            ready=self._service.model_ready(served, request.version or None)
        )

    async def _model(
        self, request: pb.ModelMetadataRequest, call: Call
    ) -> pb.ModelMetadataResponse:
        view = self._service.view(self._service.served(request.name, call, "metadata"))
        check_version(view, request.version or None)
        return pb.ModelMetadataResponse(**models.metadata(view))

    async def _infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        served = self._service.served(request.model_name, call, "predict")
        view = self._service.view(served)
        check_version(view, request.model_version or None)
        parameters.check_id(request.id)
        call.limit(parameters.seconds(messages.parameters_of(request.parameters)))
        wanted = messages.wanted(request)

        size = request.ByteSize()
        columns = await off_loop(size, messages.columns_of, view.contract, request)
        answers = await self._service.predict(served, view, columns, call)
        return await off_loop(size, messages.response, served.name, request, wanted, answers)

    async def _index(
        self, request: pb.RepositoryIndexRequest, call: Call
    ) -> pb.RepositoryIndexResponse:
        call.caller.permit("metadata")
        index = models.index(self._service, call.caller, ready=request.ready)
        named = [
            pb.RepositoryIndexResponse.ModelIndex(**msgspec.structs.asdict(model))
            for model in index
        ]
        return pb.RepositoryIndexResponse(models=named)
