"""HTTP/1.1 for an ASGI application that answers in one piece: httptools parses, uvicorn's server accepts and drains.

uvicorn's own protocol makes a task, an event and two timers for every request. Here an application runs at once when a request
is there whole, without a task, as far as it gets without waiting for more than its `Turn`; nearly every prediction gets to its
end. Only what does wait (a large body still on its way, a computation in a thread) becomes a task from there on. Requests and headers
that are slow or too large are ended, which uvicorn leaves to a proxy. Whoever does not read answers gets no more of them until it does.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.server import ServerState

logger = logging.getLogger("serving")

HIGH_WATER = 64 << 10
"""Bytes of a body that may wait for the application before its client must."""
Headers = tuple[tuple[bytes, bytes], ...]
Message = dict[str, Any]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Connection(asyncio.Protocol):
    """One connection. The limits are class attributes, which the server sets: bytes of headers, seconds in which a request must
    have arrived, seconds that a connection may be idle between requests."""

    header_limit = 32 << 10
    request_seconds = 10.0
    idle_seconds = 65.0

    def __init__(
        self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        if not config.loaded:
            config.load()
        self._app = config.loaded_app
        self._limit = config.limit_concurrency
        self._loop = _loop or asyncio.get_running_loop()
        self._connections, self._tasks = server_state.connections, server_state.tasks
        self._parser = self._new_parser()
        self._transport: asyncio.Transport
        self._scheme = "http"
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None
        # The request that arrives, the one that is answered, and those pipelined behind it.
        self._arriving: Exchange | None = None
        self._current: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        # Bytes since the last of a body or of a request: of its headers, of its trailers, or of the frame of a chunk.
        self._header_bytes, self._in_headers = 0, True
        self._begun: float | None = time.monotonic()
        self._idle_since = self._begun
        self._unread_since: float | None = None
        self._closing = self._paused = self._stopping = self._upgrading = False

    # -- the connection ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._client, self._server = _address(transport, "peername"), _address(transport, "sockname")
        if transport.get_extra_info("sslcontext") is not None:
            self._scheme = "https"
        if self._limit is not None and len(self._connections) >= self._limit:
            self._end_with(503, "connections", "Too many connections are open; try again later.")
            return
        self._connections.add(self)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._closing = True
        for exchange in (self._arriving, self._current, *self._waiting):
            if exchange is not None:
                exchange.disconnect()

    def eof_received(self) -> None:
        """A client that has said all closes the connection, as HTTP has it."""

    def data_received(self, data: bytes) -> None:
        if self._closing:
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
        arriving = self._arriving
        if arriving is not None and arriving is self._current and not arriving.started:
            # The body takes longer: the application may refuse the request before it is there.
            self._run(arriving)

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
                lines = [b"%b: %b\r\n" % header for header in headers if header[0] not in (b"connection", b"upgrade")]
                self._parser, self._upgrading = self._new_parser(), False
                data = b"%b %b HTTP/%b\r\n%b\r\n%b" % (method, self._url, version, b"".join(lines), rest)

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
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(content)
        self._transport.write(_STATUS[status] + head + content)
        self._close()

    def _close(self) -> None:
        self._closing = True
        self._transport.close()
        for exchange in (self._arriving, self._current, *self._waiting):
            if exchange is not None:
                exchange.disconnect()

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
        version = parser.get_http_version()
        path, raw_path, query = _parsed(self._url)
        scope = {
            "type": "http", "asgi": _ASGI, "http_version": version, "method": parser.get_method().decode("ascii"), "path": path,
            "raw_path": raw_path, "query_string": query, "root_path": "", "scheme": self._scheme, "headers": self._headers,
            "client": self._client, "server": self._server, "begun": self._begun,
        }  # fmt: skip
        keep_alive = version != "1.0" and parser.should_keep_alive()
        self._arriving = exchange = Exchange(self, scope, keep_alive)
        if self._current is None and self._unread_since is None:
            self._current = exchange
        else:
            self._waiting.append(exchange)
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        if self._arriving is not None:
            self._arriving.feed(body)

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        exchange, self._arriving = self._arriving, None
        self._in_headers, self._header_bytes, self._begun = True, 0, None
        if exchange is None:
            return
        exchange.complete()
        if exchange is self._current and not exchange.started:
            self._run(exchange)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _run(self, exchange: Exchange) -> None:
        """Run the application as far as it gets without waiting for more than its turn; a task does the rest."""
        if self._closing:
            return
        exchange.started = True
        coroutine: Coroutine[Any, Any, None] = self._app(exchange.scope, exchange.receive, exchange.send)
        self._step(exchange, coroutine, contextvars.copy_context())

    def _step(self, exchange: Exchange, coroutine: Coroutine[Any, Any, None], context: contextvars.Context) -> None:
        try:
            awaited = context.run(coroutine.send, None)
        except StopIteration:
            self._finished(exchange)
        except Exception:
            logger.exception("the application failed")
            self._finished(exchange)
        else:
            if isinstance(awaited, Turn):
                awaited.then = partial(self._step, exchange, coroutine, context)
                return
            task = self._loop.create_task(self._rest(coroutine, awaited, exchange), context=context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _rest(self, coroutine: Coroutine[Any, Any, None], awaited: Any, exchange: Exchange) -> None:
        try:
            await _resumed(coroutine, awaited)
        except Exception:
            logger.exception("the application failed")
        finally:
            self._finished(exchange)

    def write(self, content: bytes) -> None:
        if not self._closing:
            self._transport.write(content)

    def _finished(self, exchange: Exchange) -> None:
        """The application has done its part: close, or go on with what comes next."""
        self._current = None
        self._idle_since = time.monotonic()
        if self._closing:
            return
        if not exchange.answered and not exchange.gone:
            self._end_with(500, "server", "The server failed; its log says why.")
            return
        if not exchange.keep_alive:
            self._close()
        elif self._unread_since is None:
            self._next()

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


class Turn:
    """What a request waits for within one turn of the event loop, without a task: `then` makes it go on, and is to be called once."""

    __slots__ = ("then",)
    then: Callable[[], None]

    def __await__(self) -> Generator[Any, None, None]:
        yield self


class Exchange:
    """One request and its answer: ASGI's `receive` and `send`."""

    __slots__ = ("_complete", "_connection", "_head", "_parts", "_size", "_wake", "answered", "gone", "keep_alive", "scope", "started")

    def __init__(self, connection: Connection, scope: Message, keep_alive: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.started = self.answered = self.gone = False
        self._connection = connection
        self._parts: list[bytes] = []
        self._size = 0
        self._complete = False
        self._head: Message = {}
        self._wake: asyncio.Event | None = None

    def feed(self, body: bytes) -> None:
        """A piece of the body has arrived."""
        if self.answered:
            return  # it was refused already; the rest is of no interest
        self._parts.append(body)
        self._size += len(body)
        if self._size > HIGH_WATER and self.started:
            self._connection.pause_reading()
        if self._wake is not None:
            self._wake.set()

    def complete(self) -> None:
        self._complete = True
        if self._wake is not None:
            self._wake.set()

    def disconnect(self) -> None:
        self.gone = True
        if self._wake is not None:
            self._wake.set()

    async def receive(self) -> Message:
        """ASGI: the next piece of the body, or that the client went away."""
        if not self._parts and not self._complete and not self.gone:
            if any(name == b"expect" and value.lower() == b"100-continue" for name, value in self.scope["headers"]):
                self._connection.write(CONTINUE)
            self._connection.resume_reading()  # while others were answered before it, nothing of it was read
            self._wake = asyncio.Event()
            await self._wake.wait()
            self._wake = None
        if self.gone:
            return {"type": "http.disconnect"}
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts, self._size = [], 0
        if not self._complete:
            self._connection.resume_reading()
        return {"type": "http.request", "body": body, "more_body": not self._complete}

    async def send(self, message: Message) -> None:
        """ASGI: status and headers, then the whole content. The server adds its length."""
        if message["type"] == "http.response.start":
            self._head = message
            return
        content = message["body"]
        head = self._head
        status, headers = head["status"], head["headers"]
        self.answered = True
        encoded, closes = _encoded(headers if type(headers) is tuple else tuple(headers))
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            encoded += b"connection: close\r\n"
        if self.scope["method"] == "HEAD":
            self._connection.write(b"%bcontent-length: %d\r\n\r\n" % (_STATUS[status] + encoded, len(content)))
        else:
            self._connection.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (_STATUS[status], encoded, len(content), content))


_ASGI = {"version": "3.0", "spec_version": "2.3"}


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
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
    except StopIteration:
        return


def _done(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


@lru_cache(maxsize=64)
def _parsed(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, raw path and query. Raises httptools.HttpParserInvalidURLError and UnicodeDecodeError."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return (unquote(path) if "%" in path else path), parsed.path, parsed.query or b""


@lru_cache(maxsize=256)
def _encoded(headers: Headers) -> tuple[bytes, bool]:
    """Headers as they are sent, and whether they say that the connection closes."""
    sent = b"".join([b"%b: %b\r\n" % header for header in headers if header[0] != b"content-length"])
    return sent, (b"connection", b"close") in headers


def _address(transport: asyncio.Transport, what: str) -> tuple[str, int] | None:
    found = transport.get_extra_info(what)
    return (str(found[0]), int(found[1])) if isinstance(found, (tuple, list)) and len(found) >= 2 else None
