"""Malformed requests of breadth: none is a failure of the server, none hangs, and the server answers afterwards as before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tracemalloc
from collections import Counter
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from uvicorn.server import ServerState

from bundle.features.program import EVENT_TIME
from serving.callers.hosts import HostCheck, is_loopback
from serving.contract.contract import Contract
from serving.contract.refusal import Refusal
from serving.http.answers import Answer, Headers
from serving.http.connection import Connection
from serving.http.request import Request
from tests.serving.conftest import Shared
from tests.serving.malformed import FAMILIES, requests
from tests.serving.test_columns import contract
from tests.support.endpoint import NAME, request

COUNT, AT_ONCE, PATIENCE = 2_100, 100, 30.0
URL = f"/predict/{NAME}"


async def status_of(host: str, port: int, content: bytes) -> int:
    """The status of the last answer on a connection of its own; 0 where the server closes without one."""
    reader, writer = await asyncio.open_connection(host, port)
    found = b""
    with contextlib.suppress(ConnectionError):
        writer.write(content)
        await writer.drain()
    with contextlib.suppress(ConnectionError):
        found = await _first_answer(reader)
    writer.close()
    statuses = re.findall(rb"^HTTP/1.1 (\d{3})", found, re.MULTILINE)
    return int(statuses[-1]) if statuses else 0


async def _first_answer(reader: asyncio.StreamReader) -> bytes:
    found = b""
    while piece := await reader.read(1 << 16):
        found += piece
        last = found.rpartition(b"HTTP/1.1 ")[2]
        if b"\r\n\r\n" in last and not last.startswith(b"100"):
            break
    return found


def test_no_malformed_request_is_a_failure_of_the_server(shared: Shared) -> None:
    url = httpx.URL(shared.server.url)
    before = shared.server.client.post(URL, json=request(1)).json()["prediction"]
    found: dict[str, Counter[int]] = {make.__name__: Counter() for make in FAMILIES}

    async def send_all() -> None:
        places = asyncio.Semaphore(AT_ONCE)

        async def send(family: str, content: bytes) -> None:
            async with places:
                status = await asyncio.wait_for(
                    status_of(url.host, url.port or 80, content), PATIENCE
                )
            assert status != 500, (family, content[:2_000])
            found[family][status] += 1

        await asyncio.gather(*(send(family, content) for family, content in requests(20, COUNT)))

    asyncio.run(send_all())
    assert sum(sum(statuses.values()) for statuses in found.values()) == COUNT
    # The generator reaches what it is for: each family is refused in ways of its own.
    assert all(400 in statuses or 422 in statuses for statuses in found.values()), found
    after = shared.server.client.post(URL, json=request(1))
    assert (after.status_code, after.json()["prediction"]) == (200, pytest.approx(before))
    assert shared.server.client.get("/readyz").status_code == 200


@pytest.mark.parametrize("digits", ["9" * 5_000, "0" * 9_000 + "5", "1" * 19, "+5", "٣"])
def test_a_number_in_a_header_is_bounded(shared: Shared, digits: str) -> None:
    headers = {"inference-header-content-length": digits.encode()}
    answer = shared.server.client.post(
        f"/v2/models/{NAME}/infer",
        content=b"{}",
        headers={"content-type": "application/json", **headers},
    )
    assert (answer.status_code, answer.json()["rule"]) == (400, "header_length")
    timeout = shared.server.client.post(
        URL, json=request(1), headers={"x-request-timeout-ms": digits.encode()}
    )
    assert (timeout.status_code, timeout.json()["rule"]) == (400, "timeout")


class Wire:
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        self.sent, self.closed = b"", False

    def write(self, content: bytes) -> None:
        self.sent += content

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def hello(request: Request) -> Answer:
    content = await request.read(1 << 20)
    return Answer(200, Headers(), b"%d" % len(content))


def connected() -> tuple[Connection, Wire]:
    config = uvicorn.Config(hello, interface="asgi3", proxy_headers=False, log_config=None)
    wire = Wire()
    made = Connection(config, ServerState(), {})
    made.connection_made(wire)  # type: ignore[arg-type]
    return made, wire


@pytest.mark.parametrize("size", [33_000, 64_000, 250_000])
@pytest.mark.parametrize("rest", [b"", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_headers_have_a_limit_however_many_bytes_come_at_once(size: int, rest: bytes) -> None:
    async def run() -> bytes:
        connection, wire = connected()
        connection.data_received(b"GET / HTTP/1.1\r\nx: " + b"y" * size + b"\r\n\r\n" + rest)
        assert wire.closed
        return wire.sent

    assert asyncio.run(run()).startswith(b"HTTP/1.1 431 ")


def test_headers_below_the_limit_and_a_large_body_may_come_at_once() -> None:
    async def run() -> bytes:
        connection, wire = connected()
        head = b"POST / HTTP/1.1\r\nx: " + b"y" * 32_000 + b"\r\ncontent-length: 400000\r\n\r\n"
        connection.data_received(head + b"b" * 400_000)
        return wire.sent

    assert asyncio.run(run()).endswith(b"400000")


def test_a_body_in_tiny_chunks_takes_little_more_than_its_size() -> None:
    async def run() -> int:
        connection, _ = connected()
        connection.data_received(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
        tracemalloc.start()
        for _ in range(500):
            connection.data_received(b"2\r\nxx\r\n" * 1_000)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return held

    assert asyncio.run(run()) < 2 * 1_000_000


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.2",
        "0:0:0:0:0:0:0:1",
        "::1",
        "localhost",
        "LOCALHOST",
        "::ffff:127.0.0.1",
        "127.0.0.1",
    ],
)
def test_every_spelling_of_loopback_checks_hosts(host: str) -> None:
    assert is_loopback(host)
    check = HostCheck(host, ["endpoint.internal"])
    for allowed in (
        b"localhost:8080",
        b"127.0.0.1",
        b"[::1]:80",
        b"127.0.0.2",
        b"endpoint.internal",
    ):
        check.check(allowed)
    for name in (b"evil.example", b"", b"127.0.0.1.evil.example", b"[", b"\xff"):
        with pytest.raises(Refusal) as refused:
            check.check(name)
        assert refused.value.rule == "host"


def test_a_server_elsewhere_is_reached_by_any_name() -> None:
    HostCheck("0.0.0.0", ()).check(b"anything.example")


ROW = request(1)
WRONG: list[tuple[Any, str, str]] = [
    ({key: value for key, value in ROW.items() if key != EVENT_TIME}, "missing_field", f"instances[1].{EVENT_TIME}"),
    ({**ROW, "extra": 1}, "unknown_field", "instances[1].extra"),
    ({**ROW, "a` - at `$.b": 1}, "unknown_field", "instances[1].(a name that is not plain)"),
    ({**ROW, EVENT_TIME: "soon"}, "datetime", f"instances[1].{EVENT_TIME}"),
    ({**ROW, EVENT_TIME: "1700-01-01T00:00:00Z"}, "datetime", f"instances[1].{EVENT_TIME}"),
    ({**ROW, "shop": 5}, "string", "instances[1].shop"),
    (5, "type", "instances[1]"),
    ([], "type", "instances[1]"),
    (None, "type", "instances[1]"),
    ('{"shop":"east","shop":"west",' + json.dumps(ROW)[1:], "duplicate_field", "instances[1].shop"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "rule", "field"), WRONG)
@pytest.mark.parametrize("rows", [2, 100])
def test_a_refused_batch_names_the_path_of_what_is_wrong(
    wrong: Any, rule: str, field: str, rows: int
) -> None:
    texts = [json.dumps(request(number)) for number in range(rows)]
    texts[1] = wrong if isinstance(wrong, str) else json.dumps(wrong)
    body = f'{{"instances":[{",".join(texts)}]}}'.encode()
    with pytest.raises(Refusal) as refused:
        contract().decode_many(body)
    assert refused.value.field == field
    assert refused.value.rule.startswith(rule)


def test_instances_given_twice_are_refused() -> None:
    row = json.dumps(ROW)
    with pytest.raises(Refusal) as refused:
        contract().decode_many(f'{{"instances":[{row}],"instances":[{row}]}}'.encode())
    assert (refused.value.rule, refused.value.field) == ("duplicate_field", "instances")


def test_a_row_has_a_size(shared: Shared) -> None:
    row = json.dumps(ROW).encode()
    small = shared.server.client.post(
        URL, content=row + b" " * 1_000, headers={"content-type": "application/json"}
    )
    assert small.status_code == 200
    large = row[:-1] + b',"shop":"east"' * 10_000 + b"}"
    one = shared.server.client.post(
        URL, content=large, headers={"content-type": "application/json"}
    )
    assert (one.status_code, one.json()["rule"], one.json()["field"]) == (413, "row_size", None)
    many = shared.server.client.post(
        URL,
        content=b'{"instances":[' + row + b"," + large + b"]}",
        headers={"content-type": "application/json"},
    )
    assert (many.status_code, many.json()["rule"], many.json()["field"]) == (
        413,
        "row_size",
        "instances[1]",
    )


def test_the_longest_texts_fit_into_a_row() -> None:
    found = contract()
    texts = {
        name: "\U0001f600" * 1_000
        for name, field in found.fields.items()
        if field.kind == "string" and not field.values and not field.pattern
    }
    row = json.dumps({**ROW, **texts})
    assert len(row) <= found.row_bytes
    assert found.decode_one(row.encode()) == {
        **contract().decode_one(json.dumps(ROW).encode()),
        **texts,
    }


def test_explanations_count_rows_before_they_decode_any() -> None:
    # Were the rows decoded first, what is wrong with them would be said first.
    body = msgspec.json.encode({"instances": [{}] * 101})
    found: Contract = contract()
    with pytest.raises(Refusal) as refused:
        found.decode(body, 100)
    assert (refused.value.status, refused.value.rule) == (413, "rows")
    assert "100 rows" in refused.value.error
