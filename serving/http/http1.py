"""HTTP/1.1 for an application that answers in one piece: httptools parses, uvicorn's server accepts and drains.

An application is an async function of a `Request` that returns an `Answer`. That is less than ASGI, whose dictionaries and messages
cost as much as a prediction. It runs at once when a request is there whole, without a task, as far as it gets without waiting for
more than its `Turn`; nearly every prediction gets to its end. Only what does wait (a large body still on its way, a computation in a
thread) becomes a task from there on. A head that was parsed before is known by its bytes: a client sends the same few with
all its requests. Requests and headers that are slow or too large are ended, which uvicorn leaves to a proxy. Whoever does not
read answers gets no more of them until it does.
"""

from __future__ import annotations

import asyncio
import logging
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.server import ServerState

from serving.turn import Turn

logger = logging.getLogger("serving")

HEADS, HEAD_BYTES = 1_000, 2 << 10
"""Parsed heads that are kept, and the most bytes of one."""
Headers = tuple[tuple[bytes, bytes], ...]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class Head:
    """What is before the body. `length` is the body's, known of a head that is kept."""

    __slots__ = ("headers", "keep_alive", "length", "method", "path")

    def __init__(
        self, method: str, path: str, headers: list[tuple[bytes, bytes]], keep_alive: bool
    ) -> None:
        self.method, self.path, self.headers, self.keep_alive = method, path, headers, keep_alive
        self.length = 0


class Answer(NamedTuple):
    """`headers` without a content length, which the server adds."""

    status: int
    headers: Headers
    content: bytes


