"""HTTP/1.1 for an application that answers in one piece.

httptools parses; uvicorn's server accepts and drains.

An application is an async function of a `Request` that returns an `Answer`. That is less than ASGI,
whose dictionaries and messages cost as much as a prediction. The application runs at once when a
request is there whole, without a task, until it waits for more than its `Turn`; nearly every
prediction ends before that. What does wait (a large body still on its way, a computation in a
thread) becomes a task from there on.

A connection remembers nothing of a request after its answer. Requests and headers that are slow or
too large are ended, which uvicorn leaves to a proxy. A client that does not read its answers gets
no more of them until it does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.server import ServerState

from serving.http.answers import CLOSE, STATUS_LINES, Answer, Headers
from serving.http.request import GoneError, Request
from serving.http.resumed import resumed
from serving.turn import Turn

logger = logging.getLogger("serving")

REFUSED = Headers((b"content-type", b"application/json"), CLOSE)


class Connection(asyncio.Protocol):
    """One connection.

    The server sets the limits, which are class attributes: bytes of headers, seconds in which a
    request must have arrived, seconds that a connection may be idle between requests.
    """

    header_limit = 32 << 10
    request_seconds = 10.0
    idle_seconds = 65.0

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
        self._transport: asyncio.Transport

        # The request that arrives, the one that is answered, and those pipelined behind it.
        self._arriving: Request | None = None
        self._current: Request | None = None
        self._waiting: deque[Request] = deque()

        # What the parser has found of the next head. It writes headers into the dictionary without
        # a call of Python.
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self.on_header = self._headers.__setitem__
        self._parser = self._new_parser()

        # Bytes since the last of a body or of a request: of its headers, of its trailers, or of the
        # frame of a chunk.
        self._header_bytes, self._in_headers = 0, True
        self._begun: float | None = time.monotonic()
        self._idle_since = self._begun
        self._unread_since: float | None = None
        self._closing = self._paused = self._stopping = self._upgrading = False

    # -- the connection ------------------------------------------------------------------------

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
        if self._begun is None:
            self._begun = time.monotonic()
        try:
            if self._header_bytes + len(data) <= self.header_limit:
                self._feed(data)
            else:
                self._feed_pieces(memoryview(data))
        except httptools.HttpParserError:
            self._refuse(400, "http", "This is no valid HTTP/1.1 request.")

        arriving = self._arriving
        if arriving is not None and arriving is self._current and not arriving.started:
            # The body takes longer: the application may refuse the request before it is there.
            self._run(arriving)

    def _feed_pieces(self, data: memoryview) -> None:
        """Feed a long input piece by piece, so that headers never get past their limit."""
        while data and not self._closing and not self._stopping:
            size = max(1, self.header_limit - self._header_bytes)
            self._feed(data[:size])
            data = data[size:]

    def _feed(self, data: bytes | memoryview) -> None:
        """Parse, and refuse headers that are too large. Raises httptools.HttpParserError."""
        while data:
            self._header_bytes += len(data)
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as asked:
                data = self._without_upgrade(data[asked.args[0] :])
        if self._header_bytes >= self.header_limit:
            self._refuse(431, "headers", "The request's headers are too large.")

    def _without_upgrade(self, rest: bytes | memoryview) -> bytes:
        """The bytes of a request that asks for another protocol, as if it had not asked.

        `rest` is what came after its head. Some clients ask in every request. httptools then takes
        the body for that protocol's. Parsing the request again is how a server declines. Raises
        httptools.HttpParserError for CONNECT.
        """
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        if method == b"CONNECT":
            raise httptools.HttpParserError("this is no proxy")
        lines = [
            b"%b: %b\r\n" % header
            for header in self._headers.items()
            if header[0].lower() not in (b"connection", b"upgrade")
        ]
        url = self._url
        self._upgrading = False
        self._header_bytes = 0
        self._start()
        self._parser = self._new_parser()
        return b"%b %b HTTP/%b\r\n%b\r\n%b" % (method, url, version, b"".join(lines), bytes(rest))

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What follows a request that closes the connection is left unread, not taken for an error
        # of that request.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _start(self) -> None:
        """Forget the head before the next one."""
        self._url = b""
        self._headers.clear()

    def shutdown(self) -> None:
        """Close after the answers that are due; uvicorn calls it to drain."""
        self._stopping = True
        if self._current is None and not self._waiting:
            self._close()

    def sweep(self, now: float) -> None:
        """End what is overdue at a moment of the monotonic clock.

        Says why, unless an answer has begun.
        """
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
        """Give up the request that arrives, and the connection. Earlier ones are still answered."""
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
        self._send(status, REFUSED.lines, content)
        self._close()

    def _send(self, status: int, lines: bytes, content: bytes, *, only_head: bool = False) -> None:
        head = b"%b%bcontent-length: %d\r\n\r\n" % (STATUS_LINES[status], lines, len(content))
        self.write(head if only_head else head + content)

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
        """Read and begin no more requests: the client does not read its answers.

        More answers would fill the memory.
        """
        self._unread_since = time.monotonic()
        self.pause_reading()

    def resume_writing(self) -> None:
        self._unread_since = None
        if self._current is None and not self._closing:
            self._next()

    # -- the parser's callbacks ----------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser.should_upgrade():
            self._upgrading = True
            return
        headers = {name.lower(): value for name, value in self._headers.items()}
        # HTTP/1.0 closes, whatever it asks for: to keep its connection open takes another answer.
        keep_alive = parser.should_keep_alive() and (
            b"connection" not in headers or parser.get_http_version() != "1.0"
        )
        request = Request(
            self,
            parser.get_method().decode("ascii"),
            _path(self._url),
            headers,
            keep_alive,
            self._begun or time.monotonic(),
        )
        # What is written from now on is a trailer. A trailer is no header (RFC 9110, 6.5.1): it
        # comes too late for what headers decide, and no proxy looked at it.
        self._in_headers, self._header_bytes = False, 0
        self._arriving = request
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
        self._in_headers, self._header_bytes, self._begun = True, 0, None
        self._start()
        if request is None:
            return
        request.complete()
        if request is self._current and not request.started:
            self._run(request)

    # -- answers -------------------------------------------------------------------------------

    def _run(self, request: Request) -> None:
        """Run the application until it waits for more than its turn; a task does the rest."""
        if not self._closing:
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
            answer = await resumed(coroutine, awaited)
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
        lines, keep_alive = headers.lines, request.keep_alive
        if headers.closes:
            keep_alive = False
        elif not keep_alive:
            lines += b"connection: close\r\n"
        self._send(status, lines, content, only_head=request.method == "HEAD")

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


def _path(url: bytes) -> str:
    """The path of a request target.

    Raises UnicodeDecodeError and httptools.HttpParserInvalidURLError.
    """
    if not url.startswith(b"/"):
        url = httptools.parse_url(url).path or b""
    path = url.partition(b"?")[0].decode("ascii")
    return unquote(path) if "%" in path else path
