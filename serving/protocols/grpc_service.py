"""Open Inference Protocol v2 over gRPC, on a port of its own in the worker's process: the same rules, answers, log and figures as REST.

Refusals become status codes, with `rule` and `field` as trailing metadata. Messages are parsed here rather than by gRPC, which
answers bytes that are no message as a failure of the server.
Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_grpc.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from bundle.files import Stamp, stamp
from serving.callers.calls import Call
from serving.contract.contract import Columns, Contract
from serving.contract.refusal import Refusal, unlogged
from serving.http.heading import TIMEOUT_HEADER
from serving.options import Options
from serving.protocols import inference_protocol, open_inference_pb2, openapi, tensors
from serving.protocols.tensors import Tensor
from serving.service import Service, check_served, check_version, off_loop

logger = logging.getLogger("serving")

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND, 413: grpc.StatusCode.INVALID_ARGUMENT, 422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED, 500: grpc.StatusCode.INTERNAL, 503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
SERVICE = "inference.GRPCInferenceService"
# The field of InferTensorContents that holds the values of a datatype; FP16 travels as raw bytes alone.
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
# A connection is renewed after so long, so that one whose message never ends does not stay.
CONNECTION_SECONDS = 600

Method = Callable[[Any, Call], Awaitable[dict[str, Any]]]


class GrpcServer:
    """The gRPC side of one worker. `active` counts the calls that are not answered yet."""

    def __init__(self, service: Service, options: Options) -> None:
        self._service, self._options = service, options
        self.active = 0
        methods: dict[str, Method] = {
            "ServerLive": self._server_live, "ServerReady": self._server_ready, "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready, "ModelMetadata": self._model_metadata, "ModelInfer": self._model_infer,
        }  # fmt: skip
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=options.concurrency,
            options=[
                # Workers share the port: the kernel deals connections out to them.
                ("grpc.so_reuseport", 1), ("grpc.max_receive_message_length", options.body_limit), ("grpc.max_metadata_size", options.header_limit),
                ("grpc.absolute_max_metadata_size", options.header_limit),
                # Uncompressed messages alone: a small one could unpack to a large one.
                ("grpc.compression_enabled_algorithms_bitset", 1),
                ("grpc.max_connection_idle_ms", int(options.idle_seconds * 1000)), ("grpc.max_connection_age_ms", CONNECTION_SECONDS * 1000),
                ("grpc.max_connection_age_grace_ms", int(options.request_seconds * 1000)), ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
            ],
        )  # fmt: skip
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._handler(name, method))
            for name, method in methods.items()
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
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

    # -- one call ------------------------------------------------------------------------------------------------------

    def _handler(
        self, name: str, method: Method
    ) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]:
        asked = getattr(open_inference_pb2, f"{name}Request")
        answered = getattr(open_inference_pb2, f"{name}Response")
        unguarded = name in ("ServerLive", "ServerReady")

        async def handle(content: bytes, context: grpc.aio.ServicerContext) -> bytes:
            call = Call(time.monotonic())
            status = 500
            self.active += 1
            try:
                authorization, call.traceparent = _metadata(context)
                if not unguarded:
                    remaining = context.time_remaining()
                    seconds = None if remaining is None else max(0.0, remaining)
                    self._service.admit(
                        call, authorization, seconds, counted=False
                    )  # `active` counts it
                try:
                    request = asked.FromString(content)
                except DecodeError:
                    raise Refusal(400, "message", f"The bytes are no {name}Request.") from None
                answer: bytes = answered(**await method(request, call)).SerializeToString()
                status = 200
            except Refusal as refusal:
                status = refusal.status
                await _abort(context, refusal)
            except OSError as error:
                logger.error("%s: the prediction log cannot be written: %s", call.pipeline, error)
                self._service.metrics.add("shed_total", ("log",))
                status = 503
                await _abort(context, unlogged())
            except asyncio.CancelledError:
                status = 499  # the client went away, or its time is over; nobody reads the answer
                raise
            except Exception:
                # A fault of ours. The reason goes to the log, not to the client.
                logger.exception("%s %s failed", name, call.pipeline or "request")
                await _abort(
                    context, Refusal(500, "server", "The server failed; its log says why.")
                )
            finally:
                self.active -= 1
                self._service.metrics.of(call.pipeline).answered(
                    status, time.monotonic() - call.start, call.arm
                )
                if self._service.traces is not None and not unguarded:
                    self._service.traces.answered(call, "POST", f"/{SERVICE}/{name}", status)
            return answer

        return handle

    # -- methods -------------------------------------------------------------------------------------------------------

    async def _server_live(self, request: Any, call: Call) -> dict[str, Any]:
        return {"live": True}

    async def _server_ready(self, request: Any, call: Call) -> dict[str, Any]:
        return {"ready": self._service.ready}

    async def _server_metadata(self, request: Any, call: Call) -> dict[str, Any]:
        call.caller.permit("metadata")
        return {"name": "evergreen", "version": openapi.VERSION, "extensions": openapi.EXTENSIONS}

    async def _model_ready(self, request: Any, call: Call) -> dict[str, Any]:
        served = self._service.served(request.name, call, "metadata")
        return {"ready": self._service.model_ready(served, request.version or None)}

    async def _model_metadata(self, request: Any, call: Call) -> dict[str, Any]:
        view = self._service.view(self._service.served(request.name, call, "metadata"))
        check_served(view, request.version or None)
        return tensors.metadata(view.manifest, view.versions)

    async def _model_infer(self, request: Any, call: Call) -> dict[str, Any]:
        service = self._service
        served = service.served(request.model_name, call, "predict")
        view = service.view(served)
        check_version(view, request.model_version or None)
        inference_protocol.check_id(request.id)
        outputs = inference_protocol.wanted([(output.name, {}) for output in request.outputs], {})
        columns = await off_loop(request.ByteSize(), _columns, view.contract, request)
        answers = await service.predict(served, view, columns, call)
        raw = len(request.raw_input_contents) > 0
        described, contents = [], []
        for name in outputs:
            datatype, values = (
                tensors.OUTPUTS[name],
                inference_protocol.output_values(name, answers),
            )
            output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(answers)]}
            if raw:
                contents.append(tensors.raw_output(datatype, values))
            else:
                output["contents"] = {
                    CONTENTS[datatype]: [value.encode() for value in values]
                    if datatype == "BYTES"
                    else values
                }
            described.append(output)
        return {
            "model_name": served.name, "model_version": answers.bundles[0], "id": request.id, "outputs": described, "raw_output_contents": contents,
        }  # fmt: skip


def _metadata(context: grpc.aio.ServicerContext) -> tuple[bytes, bytes]:
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


def _columns(contract: Contract, request: Any) -> Columns:
    """Checked columns of a ModelInferRequest. Raises Refusal."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Refusal(
            422,
            "data",
            "raw_input_contents must hold the bytes of every input, in their order.",
            "raw_input_contents",
        )
    found = []
    for place, tensor in enumerate(request.inputs):
        values = raw[place] if raw else _values(tensor, place)
        if raw and tensor.HasField("contents"):
            raise Refusal(
                422,
                "data",
                "An input must have either contents or raw_input_contents.",
                f"inputs[{place}].contents",
            )
        found.append(Tensor(tensor.name, tensor.datatype, list(tensor.shape), values))
    return tensors.columns_of(contract, found)


