"""Answers of the HTTP server, with headers that are written once for all answers that have them."""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

Pair = tuple[bytes, bytes]
CLOSE: Pair = (b"connection", b"close")

STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class Headers:
    """Headers of an answer but for the content length, which the server adds.

    `lines` are the headers as they are sent; `closes` says whether they end the connection.
    """

    __slots__ = ("closes", "lines", "pairs")

    def __init__(self, *pairs: Pair) -> None:
        self.pairs = pairs
        self.lines = b"".join([b"%b: %b\r\n" % pair for pair in pairs])
        self.closes = CLOSE in pairs

    def and_(self, *pairs: Pair) -> Headers:
        """These headers and more."""
        return Headers(*self.pairs, *pairs)


class Answer(NamedTuple):
    """One answer, in one piece."""

    status: int
    headers: Headers
    content: bytes
