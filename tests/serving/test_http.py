"""HTTP/1.1 as clients really speak it: pipelined, in pieces, with doubts, and with things that nobody here understands."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import time

import pytest
from hypothesis import given, settings, strategies as st

from bundle.records import reader
from tests.serving.conftest import Shared
from tests.support.endpoint import DAY, NAME, request

URL = f"/predict/{NAME}"


def post(body: bytes, *headers: str, target: str = URL, version: str = "1.1") -> bytes:
    lines = [
        f"POST {target} HTTP/{version}",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def one(number: int) -> bytes:
    return json.dumps(request(number)).encode()


def many(first: int, rows: int) -> bytes:
    return json.dumps({"instances": [request(first + index) for index in range(rows)]}).encode()


def connect(shared: Shared) -> socket.socket:
    port = int(shared.server.url.rsplit(":", 1)[1])
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def answers(connection: socket.socket, count: int) -> list[tuple[int, bytes, bytes]]:
    """Status, headers and content of the next answers, in order; fewer when the server closes."""
    found, held = [], b""
    while len(found) < count:
        end = held.find(b"\r\n\r\n")
        head = held[:end]
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        if end >= 0 and length is not None and len(held) >= end + 4 + int(length[1]):
            content, held = (
                held[end + 4 : end + 4 + int(length[1])],
                held[end + 4 + int(length[1]) :],
            )
            found.append((int(head[9:12]), head, content))
        elif piece := connection.recv(1 << 16):
            held += piece
        else:
            break
    return found


def closed(connection: socket.socket) -> bool:
    return connection.recv(1) == b""


def test_pipelined_requests_are_answered_in_their_order(shared: Shared) -> None:
    # Batches are computed in a thread, so answers to those behind them would be there sooner.
    bodies = [
        many(0, 200),
        one(1),
        many(2, 100),
        one(3),
        one(4),
        b"{",
        one(5),
        many(6, 250),
        one(7),
    ] * 3
    with connect(shared) as connection:
        connection.sendall(b"".join(map(post, bodies)))
        found = answers(connection, len(bodies))
    assert [status for status, _, _ in found] == [400 if body == b"{" else 200 for body in bodies]
    for body, (status, _, content) in zip(bodies, found, strict=True):
        if status == 200:
            rows, told = json.loads(body).get("instances"), json.loads(content)
            assert len(told["predictions"]) == len(rows) if rows else "prediction" in told
    expected = [
        shared.server.client.post(
            URL, content=body, headers={"content-type": "application/json"}
        ).json()
        for body in (one(1), one(5))
    ]
    assert [json.loads(found[place][2])["prediction"] for place in (1, 6)] == [
        answer["prediction"] for answer in expected
    ]


def test_requests_of_one_moment_have_each_its_own_answer(shared: Shared) -> None:
    # Rows that arrive together are computed together; one that is refused, or too late, must not touch the others.
    connections = [connect(shared) for _ in range(24)]
    kinds = [("too late", 504), ("broken", 400), ("sound", 200), ("sound", 200)] * 6
    wholes = [
        post(
            b"{" if kind == "broken" else one(number),
            *(["x-request-timeout-ms: 0"] if kind == "too late" else []),
        )
        for number, (kind, _) in enumerate(kinds)
    ]
    for _ in range(5):
        for connection, whole in zip(connections, wholes, strict=True):
            connection.sendall(whole)
        found = [answers(connection, 1)[0] for connection in connections]
        assert [status for status, _, _ in found] == [status for _, status in kinds]
    told = {
        number: json.loads(found[number][2])
        for number, (_, status) in enumerate(kinds)
        if status == 200
    }
    for connection in connections:
        connection.close()
    logged = {record.id: record for record in reader.read(shared.place.predictions, DAY).records}
    for number, answer in told.items():
        alone = shared.server.client.post(URL, json=request(number)).json()
        assert answer["prediction"] == pytest.approx(alone["prediction"], abs=1e-6)
        assert (logged[answer["id"]].entity, logged[answer["id"]].output) == (
            f"order-{number}",
            answer["prediction"],
        )


def test_requests_that_come_byte_by_byte_or_in_chunks_are_whole_in_the_end(shared: Shared) -> None:
    body = one(8)
    chunks = (
        b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:50], body[50:]))
        + b"0\r\n\r\n"
    )
    chunked = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + chunks
    with connect(shared) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for whole in (post(body), chunked):
            for place in range(len(whole)):
                connection.sendall(whole[place : place + 1])
        found = answers(connection, 2)
    assert [status for status, _, _ in found] == [200, 200]
    assert len({json.loads(content)["prediction"] for _, _, content in found}) == 1


GET = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
ASKED = st.lists(
    st.one_of(
        st.sampled_from(
            [
                ("ready", 200),
                ("nothing", 400),
                ("unfinished", 400),
                ("chunks", 200),
                ("long head", 200),
            ]
        ),
        st.tuples(st.integers(0, 9), st.just(200)),
    ),
    min_size=1,
    max_size=12,
)


def asked(kind: int | str) -> bytes:
    body = one(kind if isinstance(kind, int) else 8)
    match kind:
        case "ready":
            return GET
        case "nothing":
            return post(b"")
        case "unfinished":
            return post(body[:-1])
        case "chunks":
            return post(b"").replace(
                b"Content-Length: 0", b"Transfer-Encoding: chunked"
            ) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        case "long head":
            return post(body, f"X-Padding: {'x' * 3_000}")
    return post(body)


@settings(max_examples=60, deadline=None)
@given(ASKED, st.lists(st.integers(1, 900), max_size=8), st.booleans())
def test_a_head_that_is_sent_again_means_the_same_however_the_bytes_come(
    shared: Shared, kinds: list[tuple[int | str, int]], cuts: list[int], at_once: bool
) -> None:
    wholes = [asked(kind) for kind, _ in kinds]
    with connect(shared) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for known in (GET, post(one(0))):
            connection.sendall(known)
            assert answers(connection, 1)[0][0] == 200
        found = []
        for sent in [b"".join(wholes)] if at_once else wholes:
            for first, last in itertools.pairwise(
                sorted({0, *(cut for cut in cuts if cut < len(sent)), len(sent)})
            ):
                connection.sendall(sent[first:last])
            found += answers(connection, len(kinds) if at_once else 1)
    assert [status for status, _, _ in found] == [status for _, status in kinds]
    for (kind, _), (_, _, content) in zip(kinds, found, strict=True):
        if isinstance(kind, int):
            alone = shared.server.client.post(
                URL, content=one(kind), headers={"content-type": "application/json"}
            ).json()
            assert json.loads(content)["prediction"] == pytest.approx(alone["prediction"], abs=1e-6)


def test_a_client_that_asks_before_it_sends_is_told_to_go_on_or_refused(shared: Shared) -> None:
    whole = post(one(9), "Expect: 100-continue")
    end = whole.index(b"\r\n\r\n") + 4
    with connect(shared) as connection:
        connection.sendall(whole[:end])
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(whole[end:])
        assert answers(connection, 1)[0][0] == 200
    with connect(shared) as connection:
        connection.sendall(whole[:end].replace(b"application/json", b"text/html"))
        assert answers(connection, 1)[0][0] == 415
    with connect(shared) as connection:
        connection.sendall(
            re.sub(rb"Content-Length: \d+", b"Content-Length: 99999999", whole[:end])
        )
        assert answers(connection, 1)[0][0] == 413
        assert closed(connection)


@pytest.mark.parametrize(
    ("whole", "stays_open"),
    [
        (post(one(1)), True),
        (post(one(1), "Connection: close"), False),
        (post(one(1), version="1.0"), False),
        (
            post(
                one(1),
                "Connection: Upgrade, HTTP2-Settings",
                "Upgrade: h2c",
                "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
            ),
            True,
        ),
        (
            post(
                one(1),
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ),
            True,
        ),
    ],
    ids=["keep-alive", "close", "HTTP/1.0", "h2c", "websocket"],
)
def test_a_connection_stays_open_only_where_both_sides_want_it(
    shared: Shared, whole: bytes, stays_open: bool
) -> None:
    with connect(shared) as connection:
        connection.sendall(whole)
        ((status, head, _),) = answers(connection, 1)
        assert status == 200
        assert (b"connection: close" in head) is not stays_open
        if stays_open:
            connection.sendall(post(one(2)))
            assert answers(connection, 1)[0][0] == 200
        else:
            assert closed(connection)


def test_head_has_the_headers_of_get_and_no_content(shared: Shared) -> None:
    with connect(shared) as connection:
        connection.sendall(
            b"HEAD /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        told = b""
        while piece := connection.recv(1 << 16):
            told += piece
    head, _, rest = told.partition(b"\r\n\r\n")
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    assert re.findall(rb"content-length: \d+", head) == re.findall(rb"content-length: \d+", rest)


def test_what_is_no_request_ends_the_connection_after_the_answers_that_are_due(
    shared: Shared,
) -> None:
    with connect(shared) as connection:
        connection.sendall(post(many(0, 250)) + b"nonsense\r\n\r\n")
        assert answers(connection, 5)[0][0] == 200
    with connect(shared) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        assert answers(connection, 1)[0][0] == 400
        assert closed(connection)
    with connect(shared) as connection:
        connection.sendall(b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert answers(connection, 1)[0][0] == 400
    for lengths in (
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
    ):
        with connect(shared) as connection:
            connection.sendall(
                f"POST {URL} HTTP/1.1\r\nhost: localhost\r\n{lengths}\r\n\r\n".encode()
            )
            assert answers(connection, 1)[0][0] == 400
            assert closed(connection)


def test_requests_before_one_that_is_none_get_their_answers(shared: Shared) -> None:
    with connect(shared) as connection:
        connection.sendall(post(many(0, 250)) + post(one(1)) + b"nonsense\r\n\r\n")
        assert [status for status, _, _ in answers(connection, 3)] == [200, 200]


def test_a_request_that_arrives_while_another_is_answered_is_read_on(shared: Shared) -> None:
    late = post(one(1))
    end = late.index(b"\r\n\r\n") + 4
    with connect(shared) as connection:
        connection.sendall(post(many(0, 250)) + late[:end])
        assert answers(connection, 1)[0][0] == 200
        connection.sendall(late[end:])
        assert answers(connection, 1)[0][0] == 200


def test_trailers_decide_nothing_and_have_a_limit(shared: Shared) -> None:
    body = one(3)
    open_end = post(b"").replace(
        b"Content-Length: 0", b"Transfer-Encoding: chunked"
    ) + b"%x\r\n%b\r\n0\r\n" % (len(body), body)
    with connect(shared) as connection:
        for trailer in (
            b"Host: elsewhere.example",
            b"Content-Type: text/html",
            b"Content-Encoding: gzip",
            b"X-Request-Timeout-Ms: 0",
        ):
            connection.sendall(open_end + trailer + b"\r\n\r\n")
            assert answers(connection, 1)[0][0] == 200, trailer
    for endless in (b"name: value\r\n", b"value"):
        with connect(shared) as connection:
            connection.sendall(open_end + b"name: ")
            with contextlib.suppress(
                ConnectionError
            ):  # it may be refused while it is still being sent
                for _ in range(100):
                    connection.sendall(endless * 1000)
            with contextlib.suppress(ConnectionResetError):
                assert [status for status, _, _ in answers(connection, 2)] == [431]


def test_a_client_that_does_not_read_is_answered_no_further_until_it_does(shared: Shared) -> None:
    asked = f"GET /models/{NAME} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    most, sent, stopped = 60_000, 0, False
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
        connection.settimeout(3)
        connection.connect(("127.0.0.1", int(shared.server.url.rsplit(":", 1)[1])))
        while not stopped and sent < most * len(asked):
            try:
                sent += connection.send((asked * 200)[sent % len(asked) :])
            except TimeoutError:
                stopped = True
        assert stopped, f"{most} requests were taken from a client that reads no answer"
        whole = sent // len(asked)
        connection.settimeout(20)
        assert [status for status, _, _ in answers(connection, whole)] == [200] * whole


def test_clients_that_leave_in_the_middle_leave_nothing_behind(shared: Shared) -> None:
    whole = post(many(0, 300))
    for place in (0, 10, whole.index(b"\r\n\r\n") + 4, len(whole) - 1, len(whole)):
        for _ in range(5):
            with connect(shared) as connection:
                connection.sendall(whole[:place])
    end = time.monotonic() + 10
    while len(list(_sockets(shared))) > 2:  # the listener, and the shared client's own connection
        assert time.monotonic() < end
        time.sleep(0.05)
    assert shared.server.client.post(URL, json=request(1)).status_code == 200


def _sockets(shared: Shared) -> list[str]:
    """Connections to the public port that the server's side still holds."""
    import psutil

    port = int(shared.server.url.rsplit(":", 1)[1])
    return [
        str(found)
        for found in psutil.Process(shared.server.process.pid).net_connections("tcp")
        if found.laddr.port == port
    ]
