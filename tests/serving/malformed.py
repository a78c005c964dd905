"""A seeded stream of malformed requests, each as the bytes of one connection.

Families are drawn in turn, so that any prefix of the stream has them all: chunks, headers, smuggling, JSON, deep JSON,
tensors, Arrow streams.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator

import pyarrow as pa

from tests.support.endpoint import NAME, request

JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"
PREDICT, EXPLAIN, INFER = f"/predict/{NAME}", f"/explain/{NAME}", f"/v2/models/{NAME}/infer"
HEADER_LENGTH = "inference-header-content-length"
NUMBERS = [
    "", "-1", "+5", "0x10", "1e3", "5, 5", "5 5", "٣", "1" * 19, "9" * 40, "9" * 5_000, "0" * 9_000 + "5", "NaN", "18446744073709551616",
]  # fmt: skip


def row(rng: random.Random) -> bytes:
    return json.dumps(request(rng.randrange(1000))).encode()


def head(target: str, kind: str, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def whole(target: str, kind: str, body: bytes, *headers: str) -> bytes:
    return head(target, kind, "Connection: close", f"Content-Length: {len(body)}", *headers) + body


def mutated(rng: random.Random, content: bytes) -> bytes:
    """Content with bytes changed, cut out, doubled or put in."""
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(content) + 1)
        end = min(len(content), place + rng.randint(1, 12))
        middle = rng.choice([b"", content[place:end] * 2, rng.randbytes(end - place), b'"', b"\\u"])
        content = content[:place] + middle + content[end:]
    return content


def chunks(rng: random.Random) -> bytes:
    body = row(rng)
    parts = []
    while body:
        size = rng.choice([1, 2, 2, 7, 64])
        piece, body = body[:size], body[size:]
        length = b"%x" % len(piece)
        if rng.random() < 0.02:
            length = rng.choice(
                [b"", b"-1", b"g", b"f" * 17, b"1" * 400, b" 2", b"2;" + b"e" * 40_000]
            )
        ending = b"\r\n" if rng.random() < 0.99 else rng.choice([b"", b"\n", b"\r", b"xx"])
        parts.append(length + b"\r\n" + piece + ending)
    trailer = rng.choice(
        [b"\r\n", b"Content-Length: 5\r\n\r\n", b"x: " + b"y" * 50_000 + b"\r\n\r\n"]
    )
    return head(PREDICT, JSON, "Transfer-Encoding: chunked") + b"".join(parts) + b"0\r\n" + trailer


def headers(rng: random.Random) -> bytes:
    number = rng.choice(NUMBERS)
    line = rng.choice([
        f"Content-Length: {number}", f"{HEADER_LENGTH}: {number}", f"X-Request-Timeout-Ms: {number}", f"Traceparent: 00-{number}-{number}-01",
        f"Traceparent: {'f' * rng.choice([2, 55, 4000])}", f"Authorization: {rng.choice(['Basic', 'Bearer', 'x', ''])} {number}", f"Host: {number}",
        "X: " + "y" * rng.choice([31_000, 33_000, 250_000]), "N" * 40_000 + ": v", "No colon", ": no name", "X : space", "X: a\x00b",
        " folded: line", "Content-Encoding: gzip", "Expect: 100-continue", "Upgrade: websocket\r\nConnection: Upgrade",
        "\r\n".join(f"h{number}: v" for number in range(3_000)), "Content-Type: " + "a/" * 3_000,
    ])  # fmt: skip
    body = row(rng)
    rest = [] if line.startswith("Content-Length") else [f"Content-Length: {len(body)}"]
    target = rng.choice(
        [
            PREDICT,
            INFER,
            EXPLAIN,
            f"/models/{NAME}",
            "/readyz",
            "//",
            "*",
            "/%00",
            "/predict/" + "x" * 9_000,
        ]
    )
    method = rng.choice(["POST", "POST", "GET", "HEAD", "PUT", "CONNECT", "BREW", "get"])
    text = head(target, JSON, "Connection: close", line, *rest, method=method)
    return text.replace("٣".encode(), rng.choice(["٣".encode(), b"\xff"])) + body


def smuggling(rng: random.Random) -> bytes:
    body = row(rng)
    encoding = rng.choice(
        [
            "chunked",
            "xchunked",
            "chunked, chunked",
            "identity",
            "gzip, chunked",
            "chunked ",
            "\x0bchunked",
            "Chunked",
        ]
    )
    lines = [
        f"Transfer-Encoding: {encoding}",
        f"Content-Length: {rng.choice([len(body), 0, 4, len(body) + 9])}",
    ]
    if rng.random() < 0.3:
        lines.append(f"Content-Length: {len(body) + 1}")
    if rng.random() < 0.3:
        lines[0] = lines[0].replace(":", rng.choice([" :", ":\t", "\n:", ":\r\n "]))
    rng.shuffle(lines)
    content = rng.choice(
        [
            body,
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
            b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ]
    )
    return head(PREDICT, JSON, *lines) + content


def plain_json(rng: random.Random) -> bytes:
    many = b'{"instances":[' + b",".join(row(rng) for _ in range(rng.choice([1, 3, 70]))) + b"]}"
    body = mutated(rng, rng.choice([row(rng), many]))
    return whole(rng.choice([PREDICT, PREDICT, EXPLAIN]), JSON, body)


def deep_json(rng: random.Random) -> bytes:
    depth = rng.choice([10, 500, 5_000, 60_000])
    opening, closing = rng.choice(
        [(b"[", b"]"), (b'{"a":', b"}"), (b'{"instances":[', b"]}"), (b'{"inputs":[', b"]}")]
    )
    depth = min(depth, 150_000 // (len(opening) + len(closing)))
    body = (
        opening * depth
        + rng.choice([b"", b"1", b'"x"', row(rng)])
        + closing * rng.choice([depth, depth - 1, 0])
    )
    return whole(rng.choice([PREDICT, INFER, EXPLAIN]), JSON, body)


def tensors(rng: random.Random) -> bytes:
    inputs = []
    for name, value in request(rng.randrange(1000)).items():
        shape: object = [1]
        if rng.random() < 0.15:
            shape = rng.choice(
                [[], [-1], [2**63], [10**30], [1, 1, 1], [True], "1", [1.5], [0], None]
            )
        datatype = rng.choice(["BYTES", "FP64", "INT64", "BOOL", "FP32", "COMPLEX", ""])
        entry: dict[str, object] = {
            "name": name,
            "shape": shape,
            "datatype": datatype,
            "data": [value],
        }
        if rng.random() < 0.15:
            entry["data"] = rng.choice([[], [[value]], [[[value]]], value, {}, [None], [10**400]])
        if rng.random() < 0.15:
            del entry["data"]
            size = rng.choice([0, 4, 8, -1, 2**64, 10**30, True, "8", 1.0, None])
            entry["parameters"] = {"binary_data_size": size}
        inputs.append(entry)
    text = json.dumps(
        {"inputs": inputs, "outputs": rng.choice([[], [{"name": "ood"}], [{"name": ""}]])}
    ).encode()
    length = rng.choice([str(len(text)), str(len(text) - 3), *NUMBERS])
    given = [f"{HEADER_LENGTH}: {length}"] if rng.random() < 0.6 else []
    return whole(
        INFER,
        rng.choice([JSON, "application/octet-stream"]),
        text + rng.randbytes(rng.choice([0, 4, 40])),
        *given,
    )


def arrow(rng: random.Random) -> bytes:
    rows = [request(rng.randrange(1000)) for _ in range(rng.choice([1, 3, 70]))]
    table = pa.Table.from_pylist(rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return whole(PREDICT, ARROW, mutated(rng, sink.getvalue().to_pybytes()))


FAMILIES: list[Callable[[random.Random], bytes]] = [
    chunks, headers, smuggling, plain_json, deep_json, tensors, arrow
]  # fmt: skip


def requests(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Family and bytes of `count` requests."""
    rng = random.Random(seed)
    for make in itertools.islice(itertools.cycle(FAMILIES), count):
        yield make.__name__, make(rng)
