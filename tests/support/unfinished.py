"""A gRPC call whose message never ends, as no gRPC client would send it: frames of HTTP/2 by hand.

It sends as much of the announced message as the server's windows allow and stops when the server ends
the stream. Source: RFC 9113 (frames), RFC 7541 (headers, here as literals without an index).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
INITIAL_WINDOW_SIZE = 4
INITIAL_WINDOW = 65_535
FRAME = 16_384
STREAM = 1


class Unfinished:
    """One call on a connection of its own; `sent` are the bytes of its message so far."""

    def __init__(
        self, address: str, path: str, announced: int, metadata: Mapping[str, str] | None = None
    ) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._reader = self._socket.makefile("rb")
        self._initial = INITIAL_WINDOW
        self._windows = {0: INITIAL_WINDOW, STREAM: INITIAL_WINDOW}
        self.sent = 0
        self.ended = False
        # All but the last byte of what is announced: the message never ends.
        self._left = struct.pack(">BI", 0, announced)
        self._body = announced - 1

        self._socket.sendall(PREFACE + _frame(SETTINGS, 0, 0, b""))
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": address,
            "te": "trailers",
            "content-type": "application/grpc",
            **(metadata or {}),
        }
        block = b"".join(_literal(name, value) for name, value in headers.items())
        self._socket.sendall(_frame(HEADERS, END_HEADERS, STREAM, block))

    def send(self) -> None:
        """Send all that the server takes; returns when it has taken all, or ended the call."""
        while not self.ended and (self._left or self._body):
            room = min(FRAME, *self._windows.values())
            if room <= 0:
                self._read()
                continue

            content = self._left or bytes(min(room, self._body))
            self._body -= 0 if self._left else len(content)
            self._left = b""
            try:
                self._socket.sendall(_frame(DATA, 0, STREAM, content))
            except OSError:
                self.ended = True
                return
            self.sent += len(content)
            for window in self._windows:
                self._windows[window] -= len(content)

    def wait(self) -> None:
        """Wait until the server ends the call."""
        while not self.ended:
            self._read()

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def _read(self) -> None:
        """Take in one frame."""
        head = self._reader.read(9)
        if len(head) < 9:
            self.ended = True
            return

        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:], "big")
        payload = self._reader.read(length)

        if kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            self._socket.sendall(_frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            self._windows[stream] += int.from_bytes(payload, "big")
        elif kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and flags & END_STREAM):
            self.ended = True

    def _settings(self, payload: bytes) -> None:
        for place in range(0, len(payload), 6):
            name, value = struct.unpack_from(">HI", payload, place)
            if name == INITIAL_WINDOW_SIZE:
                self._windows[STREAM] += value - self._initial
                self._initial = value
        self._socket.sendall(_frame(SETTINGS, ACK, 0, b""))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header field that is not indexed; name and value shorter than 127 bytes."""
    parts = [part.encode() for part in (name, value)]
    assert all(len(part) < 127 for part in parts), "longer texts need more bytes for their length"
    return b"\0" + b"".join(bytes([len(part)]) + part for part in parts)
