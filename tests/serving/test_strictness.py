"""Whatever is sent, the answer is a success or a 4xx that names field and rule and repeats no value."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.serving.conftest import Shared
from tests.support.endpoint import CONTRACT, NAME, request

URL = f"/predict/{NAME}"
GOOD = request(4)
TEXT = json.dumps(GOOD)
SECRET = "s3cret-value"


def changed(**fields: Any) -> str:
    return json.dumps({**GOOD, **fields})


def batch(*rows: str) -> str:
    return f'{{"instances": [{", ".join(rows)}]}}'


TABLE = [
    ("unknown field", changed(extra=SECRET), 422, "extra", "unknown_field"),
    (
        "unknown field with a hostile name",
        changed(**{f"<script>{SECRET}": 1}),
        422,
        "(a name that is not plain)",
        "unknown_field",
    ),
    (
        "missing field",
        json.dumps({k: v for k, v in GOOD.items() if k != "amount"}),
        422,
        "amount",
        "missing_field",
    ),
    (
        "missing nullable field",
        json.dumps({k: v for k, v in GOOD.items() if k != "items"}),
        422,
        "items",
        "missing_field",
    ),
    ("duplicate field", TEXT[:-1] + ', "amount": 5}', 422, "amount", "duplicate_field"),
    (
        "duplicate field, escaped",
        TEXT[:-1] + ', "\\u0061mount": 5}',
        422,
        "amount",
        "duplicate_field",
    ),
    (
        "duplicate in a batch",
        batch(TEXT, TEXT[:-1] + ', "shop": "west"}'),
        422,
        "instances[1].shop",
        "duplicate_field",
    ),
    (
        "duplicate instances",
        f'{{"instances": [{TEXT}], "instances": [{TEXT}]}}',
        422,
        "instances",
        "duplicate_field",
    ),
    ("NaN", TEXT.replace(str(GOOD["amount"]), "NaN"), 400, None, "json"),
    ("Infinity", TEXT.replace(str(GOOD["amount"]), "-Infinity"), 400, None, "json"),
    ("too large for a double", TEXT.replace(str(GOOD["amount"]), "1e999"), 422, "amount", "float"),
    ("text for a number", changed(amount=SECRET), 422, "amount", "float"),
    ("number for text", changed(shop=5), 422, "shop", "string"),
    ("boolean for a number", changed(amount=True), 422, "amount", "float"),
    ("fraction for a whole number", changed(items=1.5), 422, "items", "integer"),
    ("beyond 64 bits", changed(items=2**70), 422, "items", "integer"),
    ("number for a boolean", changed(express=1), 422, "express", "boolean"),
    ("null where none may be", changed(shop=None), 422, "shop", "string"),
    ("below ge", changed(amount=-0.01), 422, "amount", "ge 0"),
    ("above le", changed(items=51), 422, "items", "le 50"),
    ("not one of the values", changed(method=SECRET), 422, "method", "values"),
    ("not the pattern", changed(order_id=f"{SECRET}!"), 422, "order_id", "pattern"),
    ("the pattern and a line break", changed(order_id="order-4\n"), 422, "order_id", "pattern"),
    ("text too long", changed(shop="x" * 1001), 422, "shop", "string"),
    (
        "time without an offset",
        changed(event_time="2024-01-10T10:00:00"),
        422,
        "event_time",
        "datetime",
    ),
    ("time as a number", changed(event_time=1704880800), 422, "event_time", "datetime"),
    (
        "time out of range",
        changed(event_time="0001-01-01T00:00:00+14:00"),
        422,
        "event_time",
        "datetime",
    ),
    (
        "last moment of the calendar",
        changed(event_time="9999-12-31T23:59:59-14:00"),
        422,
        "event_time",
        "datetime",
    ),
    ("wrong row of a batch", batch(TEXT, changed(items=99)), 422, "instances[1].items", "le 50"),
    ("empty batch", '{"instances": []}', 422, "instances", "rows"),
    ("too many rows", batch(*[TEXT] * 301), 413, "instances", "rows"),
    ("a list", f"[{TEXT}]", 422, None, "type"),
    ("a number", "5", 422, None, "type"),
    ("nothing", "", 400, None, "json"),
    ("two objects", TEXT + TEXT, 400, None, "json"),
    ("cut off", TEXT[:-5], 400, None, "json"),
    (
        "nested without end",
        changed(amount=1).replace(": 1,", ": " + "[" * 50_000),
        422,
        "amount",
        "float",
    ),
    ("nested without end where anything may be", "[" * 50_000, 422, None, "type"),
    ("lone surrogate", changed(shop="\ud800"), 400, None, "json"),
    ("body too large", changed(shop="x" * 200_001), 413, None, "body_size"),
]


@pytest.mark.parametrize(
    ("body", "status", "field", "rule"),
    [case[1:] for case in TABLE],
    ids=[case[0] for case in TABLE],
)
def test_refused_with_field_and_rule(
    shared: Shared, body: str, status: int, field: str | None, rule: str
) -> None:
    answer = shared.server.client.post(
        URL,
        content=body.encode("utf-8", "surrogatepass"),
        headers={"content-type": "application/json"},
    )
    found = answer.json()
    assert (answer.status_code, found["field"]) == (status, field), found
    assert rule in found["rule"]
    assert set(found) == {"error", "field", "rule"}
    assert SECRET not in answer.text


def inference_inputs() -> list[dict[str, Any]]:
    """One good row as JSON tensors."""
    kinds = {
        "string": "BYTES",
        "datetime": "BYTES",
        "float": "FP64",
        "integer": "INT64",
        "boolean": "BOOL",
    }
    return [
        {"name": name, "shape": [1], "datatype": kinds[field.kind], "data": [GOOD[name]]}
        for name, field in CONTRACT.items()
    ]


@pytest.mark.parametrize(
    ("change", "status", "rule"),
    [
        ({"data": [SECRET]}, 422, "float"), ({"data": [1.0, 2.0]}, 422, "shape"), ({"shape": [2]}, 422, "shape"), ({"shape": [1, 2]}, 422, "shape"),
        ({"datatype": "BYTES"}, 422, "datatype"), ({"datatype": SECRET}, 422, "datatype"), ({"name": SECRET}, 422, "unknown_field"), ({"name": "shop"}, 422, "duplicate_field"),
        ({"data": [[1.0, 2.0]]}, 422, "float"), ({"data": None}, 422, "data"), ({"shape": ["1"]}, 422, "type"), ({"more": 1}, 422, "unknown_field"),
        ({"data": [2000.0]}, 422, "le 1000"), ({"data": [], "shape": [0]}, 422, "shape"),
    ],
)  # fmt: skip
def test_refused_inferences(shared: Shared, change: dict[str, Any], status: int, rule: str) -> None:
    inputs = inference_inputs()
    place = list(CONTRACT).index("amount")
    url = f"/v2/models/{NAME}/infer"
    assert shared.server.client.post(url, json={"inputs": inputs}).status_code == 200
    inputs[place] |= change
    answer = shared.server.client.post(url, json={"inputs": inputs})
    assert (answer.status_code, answer.json()["rule"].find(rule) >= 0) == (status, True), (
        answer.text
    )
    assert SECRET not in answer.text


def test_null_data_beside_raw_bytes_is_no_data(shared: Shared) -> None:
    inputs = inference_inputs()
    content = struct.pack("<d", 12.5)
    place = list(CONTRACT).index("amount")
    inputs[place] |= {"data": None, "parameters": {"binary_data_size": len(content)}}
    described = json.dumps({"inputs": inputs}).encode()

    answer = shared.server.client.post(
        f"/v2/models/{NAME}/infer",
        content=described + content,
        headers={
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(described)),
        },
    )

    assert answer.status_code == 200, answer.text


def test_wrong_routes_methods_and_kinds(shared: Shared) -> None:
    client = shared.server.client
    cases = {
        404: [client.get("/"), client.post("/predict/other", json=GOOD), client.get("/predict/../healthz/x"), client.get("/v2/models/toy/versions"), client.get("/docs/../etc/passwd")],
        405: [client.get(URL), client.put(URL, json=GOOD), client.post("/healthz"), client.post(f"/v2/models/{NAME}/ready")],
        415: [client.post(URL, content=TEXT), client.post(URL, content=TEXT, headers={"content-type": "text/plain"}),
              client.post(URL, content=TEXT, headers={"content-type": "application/json", "content-encoding": "gzip"})],
        421: [client.get("/healthz", headers={"host": "evil.example"})],
    }  # fmt: skip
    for status, answers in cases.items():
        for answer in answers:
            assert answer.status_code == status, (answer.request.url, answer.text)
            assert set(answer.json()) == {"error", "field", "rule"}


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["2024-01-10T10:00:00Z", "card", "west"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
near = st.fixed_dictionaries({}, optional={name: st.just(GOOD[name]) | values for name in CONTRACT})
bodies = st.one_of(
    near.map(json.dumps), st.lists(near, max_size=3).map(lambda rows: json.dumps({"instances": rows})), values.map(json.dumps),
    st.fixed_dictionaries({name: st.just(GOOD[name]) | scalars for name in CONTRACT}).map(json.dumps),
    st.builds(lambda at, junk: TEXT[:at] + junk + TEXT[at + 1 :], st.integers(0, len(TEXT)), st.text(max_size=3)),
).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60)  # fmt: skip


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=bodies)
def test_no_body_makes_the_server_fail(shared: Shared, body: bytes) -> None:
    for url in (URL, f"/v2/models/{NAME}/infer"):
        answer = shared.server.client.post(
            url, content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (200, 400, 413, 422), (answer.status_code, answer.text)
        assert answer.status_code == 200 or set(answer.json()) == {"error", "field", "rule"}


def raw(shared: Shared, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send bytes as they are and read all of the answer."""
    url = httpx.URL(shared.server.url)
    with socket.create_connection((url.host, url.port), timeout=15) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        return answer


HEAD = f"POST {URL} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode()


def test_slow_and_oversized_requests_are_ended(shared: Shared) -> None:
    assert b" 408 " in raw(shared, HEAD)  # headers that never end
    assert b" 408 " in raw(
        shared, HEAD + b"content-length: 100\r\n\r\n", b"{"
    )  # a body that never comes
    assert b" 431 " in raw(shared, HEAD + b"x: " + b"y" * 40_000)
    assert b" 413 " in raw(shared, HEAD + b"connection: close\r\ncontent-length: 999999999\r\n\r\n")
    chunk = b"%x\r\n%b\r\n" % (60_000, b" " * 60_000)
    assert b" 413 " in raw(
        shared, HEAD + b"transfer-encoding: chunked\r\n\r\n", chunk, chunk, chunk, chunk
    )
    assert b" 400 " in raw(shared, b"nonsense\r\n\r\n")
    assert shared.server.client.post(URL, json=GOOD).status_code == 200
