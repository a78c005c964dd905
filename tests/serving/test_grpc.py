"""The gRPC service: Triton's client gets the answers of the plain route, and refusals are status codes with field and rule."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from bundle.records import reader
from tests.serving.test_access import bearer, certified, keyed
from tests.serving.test_watching import until
from tests.support.endpoint import CONTRACT, DAY, NAME, TREE, Place, Running, request
from tests.support.ports import free_ports
from tests.support.unfinished import Unfinished

REQUESTS = [request(number) for number in range(70)]
KINDS = {
    "string": "BYTES",
    "datetime": "BYTES",
    "float": "FP64",
    "integer": "INT64",
    "boolean": "BOOL",
}
PROTO = "serving/protocols/open_inference.proto"
SERVICE = "/inference.GRPCInferenceService"
INFER = f"{SERVICE}/ModelInfer"
HEALTH = "/grpc.health.v1.Health"
WATCHERS = 32


@dataclass
class Target:
    place: Place
    server: Running
    digest: str
    address: str


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    place = Place.new(tmp_path_factory.mktemp("grpc"))
    digest = place.release()
    [port] = free_ports(1)
    with place.server(
        "--grpc-port", str(port), "--body-limit", "200000", "--row-limit", "300"
    ) as server:
        yield Target(place, server, digest, f"127.0.0.1:{port}")


@pytest.fixture
def client(target: Target) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(target.address) as made:
        yield made


def inputs(requests: list[dict[str, Any]]) -> list[Any]:
    """Inputs of Triton's client, with `.is_null` beside the columns that may be null."""
    found = []
    for name, column in CONTRACT.items():
        values = [row[name] for row in requests]
        filler = {"integer": 0, "datetime": f"{DAY}T00:00:00Z"}.get(column.kind, values[0])
        columns = {
            name: (KINDS[column.kind], [filler if value is None else value for value in values])
        }
        if column.nullable:
            columns[f"{name}.is_null"] = ("BOOL", [value is None for value in values])
        for label, (datatype, filled) in columns.items():
            array = (
                np.array([value.encode() for value in filled], dtype=object)
                if datatype == "BYTES"
                else np.array(filled)
            )
            found.append(
                triton.InferInput(label, [len(requests)], datatype).set_data_from_numpy(array)
            )
    return found


def protoc(*outputs: str) -> None:
    """Compile the server's own .proto, in a process of its own: Triton's client has the same names."""
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, PROTO]
    subprocess.run(command, cwd=TREE, check=True)


def fields(messages: Iterable[Any], prefix: str = "") -> dict[str, tuple[int, int, int, str]]:
    """Number, type, label and message of every field, nested ones too, by its full name."""
    found = {}
    for message in messages:
        name = f"{prefix}{message.name}"
        found |= {
            f"{name}.{field.name}": (field.number, field.type, field.label, field.type_name)
            for field in message.field
        }
        found |= fields(message.nested_type, f"{name}.")
    return found


def plain(target: Target, requests: list[dict[str, Any]]) -> list[float]:
    answer = target.server.client.post(f"/predict/{NAME}", json={"instances": requests})
    return [found["prediction"] for found in answer.json()["predictions"]]


def message(row: dict[str, Any], **changes: Any) -> Any:
    """A request with typed contents instead of raw bytes."""
    held = {
        "BYTES": "bytes_contents",
        "FP64": "fp64_contents",
        "INT64": "int64_contents",
        "BOOL": "bool_contents",
    }
    made = service_pb2.ModelInferRequest(model_name=NAME, **changes)
    for name, column in CONTRACT.items():
        datatype = KINDS[column.kind]
        if row[name] is None:
            made.inputs.add(
                name=f"{name}.is_null", datatype="BOOL", shape=[1]
            ).contents.bool_contents.append(True)
        tensor = made.inputs.add(name=name, datatype=datatype, shape=[1])
        value = (
            {"INT64": 0, "BYTES": f"{DAY}T00:00:00Z"}[datatype] if row[name] is None else row[name]
        )
        getattr(tensor.contents, held[datatype]).append(
            value.encode() if isinstance(value, str) else value
        )
    return made


def test_the_messages_are_those_of_the_published_service() -> None:
    with tempfile.NamedTemporaryFile() as written:
        protoc(f"--descriptor_set_out={written.name}")
        [ours] = FileDescriptorSet.FromString(Path(written.name).read_bytes()).file
    theirs = FileDescriptorProto()
    service_pb2.DESCRIPTOR.CopyToProto(theirs)

    published = fields(theirs.message_type)
    assert {name: published.get(name) for name in fields(ours.message_type)} == fields(
        ours.message_type
    )
    methods = {
        found.name: (found.input_type, found.output_type) for found in theirs.service[0].method
    }
    assert {found.name for found in ours.service[0].method} >= {"ModelInfer", "RepositoryIndex"}
    for method in ours.service[0].method:
        assert methods[method.name] == (method.input_type, method.output_type)