def _values(tensor: Any, place: int) -> list[Any]:
    """Values of an input's contents; texts decoded."""
    held = CONTENTS.get(tensor.datatype)
    if any(field.name != held for field, _ in tensor.contents.ListFields()):
        raise Refusal(
            422,
            "data",
            f"The contents must be those of the input's datatype: {held or 'raw_input_contents'}.",
            f"inputs[{place}].contents",
        )
    values = list(getattr(tensor.contents, held)) if held else []
    if held != "bytes_contents":
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        raise Refusal(
            422, "utf-8", "Texts must be UTF-8.", f"inputs[{place}].contents.bytes_contents"
        ) from None


async def _abort(context: grpc.aio.ServicerContext, refusal: Refusal) -> None:
    """End a call with a refusal."""
    trailing = [("rule", refusal.rule)]
    if refusal.field is not None:
        # Metadata is ASCII; names of columns need not be.
        trailing.append(("field", refusal.field.encode("ascii", "backslashreplace").decode()))
    if refusal.status in (429, 503):
        trailing.append(("retry-after", str(max(1, round(refusal.wait)))))
    await context.abort(
        CODES.get(refusal.status, grpc.StatusCode.INVALID_ARGUMENT), refusal.error, tuple(trailing)
    )


class Certificate:
    """The certificate of the gRPC port, read again for the handshake after its files changed."""

    def __init__(self, options: Options) -> None:
        assert options.certificate is not None
        self._certificate, self._key = (
            options.certificate,
            options.private_key or options.certificate,
        )
        self._stamps: list[Stamp | None] = []

    def credentials(self) -> grpc.ServerCredentials:
        configuration = self._configuration()
        assert configuration is not None
        return grpc.dynamic_ssl_server_credentials(
            configuration, self._configuration, require_client_authentication=False
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """None where nothing changed, or where what changed cannot be read: the older one stays."""
        stamps = [stamp(place) for place in (self._certificate, self._key)]
        if stamps == self._stamps:
            return None
        try:
            pair = self._key.read_bytes(), self._certificate.read_bytes()
        except OSError as error:
            logger.error(
                "keeping the older certificate: %s cannot be read (%s)", self._certificate, error
            )
            return None
        self._stamps = stamps
        return grpc.ssl_server_certificate_configuration([pair])
