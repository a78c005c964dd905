"""Thousands of generated requests, in every encoding: what breaks the contract is refused, and nothing makes the server fail or grow.

schemathesis makes requests that break the OpenAPI description; Hypothesis breaks a valid request in one way at a time, so that
each reaches the rule it is meant for.
"""

from __future__ import annotations

import http.client
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import psutil
import pyarrow as pa
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from tritonclient.grpc import service_pb2

from tests.support.endpoint import CONTRACT, NAME, Place, request
from tests.support.ports import free_ports

logger = logging.getLogger(__name__)

GOOD = request(4)
PREDICT, INFER, EXPLAIN = f"/predict/{NAME}", f"/v2/models/{NAME}/infer", f"/explain/{NAME}"
GRPC = "/inference.GRPCInferenceService/ModelInfer"
REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
JSON, ARROW, BINARY = (
    "application/json",
    "application/vnd.apache.arrow.stream",
    "application/octet-stream",
)
HEADER = "inference-header-content-length"
SECRET = "s3cret-value"
# Bodies broken by Hypothesis in one example: drawing is dear, sending is not.
TOGETHER = 5
GROWTH = 100 << 20
Sent = tuple[str, bytes, dict[str, str]]


@dataclass
class Sender:
    """Sends bodies on one connection and keeps count of the answers."""

    port: int
    statuses: Counter[int | str] = field(default_factory=Counter)
    infer: grpc.UnaryUnaryMultiCallable | None = None
    connection: http.client.HTTPConnection | None = None

    def send(self, path: str, body: bytes, headers: dict[str, str]) -> int:
        """The status of the answer, which must be a success or a refusal that repeats nothing secret."""
        if path == GRPC:
            return self.call(body)
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        self.connection.request("POST", path, body, headers)
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.will_close:
            self.connection.close()
        self.statuses[answer.status] += 1
        if answer.status != 200:
            assert 400 <= answer.status < 500, (answer.status, content)
            assert set(json.loads(content)) == {"error", "field", "rule"}, content
            assert SECRET.encode() not in content
        return answer.status

    def call(self, message: bytes) -> int:
        """The same over gRPC."""
        assert self.infer is not None
        call: Any = None
        try:
            self.infer(message, timeout=20)
        except grpc.RpcError as error:
            call = error
        if call is None:
            self.statuses[200] += 1
            return 200
        assert call.code() in REFUSALS, call
        assert SECRET not in f"{call.details()} {call.trailing_metadata()}"
        self.statuses[call.code().name] += 1
        return 400

    def refused(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        status = self.send(path, body, headers)
        assert status != 200, (path, headers, body[:1000])


@dataclass
class Target:
    process: psutil.Process
    sender: Sender
    description: dict[str, Any]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server of its own, whose memory is looked at before and after."""
    place = Place.new(tmp_path_factory.mktemp("generated"))
    place.release()
    [port] = free_ports(1)
    with (
        place.server(
            "--body-limit", "200000", "--row-limit", "300", "--grpc-port", str(port)
        ) as server,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        sender = Sender(server.client.base_url.port or 0, infer=channel.unary_unary(GRPC))
        # What is loaded with the first request of a kind is no growth.
        for path, body, headers in (
            json_request(GOOD),
            raw_request(tensors()),
            arrow_request(columns()),
            (EXPLAIN, *json_request(GOOD)[1:]),
        ):
            for _ in range(50):
                assert sender.send(path, body, headers) == 200, path
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        yield Target(process, sender, server.admin.get("/openapi.json").json())
        assert server.process.poll() is None
        assert sender.send(*json_request(GOOD)) == 200
        assert process.memory_info().rss - before < GROWTH
        logger.info(
            "%d requests: %s; %d KiB more",
            sum(sender.statuses.values()),
            sender.statuses,
            (process.memory_info().rss - before) >> 10,
        )


def many(examples: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )  # fmt: skip


# -- valid requests, ready to be broken --------------------------------------------------------------------------------


def json_request(value: Any) -> Sent:
    return PREDICT, json.dumps(value).encode("utf-8", "surrogatepass"), {"content-type": JSON}


def tensors(row: dict[str, Any] = GOOD, rows: int = 2) -> list[dict[str, Any]]:
    """Input tensors of the protocol: JSON values under `data`, from which `raw_request` makes bytes."""
    kinds = {
        "string": "BYTES",
        "datetime": "BYTES",
        "float": "FP64",
        "integer": "INT64",
        "boolean": "BOOL",
    }
    return [
        {"name": name, "shape": [rows], "datatype": kinds[CONTRACT[name].kind], "data": [row[name]] * rows}
        for name in CONTRACT if row[name] is not None
    ] + [
        {"name": name, "shape": [rows], "datatype": kinds[CONTRACT[name].kind], "data": [None] * rows} for name in CONTRACT if row[name] is None
    ]  # fmt: skip


def raw(values: list[Any], datatype: str) -> bytes:
    if datatype == "BYTES":
        contents = [
            value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
            for value in values
        ]
        return b"".join(len(content).to_bytes(4, "little") + content for content in contents)
    return np.array(values, dtype={"FP64": "<f8", "INT64": "<i8", "BOOL": "?"}[datatype]).tobytes()


def raw_request(
    inputs: list[dict[str, Any]],
    sizes: dict[int, int] | None = None,
    header: str | None = None,
    tail: bytes = b"",
) -> Sent:
    """A body of the binary extension; columns of nulls stay JSON. `sizes` tells of some tensors another size than they have."""
    described, contents = [], []
    for place, tensor in enumerate(inputs):
        if not isinstance(tensor["data"], list) or None in tensor["data"]:
            described.append(tensor)
            continue
        contents.append(raw(tensor["data"], tensor["datatype"]))
        size = len(contents[-1]) + (sizes or {}).get(place, 0)
        described.append(
            {name: tensor[name] for name in ("name", "shape", "datatype")}
            | {"parameters": {"binary_data_size": size}}
        )
    text = json.dumps({"inputs": described}).encode()
    return (
        INFER,
        b"".join([text, *contents, tail]),
        {"content-type": BINARY, HEADER: header or str(len(text))},
    )


def columns(row: dict[str, Any] = GOOD, rows: int = 2) -> dict[str, pa.Array]:
    kinds = {
        "string": pa.string(),
        "float": pa.float64(),
        "integer": pa.int64(),
        "boolean": pa.bool_(),
        "datetime": pa.string(),
    }
    return {name: pa.array([row[name]] * rows, kinds[CONTRACT[name].kind]) for name in CONTRACT}


def arrow_request(named: dict[str, pa.Array] | list[tuple[str, pa.Array]]) -> Sent:
    pairs = list(named.items()) if isinstance(named, dict) else named
    batch = pa.record_batch([array for _, array in pairs], names=[name for name, _ in pairs])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return PREDICT, sink.getvalue().to_pybytes(), {"content-type": ARROW}


def grpc_request(made: service_pb2.ModelInferRequest) -> Sent:
    return GRPC, made.SerializeToString(), {}


def grpc_message(inputs: list[dict[str, Any]]) -> service_pb2.ModelInferRequest:
    """A request with typed contents; columns of nulls are told by a tensor beside them."""
    held = {
        "BYTES": "bytes_contents",
        "FP64": "fp64_contents",
        "INT64": "int64_contents",
        "BOOL": "bool_contents",
    }
    made = service_pb2.ModelInferRequest(model_name=NAME)
    for tensor in inputs:
        values = tensor["data"]
        if None in values:
            made.inputs.add(
                name=f"{tensor['name']}.is_null", datatype="BOOL", shape=tensor["shape"]
            ).contents.bool_contents.extend([True] * len(values))
            values = [GOOD["event_time"] if tensor["datatype"] == "BYTES" else 0] * len(values)
        added = made.inputs.add(
            name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"]
        )
        encoded = [value.encode() if isinstance(value, str) else value for value in values]
        getattr(added.contents, held[tensor["datatype"]]).extend(encoded)
    return made


VALID = [
    json_request(GOOD), (INFER, json.dumps({"inputs": tensors()}).encode(), {"content-type": JSON}), raw_request(tensors()), arrow_request(columns()),
    grpc_request(grpc_message(tensors())),
]  # fmt: skip


# -- ways to break them ------------------------------------------------------------------------------------------------

junk = st.lists(st.integers(), max_size=3) | st.dictionaries(
    st.text(max_size=5), st.none(), max_size=2
)
texts = st.sampled_from(
    [SECRET, "", "NaN", "1e5", "null", "2024-13-45T99:99:99Z", "\x00", "x" * 2000]
)
WRONG: dict[str, st.SearchStrategy[Any]] = {
    "order_id": st.none() | st.booleans() | st.integers() | junk | st.sampled_from(["", SECRET.upper(), "a b", "é", "a\n", "x" * 2000]),
    "shop": st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | junk | st.text("xyz", min_size=1001, max_size=1005),
    "method": st.none() | st.booleans() | st.integers() | junk | texts,
    "amount": st.none() | st.booleans() | junk | texts | st.floats(max_value=-1e-9) | st.floats(min_value=1000.001) | st.just(float("nan")),
    "items": st.booleans() | junk | texts | st.integers(max_value=-1) | st.integers(min_value=51) | st.sampled_from([1.5, -0.5, 1e300, float("nan"), float("-inf")]),
    "express": st.none() | st.integers() | st.floats() | junk | texts,
    "promised": st.booleans() | st.integers() | st.floats() | junk | texts,
    "event_time": st.none() | st.booleans() | st.integers() | st.floats() | junk | texts | st.sampled_from(["1899-12-31T23:59:59Z", "2200-01-01T00:00:00Z", "2024-01-10T10:00:00"]),
}  # fmt: skip
names = st.sampled_from(list(CONTRACT))
wrong_values = names.flatmap(lambda name: st.tuples(st.just(name), WRONG[name]))


@st.composite
def wrong_rows(draw: st.DrawFn) -> str:
    """JSON text of one row that breaks the contract in one way."""
    way = draw(st.sampled_from(["value", "value", "value", "missing", "unknown", "duplicate"]))
    if way == "value":
        name, value = draw(wrong_values)
        return json.dumps(GOOD | {name: value})
    name = draw(names)
    if way == "missing":
        return json.dumps({column: value for column, value in GOOD.items() if column != name})
    if way == "unknown":
        return json.dumps(
            GOOD
            | {draw(st.text(min_size=1, max_size=12).filter(lambda text: text not in GOOD)): SECRET}
        )
    return (
        json.dumps(GOOD)[:-1]
        + f", {json.dumps(name)}: {json.dumps(draw(st.just(GOOD[name]) | junk))}}}"
    )


@st.composite
def wrong_json(draw: st.DrawFn) -> Sent:
    row = draw(wrong_rows())
    good = json.dumps(GOOD)
    shape = draw(
        st.sampled_from(
            [
                "{row}",
                '{{"instances": [{row}]}}',
                '{{"instances": [{good}, {row}]}}',
                '{{"instances": [{row}, {good}, {good}]}}',
            ]
        )
    )
    path = draw(st.sampled_from([PREDICT, PREDICT, EXPLAIN]))
    return (
        path,
        shape.format(row=row, good=good).encode("utf-8", "surrogatepass"),
        {"content-type": JSON},
    )


@st.composite
def wrong_texts(draw: st.DrawFn) -> Sent:
    """Bodies that are no JSON, or not in UTF-8."""
    text = json.dumps(GOOD)
    broken = draw(st.sampled_from([
        lambda: text[: draw(st.integers(0, len(text) - 1))].encode(), lambda: text.encode("utf-16"), lambda: b"\xef\xbb\xbf" + text.encode(),
        lambda: text.replace("order-4", "order-\xe9").encode("latin-1"), lambda: (text + draw(st.text("]},:5", min_size=1, max_size=4))).encode(),
        lambda: text.replace("order-4", draw(st.sampled_from(["\x01", "\\ud800", "\\x", "\n"]))).encode(), lambda: draw(st.binary(max_size=40)),
        lambda: ("[" * draw(st.integers(1, 5000))).encode(), lambda: text.replace("}", ", }").encode(), lambda: text.replace('"', "'").encode(),
        lambda: json.dumps(draw(junk | st.none() | st.integers() | st.text(max_size=9))).encode(), lambda: b'{"instances": ' + text.encode() + b"}",
    ]))()  # fmt: skip
    return draw(st.sampled_from([PREDICT, INFER, EXPLAIN])), broken, {"content-type": JSON}


@st.composite
def wrong_tensors(draw: st.DrawFn) -> Sent:
    """An inference whose inputs are not those of the contract, as JSON."""
    inputs = tensors()
    place = draw(st.integers(0, len(inputs) - 1))
    tensor = inputs[place]
    way = draw(
        st.sampled_from(
            [
                "value",
                "value",
                "shape",
                "datatype",
                "data",
                "missing",
                "duplicate",
                "unknown",
                "outputs",
                "parameters",
                "id",
                "inputs",
            ]
        )
    )
    whole: dict[str, Any] = {"inputs": inputs}
    match way:
        case "value":
            value = draw(WRONG[tensor["name"]])
            inputs[place] = tensor | {"data": [tensor["data"][0], value]}
        case "shape":
            inputs[place] = tensor | {
                "shape": draw(
                    st.sampled_from(
                        [
                            [],
                            [1],
                            [3],
                            [-1],
                            [2, 2],
                            [1, 2],
                            [2, 1, 1],
                            ["2"],
                            [2.5],
                            None,
                            2,
                            [2**70],
                            [True, 2],
                        ]
                    )
                )
            }
        case "datatype":
            inputs[place] = tensor | {
                "datatype": draw(st.sampled_from(["FP8", "", SECRET, None, 5, "bytes", "BF16"]))
            }
        case "data":
            inputs[place] = tensor | {
                "data": draw(
                    st.sampled_from(
                        [
                            None,
                            [],
                            tensor["data"][:1],
                            tensor["data"] * 2,
                            {},
                            SECRET,
                            [tensor["data"]],
                            5,
                        ]
                    )
                )
            }
        case "missing":
            del inputs[place]
        case "duplicate":
            inputs.append(tensor)
        case "unknown":
            inputs.append(tensor | {"name": draw(st.text(max_size=9))})
        case "outputs":
            whole["outputs"] = draw(
                st.sampled_from(
                    [
                        [{"name": SECRET}],
                        [{"name": "prediction"}] * 2,
                        [{}],
                        5,
                        [{"name": "prediction", "parameters": {"binary_data": 1}}],
                    ]
                )
            )
        case "parameters":
            whole["parameters"] = draw(
                st.sampled_from([5, [], {"binary_data_output": "yes"}, {"x": [1]}, {"x": None}])
            )
        case "id":
            whole["id"] = draw(st.sampled_from([5, "x" * 201, [], {}]))
        case "inputs":
            whole = draw(
                st.sampled_from(
                    [
                        {},
                        {"inputs": []},
                        {"inputs": 5},
                        {"inputs": [5]},
                        {**whole, SECRET: 1},
                        {"inputs": None},
                        {"inputs": inputs * 2},
                    ]
                )
            )
    return INFER, json.dumps(whole).encode("utf-8", "surrogatepass"), {"content-type": JSON}


@st.composite
def wrong_bytes(draw: st.DrawFn) -> Sent:
    """A body of the binary extension that breaks it, or the contract."""
    inputs = tensors()
    by_name = {tensor["name"]: tensor for tensor in inputs}
    sent = [place for place, tensor in enumerate(inputs) if None not in tensor["data"]]
    way = draw(
        st.sampled_from(
            [
                "size",
                "header",
                "tail",
                "number",
                "whole",
                "text",
                "cut",
                "boolean",
                "shape",
                "length",
            ]
        )
    )
    match way:
        case "size":
            return raw_request(
                inputs,
                sizes={draw(st.sampled_from(sent)): draw(st.integers(-8, 10**12).filter(bool))},
            )
        case "header":
            return raw_request(
                inputs,
                header=draw(
                    st.sampled_from(["-1", "0", "1", "99999999", "1e3", "9" * 40, SECRET, "\xb2"])
                ),
            )
        case "tail":
            return raw_request(inputs, tail=draw(st.binary(min_size=1, max_size=30)))
        case "number":
            by_name["amount"]["data"] = [
                1.0,
                draw(
                    st.floats(max_value=-1e-9)
                    | st.floats(min_value=1000.001)
                    | st.just(float("nan"))
                ),
            ]
        case "whole":
            by_name["items"]["data"] = [
                1,
                draw(st.integers(-(2**63), -1) | st.integers(51, 2**63 - 1)),
            ]
        case "text":
            by_name[draw(st.sampled_from(["order_id", "method", "event_time"]))]["data"] = [
                "card",
                draw(st.binary(max_size=30).map(lambda found: b"\xff" + found)),
            ]
        case "cut":
            path, body, headers = raw_request(inputs)
            return path, body[: -draw(st.integers(1, 60))], headers
        case "boolean":
            path, body, headers = raw_request(
                [*[tensor for tensor in inputs if tensor["name"] != "express"], by_name["express"]]
            )
            return path, body[:-1] + bytes([draw(st.integers(2, 255))]), headers
        case "shape":
            by_name[draw(names.filter(lambda name: name in by_name))]["shape"] = draw(
                st.sampled_from([[3], [1], [2**62], [-2], []])
            )
        case "length":
            # The length before a text, in the bytes themselves.
            path, body, headers = raw_request(
                [*[tensor for tensor in inputs if tensor["name"] != "shop"], by_name["shop"]]
            )
            size = len(raw(by_name["shop"]["data"], "BYTES"))
            return (
                path,
                body[:-size]
                + draw(st.integers(10**3, 2**32 - 1)).to_bytes(4, "little")
                + body[-size + 4 :],
                headers,
            )
    return raw_request(inputs)


@st.composite
def wrong_streams(draw: st.DrawFn) -> Sent:
    """An Arrow stream whose columns or values break the contract."""
    named = columns()
    name = draw(names)
    way = draw(
        st.sampled_from(
            ["value", "value", "type", "missing", "duplicate", "unknown", "null", "rows"]
        )
    )
    match way:
        case "value":
            name = draw(st.sampled_from(["order_id", "method", "amount", "items", "event_time"]))
            kind = {"amount": float, "items": int}.get(name, str)
            value = draw(
                WRONG[name].filter(
                    lambda found: type(found) is kind and (kind is not int or abs(found) < 2**63)
                )
            )
            named[name] = pa.array([GOOD[name], value], named[name].type)
        case "type":
            wrong: pa.Array = draw(
                st.sampled_from(
                    [
                        pa.array([b"x", b"y"]),
                        pa.array([[1], [2]]),
                        pa.array([{"a": 1}, {"a": 2}]),
                        pa.array([1, 2], pa.date32()),
                        pa.array([1, 2], pa.timestamp("us")),
                        pa.array([1, 2], pa.duration("s")),
                    ]
                )
            )
            named[name] = wrong
        case "missing":
            del named[name]
        case "duplicate":
            return arrow_request([*named.items(), (name, named[name])])
        case "unknown":
            named[draw(st.text(max_size=12).filter(lambda text: text not in CONTRACT))] = named[
                name
            ]
        case "null":
            name = draw(
                st.sampled_from(
                    [column for column, found in CONTRACT.items() if not found.nullable]
                )
            )
            named[name] = pa.array([GOOD[name], None], named[name].type)
        case "rows":
            return arrow_request(columns(rows=draw(st.sampled_from([0, 301, 400]))))
    return arrow_request(named)


@st.composite
def wrong_messages(draw: st.DrawFn) -> Sent:
    """A gRPC request whose tensors are not those of the contract, or no message at all."""
    inputs = tensors()
    by_name = {tensor["name"]: tensor for tensor in inputs}
    way = draw(
        st.sampled_from(
            [
                "number",
                "whole",
                "text",
                "name",
                "datatype",
                "shape",
                "missing",
                "duplicate",
                "contents",
                "raw",
                "model",
                "outputs",
                "bytes",
            ]
        )
    )
    match way:
        case "number":
            by_name["amount"]["data"] = [
                1.0,
                draw(
                    st.floats(max_value=-1e-9)
                    | st.floats(min_value=1000.001)
                    | st.just(float("nan"))
                ),
            ]
        case "whole":
            by_name["items"]["data"] = [
                1,
                draw(st.integers(-(2**63), -1) | st.integers(51, 2**63 - 1)),
            ]
        case "text":
            by_name[draw(st.sampled_from(["order_id", "method", "event_time"]))]["data"] = [
                "card",
                draw(st.binary(max_size=30).map(lambda found: b"\xff" + found)),
            ]
    made = grpc_message(inputs)
    place = draw(st.integers(0, len(made.inputs) - 1))
    tensor = made.inputs[place]
    match way:
        case "name":
            tensor.name = draw(st.text(max_size=9).filter(lambda text: text not in CONTRACT))
        case "datatype":
            tensor.datatype = draw(st.sampled_from(["", "FP8", "BF16", SECRET]))
        case "shape":
            del tensor.shape[:]
            tensor.shape.extend(
                draw(st.sampled_from([[], [1], [3], [-1], [2, 2], [2, 1, 1], [2**62], [0]]))
            )
        case "missing":
            del made.inputs[place]
            if tensor.name.endswith(".is_null"):
                return GRPC, b"\xff", {}
        case "duplicate":
            made.inputs.add().CopyFrom(tensor)
        case "contents":
            tensor.contents.fp32_contents.append(1.0)
        case "raw":
            made.raw_input_contents.extend(
                draw(st.lists(st.binary(max_size=9), min_size=1, max_size=9))
            )
        case "model":
            made.model_name = draw(st.text(max_size=9).filter(lambda text: text != NAME))
        case "outputs":
            made.outputs.add(name=SECRET)
        case "bytes":
            return GRPC, b"\xff" + draw(st.binary(max_size=60)), {}
    return grpc_request(made)


# -- the tests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "examples"),
    [
        (wrong_json(), 300),
        (wrong_texts(), 120),
        (wrong_tensors(), 240),
        (wrong_bytes(), 200),
        (wrong_streams(), 200),
        (wrong_messages(), 160),
    ],
    ids=["json", "texts", "tensors", "bytes", "arrow", "grpc"],
)
def test_whatever_breaks_the_contract_is_refused(
    target: Target, strategy: st.SearchStrategy[Sent], examples: int
) -> None:
    @many(examples)
    @given(st.lists(strategy, min_size=TOGETHER, max_size=TOGETHER))
    def refuses(found: list[Sent]) -> None:
        for path, body, headers in found:
            target.sender.refused(path, body, headers)

    refuses()


@many(250)
@given(
    valid=st.sampled_from(VALID),
    flips=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4
    ),
    cut=st.none() | st.floats(0, 1),
)
def test_no_corrupted_byte_makes_the_server_fail(
    target: Target, valid: Sent, flips: list[tuple[float, int]], cut: float | None
) -> None:
    path, whole, headers = valid
    for shift in range(TOGETHER):
        body = bytearray(whole)
        for place, value in flips:
            body[(int(place * len(body)) + 7 * shift) % len(body)] = value
        target.sender.send(
            path, bytes(body if cut is None else body[: int(cut * len(body))]), headers
        )


@pytest.mark.parametrize("path", [PREDICT, INFER, EXPLAIN])
def test_what_breaks_the_description_is_refused(target: Target, path: str) -> None:
    operation = schemathesis.openapi.from_dict(target.description)[path]["POST"]

    @many(60)
    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def refuses(case: schemathesis.Case) -> None:
        sent = case.as_transport_kwargs(base_url="http://127.0.0.1")
        body = (
            sent["data"]
            if sent.get("data") is not None
            else json.dumps(sent.get("json")).encode("utf-8", "surrogatepass")
        )
        body = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        target.sender.refused(path, body, {"content-type": case.media_type or JSON})

    refuses()