def test_the_stubs_are_what_the_compiler_writes(tmp_path: Path) -> None:
    protoc(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}")
    for name in ("open_inference_pb2.py", "open_inference_pb2.pyi"):
        written = (tmp_path / "serving/protocols" / name).read_text()
        assert (TREE / "serving/protocols" / name).read_text() == written, "run `make stubs`"


def test_tritons_client_reads_state_and_metadata(
    client: triton.InferenceServerClient, target: Target
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, target.digest)
    assert not client.is_model_ready(NAME, "0" * 64)
    assert client.get_server_metadata().name == "evergreen"
    metadata = client.get_model_metadata(NAME)
    assert list(metadata.versions) == [target.digest]
    assert {found.name: found.datatype for found in metadata.inputs} == {
        name: KINDS[column.kind] for name, column in CONTRACT.items()
    }


def test_tritons_client_gets_the_plain_answers_and_they_are_logged(
    client: triton.InferenceServerClient, target: Target
) -> None:
    answer = client.infer(NAME, inputs(REQUESTS), request_id="mine", model_version=target.digest)
    assert (answer.get_response().id, answer.get_response().model_version) == (
        "mine",
        target.digest,
    )
    assert answer.as_numpy("prediction").tolist() == plain(target, REQUESTS)
    stored = {record.id: record for record in reader.read(target.place.predictions, DAY).records}
    ids = [found.decode() for found in answer.as_numpy("prediction_id").tolist()]
    assert [stored[found].entity for found in ids] == [row["order_id"] for row in REQUESTS]
    only = client.infer(
        NAME, inputs(REQUESTS[:2]), outputs=[triton.InferRequestedOutput("prediction")]
    )
    assert [output.name for output in only.get_response().outputs] == ["prediction"]


def test_typed_contents_are_answered_with_typed_contents(target: Target) -> None:
    with grpc.insecure_channel(target.address) as channel:
        infer = channel.unary_unary(
            INFER, service_pb2.ModelInferRequest.SerializeToString, service_pb2.ModelInferResponse.FromString
        )  # fmt: skip
        for row in (request(4), request(7), request(6)):
            answer = infer(message(row, id="a"))
            assert list(answer.outputs[0].contents.fp64_contents) == plain(target, [row])
            assert not answer.raw_output_contents
            assert answer.id == "a"