class Connection(asyncio.Protocol):
    """One connection. The limits are class attributes, which the server sets: bytes of headers, seconds in which a request must
    have arrived, seconds that a connection may be idle between requests; `heads` are those that were parsed before, by their bytes."""

    header_limit = 32 << 10
    request_seconds = 10.0
    idle_seconds = 65.0
    heads: ClassVar[dict[bytes, Head]] = {}

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self._app: Callable[[Request], Coroutine[Any, Any, Answer]] = config.loaded_app
        self._limit = config.limit_concurrency
        self._loop = _loop or asyncio.get_running_loop()
        self._connections, self._tasks = server_state.connections, server_state.tasks
        self._parser = self._new_parser()
        self._transport: asyncio.Transport
        # The request that arrives, the one that is answered, and those pipelined behind it.
        self._arriving: Request | None = None
        self._current: Request | None = None
        self._waiting: deque[Request] = deque()
        self._parsed: Head | None = None
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        # Bytes since the last of a body or of a request: of its headers, of its trailers, or of the frame of a chunk.
        self._header_bytes, self._in_headers = 0, True
        # Nothing of a request has arrived since the one before.
        self._between = True
        self._begun: float | None = time.monotonic()
        self._idle_since = self._begun
        self._unread_since: float | None = None
        self._closing = self._paused = self._stopping = self._upgrading = False

    # -- the connection ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        if self._limit is not None and len(self._connections) >= self._limit:
            self._end_with(503, "connections", "Too many connections are open; try again later.")
            return
        self._connections.add(self)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._closing = True
        self._disconnect()

    def _disconnect(self) -> None:
        for request in (self._arriving, self._current, *self._waiting):
            if request is not None:
                request.disconnect()

    def eof_received(self) -> None:
        """A client that has said all closes the connection, as HTTP has it."""

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        alone = self._between and self._current is None and self._unread_since is None
        if alone:
            end = data.find(b"\r\n\r\n") + 4
            head = self.heads.get(data[:end])
            if head is not None and len(data) == end + head.length:
                self._begun = None
                self._current = request = Request(self, head, time.monotonic(), data[end:])
                self._run(request)
                return
        if self._begun is None:
            self._begun = time.monotonic()
        self._header_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(400, "http", "This is no valid HTTP/1.1 request.")
        if self._header_bytes > self.header_limit:
            self._refuse(431, "headers", "The request's headers are too large.")
        parsed, self._parsed = self._parsed, None
        if alone and self._between and parsed is not None:
            self._learn(data, parsed)
        arriving = self._arriving
        if arriving is not None and arriving is self._current and not arriving.started:
            # The body takes longer: the application may refuse the request before it is there.
            self._run(arriving)

    def _learn(self, data: bytes, head: Head) -> None:
        """Keep the head of data that is one whole request: the same bytes mean the same again."""
        given = dict(head.headers)
        end, length = data.find(b"\r\n\r\n") + 4, given.get(b"content-length", b"0")
        if (
            4 <= end <= HEAD_BYTES and length.isdigit() and len(data) == end + int(length)
            and head.keep_alive and len(given) == len(head.headers) and b"transfer-encoding" not in given
        ):  # fmt: skip
            if len(self.heads) >= HEADS:
                self.heads.clear()
            head.length = int(length)
            self.heads[data[:end]] = head

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What follows a request that closes the connection is left unread, not taken for an error of that request.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _feed(self, data: bytes) -> None:
        """Parse. Some clients ask in every request for another protocol; httptools then takes the body for that protocol's, so such
        a request is parsed again as if it had not asked, which is how a server declines. Raises httptools.HttpParserError."""
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as asked:
                method = self._parser.get_method()
                if method == b"CONNECT":
                    raise httptools.HttpParserError("this is no proxy") from None
                rest, headers = data[asked.args[0] :], self._headers
                version = self._parser.get_http_version().encode()
                lines = [
                    b"%b: %b\r\n" % header
                    for header in headers
                    if header[0] not in (b"connection", b"upgrade")
                ]
                self._parser, self._upgrading = self._new_parser(), False
                data = b"%b %b HTTP/%b\r\n%b\r\n%b" % (
                    method,
                    self._url,
                    version,
                    b"".join(lines),
                    rest,
                )

    def shutdown(self) -> None:
        """Close after the answers that are due; uvicorn calls it to drain."""
        self._stopping = True
        if self._current is None and not self._waiting:
            self._close()

    def sweep(self, now: float) -> None:
        """End what is overdue at a moment of the monotonic clock, and say why where no answer has begun yet."""
        if self._unread_since is not None and now - self._unread_since > self.idle_seconds:
            self._close()
            self._transport.abort()  # closing would wait for a client that does not read
        if self._closing:
            return
        if self._begun is None:
            if self._current is None and now - self._idle_since > self.idle_seconds:
                self._close()
        elif now - self._begun > self.request_seconds and not self._paused:
            if self._in_headers and self._header_bytes == 0:
                self._close()  # it was never used
            else:
                self._refuse(408, "request_time", "The request did not arrive in time.")

    def _refuse(self, status: int, rule: str, error: str) -> None:
        """Give up the request that arrives, and with it the connection; those before it still get their answers."""
        arriving = self._arriving
        if arriving is not None and arriving in self._waiting:
            self._waiting.remove(arriving)
        if self._waiting or self._current not in (None, arriving):
            self._stopping = True
            self.pause_reading()
        elif arriving is not None and arriving.answered:
            self._close()  # it was answered before it had arrived
        else:
            self._end_with(status, rule, error)

    def _end_with(self, status: int, rule: str, error: str) -> None:
        if self._closing:
            return
        content = b'{"error":"%b","field":null,"rule":"%b"}' % (error.encode(), rule.encode())
        head = (
            b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            % len(content)
        )
        self._transport.write(_STATUS[status] + head + content)
        self._close()

    def _close(self) -> None:
        self._closing = True
        self._transport.close()
        self._disconnect()

    def pause_reading(self) -> None:
        if not self._paused and not self._closing:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self._closing:
            self._paused = False
            if self._begun is not None:
                self._begun = time.monotonic()  # what was not read could not arrive
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The client does not read its answers: no more requests are read or begun, or these would fill the memory."""
        self._unread_since = time.monotonic()
        self.pause_reading()

    def resume_writing(self) -> None:
        self._unread_since = None
        if self._current is None and not self._closing:
            self._next()

    # -- the parser's callbacks ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._between = False
        self._url, self._headers = b"", []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # A trailer is no header (RFC 9110, 6.5.1): it comes too late for what headers decide, and no proxy looked at it.
        if self._in_headers:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser.should_upgrade():
            self._upgrading = True
            return
        self._in_headers, self._header_bytes = False, 0
        keep_alive = parser.get_http_version() != "1.0" and parser.should_keep_alive()
        self._parsed = Head(
            parser.get_method().decode("ascii"), _path(self._url), self._headers, keep_alive
        )
        self._arriving = request = Request(self, self._parsed, self._begun or time.monotonic())
        if self._current is None and self._unread_since is None:
            self._current = request
        else:
            self._waiting.append(request)
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        if self._arriving is not None:
            self._arriving.feed(body)

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        request, self._arriving = self._arriving, None
        self._in_headers, self._header_bytes, self._begun, self._between = True, 0, None, True
        if request is None:
            return
        request.complete()
        if request is self._current and not request.started:
            self._run(request)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _run(self, request: Request) -> None:
        """Run the application as far as it gets without waiting for more than its turn; a task does the rest."""
        if self._closing:
            return
        request.started = True
        self._step(request, self._app(request))

    def _step(self, request: Request, coroutine: Coroutine[Any, Any, Answer]) -> None:
        try:
            awaited = coroutine.send(None)
        except StopIteration as returned:
            self._answer(request, returned.value)
        except Exception as error:  # noqa: BLE001  it is logged, and the client is told
            self._failed(error)
        else:
            if isinstance(awaited, Turn):
                awaited.then = partial(self._step, request, coroutine)
                return
            task = self._loop.create_task(self._rest(coroutine, awaited, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _rest(
        self, coroutine: Coroutine[Any, Any, Answer], awaited: Any, request: Request
    ) -> None:
        try:
            answer = await _resumed(coroutine, awaited)
        except BaseException as error:
            self._failed(error)
            if not isinstance(error, Exception):
                raise
        else:
            self._answer(request, answer)

    def _answer(self, request: Request, answer: Answer) -> None:
        """Send an answer, then close, or go on with what comes next."""
        status, headers, content = answer
        request.answered = True
        keep_alive = request.head.keep_alive
        head, closes = _encoded(status, headers)
        if closes:
            keep_alive = False
        elif not keep_alive:
            head += b"connection: close\r\n"
        if request.head.method == "HEAD":
            self.write(b"%bcontent-length: %d\r\n\r\n" % (head, len(content)))
        else:
            self.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(content), content))
        self._current = None
        self._idle_since = time.monotonic()
        if self._closing:
            return
        if not keep_alive:
            self._close()
        elif self._unread_since is None:
            self._next()

    def _failed(self, error: BaseException) -> None:
        """The application gave no answer."""
        self._current = None
        if isinstance(error, GoneError):
            return
        if isinstance(error, Exception):  # and no cancellation
            logger.error("the application failed", exc_info=error)
        self._end_with(500, "server", "The server failed; its log says why.")

    def write(self, content: bytes) -> None:
        if not self._closing:
            self._transport.write(content)

    def _next(self) -> None:
        """Go on with the request that waits, or else read the next one."""
        if self._waiting:
            self._current = following = self._waiting.popleft()
            # Not from here: answers to many pipelined requests would nest.
            self._loop.call_soon(self._run, following)
        elif self._stopping:
            self._close()
        else:
            self.resume_reading()


class GoneError(Exception):
    """The client closed the connection before its request was whole; nobody reads an answer."""


class BodyTooLargeError(Exception):
    """A body has more bytes than it may."""


class Request:
    """A head, and a body that may still be on its way: `content` is the whole of it as soon as it is there. `begun` is the moment of
    the monotonic clock at which the request began to arrive."""

    __slots__ = (
        "_connection",
        "_parts",
        "_size",
        "_wake",
        "answered",
        "begun",
        "content",
        "gone",
        "head",
        "started",
    )

    def __init__(
        self, connection: Connection, head: Head, begun: float, content: bytes | None = None
    ) -> None:
        self.head, self.begun, self.content = head, begun, content
        self.started = self.answered = self.gone = False
        self._connection = connection
        self._parts: list[bytes] = []
        self._size = 0
        self._wake: asyncio.Event | None = None

    def feed(self, body: bytes) -> None:
        """A piece of the body has arrived."""
        if self.answered:
            return  # it was refused already; the rest is of no interest
        self._parts.append(body)
        self._size += len(body)
        if self._wake is not None:
            self._wake.set()

    def complete(self) -> None:
        parts = self._parts
        self.content = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        if self._wake is not None:
            self._wake.set()

    def disconnect(self) -> None:
        self.gone = True
        if self._wake is not None:
            self._wake.set()

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises BodyTooLargeError as soon as it has more than `limit` bytes, GoneError."""
        expected = (
            name == b"expect" and value.lower() == b"100-continue"
            for name, value in self.head.headers
        )
        if self.content is None and not self._parts and any(expected):
            self._connection.write(CONTINUE)
        while self.content is None and self._size <= limit and not self.gone:
            self._connection.resume_reading()  # while others were answered before it, nothing of it was read
            self._wake = asyncio.Event()
            await self._wake.wait()
            self._wake = None
        if self.content is None and self.gone:
            raise GoneError
        if self.content is None or len(self.content) > limit:
            raise BodyTooLargeError
        return self.content


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, Answer], awaited: Any) -> Generator[Any, Any, Answer]:
    """What is left of a coroutine that waits for `awaited`: passes on what it waits for, and what it is sent."""
    try:
        while True:
            try:
                if isinstance(awaited, Turn):
                    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    awaited.then = partial(_done, turn)
                    yield from turn
                    sent = None
                else:
                    sent = yield awaited
            except BaseException as error:  # noqa: BLE001  whatever is thrown in belongs to the coroutine
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(sent)
    except StopIteration as returned:
        answer: Answer = returned.value
        return answer


def _done(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


@lru_cache(maxsize=64)
def _path(url: bytes) -> str:
    """The path of a URL. Raises httptools.HttpParserInvalidURLError and UnicodeDecodeError."""
    path = httptools.parse_url(url).path.decode("ascii")
    return unquote(path) if "%" in path else path


@lru_cache(maxsize=256)
def _encoded(status: int, headers: Headers) -> tuple[bytes, bool]:
    """Status line and headers as they are sent, and whether they say that the connection closes."""
    return _STATUS[status] + b"".join([b"%b: %b\r\n" % header for header in headers]), (
        b"connection",
        b"close",
    ) in headers
