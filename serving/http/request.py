"""A request as it arrives: its head, and a body that may still be on its way."""

from __future__ import annotations

import asyncio
from typing import Protocol

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class GoneError(Exception):
    """The client closed the connection before its request was whole; nobody reads an answer."""


class BodyTooLargeError(Exception):
    """A body has more bytes than it may."""


class Source(Protocol):
    """The connection that a request arrives on."""

    def write(self, content: bytes) -> None: ...

    def resume_reading(self) -> None: ...


class Request:
    """`headers` have lower-case names; where a client repeats a name, its last value counts.

    `begun` is the moment of the monotonic clock at which the request began to arrive. `content` is
    the whole body, as soon as it is there.
    """

    __slots__ = (
        "_gathered",
        "_gone",
        "_source",
        "_wake",
        "answered",
        "begun",
        "content",
        "headers",
        "keep_alive",
        "method",
        "path",
        "started",
    )

    def __init__(
        self,
        source: Source,
        method: str,
        path: str,
        headers: dict[bytes, bytes],
        keep_alive: bool,
        begun: float,
    ) -> None:
        self.method, self.path, self.headers, self.keep_alive = method, path, headers, keep_alive
        self.begun = begun
        self.content: bytes | None = None
        self.started = self.answered = False
        self._source = source
        self._gone = False
        self._gathered: bytes | bytearray = b""
        self._wake: asyncio.Event | None = None

    def feed(self, piece: bytes) -> None:
        """Take a piece of the body, joined at once: a client may send pieces of one byte."""
        if self.answered:
            return  # it was refused already; the rest is of no interest
        gathered = self._gathered
        if not gathered:
            self._gathered = piece
        elif isinstance(gathered, bytearray):
            gathered += piece
        else:
            self._gathered = bytearray(gathered) + piece
        if self._wake is not None:
            self._wake.set()

    def complete(self) -> None:
        """The body has ended."""
        self.content = bytes(self._gathered)
        self._gathered = b""
        if self._wake is not None:
            self._wake.set()

    def disconnect(self) -> None:
        """The client is gone."""
        self._gone = True
        if self._wake is not None:
            self._wake.set()

    async def read(self, limit: int) -> bytes:
        """The whole body.

        Raises BodyTooLargeError as soon as the body has more than `limit` bytes, and GoneError.
        """
        expects = self.headers.get(b"expect", b"").lower() == b"100-continue"
        if expects and self.content is None and not self._gathered:
            self._source.write(CONTINUE)

        while self.content is None and len(self._gathered) <= limit and not self._gone:
            # While others were answered before it, nothing of it was read.
            self._source.resume_reading()
            self._wake = asyncio.Event()
            await self._wake.wait()
            self._wake = None

        if self.content is None and self._gone:
            raise GoneError
        if self.content is None or len(self.content) > limit:
            raise BodyTooLargeError
        return self.content