def test_refusals_are_status_codes_with_field_and_rule(
    client: triton.InferenceServerClient, target: Target
) -> None:
    secret = "s3cret-value"
    wrong = {**REQUESTS[4], "method": secret}
    codes = grpc.StatusCode

    def refused(content: bytes) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
        with (
            grpc.insecure_channel(target.address) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            channel.unary_unary(INFER)(content)
        error: Any = caught.value
        assert secret not in f"{error.details()} {error.trailing_metadata()}"
        return (
            error.code(),
            error.details(),
            {found.key: found.value for found in error.trailing_metadata() or ()},
        )

    code, details, trailing = refused(message(wrong).SerializeToString())
    assert (code, trailing["field"]) == (codes.INVALID_ARGUMENT, "method[0]")
    assert "values" in trailing["rule"]
    assert "card, cash, coin" in details
    two = message(REQUESTS[4])
    two.raw_input_contents.append(b"x")
    other = message(REQUESTS[4])
    other.inputs[0].contents.fp64_contents.append(1)
    unknown = message(REQUESTS[4])
    unknown.model_name = "other"
    nan = message({**REQUESTS[4], "amount": float("nan")})
    for content, expected, rule in (
        (b"\xff\xff", codes.INVALID_ARGUMENT, "message"), (message(REQUESTS[4], model_version="x").SerializeToString(), codes.NOT_FOUND, "version"),
        (two.SerializeToString(), codes.INVALID_ARGUMENT, "data"), (other.SerializeToString(), codes.INVALID_ARGUMENT, "data"),
        (unknown.SerializeToString(), codes.NOT_FOUND, "pipeline"), (nan.SerializeToString(), codes.INVALID_ARGUMENT, "float"),
        (message(REQUESTS[4], id="x" * 201).SerializeToString(), codes.INVALID_ARGUMENT, "id"),
    ):  # fmt: skip
        code, _, trailing = refused(content)
        assert (code, rule in trailing["rule"]) == (expected, True), trailing
    # Compressed messages are not unpacked, whatever they hold.
    with grpc.insecure_channel(target.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(INFER)(
            message(REQUESTS[4]).SerializeToString(), compression=grpc.Compression.Gzip
        )
    unpacked: Any = caught.value
    assert unpacked.code() == codes.UNIMPLEMENTED
    assert refused(b"x" * 300_000)[0] == codes.RESOURCE_EXHAUSTED
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        client.infer(NAME, inputs(REQUESTS), client_timeout=1e-6)
    with pytest.raises(InferenceServerException, match="more than 300 rows"):
        client.infer(NAME, inputs(REQUESTS * 5))
    assert client.infer(NAME, inputs(REQUESTS[:1])).as_numpy("prediction").tolist() == plain(
        target, REQUESTS[:1]
    )


def test_a_port_that_is_taken_is_said_at_once(target: Target) -> None:
    port = target.address.partition(":")[2]
    with (
        pytest.raises(
            AssertionError,
            match=f"cannot listen on 127.0.0.1 port {port} .*give another --grpc-port",
        ),
        target.place.server("--grpc-port", port),
    ):
        pass


def test_keys_and_tls_hold_here_too_and_workers_share_the_port(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    [port] = free_ports(1)
    key = keyed(place)
    certificate, private = certified(tmp_path)
    secured = ("--tls-certificate", str(certificate), "--tls-key", str(private))
    with (
        place.server(
            "--grpc-port", str(port), "--workers", "2", *secured, key=key, certificate=certificate
        ),
        triton.InferenceServerClient(
            f"127.0.0.1:{port}", ssl=True, root_certificates=str(certificate)
        ) as client,
    ):
        place.wait_for_workers(2)
        assert client.is_server_live()
        for headers in ({}, bearer("no-such-key")):
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                client.infer(NAME, inputs(REQUESTS[:1]), headers=headers)
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                client.get_model_metadata(NAME, headers=headers)
        answer = client.infer(NAME, inputs(REQUESTS[:3]), headers=bearer(key))
        assert len(answer.as_numpy("prediction")) == 3
        with (
            triton.InferenceServerClient(f"127.0.0.1:{port}") as plainly,
            pytest.raises(InferenceServerException, match="UNAVAILABLE"),
        ):
            plainly.is_server_live()


def counted(text: str, sample: str) -> float:
    """The number of a sample in the text of /metrics."""
    lines = [line for line in text.splitlines() if line.startswith(f"{sample} ")]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


def test_no_message_is_received_of_unknown_callers_and_none_that_never_ends(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    [port] = free_ports(1)
    key = keyed(place)
    address = f"127.0.0.1:{port}"
    with place.server("--grpc-port", str(port), "--request-seconds", "2", key=key) as server:
        paths = [INFER] * 6 + [f"{HEALTH}/Check", f"{SERVICE}/ServerLive"]
        strangers = [Unfinished(address, path, 15 << 20) for path in paths]
        for call in strangers:
            call.send()
            call.wait()
            assert call.sent < 15 << 20, "a whole message was received of somebody unknown"
            call.close()

        known = [
            Unfinished(address, path, 15 << 20, bearer(key)) for path in (INFER, f"{HEALTH}/Check")
        ]
        for call in known:
            call.send()
            call.wait()
            call.close()

        text = server.admin.get("/metrics").text
        assert counted(text, 'evergreen_unauthorized_total{reason="key_missing"}') == 6
        assert counted(text, 'evergreen_requests_total{pipeline="",status="401"}') == 6
        assert counted(text, 'evergreen_requests_total{pipeline="",status="408"}') == 1


def test_a_server_under_unfinished_calls_answers_others(target: Target) -> None:
    # One connection has a limited number of streams; these are of one connection each.
    waiting = [Unfinished(target.address, INFER, 100_000) for _ in range(20)]
    for call in waiting:
        call.send()
    with triton.InferenceServerClient(target.address) as client:
        answer = client.infer(NAME, inputs(REQUESTS[:2]))
        assert len(answer.as_numpy("prediction")) == 2
    for call in waiting:
        call.close()


def test_parameters_are_read(client: triton.InferenceServerClient, target: Target) -> None:
    def refused(made: Any) -> str:
        with (
            grpc.insecure_channel(target.address) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            channel.unary_unary(INFER)(made.SerializeToString())
        error: Any = caught.value
        trailing = {found.key: found.value for found in error.trailing_metadata()}
        return f"{error.code().name} {trailing['rule']} {trailing.get('field')}"

    def infer(made: Any) -> Any:
        with grpc.insecure_channel(target.address) as channel:
            content = channel.unary_unary(INFER)(made.SerializeToString())
        return service_pb2.ModelInferResponse.FromString(content)

    classes = triton.InferRequestedOutput("prediction", class_count=2)
    with pytest.raises(InferenceServerException, match="classification is not supported"):
        client.infer(NAME, inputs(REQUESTS[:1]), outputs=[classes])
    with pytest.raises(InferenceServerException, match="sequence_id is not supported"):
        client.infer(NAME, inputs(REQUESTS[:1]), sequence_id=7)
    with pytest.raises(InferenceServerException, match="time was over"):
        client.infer(NAME, inputs(REQUESTS[:1]), timeout=1)
    assert len(client.infer(NAME, inputs(REQUESTS[:1]), timeout=10_000_000).as_numpy("ood")) == 1

    shared = message(REQUESTS[4])
    shared.inputs[0].parameters["shared_memory_region"].string_param = "mine"
    assert refused(shared) == (
        "INVALID_ARGUMENT parameter inputs[0].parameters.shared_memory_region"
    )
    endless = message(REQUESTS[4])
    endless.parameters["timeout"].string_param = "soon"
    assert refused(endless) == "INVALID_ARGUMENT timeout parameters.timeout"

    # Hints that change nothing are ignored, and outputs may be raw where the inputs are not.
    raw = message(REQUESTS[4])
    raw.parameters["content_type"].string_param = "pd"
    raw.parameters["binary_data_output"].bool_param = True
    answer = infer(raw)
    assert len(answer.raw_output_contents) == len(answer.outputs) == 4
    assert np.frombuffer(answer.raw_output_contents[0]).tolist() == plain(target, [REQUESTS[4]])
    mixed = message(REQUESTS[4])
    mixed.outputs.add(name="prediction").parameters["binary_data"].bool_param = True
    mixed.outputs.add(name="ood").parameters["binary_data"].bool_param = False
    assert refused(mixed) == "INVALID_ARGUMENT outputs outputs"


def test_the_repository_index_lists_what_can_be_asked_for(
    client: triton.InferenceServerClient, target: Target
) -> None:
    [model] = client.get_model_repository_index().models
    assert (model.name, model.version, model.state) == (NAME, target.digest, "READY")
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        client.unload_model(NAME)


def test_probes_ask_for_health_without_a_key(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    digest = place.install()
    [port] = free_ports(1)
    key = keyed(place)
    serving = health_pb2.HealthCheckResponse
    with (
        place.server("--grpc-port", str(port), ready=False, key=key) as server,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watched = health.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        assert next(watched).status == serving.NOT_SERVING
        assert health.Check(health_pb2.HealthCheckRequest()).status == serving.NOT_SERVING

        place.publish()
        place.desire((digest, 1.0))
        assert next(watched).status == serving.SERVING
        assert health.Check(health_pb2.HealthCheckRequest()).status == serving.SERVING

        # Only a known caller learns which pipelines there are; others hear of the whole server.
        metadata = [("authorization", f"Bearer {key}")]
        named = health_pb2.HealthCheckRequest(service=NAME)
        assert health.Check(named, metadata=metadata).status == serving.SERVING
        other = health_pb2.HealthCheckRequest(service="other")
        assert health.Check(other).status == serving.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(other, metadata=metadata)
        refused: Any = caught.value
        assert refused.code() == grpc.StatusCode.NOT_FOUND
        unknown = health.Watch(other, metadata=metadata)
        assert next(unknown).status == serving.SERVICE_UNKNOWN

        watched.cancel()
        unknown.cancel()
        assert server.stop() == 0


def test_watches_are_few_and_make_room_again(target: Target) -> None:
    request = health_pb2.HealthCheckRequest()
    with grpc.insecure_channel(target.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(request) for _ in range(WATCHERS)]
        assert {next(watch).status for watch in watches} == {1}
        with pytest.raises(grpc.RpcError) as caught:
            next(health.Watch(request))
        refused: Any = caught.value
        assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert health.Check(request).status == 1

        for watch in watches:
            watch.cancel()
        # The server hears of it a moment later.
        until(lambda: _watches(health, request), "room for another watch")


def _watches(health: Any, request: Any) -> bool:
    watch = health.Watch(request)
    try:
        return next(watch).status == 1
    except grpc.RpcError:
        return False
    finally:
        watch.cancel()
